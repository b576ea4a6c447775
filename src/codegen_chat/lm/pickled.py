"""The hub's `pytorch_model.bin`: a zip that holds a pickle, a dictionary of tensors, and their numbers as they are. No torch.

The pickle is not run. It is a program for a stack machine, and of its instructions those that put together a dictionary of
tensors are followed here; another one, or a name that no such dictionary needs, and the file is refused.
"""

from __future__ import annotations

import math
import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from codegen_chat.errors import CheckpointError, first_line
from codegen_chat.lm.places import TYPES, Place

_KINDS = {
    f"torch {storage}Storage": kind
    for storage, kind in {
        "Double": "F64",
        "Float": "F32",
        "Half": "F16",
        "BFloat16": "BF16",
        "Long": "I64",
        "Int": "I32",
        "Short": "I16",
        "Char": "I8",
        "Byte": "U8",
        "Bool": "BOOL",
    }.items()
}
_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Storage(NamedTuple):
    kind: str
    record: str
    """The name of the file in the zip that has its numbers."""


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    """In numbers from the beginning of its storage."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def pickled(path: Path) -> dict[str, Place]:
    """Return where the tensors lie. Raises CheckpointError in one line where they do not, or where it holds anything else."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            program = next(info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
            folder = program.filename.removesuffix("data.pkl") + "data/"
            records = {info.filename.removeprefix(folder): _span(file, info) for info in archive.infolist()}
            loaded = _follow(archive.read(program))
        tensors = isinstance(loaded, dict) and all(isinstance(each, _Tensor) for each in loaded.values())
        places = {str(key): _place(path, tensor, records) for key, tensor in loaded.items()} if tensors else None
    except FileNotFoundError:
        raise CheckpointError(f"{path} is missing") from None
    except Exception as error:  # noqa: BLE001  damaged bytes raise whatever they make zipfile and pickletools raise
        raise CheckpointError(f"{path} is damaged, or not a checkpoint of plain tensors: {first_line(error)}") from None
    if places is None:
        raise CheckpointError(f"{path} is not a checkpoint: it holds no dictionary of tensors")
    return places


def _span(file: IO[bytes], info: zipfile.ZipInfo) -> tuple[int, int]:
    """Return where a record of the zip begins and ends: behind a header of its own, whose length stands in it."""
    if info.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{info.filename} is compressed")
    file.seek(info.header_offset + 26)
    name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
    begin = info.header_offset + 30 + name + extra
    return begin, begin + info.file_size


def _place(path: Path, tensor: _Tensor, records: dict[str, tuple[int, int]]) -> Place:
    """Return where a tensor lies; a matrix may lie by columns."""
    begin, end = records[tensor.storage.record]
    size = TYPES[tensor.storage.kind].itemsize
    turned = not _by_rows(tensor.shape, tensor.strides)
    if turned and not (len(tensor.shape) == 2 and _by_rows(tensor.shape[::-1], tensor.strides[::-1])):
        raise ValueError(f"a tensor of shape {tensor.shape} that lies in pieces")
    offset = begin + tensor.offset * size
    if tensor.offset < 0 or offset + math.prod(tensor.shape) * size > end:
        raise ValueError(f"a tensor of shape {tensor.shape} that ends behind its numbers")
    return Place(path, tensor.storage.kind, tensor.shape, offset, turned)


def _by_rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> bool:
    """Tell whether a tensor's numbers lie one row after the other. The stride of a single row says nothing."""
    behind = (math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    return all(size == 1 or stride == wanted for size, stride, wanted in zip(shape, strides, behind, strict=True))


def _follow(program: bytes) -> Any:
    """Return what a pickle makes, if it is made of dictionaries, tuples, numbers, texts and tensors."""
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def last(count: int) -> list[Any]:
        items = stack[len(stack) - count :]
        del stack[len(stack) - count :]
        return items

    def since_mark() -> list[Any]:
        items = last(next(count for count, item in enumerate(reversed(stack)) if item is _MARK))
        stack.pop()
        return items

    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "GLOBAL":
                stack.append(argument)
            case name if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(last(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS" as name:
                items = last(2) if name == "SETITEM" else since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                stack.append(_made(*last(2)))
            case "BUILD":  # attributes of a dictionary, such as the versions of its modules
                stack.pop()
            case other:
                raise ValueError(f"a pickle with the instruction {other}")
    return stack.pop()


def _storage(told: Any) -> _Storage:
    """Return what a pickle names from outside of it: ("storage", its class, the name of its record, where it was, its length)."""
    _, kind, record, *_ = told
    return _Storage(_KINDS[kind], record)


def _made(called: Any, arguments: Any) -> Any:
    """Return what a call of one of three functions makes; there are no others."""
    match called, arguments:
        case "collections OrderedDict", ():
            return {}
        case "torch._utils _rebuild_tensor_v2", (_Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
            return _Tensor(storage, offset, shape, strides)
        case "torch._utils _rebuild_parameter", (_Tensor() as tensor, *_):
            return tensor
    raise ValueError(f"a pickle that calls {called}")
