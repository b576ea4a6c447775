"""The REPL as a process of its own, for tests that type at it: real screen, sandbox and log, a model from a script.

Words choose what the model does: "slowly" writes a line every 20 ms for ever, "loading" never loads, anything else answers with
the words in a print.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np

from codegen_chat.attention.record import Attention, Part
from codegen_chat.conversation import Conversation, Options
from codegen_chat.errors import UsageError
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from codegen_chat.terminal.repl import Repl
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling, Usage
from tests.fakes import interleaved


class Model:
    """A Completer; see above."""

    window = 2048
    sampling = Sampling()

    def count(self, text: str) -> int:
        if text.endswith("# loading\n"):
            threading.Event().wait()
        return len(text) // 3

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        words = prompt.text.rstrip().rpartition("# ")[2]
        text, reason = "", "stop"
        try:
            if words == "slowly":
                for number in range(1_000_000):
                    text += f"x{number} = {number}\n"
                    yield Delta(f"x{number} = {number}\n")
                    time.sleep(0.02)
            text = f"said = {words!r}\nprint(said)\n"
            for letter in text:
                yield Delta(letter)
        except KeyboardInterrupt:
            reason = "interrupted"
        yield Completion(text, reason, Usage(10, 0, 5, 0.01, 0.1), seed=sampling.seed)  # type: ignore[arg-type]

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return interleaved([self.complete(prompt, sampling, accept=accept) for sampling in samplings])


class Chat:
    """A session without its api."""

    ready = True
    title = "scripted fp32 cpu"

    def __init__(self, conversation: Conversation) -> None:
        self.conversation = conversation

    def attention(self, number: int | None = None) -> Attention:
        last = number or len(self.conversation.turns)
        if not last:
            raise UsageError("there are no turns")
        parts = tuple(Part(turn, "code", 2 * turn - 2, 2 * turn) for turn in range(1, last + 1))
        weights = np.tril(np.ones((1, 1, 2 * last, 2 * last), dtype=np.float32))
        return Attention("scripted", ("x", "\n") * last, parts, weights / weights.sum(axis=3, keepdims=True))

    def export(self, path: Path) -> str | None:
        path.write_text("".join(turn.code for turn in self.conversation.turns))
        return None


def main() -> None:
    """Run it: a folder for the log and what was typed, then flags."""
    folder, plain = Path(sys.argv[1]), "--plain" in sys.argv
    with Kernel.start() as kernel, History.create(folder / "sessions", {"model": "scripted"}) as history:
        chat = Chat(Conversation(Model(), kernel, history, Options(timeout=20)))
        Repl(chat, sys.stdout, history=folder / "typed", plain=plain).run(["ready"])
    sys.stdout.write("left\n")


if __name__ == "__main__":
    main()
