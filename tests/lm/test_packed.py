"""Weights made small are kept on the disk, and only what they were made from gives them back."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codegen_chat.lm import checkpoint, fit, hub, native, packed, steps
from codegen_chat.lm.config import Config
from codegen_chat.lm.stored import SINGLE, Weights
from tests.test_cli import Cli, run

__all__ = ["run"]  # a fixture

pytestmark = pytest.mark.skipif(not native.instructions(), reason=f"the native step {native.state()}")

IDS = np.arange(30)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint in floating point, large enough to be kept, and a cache of its own."""
    monkeypatch.setattr(packed, "LEAST", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    model = checkpoint.load(hub.locate("nano"))
    checkpoint.save(model, tmp_path / "model")
    shutil.copy(hub.locate("nano") / "tokenizer.json", tmp_path / "model")
    return tmp_path / "model"


def kept(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "codegen-chat" / "packed").glob("*"))


def read(folder: Path) -> tuple[Config, Weights]:
    config = Config.read(folder / "config.json")
    return config, Weights(folder, config)


def times(entry: Path) -> int:
    return (entry / SINGLE).stat().st_mtime_ns


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_the_next_start_reads_what_the_first_one_made(folder: Path, tmp_path: Path, dtype: str) -> None:
    own = native.NativeStep(*read(folder), dtype)(IDS)
    first = steps.load(folder, dtype)(IDS)
    (entry,) = kept(tmp_path)
    made = times(entry)
    assert (first == own).all()
    assert (steps.load(folder, dtype)(IDS) == first).all()
    assert times(entry) == made
    assert sorted(file.name for file in entry.iterdir()) == ["key.json", SINGLE]


def change_weights(folder: Path, entry: Path) -> None:
    """Others of the same shape, size and time."""
    file = folder / SINGLE
    facts = file.stat()
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4000] = bytes(4000)
    file.write_bytes(data)
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))


def touch(folder: Path, entry: Path) -> None:
    os.utime(folder / SINGLE)


def damage(folder: Path, entry: Path) -> None:
    """One bit."""
    with (entry / SINGLE).open("r+b") as file:
        file.seek(entry.joinpath(SINGLE).stat().st_size // 3)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))


def swap(folder: Path, entry: Path) -> None:
    """Two pieces of the file."""
    data = (entry / SINGLE).read_bytes()
    size = packed._PIECE
    (entry / SINGLE).write_bytes(data[size : 2 * size] + data[:size] + data[2 * size :])


def cut(folder: Path, entry: Path) -> None:
    os.truncate(entry / SINGLE, (entry / SINGLE).stat().st_size - 8)


def another_format(folder: Path, entry: Path) -> None:
    key = json.loads((entry / "key.json").read_text())
    (entry / "key.json").write_text(json.dumps(key | {"format": packed.FORMAT + 1}))


def no_key(folder: Path, entry: Path) -> None:
    (entry / "key.json").write_text("[1]")


def no_weights(folder: Path, entry: Path) -> None:
    (entry / SINGLE).unlink()


@pytest.mark.parametrize("change", [change_weights, touch, damage, swap, cut, another_format, no_key, no_weights])
def test_what_is_not_what_was_made_is_made_anew(folder: Path, tmp_path: Path, change: Callable[[Path, Path], None]) -> None:
    steps.load(folder, "int8")
    (entry,) = kept(tmp_path)
    os.utime(entry / SINGLE, ns=(1, 1))
    change(folder, entry)
    assert (steps.load(folder, "int8")(IDS) == native.NativeStep(*read(folder), "int8")(IDS)).all()
    made = times(entry)
    assert made != 1
    steps.load(folder, "int8")
    assert times(entry) == made


def test_what_cannot_be_kept_is_made_each_time(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = steps.load(folder, "int8")(IDS)
    shutil.rmtree(tmp_path / "cache")
    (tmp_path / "cache").write_text("no folder")
    assert (steps.load(folder, "int8")(IDS) == expected).all()
    (tmp_path / "cache").unlink()
    monkeypatch.setattr(fit, "free_disk", lambda _: 1 << 20)
    assert (steps.load(folder, "int8")(IDS) == expected).all()
    assert kept(tmp_path) == []


def test_only_what_takes_time_is_kept(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in ("auto", "fp32", "fp16"):
        steps.load(folder, dtype, "cpu")
    steps.load(hub.locate("nano"), "int4")  # stored in int8
    monkeypatch.setattr(packed, "LEAST", 1 << 30)
    steps.load(folder, "int8")
    assert kept(tmp_path) == []


def test_a_checkpoint_that_goes_takes_its_entry_along(run: Cli, folder: Path, tmp_path: Path) -> None:
    steps.load(folder, "int8")
    assert run("models", "add", folder, "--name", "mine").code == 0
    steps.load(hub.locate("mine"), "int8")
    assert len(kept(tmp_path)) == 2
    assert "weights made small take 31.1 MB" in run("doctor").out
    assert re.fullmatch(r"mine: 7\d\.\d MB freed\n", run("models", "rm", "mine").out)
    (entry,) = kept(tmp_path)
    steps.load(folder, "int8")
    shutil.rmtree(folder)
    assert packed.sweep() > 10_000_000
    assert not entry.exists()
