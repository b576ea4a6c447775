"""`models pull` against a hub on this machine, as a process: the network is for it alone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codegen_chat.lm import fetch, hub
from tests import synthetic
from tests.hubserver import COMMIT, Hub

NAME = "Salesforce/codegen-350M-mono"
CHUNK = 10 << 20
"""What the hub's library writes at once."""

Pull = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub holds under a published name, narrow."""
    return synthetic.write(tmp_path_factory.mktemp("hub") / "model", synthetic.small("350M"))


@pytest.fixture
def server(model: Path) -> Iterator[Hub]:
    with Hub() as server:
        server.repositories[NAME] = model
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub" / "models--Salesforce--codegen-350M-mono"


def environment(server: Hub | None, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return kept | {"HF_ENDPOINT": server.endpoint if server else "http://127.0.0.1:9"} | more


@pytest.fixture
def pull(server: Hub, cache: Path) -> Pull:
    def call(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "codegen_chat.cli", "models", "pull", *(arguments or (NAME,))]
        return subprocess.run(command, env=environment(server, **more), capture_output=True, text=True, check=False)

    return call


def refused(done: subprocess.CompletedProcess[str], reason: str) -> bool:
    return (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1) and reason in done.stderr


def test_what_is_pulled_lies_as_the_hubs_own_library_lays_it(
    pull: Pull, server: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = pull()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{NAME}, revision {COMMIT[:12]}, is in {cache}")
    assert hub.locate(NAME) == hub.locate(f"{NAME}@{COMMIT}") == cache / "snapshots" / COMMIT
    assert all(not wrong for _, wrong in fetch.damaged(hub.locate(NAME)))
    asked = len(server.asked)
    assert pull().returncode == 0
    assert len(server.asked) == asked + 1  # what is there is not fetched again

    script = f"import huggingface_hub; huggingface_hub.snapshot_download({NAME!r})"
    subprocess.run([sys.executable, "-c", script], env=environment(server, HF_HOME=str(tmp_path / "theirs")), check=True, capture_output=True)
    theirs = tmp_path / "theirs" / "hub" / cache.name

    def laid(folder: Path) -> set[tuple[str, str]]:
        kinds = ("blobs", "refs", "snapshots")
        return {
            (str(path.relative_to(folder)), str(path.readlink()) if path.is_symlink() else "")
            for kind in kinds
            for path in (folder / kind).rglob("*")
        }

    assert laid(cache) == laid(theirs)
    shutil.rmtree(cache)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "theirs"))
    assert hub.locate(NAME) == theirs / "snapshots" / COMMIT


def test_a_connection_that_breaks_off_goes_on(pull: Pull, server: Hub) -> None:
    server.cut = CHUNK + 5_000_000
    assert pull().returncode == 0
    assert [wanted for _, path, wanted in server.asked if "/cdn/" in path] == [None, f"bytes={CHUNK}-"]


def test_a_process_that_was_killed_goes_on(pull: Pull, server: Hub, cache: Path) -> None:
    server.cut, server.stall = CHUNK + 5_000_000, True
    command = [sys.executable, "-m", "codegen_chat.cli", "models", "pull", NAME]
    process = subprocess.Popen(command, env=environment(server), stderr=subprocess.DEVNULL)
    assert server.stalled.wait(60)
    part = next(cache.glob("blobs/*.part"))
    while part.stat().st_size < CHUNK:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert pull().returncode == 0
    assert server.asked[-1][2] == f"bytes={CHUNK}-"
    assert not list(cache.glob("blobs/*.part"))


def test_a_wrong_checksum_is_thrown_away(pull: Pull, server: Hub, cache: Path) -> None:
    server.false = True
    assert refused(pull(), "pytorch_model.bin came with a wrong checksum and was thrown away: try again")
    assert not list(cache.glob("blobs/*.part"))
    assert not list(cache.glob("snapshots/*/*.bin"))
    server.false = False
    assert pull().returncode == 0


def test_what_is_in_the_way_is_one_line(pull: Pull, server: Hub, cache: Path) -> None:
    assert refused(pull("nobody/nothing"), "the hub knows no such model, or it is private (answer 401)")
    assert refused(pull(NAME, "--revision", "other"), "it has no revision 'other'")
    server.token = "secret"
    assert refused(pull(), "set HF_TOKEN if it is private")
    assert pull(HF_TOKEN="secret").returncode == 0
    shutil.rmtree(cache)
    server.token, server.gated = None, True
    assert refused(pull(), "its owner asks for an agreement")
    assert refused(pull(HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set, and the network is not asked")
    server.gated, server.claimed = False, 10**15
    assert refused(pull(), f"{NAME} needs 1000000.0")
    assert refused(pull(HF_ENDPOINT="http://127.0.0.1:9"), "cannot be fetched: ")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="a small disk is made by bubblewrap")
def test_a_full_disk_is_one_line_and_keeps_what_came(pull: Pull, server: Hub, tmp_path: Path) -> None:
    """The disk fills up only after the room was looked at: another process takes it, here by a size that was told too small."""
    home = tmp_path / "small"
    home.mkdir()
    wall = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--size", str(16 << 20), "--tmpfs", str(home)]
    script = f"{sys.executable} -m codegen_chat.cli models pull {NAME}; echo $?; find {home} -name '*.part' -size +9M | wc -l"
    server.claimed = 1000
    done = subprocess.run(
        [*wall, "sh", "-c", script], env=environment(server, HF_HOME=str(home)), capture_output=True, text=True, check=False
    )
    if "bwrap:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.split() == ["3", "1"]
    assert "the disk is full: make room and say it again, what has come is kept" in done.stderr


def test_of_several_layouts_one_is_fetched(pull: Pull, server: Hub, model: Path, tmp_path: Path) -> None:
    both = synthetic.write(tmp_path / "both", synthetic.small("350M"), layout="safetensors shards")
    shutil.copy(model / "pytorch_model.bin", both)
    (both / "optimizer.bin").write_bytes(b"x")
    server.repositories[NAME] = both
    assert pull().returncode == 0
    found = {path.name for path in hub.locate(NAME).iterdir()}
    assert {"model.safetensors.index.json", "model-00003-of-00003.safetensors", "merges.txt", "added_tokens.json"} <= found
    assert not [name for name in found if name.endswith(".bin")]
    for path in both.glob("*.safetensors*"):
        path.unlink()
    (both / "pytorch_model.bin").unlink()
    assert refused(pull(NAME, "--revision", COMMIT), f"{NAME} holds no weights: none of model.safetensors, ")
