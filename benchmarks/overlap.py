"""Search generated sessions for the problems that the model is judged on: none may be there.

    python benchmarks/overlap.py [--sessions 300000] [--processes 2] [--file PATH]

Words are compared without case, punctuation, names in quotes, strings and numbers. A problem is found where one session has half
of its turns of three words and more, and two of them; single turns ("print the sorted list") are counted, for plain steps recur.
"""

from __future__ import annotations

import argparse
import functools
import json
import multiprocessing
import re
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

from codegen_chat.session.spec import parse
from codegen_chat.train.curriculum.sessions import Curriculum

ROOT = Path(__file__).parent

CHUNK = 1000
"""Sessions of one seed."""


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
    for path in sorted((ROOT.parent / "sessions").rglob("*.txt")):
        found[path.name] = telling(
            [step.text for step in parse(path.read_text(encoding="utf-8"), path.name, {}).steps if step.text]
        )
    return found


@functools.cache
def wanted() -> dict[str, set[str]]:
    """Return the problems that say something of their own."""
    return {name: turns for name, turns in problems().items() if turns}


@functools.cache
def curriculum() -> Curriculum:
    """Return the grammar, read once in a process."""
    return Curriculum()


def search(seed: int) -> dict[str, Any]:
    """Search a chunk of sessions: the problems found, and how often single turns were."""
    known = set().union(*wanted().values())
    found: set[str] = set()
    single: Counter[str] = Counter()
    for steps in islice(curriculum().sessions(seed), CHUNK):
        here = {plain(step.words) for step in steps} & known
        single.update(here)
        found |= {name for name, turns in wanted().items() if len(here) > 1 and len(turns & here) >= max(2, len(turns) / 2)}
    return {"seed": seed, "found": sorted(found), "single": single}


def main() -> None:
    """Search, print what was found, and exit with 1 where a problem was."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sessions", type=int, default=300_000)
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--file", type=Path, default=None, help="keeps each chunk's result; a search goes on where it was")
    given = arguments.parse_args()
    done: list[dict[str, Any]] = []
    if given.file and given.file.exists():
        done = [json.loads(line) for line in given.file.read_text(encoding="utf-8").splitlines()]
    left = sorted(set(range(given.sessions // CHUNK)) - {chunk["seed"] for chunk in done})
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(given.processes, maxtasksperchild=20) as pool:
        for chunk in pool.imap_unordered(search, left):
            done.append(chunk)
            if given.file:
                with given.file.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(chunk) + "\n")
    single: Counter[str] = Counter()
    for chunk in done:
        single.update(chunk["single"])
    for turn, count in single.most_common():
        print(f"{count:6d} {turn}")
    names = sorted({name for chunk in done for name in chunk["found"]})
    took = time.perf_counter() - began
    print(f"{len(done) * CHUNK} sessions, {len(problems())} problems, found: {', '.join(names) or 'none'}; {took:.0f} s")
    raise SystemExit(bool(names))


if __name__ == "__main__":
    main()
