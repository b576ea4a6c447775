"""Text to token ids and back: GPT-2's byte-level BPE, with CodeGen's runs of spaces and tabs as tokens of their own.

By the raw `tokenizers` library. The wrappers around it that clean up spaces or drop a newline before a run corrupt code.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from functools import cached_property
from itertools import takewhile
from typing import TYPE_CHECKING

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from codegen_chat.errors import CheckpointError, first_line

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """The vocabulary of one checkpoint. No prefix space, no token at the beginning, nothing cleaned up."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        end = backend.token_to_id(END_OF_TEXT)
        if end is None:
            raise CheckpointError(f"the tokenizer has no token {END_OF_TEXT}: it is not a CodeGen vocabulary")
        self.end_of_text: int = end
        self._backend = backend
        self._added = {token: added.content for token, added in backend.get_added_tokens_decoder().items()}
        self._bytes: dict[int, bytes] = {}
        vocabulary = self.vocabulary()
        self._size = max(vocabulary.values()) + 1
        letters = set("".join(word for word, token in vocabulary.items() if token not in self._added))
        if not letters <= _BYTE_OF.keys():
            raise CheckpointError("the tokenizer is not byte-level BPE: it is not a CodeGen vocabulary")

    @classmethod
    def load(cls, folder: Path) -> Tokenizer:
        """Read `tokenizer.json`, or else `vocab.json`, `merges.txt` and, where it is there, `added_tokens.json`.

        Raises CheckpointError with one line where none is there or one is damaged.
        """
        whole = folder / "tokenizer.json"
        if whole.is_file():
            try:
                return cls(tokenizers.Tokenizer.from_file(str(whole)))
            except CheckpointError:
                raise
            except Exception as error:  # noqa: BLE001  the library raises plain Exception
                raise CheckpointError(f"{whole} is not a tokenizer: {first_line(error)}") from None
        return cls(_from_parts(folder))

    def save(self, path: Path) -> None:
        """Write it as a `tokenizer.json`."""
        self._backend.save(str(path))

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text. Lone surrogates (bytes that were no UTF-8) become question marks."""
        ids: list[int] = self._backend.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Return the ids of many texts, as `encode` would; on several cores where there are some."""
        plain = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        return [encoding.ids for encoding in self._backend.encode_batch(plain, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes: b"" for an id without a token (CodeGen's weights have more rows than its vocabulary)."""
        found = self._bytes.get(token)
        if found is None:
            found = self._bytes[token] = self._spell(token)
        return found

    def agreeing(self, data: bytes) -> list[int]:
        """Return every token that these bytes begin with, and every one that begins with them."""
        ids, spelled, longest = self._spelled
        starts = (data[:size] for size in range(1, min(len(data), longest + 1)))
        found = [ids[start] for start in starts if start in ids]
        after = (spelled[at] for at in range(bisect_left(spelled, data), len(spelled)))
        return found + [ids[piece] for piece in takewhile(lambda piece: piece.startswith(data), after)]

    @cached_property
    def _spelled(self) -> tuple[dict[bytes, int], list[bytes], int]:
        """The tokens by their bytes, these bytes in order, and the length of the longest; without added and empty tokens."""
        ids = {self.token_bytes(token): token for token in range(len(self)) if token not in self._added}
        ids.pop(b"", None)
        return ids, sorted(ids), max(map(len, ids), default=0)

    def vocabulary(self) -> dict[str, int]:
        """Return the id of each token, as the vocabulary spells it."""
        return dict(self._backend.get_vocab(with_added_tokens=True))

    def _spell(self, token: int) -> bytes:
        if token in self._added:
            return self._added[token].encode("utf-8")
        return bytes(_BYTE_OF[letter] for letter in self._backend.id_to_token(token) or "")

    def __len__(self) -> int:
        """One more than the highest id."""
        return self._size


def _from_parts(folder: Path) -> tokenizers.Tokenizer:
    """Build the tokenizer of GPT-2's files and the added tokens, which must have the ids that their file names."""
    vocab, merges, extra = folder / "vocab.json", folder / "merges.txt", folder / "added_tokens.json"
    if not (vocab.is_file() and merges.is_file()):
        raise CheckpointError(f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json with merges.txt")
    try:
        backend = tokenizers.Tokenizer(models.BPE.from_file(str(vocab), str(merges)))
        added: dict[str, int] = json.loads(extra.read_text(encoding="utf-8")) if extra.is_file() else {}
        ordered = sorted(added, key=added.__getitem__)
    except Exception as error:  # noqa: BLE001  the library raises plain Exception
        raise CheckpointError(f"{folder}: the tokenizer's files cannot be read: {first_line(error)}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([END_OF_TEXT])
    backend.add_tokens([tokenizers.AddedToken(content, normalized=False) for content in ordered])
    for content, token in added.items():
        if backend.token_to_id(content) != token:
            raise CheckpointError(f"{extra}: {content!r} cannot have the id {token!r} in this vocabulary")
    return backend


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of a vocabulary stands for: printable Latin-1 itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(0x100) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


_BYTE_OF = _byte_letters()
