"""What a model takes of memory, and what this machine has."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from codegen_chat.lm.config import Config
from codegen_chat.lm.quantize import packed_shape
from codegen_chat.lm.stored import shapes

GROUP = Path("/sys/fs/cgroup")

DTYPES = ("fp32", "fp16", "int8", "int4")


def memory(config: Config, dtype: str) -> int:
    """Return the bytes that a model takes in memory with its weights in a dtype: weights, and the past of a whole window."""
    past = 2 * config.n_layer * config.n_positions * config.n_embd * (4 if dtype == "fp32" else 2)
    return past + weights(config, dtype)


def weights(config: Config, dtype: str) -> int:
    """Return the bytes of a model's weights in a dtype, in memory or in a file."""
    return sum(_weight(key, shape, dtype) for key, shape in shapes(config).items())


def _weight(key: str, shape: tuple[int, ...], dtype: str) -> int:
    if len(shape) < 2:
        return 4 * shape[0]
    if dtype == "int4" and "wte" not in key:
        numbers, scales = packed_shape(shape)
        return math.prod(numbers) + 4 * math.prod(scales)
    return math.prod(shape) + 4 * shape[0] if dtype in {"int8", "int4"} else math.prod(shape) * (4 if dtype == "fp32" else 2)


def free_memory() -> int:
    """Return the bytes that a new process can have: what is available, or less where a control group says so.

    What a group uses counts the files that it has read, and those it gives up when it needs the room.
    """
    available = _numbers(Path("/proc/meminfo"))["MemAvailable:"] * 1024
    try:
        limit, used = ((GROUP / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        files = _numbers(GROUP / "memory.stat")
        return (
            available
            if limit == "max"
            else min(available, int(limit) - int(used) + files["active_file"] + files["inactive_file"])
        )
    except (OSError, ValueError, KeyError):
        return available


def _numbers(path: Path) -> dict[str, int]:
    """Read lines of a name and a number."""
    return {line.split()[0]: int(line.split()[1]) for line in path.read_text(encoding="ascii").splitlines()}


def free_disk(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or would be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
