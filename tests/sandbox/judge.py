"""What an attack did to the machine around the sandbox: the verdict on it."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict

from codegen_chat.turn import Execution
from tests.sandbox.attacks import Attack
from tests.sandbox.host import LIMITS, Host

_BIDI = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
_MARKS = "\u200e\u200f\u061c\u2028\u2029"


def judged(host: Host, parent: str, attack: Attack) -> list[str]:
    """Run an attack from a state. Return what got loose, in words.

    `parent` is a state with a list `memory`, which must be as it was.
    """
    if attack.bomb and not host.limits_in_force():
        return ["not started: the limits are not in force"]
    before, awake = host.marks(), host.awake()
    out = host.out / attack.name
    asks = tuple(host.filled(name) for name in attack.asks)
    execution = host.execute(
        host.filled(attack.code), parent=parent, timeout=attack.timeout, save=out if asks else None, asks=asks
    )
    found = list(_said(execution, host.token, attack))
    if any(host.token.encode() in path.read_bytes() for path in out.rglob("*") if path.is_file()):
        found.append("a secret was copied out")
    if reached := host.reached():
        found.append(f"somebody talked to {reached}")
    # Of the kind turns, some may cost the sandbox, and the product starts another.
    if attack.kind != "turns" and (left := host.left(awake)):
        found.append(f"a process is left: {left}")
    after = host.marks()
    found += [
        f"{name}: {before.get(name)} became {after.get(name)}" for name in before | after if before.get(name) != after.get(name)
    ]
    again = host.execute("memory.append('once more')\nmemory", parent=parent).value
    if again != "['of', 'before', 'once more']":
        found.append(f"the state before is {again}")
    return found


def unsafe(text: str) -> set[str]:
    """The characters that a terminal must not get."""
    return {
        character
        for character in text
        if (unicodedata.category(character) in {"Cc", "Cs"} and character not in "\n\t")
        or unicodedata.bidirectional(character) in _BIDI
        or character in _MARKS
    }


def _said(execution: Execution, token: str, attack: Attack) -> Iterator[str]:
    if token in json.dumps(asdict(execution), ensure_ascii=False):
        yield "the secret came out"
    if "LOOSE" in execution.stdout + execution.stderr + str(execution.value) + execution.note:
        yield "LOOSE"
    if execution.status not in attack.ends:
        yield f"it ended with {execution.status}: {execution.failure or execution.note}"
    if execution.duration > attack.timeout + 5:  # what ignores the end of its time is killed
        yield f"it ran for {execution.duration} s"
    if len((execution.stdout + execution.stderr).encode()) > LIMITS["output"]:
        yield "more output is kept than may be"
    failure = execution.failure
    shown = [execution.stdout, execution.stderr, execution.value or "", execution.note, *execution.files]
    shown += [failure.type, failure.message, failure.traceback] if failure else []
    shown += [part for change in execution.changes for part in (change.name, change.summary)]
    if bad := unsafe("".join(shown)):
        yield f"a terminal would get {sorted(map(ascii, bad))}"
