"""The embedded model's tokenizer: a byte-level BPE trained on the curriculum.

A name must be the same tokens wherever it stands (in quotes, after a space, at a line's start), for a small model copies
tokens. So a space is a token of its own, except before the commonest words and around operators; digits come one by one, four
spaces are one token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from codegen_chat.train.curriculum.words import WORDS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

END_OF_TEXT = "<|endoftext|>"

SPACED = "|".join(sorted(set(WORDS["common"]), key=lambda word: (-len(word), word)))
"""The commonest words, which keep the space before them; the longest first."""

PATTERN = (
    r"\n"
    rf"| (?:{SPACED})(?!\w)"
    r"|    "
    r"|\d"
    r"|[A-Za-z]+"
    r"|_"
    r"|[^\S\n]?(?:==|!=|<=|>=|\+=|-=|\*=|//|\*\*|->|[-+*/%=<>:&|,]) ?(?! )"
    r"|[^\S\n]"
    r"|[^\w\s]+"
    r"|\w"
)
"""How text is parted before the merges. Newlines stand alone, so no token crosses from a turn's words to its code."""


def learn(texts: Iterable[str], size: int, folder: Path) -> None:
    """Train the BPE on texts and write `tokenizer.json`; `<|endoftext|>` is id 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
