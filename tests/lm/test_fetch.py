"""`models pull` against a hub on this machine."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm import fetch, hub
from tests import synthetic
from tests.hubserver import COMMIT, Hub

NAME = "Salesforce/codegen-350M-mono"
CHUNK = 10 << 20
"""What the hub's library writes at once."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the hub holds under a published name, narrow."""
    return synthetic.write(tmp_path_factory.mktemp("hub") / "model", synthetic.small("350M"))


@pytest.fixture
def server(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that is asked in this process too: its library took the endpoint from the environment when it was imported."""
    with Hub() as server:
        server.repositories[NAME] = model
        for name, value in {
            "ENDPOINT": server.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_TELEMETRY": True,
        }.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield server


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub" / "models--Salesforce--codegen-350M-mono"


COMMAND = [sys.executable, "-m", "codegen_chat.cli", "models", "pull", NAME]


def environment(server: Hub, **more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return kept | {"HF_ENDPOINT": server.endpoint} | more


def refusal(name: str = NAME, revision: str = "main") -> str:
    with pytest.raises(ModelUnavailable, match=r"^[^\n]+$") as caught:
        fetch.pull(name, revision)
    return str(caught.value)


def test_what_is_pulled_lies_as_the_hubs_own_library_lays_it(
    server: Hub, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.run(COMMAND, env=environment(server), capture_output=True, text=True, check=True)
    assert done.stdout == f"{NAME}, revision {COMMIT[:12]}, is in {cache / 'snapshots' / COMMIT}: use it with -m {NAME}\n"
    assert all(line.startswith(f"{NAME}: ") for line in done.stderr.splitlines())  # how far it is, where it takes long
    assert ("GET", f"/api/models/{NAME}/revision/main", None) == server.asked[0]
    assert hub.locate(NAME) == hub.locate(f"{NAME}@{COMMIT}") == cache / "snapshots" / COMMIT
    assert [wrong for _, wrong in fetch.damaged(hub.locate(NAME))] == [False] * 6
    asked = len(server.asked)
    fetch.pull(NAME)
    assert len(server.asked) == asked + 1  # what is there is not fetched again

    huggingface_hub.snapshot_download(NAME, cache_dir=tmp_path / "theirs")
    theirs = tmp_path / "theirs" / cache.name

    def laid(folder: Path) -> set[tuple[str, str]]:
        kinds = ("blobs", "refs", "snapshots")
        return {
            (str(path.relative_to(folder)), str(path.readlink()) if path.is_symlink() else "")
            for kind in kinds
            for path in (folder / kind).rglob("*")
        }

    assert laid(cache) == laid(theirs)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "theirs"))
    assert hub.locate(NAME) == theirs / "snapshots" / COMMIT


def test_a_connection_that_breaks_off_goes_on(server: Hub) -> None:
    server.cut = CHUNK + 5_000_000
    told: list[tuple[int, int]] = []
    fetch.pull(NAME, tell=lambda *amounts: told.append(amounts))
    assert [wanted for _, path, wanted in server.asked if "/cdn/" in path] == [None, f"bytes={CHUNK}-"]
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_a_process_that_was_killed_goes_on(server: Hub, cache: Path) -> None:
    server.cut, server.stall = CHUNK + 5_000_000, True
    process = subprocess.Popen(COMMAND, env=environment(server), stderr=subprocess.DEVNULL)
    assert server.stalled.wait(60)
    part = next(cache.glob("blobs/*.part"))
    while part.stat().st_size < CHUNK:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    fetch.pull(NAME)
    assert server.asked[-1][2] == f"bytes={CHUNK}-"
    assert not list(cache.glob("blobs/*.part"))


def test_a_wrong_checksum_is_thrown_away(server: Hub, cache: Path) -> None:
    server.false = True
    assert refusal() == "pytorch_model.bin came with a wrong checksum and was thrown away: try again"
    assert not list(cache.glob("blobs/*.part"))
    assert not list(cache.glob("snapshots/*/*.bin"))
    server.false = False
    snapshot = fetch.pull(NAME)
    with (snapshot / "pytorch_model.bin").resolve().open("r+b") as blob:
        blob.seek(1000)
        blob.write(b"x")
    assert [name for name, wrong in fetch.damaged(snapshot) if wrong] == ["pytorch_model.bin"]


def test_what_is_in_the_way_is_one_line(server: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "the hub knows no such model, or it is private (answer 401)" in refusal("nobody/nothing")
    assert refusal(revision="other") == f"{NAME} cannot be fetched: it has no revision 'other'"
    server.token = "secret"
    assert "set HF_TOKEN if it is private" in refusal()
    monkeypatch.setenv("HF_TOKEN", "secret")
    assert "(answer 404)" in refusal("nobody/nothing")
    fetch.pull(NAME)
    shutil.rmtree(cache)
    server.token, server.gated = None, True
    assert "its owner asks for an agreement" in refusal()
    server.gated, server.claimed = False, 10**15
    assert refusal().startswith(f"{NAME} needs 1000000.0")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 cannot be reached: " in refusal()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert refusal().endswith("HF_HUB_OFFLINE is set, and the network is not asked")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="a small disk is made by bubblewrap")
def test_a_full_disk_is_one_line_and_keeps_what_came(server: Hub, tmp_path: Path) -> None:
    """The disk fills up only after the room was looked at: another process takes it, here by a size that was told too small."""
    home = tmp_path / "small"
    home.mkdir()
    wall = ["bwrap", "--bind", "/", "/", "--dev", "/dev", "--size", str(16 << 20), "--tmpfs", str(home)]
    script = f"{shlex.join(COMMAND)}; echo $?; find {home} -name '*.part' -size +9M | wc -l"
    server.claimed = 1000
    done = subprocess.run(
        [*wall, "sh", "-c", script], env=environment(server, HF_HOME=str(home)), capture_output=True, text=True, check=False
    )
    if "bwrap:" in done.stderr:
        pytest.skip(done.stderr)
    assert done.stdout.split() == ["3", "1"]
    assert "the disk is full: make room and say it again, what has come is kept" in done.stderr


def test_of_several_layouts_one_is_fetched(server: Hub, model: Path, tmp_path: Path) -> None:
    both = synthetic.write(tmp_path / "both", synthetic.small("350M"), layout="safetensors shards")
    shutil.copy(model / "pytorch_model.bin", both)
    (both / "optimizer.bin").write_bytes(b"x")
    server.repositories[NAME] = both
    found = {path.name for path in fetch.pull(NAME).iterdir()}
    assert {"model.safetensors.index.json", "model-00003-of-00003.safetensors", "merges.txt", "added_tokens.json"} <= found
    assert not [name for name in found if name.endswith(".bin")]
    for path in (*both.glob("*.safetensors*"), both / "pytorch_model.bin"):
        path.unlink()
    assert refusal().startswith(f"{NAME} holds no weights: none of model.safetensors, ")
