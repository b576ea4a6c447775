"""Speed, memory and the roofline: this engine beside its peers, on one random model of the 350M shape.

    python benchmarks/engine.py [--rounds 5] [--only native-int8,ctranslate2-int8]

Each engine lives in a process of its own, and is asked for one figure at a time, in turns: what disturbs the machine disturbs
all alike. Printed are medians of the rounds with their spread, and each row's ratio to the first. Peers that are not installed
are left out; `pip install transformers ctranslate2 openvino nncf` has them all. The figures go to benchmarks/engine.json, the
chart to docs/engine.svg.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np

HERE = Path(__file__).parent
THREADS = len(os.sched_getaffinity(0))
NEW = 24
"""Tokens that a decode is timed over."""
TURN, ANSWER, TURNS = 25, 60, 10
"""Tokens of the words and of the answer of a turn, and the turn whose first token is waited for."""
FIGURES = ("prefill 256", "decode 256", "prefill 1024", "decode 1024", "first token 10", "candidates 8")


class Peer(Protocol):
    """What is measured of an engine; all return seconds."""

    def prefill(self, ids: list[int]) -> float:
        """Run a prompt from nothing up to its first token."""
        ...

    def decode(self, ids: list[int]) -> float:
        """Time one token after this prompt."""
        ...

    def first_token(self, known: list[int], new: list[int]) -> float:
        """Time the first token of a turn, all before which was said by this engine just now."""
        ...

    def candidates(self, ids: list[int], count: int, new: int) -> float:
        """Draw several continuations of a prompt."""
        ...


def timed(work: Callable[[], object]) -> float:
    """Return how long something takes."""
    started = perf_counter()
    work()
    return perf_counter() - started


class Ours:
    """A step of this package; what the engine does around it is the same for all steps."""

    def __init__(self, folder: Path, dtype: str, *, native: bool) -> None:
        from codegen_chat.lm import sampling, steps
        from codegen_chat.turn import Sampling

        if native:
            self.step = steps.load(folder, dtype, "cpu")
        elif dtype == "int8":
            from codegen_chat.lm import int8
            from codegen_chat.lm.config import Config
            from codegen_chat.lm.stored import Weights

            self.step = int8.load(Weights(folder, Config.read(folder / "config.json")))
        else:
            from codegen_chat.lm import checkpoint, model

            self.step = model.TorchStep(checkpoint.load(folder, dtype=dtype, device="cpu"))
        self.draw = lambda logits, rng: sampling.draw(logits, Sampling(0.8, 0.95), rng)[0]

    def prefill(self, ids: list[int]) -> float:
        self.step.truncate(0)
        return timed(lambda: self.step(np.array(ids)).argmax())

    def decode(self, ids: list[int]) -> float:
        self.prefill(ids)
        token = ids[:1]

        def run() -> None:
            for _ in range(NEW):
                token[0] = int(self.step(np.array(token)).argmax())

        return timed(run) / NEW

    def first_token(self, known: list[int], new: list[int]) -> float:
        self.prefill(known)
        return timed(lambda: self.step(np.array(new)).argmax())

    def candidates(self, ids: list[int], count: int, new: int) -> float:
        generators = [np.random.default_rng(i) for i in range(count)]

        def run() -> None:
            self.step.truncate(0)
            rows = [self.step(np.array(ids))] * count
            branches = self.step.branch(count)
            for length in range(new - 1):
                tokens = [self.draw(row, rng) for row, rng in zip(rows, generators, strict=True)]
                rows = list(branches(range(count), [length] * count, tokens))

        return timed(run)


class Transformers:
    """`CodeGenForCausalLM` with its cache kept within a decode, and none from turn to turn, as its `generate` is used."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        import transformers

        self.torch = torch
        torch.set_num_threads(THREADS)
        self.model = transformers.CodeGenForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def _run(self, ids: list[int], past: Any = None) -> Any:
        with self.torch.inference_mode():
            return self.model(self.torch.tensor([ids]), past_key_values=past, use_cache=True, logits_to_keep=1)

    def prefill(self, ids: list[int]) -> float:
        return timed(lambda: self._run(ids).logits[0, -1].argmax().item())

    def decode(self, ids: list[int]) -> float:
        past = self._run(ids).past_key_values
        token = ids[0]

        def run() -> None:
            nonlocal token
            for _ in range(NEW):
                token = int(self._run([token], past).logits[0, -1].argmax())

        return timed(run) / NEW

    def first_token(self, known: list[int], new: list[int]) -> float:
        return self.prefill(known + new)

    def candidates(self, ids: list[int], count: int, new: int) -> float:
        more = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "num_return_sequences": count, "pad_token_id": 0}
        with self.torch.inference_mode():
            return timed(lambda: self.model.generate(self.torch.tensor([ids]), max_new_tokens=new, min_new_tokens=new, **more))


