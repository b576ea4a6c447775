"""Score a model on the dev set: hand-written multi-turn problems in free phrasing, judged by execution in the sandbox.

    python benchmarks/devset.py [--model nano] [--half visible|counted] [--limit N] [--samples N] [--fallback N] [--no-guard]
        [--cases N] [--misses]

A problem is right when, after its last turn, the last value that was printed (or the last bare expression) is the expected
one. The counted half is only counted: --misses is refused for it. Never train on either.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from codegen_chat.conversation import Conversation
from codegen_chat.errors import CodegenChatError
from codegen_chat.events import Committed
from codegen_chat.making import Options
from codegen_chat.models import load
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from codegen_chat.turn import Turn, Typed

HERE = Path(__file__).parent / "devset"


def equal(given: Any, wanted: Any) -> bool:
    """Compare plain data: numbers within 1e-6, tuples as lists, True not as 1."""
    if isinstance(wanted, bool) or isinstance(given, bool):
        return given is wanted
    if isinstance(wanted, (int, float)) and isinstance(given, (int, float)):
        return abs(given - wanted) <= 1e-6 * max(1.0, abs(wanted))
    if isinstance(wanted, list) and isinstance(given, list):
        return len(given) == len(wanted) and all(map(equal, given, wanted))
    return bool(given == wanted)


def shown(turns: list[Turn]) -> Typed | None:
    """Return what a conversation showed last: a printed value or a bare expression's."""
    values: list[Typed] = []
    for turn in turns:
        if turn.execution:
            values += turn.execution.prints
            if turn.execution.typed_value:
                values.append(turn.execution.typed_value)
    return values[-1] if values else None


def play(conversation: Conversation, texts: list[str]) -> list[Turn]:
    """Run the turns; a turn that fails stays out, and the rest goes on."""
    made: list[Turn] = []
    for text in texts:
        made += [event.turn for event in conversation.run(text) if isinstance(event, Committed)]
    return made


def reason(turns: list[Turn]) -> str:
    """Say in a word why a conversation went wrong: its first failure, or a wrong value."""
    for turn in turns:
        if turn.execution and turn.execution.status != "ok":
            return turn.execution.failure.type if turn.execution.failure else turn.execution.status
    return "wrong value"


def main() -> None:
    """Score, print a line a miss where asked, and the totals."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="nano")
    arguments.add_argument("--half", choices=("visible", "counted"), default="visible")
    arguments.add_argument("--limit", type=int, default=None, help="problems at most")
    arguments.add_argument("--cases", type=int, default=3, help="inputs of each problem")
    arguments.add_argument("--samples", type=int, default=1, help="candidates a turn, chosen by execution")
    arguments.add_argument("--fallback", type=int, default=0, help="candidates more where the first fails")
    arguments.add_argument("--no-guard", action="store_true", help="let every line stand")
    arguments.add_argument("--misses", action="store_true", help="print each miss of the visible half")
    given = arguments.parse_args()
    if given.misses and given.half == "counted":
        sys.exit("the counted half is only counted")
    problems = [json.loads(line) for line in (HERE / f"{given.half}.jsonl").read_text(encoding="utf-8").splitlines()]
    model = load(given.model)
    right: list[bool] = []
    reasons: Counter[str] = Counter()
    began = time.perf_counter()
    with Kernel.start() as kernel:
        for problem in islice(problems, given.limit):
            for inputs, wanted in list(zip(problem["inputs"], problem["outputs"], strict=True))[: given.cases]:
                options = Options(samples=given.samples, fallback=given.fallback, guard=not given.no_guard, timeout=5)
                conversation = Conversation(model.engine, kernel, History.memory(), options)
                turns: list[Turn] = []
                try:
                    turns = play(conversation, [text.format(**inputs) for text in problem["prompts"]])
                except CodegenChatError as error:
                    reasons[type(error).__name__] += 1
                value = shown(turns)
                right.append(value is not None and equal(value.data, wanted))
                if not right[-1]:
                    reasons[reason(turns)] += 1
                    if given.misses:
                        print(f"--- {problem['id']} wanted {wanted!r}, got {value!r}")
                        for turn in turns:
                            print(f"# {turn.text}\n{turn.code}")
                for turn in turns:
                    kernel.forget(turn.id)
    print(f"{given.half}: {sum(right)} of {len(right)} = {sum(right) / len(right):.1%}, {time.perf_counter() - began:.0f} s")
    print(", ".join(f"{name} {count}" for name, count in reasons.most_common()))


if __name__ == "__main__":
    main()
