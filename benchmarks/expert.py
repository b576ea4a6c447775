"""Expert iteration, one round: sample answers to fresh sessions, run them, keep the right ones as documents for a recipe.

    python benchmarks/expert.py sample --model FOLDER --out answers.jsonl.xz [--sessions 8000] [--candidates 6]
    python benchmarks/expert.py judge --answers answers.jsonl.xz --out expert.jsonl

Then a recipe mixes the file in (`[[mixed]]`, see train/nano.toml). Sampling wants a GPU, judging the sandbox.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from codegen_chat.lm import checkpoint
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.train import expert


def main() -> None:
    """Do one of the two halves and print what came of it."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("half", choices=("sample", "judge"))
    arguments.add_argument("--model", type=Path)
    arguments.add_argument("--answers", type=Path)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--sessions", type=int, default=8000)
    arguments.add_argument("--candidates", type=int, default=6)
    given = arguments.parse_args()
    if given.half == "sample":
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = checkpoint.load(given.model, dtype="fp32", device=device)
        tokenizer = Tokenizer.load(given.model)
        turns = expert.sample(
            model, tokenizer, given.out, sessions=given.sessions, candidates=given.candidates, every=8, longest=256
        )
        print(f"{turns} turns")
        return
    with Kernel.start() as kernel:
        print(list(expert.judge(given.answers, given.out, kernel))[-1])


if __name__ == "__main__":
    main()
