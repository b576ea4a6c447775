"""The native step: what TorchStep computes, in one call of C++ a step. No torch; native/step.cpp has the arithmetic.

The library is optional. It is built with the package where there is a compiler, and `instructions()` says what it would use here.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from codegen_chat.errors import CodegenChatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from codegen_chat.lm.config import Config
    from codegen_chat.lm.engine import Branches
    from codegen_chat.lm.stored import Weights

INSTRUCTIONS = ("plain C", "AVX2", "AVX-512 VNNI")
"""By the number that the library knows them by, the slowest first."""

GROUP = 32
"""Columns that share a scale in int4: docs/performance.md shows what other numbers cost."""

FORMATS = {"fp32": 0, "fp16": 1, "int8": 2, "int4": 3}
"""The dtypes of weights that the native step knows, and the library's numbers for them."""

_VERSION = 2
_LAST, _EVERY, _FEATURES = range(3)

_LAYER = {
    "attn.qkv_proj.weight": 0,
    "attn.out_proj.weight": 1,
    "mlp.fc_in.weight": 2,
    "mlp.fc_out.weight": 3,
    "ln_1.weight": 4,
    "ln_1.bias": 5,
    "mlp.fc_in.bias": 6,
    "mlp.fc_out.bias": 7,
}
_OUTSIDE = {"ln_f.weight": 4, "ln_f.bias": 5, "wte.weight": 8, "lm_head.weight": 9, "lm_head.bias": 10}
_SINES, _COSINES = 11, 12

ROWS = 4096
"""Rows of a tensor that are read and packed at once: bounds the memory beside the packed weights."""


class _Shape(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int32) for name in ("layers", "width", "heads", "rotary", "inner", "vocabulary", "positions")),
        ("epsilon", ctypes.c_float),
    )


@cache
def _library() -> ctypes.CDLL | None:
    """Return the library, or None where it was not built, or belongs to another version of this file."""
    found = find_spec("codegen_chat.lm._native")
    if found is None or found.origin is None:
        return None
    try:
        return _declared(ctypes.CDLL(found.origin))
    except (OSError, AttributeError):
        return None


def _declared(library: ctypes.CDLL) -> ctypes.CDLL | None:
    number, pointer = ctypes.c_int, ctypes.c_void_p
    declarations: dict[str, tuple[Any, list[Any]]] = {
        "codegen_version": (number, []),
        "codegen_runs": (number, [number]),
        "codegen_new": (pointer, [ctypes.POINTER(_Shape), number, number, number, number]),
        "codegen_free": (None, [pointer]),
        "codegen_bytes": (ctypes.c_size_t, [pointer]),
        "codegen_set": (None, [pointer, number, number, number, number, pointer, pointer]),
        "codegen_round_int4": (None, [pointer, number, number, number, number, pointer, pointer]),
        "codegen_branch": (number, [pointer, number, number]),
        "codegen_run": (number, [pointer, number, pointer, number, pointer]),
    }
    for name, (result, arguments) in declarations.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library if library.codegen_version() == _VERSION else None


def instructions() -> list[str]:
    """Return the instruction sets that the native step has and this machine runs, the fastest last; none: it was not built."""
    library = _library()
    return [name for i, name in enumerate(INSTRUCTIONS) if library is not None and library.codegen_runs(i)]


def state() -> str:
    """Say in a few words what this machine has of the native step."""
    found = instructions()
    return f"runs with {found[-1]}" if found else "was not built: it needs a C++ compiler when the package is installed"


