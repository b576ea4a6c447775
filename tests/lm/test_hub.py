from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_chat.errors import CheckpointError, ModelUnavailable, UsageError
from codegen_chat.lm import hub, shelf

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
    with pytest.raises(ModelUnavailable, match="models pull"):
        hub.locate(NAME)


def test_a_model_that_is_not_here_is_one_line(cache: Path) -> None:
    with pytest.raises(ModelUnavailable, match=rf"^{NAME} is not on this machine: `codegen-chat models pull {NAME}` fetches it"):
        hub.locate(NAME)
    with pytest.raises(ModelUnavailable, match=rf"`codegen-chat models pull {NAME} --revision refs/pr/3` fetches it[^\n]*$"):
        hub.locate(f"{NAME}@refs/pr/3")
    for name in ("codegen-350M-mono", NAME.lower()):
        with pytest.raises(ModelUnavailable, match=rf": is {NAME} meant\? Else [^\n]*$"):
            hub.locate(name)
    for name in ("nothing", "a/b/c", "../up", "", "http://example.com/x"):
        with pytest.raises(ModelUnavailable, match=r"^there is no model '[^\n]*$"):
            hub.locate(name)


def test_looking_for_a_model_opens_no_connection(cache: Path) -> None:
    """Traced in a process of its own: no socket is made, no name looked up, and the hub's library not even imported."""
    script = f"""
import sys
seen = []
sys.addaudithook(lambda event, _: seen.append(event) if event.startswith(("socket.", "http.", "urllib.")) else None)
import codegen_chat
try:
    codegen_chat.load("{NAME}")
except codegen_chat.ModelUnavailable as error:
    print(error)
assert not seen, seen
assert "huggingface_hub" not in sys.modules
"""
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment).stdout
    assert f"`codegen-chat models pull {NAME}` fetches it" in said
    assert said.count("\n") == 1


def test_a_revision_is_found_by_its_name_and_by_its_commit(snapshot: Path) -> None:
    other = snapshot.with_name("f" * 40)
    shutil.copytree(snapshot, other, symlinks=True)
    reference = snapshot.parents[1] / "refs" / "refs" / "pr" / "3"
    reference.parent.mkdir(parents=True)
    reference.write_text(other.name, encoding="utf-8")
    assert hub.locate(f"{NAME}@refs/pr/3") == hub.locate(f"{NAME}@{other.name}") == other
    assert hub.locate(NAME) == snapshot
    (snapshot / "config.json").write_text('{"model_type": "codegen"}', encoding="utf-8")
    (other / "config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
    assert [name for name, _ in shelf.here()] == ["nano", NAME]


def test_a_folder_is_added_found_listed_and_removed(cache: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codegen-2B-nl"
    shutil.copytree(tiny_folder, folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n", encoding="utf-8")
    assert shelf.add(folder) == "Salesforce/codegen-2B-nl"  # it is called as a published one is
    assert shelf.add(folder, "mine") == "mine"
    found = hub.locate("mine")
    assert hub.name(found) == "mine"
    assert hub.revision(found) == hub.revision(folder)
    assert (found / "model.safetensors").samefile(folder / "model.safetensors")
    listed = {model.name: model for model in shelf.listing()}
    assert (listed["mine"].licence, listed["nano"].licence) == ("mit", "bsd-3-clause")
    assert listed["mine"].bytes == shelf.size(folder)
    assert len(listed) == 14  # nano, the twelve, of which one is here, and mine
    for taken in ("mine", "nano", "../up", "a/b/c"):
        with pytest.raises(UsageError, match=r"^(there is a model mine already|a model cannot be called)[^\n]*$"):
            shelf.add(folder, taken)
    (folder / "model.safetensors").rename(folder / "tf_model.h5")
    with pytest.raises(
        CheckpointError, match=r"holds no weights: none of model.safetensors, .*; tf_model.h5 is of another kind$"
    ):
        shelf.add(folder, "bad")
    assert not list(hub.shelf().glob("bad*"))
    assert shelf.remove("mine") > 0
    assert shelf.remove("Salesforce/codegen-2B-nl") > 0
    assert not list(hub.shelf().iterdir())


def test_what_cannot_be_removed_is_one_line(snapshot: Path, tmp_path: Path) -> None:
    for name, error in (("nano", UsageError), (str(tmp_path), UsageError), ("nothing", ModelUnavailable), ("..", UsageError)):
        with pytest.raises(error, match=r"^[^\n]*(part of the package|a folder of your own|no model)[^\n]*$"):
            shelf.remove(name)
    assert shelf.remove(NAME) == 2 + 7 + 40
    with pytest.raises(ModelUnavailable):
        hub.locate(NAME)


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
