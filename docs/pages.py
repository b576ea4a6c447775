"""Run what a page of docs/ shows, from top to bottom: `python docs/pages.py PAGE...`. Stops at the first that fails.

Fenced blocks of `sh` run in one shell and blocks of `python` in one interpreter, each in the folder that one stands in.
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import groupby
from pathlib import Path

BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run(page: Path) -> None:
    """Run a page. Raises CalledProcessError where a command of it fails."""
    blocks = [(found[1], found[2]) for found in BLOCK.finditer(page.read_text(encoding="utf-8"))]
    for tongue, group in groupby(blocks, key=lambda block: block[0]):
        text = "\n".join(block[1] for block in group)
        command = ["bash", "-euxc", text] if tongue == "sh" else [sys.executable, "-c", text]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
