"""Learning from execution: what is sampled is what the engine would say, and what is kept did the right thing."""

from __future__ import annotations

import json
import lzma
from pathlib import Path

from codegen_chat import prompt
from codegen_chat.lm import checkpoint, hub
from codegen_chat.lm.engine import Engine
from codegen_chat.lm.model import TorchStep
from codegen_chat.lm.tokenizer import Tokenizer
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.train.expert import generate, judge
from codegen_chat.turn import Completion, Prompt, Sampling

NANO = hub.locate("nano")


def test_a_batch_is_continued_as_the_engine_would() -> None:
    tokenizer = Tokenizer.load(NANO)
    model = checkpoint.load(NANO)
    texts = [prompt.render((), words) for words in ("Set x to 5.", "Set y to 7.", "Set z to 9.")]
    ids = [tokenizer.encode(text) for text in texts]
    assert len({len(each) for each in ids}) == 1
    engine = Engine(TorchStep(checkpoint.load(NANO)), tokenizer)
    wanted = [
        prompt.code(event.text)
        for text in texts
        for event in engine.complete(Prompt(text, prompt.conversation_stop, 24), Sampling())
        if isinstance(event, Completion)
    ]
    assert generate(model, tokenizer, ids, tokens=24, temperature=0, seed=0) == wanted
    once, again, other = (generate(model, tokenizer, ids * 8, tokens=12, temperature=2, seed=seed) for seed in (1, 1, 2))
    assert once == again != other


def test_only_other_right_answers_are_kept(tmp_path: Path) -> None:
    steps = [["x is 3", "x = 3"], ["double it, call it y, print it", "y = x * 2\nprint(y)"]]
    answers = ["y = 2 * x\nprint(y)", "y = x * 2\nprint(y)", "y = x + 2\nprint(y)", "z = 2 * x\nprint(z)", "print(6)", "y =", ""]
    with lzma.open(tmp_path / "answers.jsonl.xz", "wt", encoding="utf-8") as lines:
        lines.write(json.dumps({"steps": steps, "answers": answers}) + "\n")
    with Kernel.start() as kernel:
        counts = list(judge(tmp_path / "answers.jsonl.xz", tmp_path / "kept.jsonl", kernel))
    assert counts == [{"turns": 1, "greedy": 1, "answers": 5, "kept": 1}]
    kept = [json.loads(line) for line in (tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()]
    assert kept == [{"steps": [steps[0], [steps[1][0], answers[0]]], "learned": "last"}]
