"""docs/surface.md names tests that there are, and all that answer complaints."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "surface.md").read_text()
ROWS = [row.rpartition(" | ") for row in PAGE.splitlines() if row.startswith("| ") and not row.endswith("| shown by |")]


def defined(file: str) -> set[str]:
    return set(re.findall(r"^def (test_\w+)\(", (TESTS / f"{file}.py").read_text(), re.MULTILINE))


def test_each_row_is_shown_by_a_test_or_struck_out() -> None:
    assert len(ROWS) > 60
    for promised, _, shown in ROWS:
        assert re.search(r"\btest_", shown) or promised.startswith("| ~~"), promised
        for place in shown.removesuffix(" |").split("; "):
            file, colon, names = place.partition(": ")
            if colon and not file.startswith("~~") and not promised.startswith("| ~~"):
                assert set(names.split(", ")) <= defined(file), place


def test_every_complaint_has_its_test() -> None:
    named = {name for name in defined("terminal/test_complaints") if name not in PAGE.partition("## Complaints")[2]}
    assert not named
