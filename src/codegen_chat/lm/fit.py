"""What a model takes of memory, and what this machine has."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from codegen_chat.lm.config import Config
from codegen_chat.lm.quantize import packed_shape
from codegen_chat.lm.stored import shapes

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
    """Return the bytes that a new process can have: what is available, or less where a control group says so."""
    lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / f"memory.{name}").read_text(encoding="ascii").strip() for name in ("max", "current"))
        return available if limit == "max" else min(available, int(limit) - int(used))
    except (OSError, ValueError):
        return available


def free_disk(folder: Path) -> int:
    """Return the bytes that are free where a folder is, or would be."""
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
