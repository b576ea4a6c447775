"""Which step computes: the native one where it was built and can, torch where not. torch is imported by then only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from codegen_chat.errors import ModelUnavailable, UsageError
from codegen_chat.lm import fit, native
from codegen_chat.lm.config import Config
from codegen_chat.lm.hub import amount
from codegen_chat.lm.stored import Weights

if TYPE_CHECKING:
    from codegen_chat.lm.engine import Step
    from codegen_chat.lm.model import CodeGen

GPU = Path("/dev/nvidiactl")
"""There where a GPU's driver is: torch need not be imported to see that there is none."""


def load(folder: Path, dtype: str = "auto", device: str = "auto") -> Step:
    """Return the step over a checkpoint's weights.

    Raises CheckpointError in one line where they do not hold the model that the config describes, ModelUnavailable where memory
    does not hold them, UsageError for a dtype or a device that there is not.
    """
    config = Config.read(folder / "config.json")
    if native.instructions() and device in {"auto", "cpu"} and dtype in {"auto", *native.FORMATS}:
        weights = Weights(folder, config)
        small = weights.dtype == "int8"
        if small or device == "cpu" or not GPU.exists():
            chosen = weights.dtype if dtype == "auto" else dtype
            _room(config, chosen)
            return native.NativeStep(config, _packed(folder, weights, chosen), chosen)
    if dtype == "int4":
        raise UsageError(
            f"int4 is computed by the native step on a CPU, and that {native.state()}: use auto, int8, fp32, bf16 or fp16"
        )
    if dtype == "int8" and device not in {"auto", "cpu"}:
        raise UsageError("int8 is computed on a CPU: use --device cpu, or auto, fp32, bf16 or fp16 as the dtype")
    from codegen_chat.lm import checkpoint, int8, model  # noqa: PLC0415  torch

    if dtype == "int8":
        _room(config, dtype)
        return int8.load(_packed(folder, Weights(folder, config), dtype))
    if device == "cpu" or (device == "auto" and not GPU.exists()):
        _room(config, "fp16" if dtype in {"fp16", "bf16"} else "fp32")
    return model.TorchStep(checkpoint.load(folder, dtype=dtype, device=device))


def _packed(folder: Path, weights: Weights, dtype: str) -> Weights:
    """Return weights for a dtype that were made small before, where that takes time."""
    if dtype == weights.dtype or dtype not in {"int8", "int4"}:
        return weights
    from codegen_chat.lm import packed  # noqa: PLC0415  with all that writes weights

    return packed.small(folder, weights, dtype)


def _room(config: Config, dtype: str, instead: Sequence[str] = fit.DTYPES) -> None:
    """Refuse weights that memory cannot hold, and name a dtype that fits: the system would end this process, or another one."""
    free, need = fit.free_memory(), fit.weights(config, dtype)
    if need > free:
        sizes = {each: fit.weights(config, each) for each in instead}
        less = next((f": --dtype {each} takes {amount(size)}" for each, size in sizes.items() if size < free), "")
        raise ModelUnavailable(f"the weights take {amount(need)} of memory in {dtype}, and {amount(free)} are free{less}")


def reference(step: Step, folder: Path) -> CodeGen:
    """Return torch's network behind a step, for what only it can show.

    The native step has none: then it is loaded from the step's folder, in fp32 (four bytes a weight, beside the step's own).
    Raises ModelUnavailable where memory does not hold that.
    """
    from codegen_chat.lm import checkpoint, model  # noqa: PLC0415  torch

    if isinstance(step, model.TorchStep):
        return step.model
    _room(step.config, "fp32", instead=())
    return checkpoint.load(folder, dtype="fp32", device="cpu")