class CTranslate2:
    """The converted model, at the settings that were fastest here."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import ctranslate2
        from ctranslate2.converters import TransformersConverter

        converted = folder / f"ctranslate2-{dtype}"
        if not converted.exists():
            TransformersConverter(str(folder)).convert(str(converted), quantization=dtype)
        self.generator = ctranslate2.Generator(str(converted), device="cpu", intra_threads=THREADS, compute_type=dtype)

    def _generate(self, ids: list[int], new: int, **more: Any) -> None:
        tokens = [f"t{token}" for token in ids]
        self.generator.generate_batch(
            [tokens], max_length=new, min_length=new, include_prompt_in_result=False, end_token=[], **more
        )

    def prefill(self, ids: list[int]) -> float:
        return timed(lambda: self._generate(ids, 1, sampling_topk=1))

    def decode(self, ids: list[int]) -> float:
        whole = timed(lambda: self._generate(ids, 1 + NEW, sampling_topk=1))
        return (whole - self.prefill(ids)) / NEW

    def first_token(self, known: list[int], new: list[int]) -> float:
        return self.prefill(known + new)

    def candidates(self, ids: list[int], count: int, new: int) -> float:
        return timed(
            lambda: self._generate(ids, new, num_hypotheses=count, sampling_temperature=0.8, sampling_topk=0, sampling_topp=0.95)
        )


class OpenVino:
    """The network as a graph whose state is the past, weights compressed by nncf, driven by a raw loop; one sequence only."""

    def __init__(self, folder: Path, mode: str) -> None:
        import openvino

        path = folder / f"openvino-{mode}.xml"
        if not path.exists():
            import nncf

            more = {"group_size": 128} if mode == "INT4_SYM" else {}
            openvino.save_model(nncf.compress_weights(graph(folder), mode=getattr(nncf.CompressWeightsMode, mode), **more), path)
        options = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
        self.request = openvino.Core().compile_model(path, "CPU", options).create_infer_request()
        self.length = 0

    def _run(self, ids: list[int]) -> int:
        inputs = {"ids": np.array([ids]), "positions": np.arange(self.length, self.length + len(ids))}
        self.length += len(ids)
        return int(self.request.infer(inputs)[0].argmax())

    def _begin(self) -> None:
        for state in self.request.query_state():
            state.reset()
        self.length = 0

    def prefill(self, ids: list[int]) -> float:
        self._begin()
        return timed(lambda: self._run(ids))

    def decode(self, ids: list[int]) -> float:
        self.prefill(ids)
        token = ids[:1]

        def run() -> None:
            for _ in range(NEW):
                token[0] = self._run(token)

        return timed(run) / NEW

    def first_token(self, known: list[int], new: list[int]) -> float:
        self.prefill(known)
        return timed(lambda: self._run(new))

    def candidates(self, ids: list[int], count: int, new: int) -> float:  # noqa: ARG002
        return float("nan")


def graph(folder: Path) -> Any:
    """Return OpenVINO's graph of a checkpoint: the logits of the last of some ids at some positions, the past a state."""
    import openvino
    import torch
    from openvino._offline_transformations import apply_make_stateful_transformation

    from codegen_chat.lm import checkpoint, model

    network = checkpoint.load(folder, dtype="fp32", device="cpu")
    config = network.config

    class Stateful(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, ids: Any, positions: Any, *past: Any) -> tuple[Any, ...]:
            x, after = self.network.wte(ids), []
            sin, cos = self.network.sin[positions], self.network.cos[positions]
            for i, block in enumerate(self.network.blocks):
                h = block.ln_1(x)
                q, k, v = block.qkv(h).view(1, -1, 3, config.n_head, config.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
                q, k = model.rotate(q, sin, cos), model.rotate(k, sin, cos)
                k, v = torch.cat((past[2 * i], k), 2), torch.cat((past[2 * i + 1], v), 2)
                after += [k, v]
                seen = positions[:, None] >= torch.arange(k.shape[2])[None]
                found = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
                mixed = block.out(found.transpose(1, 2).reshape(1, -1, config.n_embd))
                x = x + mixed + block.fc_out(torch.nn.functional.gelu(block.fc_in(h), approximate="tanh"))
            return (self.network.lm_head(self.network.ln_f(x)[:, -1]), *after)

    count = 2 * config.n_layer
    example = [torch.zeros(1, config.n_head, 3, config.head_dim) for _ in range(count)]
    with torch.no_grad():
        converted = openvino.convert_model(Stateful(), example_input=(torch.zeros(1, 5).long(), torch.arange(3, 8), *example))
    free = {converted.inputs[0]: openvino.PartialShape([1, -1]), converted.inputs[1]: openvino.PartialShape([-1])}
    converted.inputs[0].get_tensor().set_names({"ids"})
    converted.inputs[1].get_tensor().set_names({"positions"})
    for i in range(count):
        converted.inputs[2 + i].get_tensor().set_names({f"past {i}"})
        converted.outputs[1 + i].get_tensor().set_names({f"after {i}"})
        free[converted.inputs[2 + i]] = openvino.PartialShape([1, config.n_head, -1, config.head_dim])
    converted.reshape(free)
    apply_make_stateful_transformation(converted, {f"past {i}": f"after {i}" for i in range(count)})
    return converted


ENGINES: dict[str, tuple[str, Callable[[Path], Peer]]] = {
    "native int8": ("codegen_chat", lambda folder: Ours(folder, "int8", native=True)),
    "native int4": ("codegen_chat", lambda folder: Ours(folder, "int4", native=True)),
    "native fp16": ("codegen_chat", lambda folder: Ours(folder, "fp16", native=True)),
    "torch int8": ("torch", lambda folder: Ours(folder, "int8", native=False)),
    "torch fp32": ("torch", lambda folder: Ours(folder, "fp32", native=False)),
    "CTranslate2 int8": ("ctranslate2", lambda folder: CTranslate2(folder, "int8")),
    "OpenVINO int8": ("openvino", lambda folder: OpenVino(folder, "INT8_SYM")),
    "OpenVINO int4": ("openvino", lambda folder: OpenVino(folder, "INT4_SYM")),
    "CTranslate2 fp32": ("ctranslate2", lambda folder: CTranslate2(folder, "float32")),
    "transformers fp32": ("transformers", lambda folder: Transformers(folder, "float32")),
}


# ---------------------------------------------------------------- a model, a process, a round


def write_model(folder: Path) -> None:
    """Write a random checkpoint of the 350M shape in half precision, with a tokenizer of made-up words for the converters."""
    import tokenizers
    import torch

    from codegen_chat.lm import checkpoint
    from codegen_chat.lm.config import PUBLISHED
    from codegen_chat.lm.model import CodeGen

    config = PUBLISHED["350M"]
    torch.manual_seed(0)
    model = CodeGen(config).half()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "ln_" in name and name.endswith("weight") else 0.0, 0.02)
    checkpoint.save(model, folder)
    words = {"<|endoftext|>": 0} | {f"t{token}": token for token in range(1, config.vocab_size)}
    tokenizers.Tokenizer(tokenizers.models.WordLevel(words)).save(str(folder / "tokenizer.json"))
    named = dict.fromkeys(("unk_token", "eos_token", "bos_token"), "<|endoftext|>") | {
        "tokenizer_class": "PreTrainedTokenizerFast"
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(named), encoding="utf-8")


