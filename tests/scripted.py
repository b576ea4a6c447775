"""A real checkpoint whose answers are known: every layer passes its input on, and the head is a table of what follows what.

It is loaded, tokenized, cached and sampled like any other; only its weights are written by hand. The last token of a prompt
decides: after a line's end come the lines of SCRIPT, then the end of text.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from codegen_chat.lm import checkpoint
from codegen_chat.lm.config import Config
from codegen_chat.lm.model import CodeGen

END = "<|endoftext|>"
SCRIPT = ("total = sum([1, 2, 3])\n", "print(total)\n")
AFTER_COLON = "\n    return 1\n"
FILLED = "    return 2"


def write(folder: Path, script: tuple[str, ...] = SCRIPT, marks: tuple[str, ...] = (), width: int = 32) -> Path:
    """Write the checkpoint of a script. With `marks`, those of CodeGen2, a gap is filled with a line. `width` is n_embd."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    lines = ["".join(piece for piece, _ in byte_level.pre_tokenize_str(line)) for line in (*script, AFTER_COLON, FILLED)]
    words = [END, *letters, *lines, *marks]
    identity = {word: token for token, word in enumerate(words)}
    backend = tokenizers.Tokenizer(models.BPE(identity, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END])
    backend.add_tokens([tokenizers.AddedToken(mark, normalized=False) for mark in marks])

    *scripted, after_colon, filled = lines
    chain = ["Ċ", *scripted, END]
    follows = [*pairwise(chain), (":", after_colon), (after_colon, END)]
    if marks:
        follows += [(marks[0], filled), (filled, marks[-1])]
    config = Config(n_layer=1, n_embd=width, n_head=4, rotary_dim=4, vocab_size=len(words), n_positions=512, eos_token_id=0)
    model = CodeGen(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
        model.lm_head.bias[0] = 1.0  # whatever is not in the table ends the text
        for axis, (before, after) in enumerate(follows):
            model.wte.weight[identity[before], axis] = 1.0
            model.lm_head.weight[identity[after], axis] = 10.0
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.save(model, folder)
    backend.save(str(folder / "tokenizer.json"))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}), encoding="utf-8")
    return folder