def round_int4(weight: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return weight (R, C) as int4, as `quantize.to_int4` says. Raises UsageError where the native step was not built."""
    library = _library()
    if library is None:
        raise UsageError(f"int4 is made by the native step, and that {state()}")
    rows, columns = weight.shape
    groups = -(-columns // GROUP)
    numbers = np.empty((rows, groups * GROUP // 2), dtype=np.uint8)
    scales = np.empty((rows, groups), dtype=np.float32)
    with_instructions = len(instructions()) - 1
    library.codegen_round_int4(
        weight.ctypes.data, rows, columns, GROUP, with_instructions, numbers.ctypes.data, scales.ctypes.data
    )
    return numbers, scales


class NativeStep:
    """Runs tokens through the weights and the cache, as `model.TorchStep` does, with weights in `dtype`.

    int8 and int4 meet activations of 16 bits, and the cache is of half precision: int8 weights compute what they stand for to
    three digits. fp32 is as exact as torch's. A token's logits are the same to the last bit however many run with it.
    `with_instructions` and `threads` are for tests and figures: the best, and one for each core.

    Raises CodegenChatError where the library is not there or memory ran out, CheckpointError as reading the weights does.
    """

    def __init__(
        self,
        config: Config,
        weights: Weights,
        dtype: str,
        *,
        group: int = GROUP,
        with_instructions: str | None = None,
        threads: int | None = None,
    ) -> None:
        library = _library()
        if library is None:
            raise CodegenChatError("the native step was not built: install the package where there is a C++ compiler")
        self.config = config
        self.dtype = dtype
        self.device = "cpu"
        self.length = 0
        self.instructions = with_instructions or instructions()[-1]
        self._library = library
        self._group = group
        shape = _Shape(
            config.n_layer,
            config.n_embd,
            config.n_head,
            config.rotary_dim,
            config.inner,
            config.vocab_size,
            config.n_positions,
            config.layer_norm_epsilon,
        )
        number = INSTRUCTIONS.index(self.instructions)
        count = threads or len(os.sched_getaffinity(0))
        self._model = library.codegen_new(ctypes.byref(shape), FORMATS[dtype], group, number, count)
        if not self._model:
            raise _no_memory()
        weakref.finalize(self, library.codegen_free, self._model)
        self._load(weights)

    @property
    def backend(self) -> str:
        """What computes."""
        return f"native {self.instructions}"

    @property
    def bytes(self) -> int:
        """How many bytes the packed weights take."""
        return int(self._library.codegen_bytes(self._model))

    def _load(self, weights: Weights) -> None:
        """Read the weights tensor by tensor, large ones in pieces, and pack them."""
        config = self.config
        places = {f"transformer.h.{i}.{key}": (i, part) for i in range(config.n_layer) for key, part in _LAYER.items()}
        places |= {f"transformer.{key}".replace("transformer.lm_head", "lm_head"): (-1, part) for key, part in _OUTSIDE.items()}
        for key, (layer, part) in places.items():
            rows = weights.shape(key)[0]
            step = rows if "qkv" in key else ROWS  # the order of its rows is seen in the whole
            for start in range(0, rows, step):
                stop = min(start + step, rows)
                if self._as_stored(weights, key):
                    self._set(layer, part, start, *weights.ordered(key, start, stop))
                else:
                    self._set(layer, part, start, np.ascontiguousarray(weights.floats(key, start, stop), dtype=np.float32))
        frequencies = np.float32(10000.0) ** (
            -np.arange(0, config.rotary_dim, 2, dtype=np.float32) / np.float32(config.rotary_dim)
        )
        angles = np.outer(np.arange(config.n_positions, dtype=np.float32), frequencies)
        for part, table in ((_SINES, np.sin(angles)), (_COSINES, np.cos(angles))):
            self._set(-1, part, 0, table.ravel())

    def _as_stored(self, weights: Weights, key: str) -> bool:
        """Whether a matrix is stored in the numbers and scales that it is computed with."""
        if self.dtype == "int4" and "wte" not in key:
            return weights.is_int4(key) and self._group == GROUP
        return weights.is_int8(key) and self.dtype in {"int4", "int8"}

    def _set(self, layer: int, part: int, row: int, array: NDArray[Any], scales: NDArray[np.float32] | None = None) -> None:
        self._library.codegen_set(
            self._model, layer, part, row, len(array), array.ctypes.data, None if scales is None else scales.ctypes.data
        )

    def __call__(self, ids: NDArray[np.int64], *, every: bool = False) -> NDArray[np.float32]:
        """Append T tokens; return float32 logits: (V,) of the last token, or (T, V) of each."""
        if not every:
            return self._append(ids, _LAST, (self.config.vocab_size,))
        return self._append(ids, _EVERY, (len(ids), self.config.vocab_size))

    def features(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Append T tokens; return their last hidden states, float32 (T, C)."""
        return self._append(ids, _FEATURES, (len(ids), self.config.n_embd))

    def _append(self, ids: NDArray[np.int64], want: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        end = self.length + len(ids)
        result = self._run(ids, 0, range(self.length, end), want, shape)
        self.length = end
        return result

    def truncate(self, length: int) -> None:
        """Forget every position from `length` on."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} to {length}")
        self.length = length

    def branch(self, count: int) -> Branches:
        """Return `count` empty continuations of what the cache holds now. They are void once it changes."""
        shared = self.length
        if not self._library.codegen_branch(self._model, count, shared):
            raise _no_memory()

        def run(which: Sequence[int], lengths: Sequence[int], ids: Sequence[int]) -> NDArray[np.float32]:
            positions = [shared + length for length in lengths]
            caches = [branch + 1 for branch in which]  # the main one is 0
            return self._run(ids, caches, positions, _EVERY, (len(ids), self.config.vocab_size))

        return run

    def _run(
        self,
        ids: Sequence[int] | NDArray[np.int64],
        caches: Sequence[int] | int,
        positions: Sequence[int],
        want: int,
        shape: tuple[int, ...],
    ) -> NDArray[np.float32]:
        if max(positions) >= self.config.n_positions:
            raise ValueError(f"{max(positions) + 1} tokens do not fit a window of {self.config.n_positions}")
        if min(ids) < 0 or max(ids) >= self.config.vocab_size:
            raise ValueError(f"token ids go from 0 to {self.config.vocab_size - 1}")
        rows = np.empty((3, len(ids)), dtype=np.int32)
        rows[0], rows[1], rows[2] = ids, caches, positions
        result = np.empty(shape, dtype=np.float32)
        if not self._library.codegen_run(self._model, len(ids), rows.ctypes.data, want, result.ctypes.data):
            raise _no_memory()
        return result


def _no_memory() -> CodegenChatError:
    return CodegenChatError("there is not enough memory for this model: try a smaller dtype, such as int8 or int4")
