"""Answers and what came of them, in a file that only grows: JSON lines, a header first. A broken-off run goes on from it."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

from codegen_chat.errors import UsageError
from codegen_chat.turn import Execution

NAME = "samples.jsonl"


class Key(NamedTuple):
    """Which answer: task, case (0 where there are none), temperature (None: the checkpoint's way), number among its like."""

    task: str
    case: int
    temperature: float | None
    number: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer, the program that it made, and what came of that.

    `reason` says in a word why it failed ("passed" where it did not), `output` what the program wrote at the end. `tokens` and
    `seconds` are what the answer cost, generation and execution, its share where several were made together. `logprob` is that
    of its tokens; `perplexity` that of the words, where it was measured.
    """

    task: str
    case: int
    temperature: float | None
    number: int
    program: str
    passed: bool
    reason: str
    output: str = ""
    category: str = ""
    turns: int = 1
    tokens: int = 0
    seconds: float = 0.0
    logprob: float = 0.0
    perplexity: float | None = None
    reasons: tuple[str, ...] = ()
    """Of answers chosen by execution: why, turn by turn."""

    @property
    def key(self) -> Key:
        """Which answer it is."""
        return Key(self.task, self.case, self.temperature, self.number)


def why(result: Execution) -> str:
    """Say in a word why a program did not pass."""
    if result.status == "error" and result.failure:
        return result.failure.type
    return "wrong answer" if result.status == "ok" else result.status


def tail(result: Execution, most: int = 2000) -> str:
    """Return the end of what a program wrote, its traceback last."""
    return (result.stdout + (result.failure.traceback if result.failure else ""))[-most:]


_FIELDS = {each.name for each in fields(Sample)}


def to_json(sample: Sample) -> dict[str, Any]:
    """Return a sample as JSON."""
    return {**asdict(sample), "reasons": list(sample.reasons)}


def from_json(data: Mapping[str, Any]) -> Sample:
    """Undo `to_json`. Keys that this version does not know are passed over."""
    known = {name: value for name, value in data.items() if name in _FIELDS}
    return Sample(**{**known, "reasons": tuple(known.get("reasons", ()))})


@dataclass(slots=True)
class Samples:
    """The samples of a run: those of its file, and those that come. Each key counts once, the first that came."""

    header: dict[str, Any]
    by_key: dict[Key, Sample] = field(default_factory=dict)
    _descriptor: int | None = None

    @classmethod
    def open(cls, folder: Path | None, header: dict[str, Any]) -> Self:
        """Begin a run's samples, in memory without a folder, or go on with those in the folder.

        A line that was torn off at the end is dropped. Raises UsageError where the folder has the samples of another run, where
        another process writes to it, or where it cannot be written.
        """
        if folder is None:
            return cls(header)
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            data = path.read_bytes()
        except BlockingIOError:
            raise UsageError(f"{path} is being written by another run: wait for it, or give another folder") from None
        except OSError as error:
            raise UsageError(f"{folder} cannot be used: {error.strerror}") from None
        whole = data.rfind(b"\n") + 1
        os.ftruncate(descriptor, whole)
        samples = cls(header, {}, descriptor)
        lines = data[:whole].splitlines()
        if not lines:
            samples._write([header])
            return samples
        before, kept = _read(lines, path)
        if before != header:
            samples.close()
            differs = sorted(name for name in before.keys() | header.keys() if before.get(name) != header.get(name))
            raise UsageError(f"{path} has the samples of another run ({', '.join(differs)} differ): give another folder")
        samples.by_key = kept
        return samples

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read the samples of a run, from its folder or its file. Raises UsageError where there are none."""
        path = folder / NAME if folder.is_dir() else folder
        try:
            data = path.read_bytes()
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from None
        lines = data[: data.rfind(b"\n") + 1].splitlines()
        if not lines:
            raise UsageError(f"{path} has no samples")
        return cls(*_read(lines, path))

    def add(self, fresh: Iterable[Sample]) -> list[Sample]:
        """Take samples in, at once and on disk before this returns. Returns those that were not there before."""
        new = {sample.key: sample for sample in fresh if sample.key not in self.by_key}
        self.by_key.update(new)
        self._write(map(to_json, new.values()))
        return list(new.values())

    def __iter__(self) -> Iterator[Sample]:
        """The samples in the order of their keys, however they came."""
        return iter(
            sorted(self.by_key.values(), key=lambda sample: (sample.task, sample.case, sample.temperature or 0.0, sample.number))
        )

    def __len__(self) -> int:
        """How many there are."""
        return len(self.by_key)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, lines: Iterable[Mapping[str, Any]]) -> None:
        if self._descriptor is not None:
            data = "".join(json.dumps(line) + "\n" for line in lines).encode()
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fdatasync(self._descriptor)


def _read(lines: list[bytes], path: Path) -> tuple[dict[str, Any], dict[Key, Sample]]:
    number = 0
    try:
        header = json.loads(lines[0])
        if not isinstance(header, dict) or "benchmark" not in header:
            raise ValueError("no header")  # noqa: TRY301  the same message
        kept: dict[Key, Sample] = {}
        for number, line in enumerate(lines[1:], 1):  # noqa: B007  for the message
            sample = from_json(json.loads(line))
            kept.setdefault(sample.key, sample)
    except (ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path}:{number + 1}: not a line of samples ({error}): give another folder") from None
    return header, kept
