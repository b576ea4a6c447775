"""What speculation costs and saves: plain, by lookup, by a draft model, in turns in one run. Texts must be equal.

    python benchmarks/speculation.py --draft FOLDER [--model nano] [--rounds 5] [--tokens 96] [--dtype int8] [--draft-dtype int8]
    python benchmarks/speculation.py --shapes 2B,350M [--rounds 5] [--dtype int8]

The first continues ten prompts as a conversation has them, greedily and at temperature 0.6, with trained models of one
vocabulary. "always" asks the draft model whether it pays or not, and so shows how often it is right; the others rest when they do
not pay, and go on with what they measured from prompt to prompt, as in a conversation.

The second takes random weights of two shapes, and says what proposals of the second for the first cost, in plain tokens, and how
many of them must be right to pay. The figures of both go to benchmarks/speculation.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from scaling import RandomWeights

from codegen_chat import models
from codegen_chat.bench.speed import TURNS
from codegen_chat.lm import native
from codegen_chat.lm.config import PUBLISHED
from codegen_chat.lm.drafter import Drafter
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.lookup import Lookup
from codegen_chat.lm.speculation import PROPOSED, Speculation
from codegen_chat.turn import Completion, Prompt, Sampling

FIGURES = Path(__file__).with_suffix(".json")
SAMPLINGS = {"greedy": Sampling(), "temperature 0.6": Sampling(0.6, 0.95, seed=1)}


class Counted(Speculation):
    """Counts the runs with proposals, and how many tokens of each were right."""

    def __init__(self, *proposers: Any) -> None:
        super().__init__(*proposers)
        self.right: list[int] = []
        self.proposed = 0

    def propose(self, tokens: Sequence[int], most: int) -> list[int]:
        found = super().propose(tokens, most)
        self.proposed += len(found)
        self.right += [0] if found else []
        return found

    def served(self) -> None:
        super().served()
        self.right[-1] += 1


class Always(Counted):
    """Asks whether it pays or not."""

    def _paying(self) -> Iterator[Any]:
        return iter(self._accounts if self._plain else ())


def never(text: str) -> tuple[int, bool]:
    """Stop nowhere."""
    return len(text), False


def prompts(engine: Engine, tokens: int) -> list[Prompt]:
    """Return the conversation of `bench speed` as it grows, answers as the model gives them."""
    found, text = [], "import numpy as np\n"
    for words in TURNS:
        text += f"\n# {words}\n"
        found.append(Prompt(text, never, tokens))
        answer = complete(engine, Prompt(text, until_blank, 48), Sampling()).text
        text += answer.rstrip() + "\n"
    return found


def until_blank(text: str) -> tuple[int, bool]:
    """Stop at an empty line or a comment."""
    found = [at for at in (text.find("\n\n"), text.find("\n#")) if at >= 0]
    return (min(found), True) if found else (len(text), False)


def complete(engine: Engine, prompt: Prompt, sampling: Sampling) -> Completion:
    """Return the whole completion."""
    *_, done = engine.complete(prompt, sampling)
    assert isinstance(done, Completion)
    return done


def trained(model: str, dtype: str, draft: str, draft_dtype: str, rounds: int, tokens: int) -> dict[str, Any]:
    """Measure the ways in turns; assert that they tell the same."""
    engine = models.load(model, dtype=dtype).engine
    small = models.load(draft, dtype=draft_dtype).engine
    ways: dict[str, Callable[[], Counted]] = {
        "plain": Counted,
        "lookup": lambda: Counted(Lookup()),
        "draft": lambda: Counted(Drafter(small)),
        "lookup, then draft": lambda: Counted(Lookup(), Drafter(small)),
        "draft, always": lambda: Always(Drafter(small)),
    }
    asked = prompts(engine, tokens)
    found: dict[str, Any] = {}
    for name, sampling in SAMPLINGS.items():
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        told: dict[str, Any] = {}
        counted: dict[str, Counted] = {}
        for _ in range(rounds):
            for way, make in ways.items():
                counted[way] = engine.speculation = make()
                texts, spent, drawn = [], 0.0, 0
                for prompt in asked:
                    done = complete(engine, prompt, sampling)
                    texts.append((done.text, done.token_ids, done.logprobs))
                    spent, drawn = spent + done.usage.decode_seconds, drawn + done.usage.completion_tokens
                assert told.setdefault(name, texts) == texts, f"{way} tells something else"
                seconds[way].append(spent / drawn)
        found[name] = {
            way: {
                "seconds": seconds[way],
                "tokens": drawn,
                "proposed": counted[way].proposed,
                "right": Counter(counted[way].right),
            }
            for way in ways
        }
        plain = statistics.median(seconds["plain"])
        print(f"\n{name}, {drawn} tokens a round\n\n| | ms a token | of plain | runs with proposals | right of {PROPOSED} |")
        print("|---|---|---|---|---|")
        for way, own in seconds.items():
            middle, right = statistics.median(own), counted[way].right
            spread = 50 * (max(own) - min(own)) / middle
            shown = f"{len(right)} | {statistics.mean(right):.2f}" if right else "0 | "
            print(f"| {way} | {1e3 * middle:.3f} ±{spread:.0f} % | {middle / plain:.2f} | {shown} |", flush=True)
    return found


def shapes(names: Sequence[str], rounds: int, dtype: str) -> dict[str, Any]:
    """Measure runs of one to five tokens of the first shape and of one of the second, in turns."""
    large, small = (native.NativeStep(PUBLISHED[name], RandomWeights(PUBLISHED[name]), dtype) for name in names)
    timed = {f"{names[0]}, {count} at once": (large, count) for count in (1, 2, 3, 5)} | {f"{names[1]}, 1": (small, 1)}
    ids = np.random.default_rng(1).integers(0, 50_000, size=256 + rounds * 32)
    large(ids[:256])
    small(ids[:256])
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for number in range(rounds):
        for name, (step, count) in timed.items():
            started = perf_counter()
            step(ids[number : number + count], every=True)
            seconds[name].append(perf_counter() - started)
            step.truncate(256)
    plain, *_, draft = middles = [statistics.median(own) for own in seconds.values()]
    print(f"\n{names[1]} drafting for {names[0]}, {dtype}, random weights, after 256 tokens\n")
    print("| | ms | of a plain token |\n|---|---|---|")
    for (name, own), middle in zip(seconds.items(), middles, strict=True):
        spread = 50 * (max(own) - min(own)) / middle
        print(f"| {name} | {1e3 * middle:.0f} ±{spread:.0f} % | {middle / plain:.2f} |")
    print("\n| proposed | a run costs, in plain tokens | right to pay | each right with a chance of |\n|---|---|---|---|")
    for proposed, checked in zip((1, 2, 4), middles[1:4], strict=True):
        for name, each in ((f"{proposed} by {names[1]}", draft), (f"{proposed} by lookup", 0.0)):
            cost = (checked + proposed * each) / plain
            print(f"| {name} | {cost:.2f} | {cost - 1:.2f} | {chance(cost - 1, proposed)} |")
    return seconds


def chance(wanted: float, proposed: int) -> str:
    """Return the chance of each token by which so many are right on average, until the first that is not."""
    if wanted >= proposed:
        return "never"
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(middle**i for i in range(1, proposed + 1)) > wanted else (middle, high)
    return f"{high:.0%}"


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--draft", help="a smaller model of the same vocabulary")
    parser.add_argument("--draft-dtype", default="int8", choices=native.FORMATS)
    parser.add_argument("--shapes", help="two published sizes, the larger first")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--dtype", default="int8", choices=native.FORMATS)
    asked = parser.parse_args()
    found = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    if asked.draft:
        name = f"{Path(asked.draft).name} {asked.draft_dtype} for {asked.model} {asked.dtype}"
        found[name] = trained(asked.model, asked.dtype, asked.draft, asked.draft_dtype, asked.rounds, asked.tokens)
    if asked.shapes:
        found[asked.shapes] = shapes(asked.shapes.split(","), asked.rounds, asked.dtype)
    FIGURES.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