def serve(name: str, folder: Path) -> None:
    """Be one engine: read the names of figures, answer with their seconds, until the input ends."""
    engine = ENGINES[name][1](folder)
    ids = np.random.default_rng(0).integers(1, 50000, size=2048).tolist()
    engine.prefill(ids[:64])
    peak = next(line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if "VmHWM" in line)
    print(
        json.dumps({"ready": int(peak.split()[1]) / 1024, "bytes": getattr(getattr(engine, "step", None), "bytes", 0)}),
        flush=True,
    )
    known = (TURN + ANSWER) * (TURNS - 1)
    for line in sys.stdin:
        what, size = line.rsplit(maxsplit=1)
        count = int(size)
        if what == "prefill":
            value = engine.prefill(ids[:count]) / count
        elif what == "decode":
            value = engine.decode(ids[:count])
        elif what == "first token":
            value = engine.first_token(ids[:known], ids[known : known + TURN])
        else:
            value = engine.candidates(ids[:256], count, 48)
        print(json.dumps(value), flush=True)


class Process:
    """An engine in a process of its own."""

    def __init__(self, name: str, folder: Path) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
        )
        told = self._read()
        self.megabytes, self.bytes = told["ready"], told["bytes"]

    def _read(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with contextlib.suppress(ValueError):  # a library that greets
                return json.loads(line)
        raise RuntimeError("it ended")

    def ask(self, figure: str) -> float:
        """Return the seconds of a figure; those of a token for prefill and decode."""
        assert self.process.stdin is not None
        self.process.stdin.write(figure + "\n")
        self.process.stdin.flush()
        return float(self._read())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def bandwidth() -> float:
    """Return the bytes a second that all threads together read from memory."""
    block = np.ones(1 << 26, dtype=np.int64)  # 512 MB
    parts = np.array_split(block, THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        return block.nbytes / timed(lambda: list(pool.map(np.max, parts)))


def measure(names: list[str], rounds: int, folder: Path) -> dict[str, Any]:
    """Return every figure of every engine, by name, a list of rounds each."""
    engines = {}
    for name in names:
        try:
            engines[name] = Process(name, folder)
        except RuntimeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    found: dict[str, Any] = {name: {figure: [] for figure in FIGURES} for name in engines}
    read: list[float] = []
    for number in range(rounds):
        for figure in FIGURES:
            read.append(bandwidth())
            for name, engine in engines.items():
                found[name][figure].append(engine.ask(figure))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    for name, engine in engines.items():
        found[name] |= {"megabytes": engine.megabytes, "bytes": engine.bytes}
        engine.close()
    return {"bandwidth": read, "engines": found}


# ---------------------------------------------------------------- what it says


def table(figures: dict[str, Any]) -> str:
    """Return the table in Markdown: tokens/s for prefill and decode, milliseconds and seconds for the last two."""
    heads = ["prefill 256", "decode @256", "prefill 1024", "decode @1024", "turn 10, ms", "n = 8, s", "MB"]
    lines = [f"| engine | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    first: dict[str, float] = {}
    for name, own in figures["engines"].items():
        cells = []
        for figure in FIGURES:
            rounds = own[figure]
            middle, spread = statistics.median(rounds), (max(rounds) - min(rounds)) / 2 / statistics.median(rounds)
            first.setdefault(figure, middle)
            shown = (
                f"{1 / middle:.0f}"
                if "code" in figure or "fill" in figure
                else f"{middle * 1e3:.0f}"
                if "first" in figure
                else f"{middle:.1f}"
            )
            cells.append(f"{shown} ±{100 * spread:.0f} % ({first[figure] / middle:.2f})" if middle == middle else "")  # noqa: PLR0124
        lines.append(f"| {name} | {' | '.join(cells)} | {own['megabytes']:.0f} |")
    read = statistics.median(figures["bandwidth"])
    lines.append(f"\nMemory was read at {read / 1e9:.1f} GB/s in the same rounds. Share of that, decode @256:")
    for name, own in figures["engines"].items():
        if own["bytes"]:
            lines.append(f"{name} {100 * own['bytes'] / statistics.median(own['decode 256']) / read:.0f} %")
    return "\n".join(lines)


def chart(figures: dict[str, Any], path: Path) -> None:
    """Draw tokens a second of prefill and decode."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(9, 4), layout="constrained")
    names = list(figures["engines"])
    for axes, figure in zip(drawing.subplots(1, 2), ("prefill 256", "decode 256"), strict=True):
        speeds = [1 / statistics.median(figures["engines"][name][figure]) for name in names]
        axes.barh(names[::-1], speeds[::-1], color=["#4c72b0" if "native" in name else "#b0b0b0" for name in names[::-1]])
        axes.set_title(f"{figure} tokens: tokens/s")
    drawing.savefig(path)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", help="engines to run, separated by commas", default=",".join(ENGINES))
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="where the random model is kept, to be used again")
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.serve, asked.folder)
        return
    names = [name for name in asked.only.split(",") if find_spec(ENGINES[name][0])]
    with tempfile.TemporaryDirectory() as scratch:
        folder = asked.folder or Path(scratch)
        if not (folder / "model.safetensors").exists():
            write_model(folder)
        figures = measure(names, asked.rounds, folder)
    (HERE / "engine.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    chart(figures, HERE.parent / "docs" / "engine.svg")
    print(table(figures))


if __name__ == "__main__":
    main()
