"""Teach the embedded model a small domain that it does not know, and measure before and after.

    python benchmarks/finetune.py [--folder DIR] [--sessions 80] [--judged 12]

The domain is Python's `ipaddress`: networks, hosts, prefixes. Sessions are drawn, executed in the sandbox and saved as the
product saves them; `codegen-chat train --init` learns from that folder: all weights, LoRA, and all weights with sessions of the
model's own grammar among the others, half as many. Judged on sessions of other values, greedily, turn by turn after the recorded
ones before: a turn is right when it prints the same and leaves the same values. Half of the questions are worded as in training,
half in words that no training session has. What is forgotten shows in fresh sessions of the embedded model's own grammar, by loss
and by turns. Everything is drawn from seeds, and a run whose folder is given goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random

import torch

from codegen_chat.conversation import Conversation
from codegen_chat.lm import checkpoint, hub
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.making import Options
from codegen_chat.models import load
from codegen_chat.prompt import HEADER, code, conversation_stop, render
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History
from codegen_chat.train.curriculum.sessions import Curriculum
from codegen_chat.train.curriculum.state import Step
from codegen_chat.train.data import Documents, cut, document
from codegen_chat.train.trainer import loss_of
from codegen_chat.turn import Prompt, Sampling, Turn, last_execution

FIRST = (
    'Make the network {net} and call it "{n}".',
    "Let {n} be the IP network {net}.",
    "Store the network {net} in {n}.",
    "{n} is the network {net}.",  # the last wording of each is kept for the test
)
QUESTIONS = (
    (
        ("Print the number of addresses in {n}.", "How many addresses does {n} have?", "Count the addresses of {n}."),
        "print({n}.num_addresses)",
    ),
    (
        ("Print the netmask of {n}.", "What is the netmask of {n}?", "Show me the netmask of {n}."),
        "print({n}.netmask)",
    ),
    (
        ("Print the broadcast address of {n}.", "What is the broadcast address of {n}?", "Show the broadcast address of {n}."),
        "print({n}.broadcast_address)",
    ),
    (
        ("Is the address {ip} in {n}?", "Print whether {n} contains the address {ip}.", "Check if {ip} lies in {n}."),
        'print(ipaddress.ip_address("{ip}") in {n})',
    ),
    (
        ("Print the first host of {n}.", "What is the first host of {n}?", "Show me the first host in {n}."),
        "print(next({n}.hosts()))",
    ),
    (
        ("Split {n} into subnets of /{more}.", "Divide {n} into /{more} subnets.", "Cut {n} up into subnets of /{more}."),
        "subnets = list({n}.subnets(new_prefix={more}))\nprint(len(subnets))",
    ),
    (
        ("Print the prefix length of {n}.", "What is the prefix length of {n}?", "How long is the prefix of {n}?"),
        "print({n}.prefixlen)",
    ),
    (
        ("Print whether {n} is private.", "Is {n} a private network?", "Tell me if {n} is private."),
        "print({n}.is_private)",
    ),
)
NAMES = ("net", "lan", "office", "block", "network", "home", "site", "pool")
STATE = """
print(sorted(
    str(v).split(" at 0x")[0] for k, v in globals().items() if k[0] != "_" and type(v).__name__ not in ("module", "function")
))
"""
TEST, GRAMMAR, MIXED = 1_000_000, -4, -5
"""Seeds: of the domain's sessions for the test, of the grammar's for the test, of the grammar's that are learned again."""


def session(number: int, *, unseen: bool = False) -> list[Step]:
    """Draw a session: a network, then three questions about it."""
    r = Random(number)  # noqa: S311  drawn so that it can be drawn again
    bits = r.choice((8, 12, 16, 20, 24, 26))
    address = r.getrandbits(32) >> (32 - bits) << (32 - bits)
    net = ".".join(str(address >> shift & 255) for shift in (24, 16, 8, 0))
    inside = address + r.randrange(1 << (32 - bits)) if r.random() < 0.5 else r.getrandbits(32)
    facts = {
        "n": r.choice(NAMES),
        "net": f"{net}/{bits}",
        "ip": ".".join(str(inside >> shift & 255) for shift in (24, 16, 8, 0)),
        "more": bits + r.randrange(1, 4),
    }

    def worded(wordings: tuple[str, ...]) -> str:
        return (wordings[-1] if unseen else r.choice(wordings[:-1])).format(**facts)

    opening = Step(worded(FIRST), 'import ipaddress\n{n} = ipaddress.ip_network("{net}")'.format(**facts))
    return [opening, *(Step(worded(words), answer.format(**facts)) for words, answer in r.sample(QUESTIONS, 3))]


def grammar(seed: int, count: int) -> list[list[Step]]:
    """Return fresh sessions of the embedded model's own grammar."""
    return list(islice(Curriculum().sessions(seed), count))


