"""Teach the embedded model a small domain that it does not know, and measure before and after.

    python benchmarks/finetune.py [--folder DIR] [--sessions 120] [--epochs 4]

The domain is Python's `ipaddress`: networks, hosts, prefixes. Sessions are drawn, executed in the sandbox and saved as the
product saves them; `codegen-chat train --init` learns from that folder, all weights and then LoRA. Judged on sessions of other
values, by execution: a turn is right when, after the recorded turns before it, it prints the same and leaves the same values.
Half of the questions are worded as in training, half in words that no training session has. What it forgot is the loss on the
code of fresh sessions of its own grammar. Everything is drawn from seeds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
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
from codegen_chat.train.curriculum.sessions import Curriculum, Step
from codegen_chat.train.data import cut, make
from codegen_chat.train.trainer import VALIDATION_SEED, loss_of
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
STATE = "\nprint({k: str(v) for k, v in sorted(globals().items()) if k[0] != '_' and type(v).__name__ != 'module'})\n"
TEST_SEED = 1_000_000


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


def write(folder: Path, count: int) -> None:
    """Save sessions as the product does: each turn executed, each accepted."""
    folder.mkdir(parents=True)
    with Kernel.start() as kernel:
        for number in range(count):
            with History.create(folder, {"model": "drawn"}) as history:
                conversation = Conversation(None, kernel, history, Options())
                for step in session(number):
                    list(conversation.run_code(step.code, text=step.words))
                assert len(history.turns) == 4, number


def judge(name: str, kernel: Kernel, *, count: int, unseen: bool) -> float:
    """Return the share of turns that a model answers rightly, greedily."""
    model = load(name)
    right = total = 0
    for number in range(count):
        steps = session(TEST_SEED + number, unseen=unseen)
        for place, step in enumerate(steps):
            before = [Turn("", None, earlier.words, earlier.code) for earlier in steps[:place]]
            asked = Prompt(render(before, step.words), conversation_stop, 96)
            *_, completion = model.engine.complete(asked, Sampling())
            past = HEADER + "\n".join(turn.code for turn in before) + "\n"
            answers = (step.code, code(completion.text))
            runs = [last_execution(kernel.execute(past + each + STATE, parent=None, turn=None, timeout=5)) for each in answers]
            right += (runs[0].status, runs[0].stdout) == (runs[1].status, runs[1].stdout)
            total += 1
    return right / total


@torch.inference_mode()
def grammar_loss(name: str) -> float:
    """Return the loss per token of code on fresh sessions of the embedded model's own grammar."""
    folder = hub.locate(name)
    tokenizer, model = Tokenizer.load(folder), checkpoint.load(folder)
    documents = make(Curriculum(), tokenizer, seed=VALIDATION_SEED, number=0, sessions=48, longest=512)
    batches = cut(documents.take(), tokens=4096, step=32, pad=tokenizer.end_of_text, seed="")
    sums = [loss_of(model, batch) for batch in batches]
    return sum(float(loss) for loss, _ in sums) / sum(scored for _, scored in sums)


def main() -> None:
    """Write the data, train twice, judge three models."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--folder", type=Path, default=None, help="where data and runs lie; a run there goes on")
    arguments.add_argument("--sessions", type=int, default=120)
    arguments.add_argument("--epochs", type=int, default=2)
    arguments.add_argument("--judged", type=int, default=15, help="sessions judged in each kind of words")
    given = arguments.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp())
    if not (folder / "data").is_dir():
        write(folder / "data", given.sessions)
    models = {"nano, as shipped": "nano"}
    lesson = ["--epochs", str(given.epochs), "--batch", "1024", "--every", "30"]
    for name, flags in (("all weights", ["--rate", "5e-4"]), ("LoRA of rank 16", ["--rate", "2e-3", "--lora", "16"])):
        run = folder / name.split()[0]
        command = ["train", "--init", "nano", str(folder / "data"), "-o", str(run), *lesson, *flags]
        subprocess.run([sys.executable, "-m", "codegen_chat.cli", *command], check=True)
        models[name] = str(run / "model")
    with Kernel.start() as kernel:
        for name, where in models.items():
            seen, unseen = (judge(where, kernel, count=given.judged, unseen=unseen) for unseen in (False, True))
            print(f"{name}: {seen:.0%} of turns right in words as trained, {unseen:.0%} in others; ", end="")
            print(f"loss on its own grammar {grammar_loss(where):.4f}", flush=True)


if __name__ == "__main__":
    main()
