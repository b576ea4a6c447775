"""Weights that a dtype made small are kept on the disk, so that the next start reads them instead of making them again.

There is one entry for a checkpoint and a dtype, a folder in `codegen-chat/packed` below XDG_CACHE_HOME: the weights as `convert`
writes them, and a key. An entry of other weights, of another format, or damaged, is made anew. Any may be deleted at any time.

The rows are stored as numbers and scales. How the native step lays them out in memory is the same for all its instruction sets,
and takes it no time that shows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.lm import fit
from codegen_chat.lm.convert import write
from codegen_chat.lm.hub import WEIGHTS, files
from codegen_chat.lm.shelf import made_whole
from codegen_chat.lm.stored import SINGLE, Weights
from codegen_chat.settings import packed_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMAT = 1
"""Of the entries: one of another number is not read."""

LEAST = 100_000_000
"""Bytes that an entry has at least: smaller weights are made faster than anybody notices."""

_KEY = "key.json"
_SAMPLES, _SAMPLE, _PIECE = 64, 4096, 1 << 22


def small(folder: Path, weights: Weights, dtype: str) -> Weights:
    """Return the weights of a checkpoint's folder for a dtype: themselves, or kept ones, which are made where there are none.

    What cannot be kept (no room, a folder that cannot be written) is made each time.
    """
    size = fit.weights(weights.config, dtype)
    if weights.dtype in {"int8", "int4"} or size < LEAST:
        return weights
    entry, key = _entry(folder, dtype), _key(folder)
    with suppress(OSError, CodegenChatError):
        if not _is(entry, key):
            _make(entry, key, weights, dtype, size)
        return Weights(entry, weights.config)
    return weights


def sweep() -> int:
    """Delete the entries of checkpoints that are no longer there. Returns how many bytes their weights had."""
    freed = 0
    for found in packed_folder(os.environ).glob(f"*/{_KEY}"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            if not Path(json.loads(found.read_text(encoding="utf-8"))["folder"]).is_dir():
                size = (found.parent / SINGLE).stat().st_size
                shutil.rmtree(found.parent)
                freed += size
    return freed


def _entry(folder: Path, dtype: str) -> Path:
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return packed_folder(os.environ) / f"{name}-{dtype}"


def _is(entry: Path, key: dict[str, Any]) -> bool:
    """Whether an entry is ours, has this key, and is what was written."""
    try:
        kept = json.loads((entry / _KEY).read_text(encoding="utf-8"))
        own = entry.stat().st_uid == os.getuid()
        return own and kept == key | {"sum": kept["sum"]} and kept["sum"] == _sum(entry / SINGLE)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _make(entry: Path, key: dict[str, Any], weights: Weights, dtype: str, size: int) -> None:
    sweep()
    shutil.rmtree(entry, ignore_errors=True)
    if fit.free_disk(entry) < 2 * size:
        raise UsageError("a disk is not filled for this")
    with made_whole(entry) as unfinished:
        for _ in write(unfinished / SINGLE, weights, dtype):
            pass
        (unfinished / _KEY).write_text(json.dumps(key | {"sum": _sum(unfinished / SINGLE)}) + "\n", encoding="utf-8")


def _key(folder: Path) -> dict[str, Any]:
    """Return what tells a checkpoint from another one, in a moment: of each file of weights name, size, time, and some of it."""
    marks = {file.name: _mark(file) for file in files(folder, *WEIGHTS, "*.json")}
    return {"format": FORMAT, "folder": str(folder.resolve()), "files": marks}


def _mark(file: Path) -> str:
    facts = file.stat()
    digest = hashlib.sha256(f"{facts.st_size} {facts.st_mtime_ns}".encode())
    with file.open("rb") as data:
        for at in range(_SAMPLES):
            data.seek(at * facts.st_size // _SAMPLES)
            digest.update(data.read(_SAMPLE))
    return digest.hexdigest()


def _sum(file: Path) -> str:
    """Return a checksum, at the speed of memory: each piece is summed up in words of 64 bits."""
    digest = hashlib.sha256(str(file.stat().st_size).encode())
    for words in _pieces(file):
        digest.update(np.add.reduce(words).tobytes())
    return digest.hexdigest()


def _pieces(file: Path) -> Iterator[Any]:
    buffer = np.zeros(_PIECE // 8, dtype=np.uint64)
    with file.open("rb", buffering=0) as data:
        while count := data.readinto(buffer.data):
            buffer.view(np.uint8)[count:] = 0
            yield buffer
