"""Ordinary programs, read from `programs/`: a file for each field, an entry for each program, with what Python itself prints.

An entry begins with `### name`, followed by what is special about it: `says:` how it is refused, `needs:` a package that may be
missing, `tiers:` the only ones in which it can work. Under `# output` stands what comes on standard output.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Program:
    """One program, and what comes of it."""

    kind: str
    name: str
    code: str
    output: str
    says: str = ""
    needs: str = ""
    tiers: str = "A A- B"


def read(path: Path) -> list[Program]:
    """Return the programs of a file."""
    programs = []
    for entry in path.read_text(encoding="utf-8").split("### ")[1:]:
        title, _, rest = entry.partition("\n")
        code, _, output = rest.partition("\n# output\n")
        name, *special = title.split(" | ")
        programs.append(Program(path.stem, name, code, output, **dict(fact.split(": ", 1) for fact in special)))
    return programs


PROGRAMS = [program for path in sorted(Path(__file__).with_name("programs").glob("*.txt")) for program in read(path)]
