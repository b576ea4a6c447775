"""Score a model on fresh sessions of its own grammar: every turn right, or not.

    python benchmarks/fresh.py [--model nano] [--sessions 200] [--samples N] [--misses]

The seeds are trained on by no recipe. The session's own code runs beside the model's: a turn is right when it prints the same and
leaves the same values behind, under whatever names. After a wrong turn a session is over.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from itertools import islice

from codegen_chat.conversation import Conversation
from codegen_chat.events import Committed
from codegen_chat.making import Options
from codegen_chat.models import load
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.turn import Execution, last_execution

SEED = -3
"""Neither trained on, nor validated with, nor sampled from."""


def values(kernel: Kernel, execution: Execution, state: str) -> Counter[str]:
    """Return the values that an execution left behind; of what has an address (functions, objects) only the kind."""
    found: Counter[str] = Counter()
    for change in execution.changes:
        if change.kind != "-":
            shown = last_execution(kernel.execute(f"{change.name}", parent=state, turn=None, timeout=5)).value
            found[re.sub(r"<(\w+).* at 0x\w+>|<(module) .*>", "<object>", shown or "None")] += 1
    return found


def main() -> None:
    """Play the sessions and print the totals."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", default="nano")
    arguments.add_argument("--sessions", type=int, default=200)
    arguments.add_argument("--samples", type=int, default=1, help="candidates a turn, chosen by execution")
    arguments.add_argument("--misses", action="store_true", help="print each wrong turn")
    given = arguments.parse_args()
    model = load(given.model)
    right = turns = wrong = 0
    began = time.perf_counter()
    with Kernel.start() as kernel:
        for steps in islice(Curriculum().sessions(SEED), given.sessions):
            own = Conversation(None, kernel, History.memory(), Options(timeout=5))
            asked = Conversation(model.engine, kernel, History.memory(), Options(samples=given.samples, timeout=5))
            for step in steps:
                wanted = next(event.turn for event in own.run_code(step.code) if isinstance(event, Committed))
                turn = [event.turn for event in asked.run(step.words) if isinstance(event, Committed)][-1]
                turns += 1
                if not (wanted.execution and turn.execution and turn.accepted) or (
                    (turn.execution.stdout, values(kernel, turn.execution, turn.id))
                    != (wanted.execution.stdout, values(kernel, wanted.execution, wanted.id))
                ):
                    wrong += 1
                    if given.misses:
                        print(f"--- {step.words}\nwanted:\n{step.code}\ngot:\n{turn.code}")
                    break
            else:
                right += 1
            for conversation in (own, asked):
                for turn in conversation.turns:
                    kernel.forget(turn.id)
    print(f"{right} of {given.sessions} sessions = {right / given.sessions:.1%}, every turn right; ", end="")
    print(f"{turns - wrong} of {turns} turns = {(turns - wrong) / turns:.1%}; {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
