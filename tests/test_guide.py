"""The guide's commands, run as they stand: each page in an empty folder and home, its console blocks one after another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("guide/*.md"))


def commands(page: str) -> list[tuple[str, str]]:
    """Return each command of the console blocks and what it prints. `> ` goes on with a command."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            first, *lines = part.splitlines()
            more = [line for line in lines if line == ">" or line.startswith("> ")] if "<<" in first else []
            found.append(("\n".join([first, *(line[2:] for line in more)]), "\n".join(lines[len(more) :])))
    return found


def pattern(shown: str) -> str:
    """Return what output must match: `...` stands for anything."""
    return ".*?".join(map(re.escape, shown.strip().split("...")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_print_what_it_says(page: Path, home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command, shown in commands(page.read_text()):
        ran = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )
        assert ran.returncode == 0, f"{command}\n{ran.stdout}"
        assert re.fullmatch(pattern(shown), ran.stdout.strip(), re.DOTALL), f"{command}\n{ran.stdout}"


def test_links_lead_somewhere() -> None:
    for page in (*DOCS.glob("*.md"), *PAGES, DOCS.parent / "README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_every_page_is_in_the_index() -> None:
    listed = set(re.findall(r"\(([\w-]+\.md)\)", (DOCS / "guide/index.md").read_text()))
    assert listed == {page.name for page in PAGES} - {"index.md"}
