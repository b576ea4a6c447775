"""Search generated sessions for the problems that the model is judged on: none may be there.

    python benchmarks/overlap.py [--sessions 300000] [--processes 2]

Words are compared without case, punctuation, names in quotes, strings and numbers. A problem is found where one session has half
of its turns of three words and more, and two of them; single turns ("print the sorted list") are counted, for plain steps recur.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import time
from itertools import islice
from pathlib import Path

from codegen_chat.session.spec import parse
from codegen_chat.train.curriculum.sessions import Curriculum

ROOT = Path(__file__).parent


def plain(words: str) -> str:
    """Reduce a turn's words to what is the same for other literals and names."""
    words = re.sub(r"\"[^\"]*\"|'[^']*'|`[^`]*`|\{\w+\}", " _ ", words.lower())
    words = re.sub(r"-?\d+(\.\d+)?", " _ ", words)
    return " ".join(re.findall(r"[a-z_]+", words))


def telling(words: list[str]) -> set[str]:
    """Return the turns that say something of their own."""
    return {line for line in map(plain, words) if len(line.replace("_", " ").split()) >= 3}


def problems() -> dict[str, set[str]]:
    """Return the turns of each problem of the dev set and of each spec in sessions/."""
    found: dict[str, set[str]] = {}
    for half in ("visible", "counted"):
        for line in (ROOT / "devset" / f"{half}.jsonl").read_text(encoding="utf-8").splitlines():
            problem = json.loads(line)
            found[problem["id"]] = telling(problem["prompts"])
    for path in sorted((ROOT.parent / "sessions").glob("*.txt")):
        found[path.name] = telling(
            [step.text for step in parse(path.read_text(encoding="utf-8"), path.name, {}).steps if step.text]
        )
    return found


def search(order: tuple[int, int]) -> tuple[list[str], dict[str, int]]:
    """Search so many sessions of one seed: the problems found, and how often single turns were."""
    seed, count = order
    wanted = {name: turns for name, turns in problems().items() if turns}
    known = set().union(*wanted.values())
    found: list[str] = []
    single: dict[str, int] = {}
    for steps in islice(Curriculum().sessions(seed), count):
        here = {plain(step.words) for step in steps} & known
        for turn in here:
            single[turn] = single.get(turn, 0) + 1
        found += [name for name, turns in wanted.items() if len(here) > 1 and len(turns & here) >= max(2, len(turns) / 2)]
    return found, single


def main() -> None:
    """Search, print what was found, and exit with 1 where a problem was."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sessions", type=int, default=300_000)
    arguments.add_argument("--processes", type=int, default=2)
    given = arguments.parse_args()
    began = time.perf_counter()
    orders = [(seed, given.sessions // given.processes) for seed in range(given.processes)]
    with multiprocessing.get_context("spawn").Pool(given.processes) as pool:
        results = pool.map(search, orders)
    single: dict[str, int] = {}
    for _, some in results:
        for turn, count in some.items():
            single[turn] = single.get(turn, 0) + count
    names = sorted({name for found, _ in results for name in found})
    for turn, count in sorted(single.items(), key=lambda item: -item[1]):
        print(f"{count:6d} {turn}")
    took = time.perf_counter() - began
    print(f"{given.sessions} sessions, {len(problems())} problems, found: {', '.join(names) or 'none'}; {took:.0f} s")
    raise SystemExit(bool(names))


if __name__ == "__main__":
    main()