def write(folder: Path, sessions: list[list[Step]], kernel: Kernel) -> None:
    """Save sessions as the product does: each turn executed, each accepted."""
    folder.mkdir(parents=True)
    for steps in sessions:
        with History.create(folder, {"model": "drawn"}) as history:
            conversation = Conversation(None, kernel, history, Options())
            for step in steps:
                list(conversation.run_code(step.code, text=step.words))
            for turn in history.turns:
                kernel.forget(turn.id)


@dataclass(frozen=True, slots=True)
class Question:
    """A turn that a model is asked for: the prompt, the program so far, and what the recorded answer is and does."""

    prompt: Prompt
    past: str
    answer: str
    outcome: tuple[str, str]


def outcome(kernel: Kernel, program: str) -> tuple[str, str]:
    """Return how a program ended, and what it printed and left behind."""
    ended = last_execution(kernel.execute(program + STATE, parent=None, turn=None, timeout=5))
    return ended.status, ended.stdout


def questions(kernel: Kernel, sessions: list[list[Step]]) -> list[Question]:
    """Return the turns of sessions, each after the recorded ones before it."""
    found: list[Question] = []
    for steps in sessions:
        for place, step in enumerate(steps):
            before = [Turn("", None, earlier.words, earlier.code) for earlier in steps[:place]]
            past = HEADER + "\n".join(turn.code for turn in before) + "\n"
            prompt = Prompt(render(before, step.words), conversation_stop, 160)
            found.append(Question(prompt, past, step.code, outcome(kernel, past + step.code)))
    return found


def right(name: str, kernel: Kernel, asked: list[Question]) -> str:
    """Return which share of the turns a model answers rightly, and with the recorded code to the letter."""
    engine = load(name).engine
    good = same = 0
    for question in asked:
        *_, completion = engine.complete(question.prompt, Sampling())
        answer = code(completion.text)
        same += answer.strip() == question.answer.strip()
        good += outcome(kernel, question.past + answer) == question.outcome
    return f"{good / len(asked):.0%} ({same / len(asked):.0%})"


@torch.inference_mode()
def loss(name: str, sessions: list[list[Step]]) -> float:
    """Return the loss per token of code on sessions, in nats."""
    folder = hub.locate(name)
    tokenizer, model = Tokenizer.load(folder), checkpoint.load(folder)
    documents = Documents.gather([document(steps, tokenizer) for steps in sessions])
    batches = cut(documents.take(), tokens=4096, step=32, pad=tokenizer.end_of_text, seed="")
    return sum(float(loss_of(model, batch)[0]) for batch in batches) / sum(float(batch.weights.sum()) for batch in batches)


def main() -> None:
    """Write the data, train three times, judge four models."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=None, help="where data and runs lie; a run there goes on")
    arguments.add_argument("--sessions", type=int, default=80)
    arguments.add_argument(
        "--judged", type=int, default=12, help="sessions judged in each kind of words, and of the grammar twice as many"
    )
    given = arguments.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    tests = {
        "as trained": [session(TEST + number) for number in range(given.judged)],
        "in other words": [session(TEST + number, unseen=True) for number in range(given.judged)],
        "own grammar": grammar(GRAMMAR, 2 * given.judged),
    }
    lesson = ["--epochs", "2", "--batch", "1024", "--every", "1000"]
    runs = {
        "before": ("", []),
        "all weights": ("data", ["--rate", "5e-4"]),
        "LoRA of rank 16": ("data", ["--rate", "2e-3", "--lora", "16"]),
        "all weights, own grammar mixed in": ("mixed", ["--rate", "5e-4"]),
    }
    with Kernel.start(imports=["numpy", "pandas"]) as kernel:
        if not (folder / "data").is_dir():
            new = [session(number) for number in range(given.sessions)]
            write(folder / "data", new, kernel)
            write(folder / "mixed", new + grammar(MIXED, given.sessions // 2), kernel)
        asked = {kind: questions(kernel, sessions) for kind, sessions in tests.items()}
        print("| | seconds | " + " | ".join(f"loss {kind} | right (to the letter)" for kind in tests) + " |")
        print("|---" * (2 + 2 * len(tests)) + "|")
        for name, (data, flags) in runs.items():
            began, model = time.monotonic(), "nano"
            if data:
                run = folder / name.replace(",", "").replace(" ", "-")
                command = ["train", "--init", "nano", str(folder / data), "-o", str(run), *lesson, *flags]
                subprocess.run([sys.executable, "-m", "codegen_chat.cli", *command], check=True, stdout=subprocess.DEVNULL)
                model = str(run / "model")
            cells = [f"{time.monotonic() - began:.0f}" if data else ""]
            for kind, sessions in tests.items():
                cells += [f"{loss(model, sessions):.4f}", right(model, kernel, asked[kind])]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
