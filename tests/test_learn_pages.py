"""The commands of docs/attention.md and docs/finetune.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


EVERY = pytest.mark.skipif("EVERY_LEG" not in os.environ, reason="they compute for minutes: EVERY_LEG=1 runs them")


@EVERY
@pytest.mark.parametrize("page", ["attention", "finetune"])
def test_a_page(page: str, home: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", (DOCS / f"{page}.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 3
    for language, block in blocks:
        command = ["bash", "-euc", block] if language == "sh" else [sys.executable, "-c", block]
        ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"{block}\n{ran.stdout}{ran.stderr}"
        assert ran.stdout or "-o" in block
