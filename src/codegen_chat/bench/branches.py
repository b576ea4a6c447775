"""n conversations side by side, as branches of one history; the one whose end convinces is kept.

Each turn is asked for wherever one of them stands, and as often as many stand there. Those whose code failed, or left undone what
the words plainly ask for, give their places to the others: a turn that fails after three that were not what was meant shows
which of them to leave. At the end the same rules choose as among the candidates of one turn (`choose`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from codegen_chat.choose import Ran, choose
from codegen_chat.conversation import Conversation
from codegen_chat.events import Chosen, Committed, Events
from codegen_chat.turn import Execution, Turn

MISSED = 0.3
"""What a candidate is worth beside one that did one thing more of those that the words plainly ask for."""


@dataclass(frozen=True, slots=True)
class _Branch:
    """Where `count` of the conversations stand: after this turn, None at the beginning.

    What is known of it is `ran`; its log-probability and what was left undone are those of all turns.
    """

    turn: Turn | None
    ran: Ran
    count: int

    @property
    def head(self) -> str | None:
        return self.turn.id if self.turn else None


def play(conversation: Conversation, texts: Sequence[str], n: int) -> Events:
    """Run turns in n conversations and leave the history at the end of the best. `Chosen` (of several) and `Committed` come last.

    A turn that runs nowhere is left out of all of them. The history is new, and the options say `keep`. Raises as
    `Conversation.run`.
    """
    history, rules = conversation.history, conversation.options.rules
    standing, drawn = [_Branch(None, Ran(Execution("ok")), n)], list[_Branch]()
    for text in texts:
        drawn = []
        for branch in standing:
            history.go(branch.head)
            for event in conversation.run(text, samples=branch.count):
                if not isinstance(event, Chosen | Committed):
                    yield event
            drawn += [
                _Branch(
                    turn, replace(ran, logprob=branch.ran.logprob + ran.logprob, missed=branch.ran.missed + ran.missed), ran.count
                )
                for turn, ran in conversation.judged
            ]
        standing = _go_on(drawn, n, rules) or standing
    ended = [(branch.turn, branch.ran) for branch in drawn if branch.turn]
    if not ended:
        history.go(standing[0].head)
        return
    choice = choose([ran for _, ran in ended], rules)
    best = ended[choice.index][0]
    history.go(best.id if best.accepted else best.parent)
    if n > 1:
        yield Chosen(best, tuple(turn for turn, _ in ended), choice.reason)
    yield Committed(best)


def _go_on(drawn: Sequence[_Branch], n: int, rules: Sequence[str]) -> list[_Branch]:
    """Share n places among the candidates that ran, by how many drew each and what it left undone."""
    ran = [branch for branch in drawn if branch.ran.execution.status == "ok"]
    if "examples" in rules:
        ran = [branch for branch in ran if branch.ran.examples == max(other.ran.examples for other in ran)]
    worth = [branch.ran.count * (MISSED**branch.ran.missed if "asked" in rules else 1.0) for branch in ran]
    shares = [n * each / sum(worth) for each in worth]
    places = [int(share) for share in shares]
    for index in sorted(range(len(ran)), key=lambda index: places[index] - shares[index])[: n - sum(places)]:
        places[index] += 1
    return [replace(branch, count=places) for branch, places in zip(ran, places, strict=True) if places]
