"""What the pages of docs/ show is run: against a hub on this machine, with a narrow model under a published name."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import synthetic
from tests.hubserver import Hub

pytestmark = pytest.mark.xdist_group("docs")

DOCS = Path(__file__).parents[1] / "docs"
NAME = "Salesforce/codegen-350M-mono"
LONG = ["attention", "finetune"]
"""They compute for minutes: EVERY_LEG=1 runs them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder to run in, and the environment: a home, a hub, and the commands of this installation."""
    home = tmp_path_factory.mktemp("docs")
    model = synthetic.write(home / "hub" / "model", synthetic.small("350M"))
    with Hub() as server:
        server.repositories[NAME] = model
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_", "CODEGEN_CHAT_"))}
        environment |= {
            "HOME": str(home),
            "HF_HOME": str(home / "hf"),
            "HF_ENDPOINT": server.endpoint,
            "OMP_NUM_THREADS": "1",  # threads of torch wait for each other where the cores are busy
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        subprocess.run(["codegen-chat", "models", "pull", NAME], env=environment, check=True, capture_output=True)
        yield home, environment


@pytest.mark.parametrize("page", ["complete", "models", "quantise", "transformers", *(LONG if "EVERY_LEG" in os.environ else [])])
def test_a_page(page: str, place: tuple[Path, dict[str, str]]) -> None:
    home, environment = place
    folder = home / page
    folder.mkdir()
    if page == "transformers":  # which would ask the hub for more files than the model has
        environment = environment | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, DOCS / "pages.py", DOCS / f"{page}.md"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
