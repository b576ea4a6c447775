"""Real Python as text: words as a comment, then the code that they are about."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from codegen_chat.train.python import gather, pieces, sentence

SOURCE = '''
def mean(values):
    """Return the arithmetic mean of the values. They must not be empty.

    The sum is taken first:

    >>> total = sum([1, 2, 3])
    >>> for n in range(2):
    ...     print(n, total)
    0 6
    1 6
    """
    # add them all up
    total = sum(values)
    count = len(values)

    return total / count


def undocumented():
    return [1, 2, 3, 4, 5, 6, 7, 8, 9]
'''


def test_functions_examples_and_blocks_come_under_their_words() -> None:
    found = list(pieces(SOURCE))
    assert (
        "# Return the arithmetic mean of the values\ndef mean(values):\n    # add them all up\n    total = sum(values)\n"
        "    count = len(values)\n    return total / count\n"
    ) in found
    assert "# The sum is taken first\ntotal = sum([1, 2, 3])\nfor n in range(2):\n    print(n, total)\n" in found
    assert "# add them all up\ntotal = sum(values)\ncount = len(values)\n" in found
    assert not any("undocumented" in piece for piece in found)


def test_what_is_no_program_is_left_out() -> None:
    assert not list(pieces("def broken(:\n"))
    assert not list(pieces("# only words, no code at all here\n# and more of them\n"))
    assert sentence("Say it.  Then more.\n\nAnd more") == "Say it"


def test_a_folder_is_gathered_once_each(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "tests/c.py"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(SOURCE, encoding="utf-8")
    assert gather(tmp_path / "in", tmp_path / "out.jsonl.xz") == 3
    with lzma.open(tmp_path / "out.jsonl.xz", "rt", encoding="utf-8") as lines:
        assert sorted(json.loads(line)["text"] for line in lines) == sorted(set(pieces(SOURCE)))
