"""The word lists, type names and turn forms of the plain files beside this one."""

from __future__ import annotations

from importlib import resources

HERE = resources.files("codegen_chat.train.curriculum")


def sections(name: str) -> dict[str, list[str]]:
    """Read a file of sections: a heading's line, then the lines under it, until an empty line. `#` begins a comment."""
    text = "\n".join(line for line in HERE.joinpath(name).read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    blocks = (block.strip("\n").split("\n") for block in text.split("\n\n") if block.strip())
    return {heading: lines for heading, *lines in blocks}


WORDS = {heading: " ".join(lines).split() for heading, lines in sections("words.txt").items()}
"""Vocabulary that literals are made of: words, names, cities and so on."""

FORMS = sections("forms.txt")
"""How a turn is put into words, for each form of turn."""


def synonyms() -> dict[str, list[str]]:
    """Return, for each word or phrase of `synonyms.txt`, the others of its groups."""
    found: dict[str, list[str]] = {}
    for line in HERE.joinpath("synonyms.txt").read_text(encoding="utf-8").splitlines():
        group = [] if line.startswith("#") else [word.strip() for word in line.split(" / ") if word.strip()]
        for word in group:
            found.setdefault(word.lower(), []).extend(other for other in group if other != word)
    return found


SYNONYMS = synonyms()
"""Words that can stand for one another outside of quotes."""


def type_table() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return, for each type, its natural variable name and the words a person has for it (none: its parent's)."""
    rows = (line.split(" : ") for line in HERE.joinpath("types.txt").read_text(encoding="utf-8").splitlines() if " : " in line)
    return {row[0]: (row[1].rstrip(" :"), tuple(row[2].split(", ")) if len(row) > 2 and row[2] else ()) for row in rows}
