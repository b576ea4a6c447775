from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm import hub

NAME = "Salesforce/codegen-350M-mono"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def snapshot(cache: Path) -> Path:
    """A snapshot of a model in it, as the hub's own library lays it out."""
    repository = cache / "models--Salesforce--codegen-350M-mono"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    (repository / "blobs").mkdir()
    (repository / "blobs" / "weights").write_bytes(b"weights")
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}", encoding="utf-8")
    (snapshot / "pytorch_model.bin").symlink_to("../../blobs/weights")
    return snapshot


def test_a_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    assert hub.locate(str(folder)) == folder
    assert hub.name(folder) == "my model"


def test_a_hub_name_is_found_in_the_cache(snapshot: Path) -> None:
    assert hub.locate(NAME) == snapshot
    assert hub.name(snapshot) == NAME
    assert hub.revision(snapshot) == COMMIT[:12]


def test_the_cache_is_where_its_own_library_puts_it(
    snapshot: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("HF_HUB_CACHE", cache), ("HF_HOME", tmp_path / "hf"), ("XDG_CACHE_HOME", tmp_path)):
        for other in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(other, raising=False)
        if variable == "XDG_CACHE_HOME":
            (tmp_path / "huggingface").symlink_to(tmp_path / "hf")
        monkeypatch.setenv(variable, str(value))
        assert hub.locate(NAME).resolve() == snapshot


@pytest.mark.parametrize("missing", ["config.json", "pytorch_model.bin"])
def test_half_a_snapshot_is_no_model(snapshot: Path, missing: str) -> None:
    (snapshot / missing).unlink()
    with pytest.raises(ModelUnavailable, match="hf download"):
        hub.locate(NAME)


def test_a_model_that_is_not_here_is_one_line_and_no_network(cache: Path) -> None:
    with pytest.raises(
        ModelUnavailable, match=rf"^{NAME} is neither a folder nor in the hub's cache .*hf download {NAME}` fetches it there"
    ):
        hub.locate(NAME)
    for name in ("nothing", "a/b/c", "../up", "", "http://example.com/x"):
        with pytest.raises(ModelUnavailable, match=r"^there is no model '[^\n]*$"):
            hub.locate(name)


def test_a_download_that_fails_is_one_line(cache: Path) -> None:
    """In a process of its own, because the hub's library reads HF_HUB_OFFLINE when it is imported."""
    script = f"""
import os
os.environ["HF_HUB_OFFLINE"] = "1"
from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm import hub
try:
    hub.locate("{NAME}", download=True)
except ModelUnavailable as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.startswith(f"{NAME} cannot be fetched: ")
    assert said.count("\n") == 1


def test_the_embedded_model_is_in_the_package_or_missed_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ASSETS", tmp_path)
    with pytest.raises(ModelUnavailable, match="not in this installation"):
        hub.locate("nano")
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text("{}", encoding="utf-8")
    assert hub.locate("nano") == tmp_path / "nano"
    assert hub.name(tmp_path / "nano") == "nano"


def test_a_revision_tells_weights_apart(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"a" * (3 << 20))
    first = hub.revision(tmp_path)
    assert len(first) == 12
    assert hub.revision(tmp_path) == first
    weights.write_bytes(b"a" * ((3 << 20) - 1) + b"b")
    assert hub.revision(tmp_path) != first


def test_what_the_engine_needs_imports_no_torch() -> None:
    modules = ", ".join(f"codegen_chat.lm.{name}" for name in ("engine", "sampling", "tokenizer", "config", "hub"))
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)
