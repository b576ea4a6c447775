"""The models of this machine: which there are, and the shelf, the folder of those that were added or converted.

The shelf is `codegen-chat/models` below XDG_DATA_HOME. What the hub's library fetched stays in its own cache.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from codegen_chat.errors import CheckpointError, ModelUnavailable, UsageError
from codegen_chat.lm import hub
from codegen_chat.lm.config import PUBLISHED, Config
from codegen_chat.lm.hub import ASSETS, CARDS, EMBEDDED, FAMILY, HUB_NAME, SHELF_NAME, TEXTS, WEIGHTS, cache, cached, files, shelf
from codegen_chat.lm.stored import Weights
from codegen_chat.lm.tokenizer import Tokenizer

DOWNLOADS = {"350M": 797_000_000, "2B": 5_690_000_000, "6B": 14_300_000_000, "16B": 32_200_000_000}
"""The bytes of the published files, by size."""

UNFINISHED = ".unfinished"
"""What the folder of a model is called while it is made."""

_LICENCE = re.compile(r"^license:\s*(\S+)", re.MULTILINE)


def here() -> Iterator[tuple[str, Path]]:
    """Yield the name and the folder of each model on this machine: the embedded one, the shelf's, the cached CodeGens."""
    if (ASSETS / EMBEDDED / "config.json").is_file():
        yield EMBEDDED, ASSETS / EMBEDDED
    for config in sorted((*shelf().glob("*/config.json"), *shelf().glob("*/*/config.json"))):
        if not config.parent.name.endswith(UNFINISHED):
            yield hub.name(config.parent), config.parent
    for repository in sorted(cache().glob("models--*--*")):
        called = repository.name.removeprefix("models--").replace("--", "/", 1)
        references = repository / "refs"
        for reference in sorted(path for path in references.rglob("*") if path.is_file()):
            revision = str(reference.relative_to(references))
            found = cached(called, revision)
            if found is not None and '"codegen"' in (found / "config.json").read_text(encoding="utf-8", errors="replace"):
                yield called if revision == "main" else f"{called}@{revision}", found


def add(folder: Path, called: str | None = None) -> str:
    """Put a checkpoint's folder on the shelf and return its name there: the folder's own, or the published one that it is.

    Its files are linked where that is possible, and copied where not: the folder may then go. Raises CheckpointError where it is
    none, UsageError where the name is taken or the shelf cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    called = called or next((known for known in FAMILY if known.endswith(f"/{folder.resolve().name}")), folder.resolve().name)
    if not SHELF_NAME.fullmatch(called) or called == EMBEDDED:
        raise UsageError(f"a model cannot be called {called!r}: give it another name with --name")
    target = shelf() / called
    if target.exists():
        raise UsageError(f"there is a model {called} already: `codegen-chat models rm {called}` removes it, --name names another")
    Weights(folder, Config.read(folder / "config.json"))
    Tokenizer.load(folder)
    with made_whole(target) as unfinished:
        for file in files(folder, *WEIGHTS, *TEXTS, *CARDS):
            try:
                (unfinished / file.name).hardlink_to(file.resolve())
            except OSError:
                shutil.copyfile(file, unfinished / file.name)
    return called


@contextmanager
def made_whole(target: Path) -> Iterator[Path]:
    """Give a folder to be filled, which becomes `target`, new or empty, once all went well. Raises UsageError where it cannot."""
    target = target.absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError(f"{target} is there already: name a new folder")
    unfinished = target.with_name(target.name + UNFINISHED)
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        unfinished.replace(target)
    except OSError as error:
        raise UsageError(f"{target} cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove(called: str) -> int:
    """Delete a model from the shelf or, with all its revisions, from the hub's cache. Returns how many bytes its files had.

    Raises UsageError for the embedded one and for a folder elsewhere, ModelUnavailable where there is no such model.
    """
    own, cached = shelf() / called, cache() / f"models--{called.replace('/', '--')}"
    if called == EMBEDDED:
        raise UsageError(f"{EMBEDDED} is a part of the package")
    if SHELF_NAME.fullmatch(called) and (own / "config.json").is_file():
        folder = own
    elif HUB_NAME.fullmatch(called) and cached.is_dir():
        folder = cached
    elif Path(called).expanduser().is_dir():
        raise UsageError(f"{called} is a folder of your own: delete it yourself")
    else:
        raise ModelUnavailable(f"there is no model {called!r} to remove: `codegen-chat models ls` lists them")
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise UsageError(f"{folder} cannot be deleted: {error.strerror}") from None
    if folder == own and folder.parent != shelf() and not any(folder.parent.iterdir()):
        folder.parent.rmdir()
    return size


@dataclass(frozen=True, slots=True)
class Listed:
    """A model that is here or could be had."""

    name: str
    folder: Path | None
    """Where it is, None where it is not here."""
    bytes: int
    """What it takes of the disk."""
    config: Config | None
    """Its shape, None where its config.json cannot be read."""
    licence: str
    """What is known, or what its card says; "" where neither says anything."""


def listing() -> Iterator[Listed]:
    """Yield the models of this machine, then the published ones that are not here."""
    found = dict(here())
    for called, folder in found.items():
        try:
            config = Config.read(folder / "config.json")
        except CheckpointError:
            config = None
        yield Listed(called, folder, size(folder), config, _licence(called, folder))
    for called, published in FAMILY.items():
        if called not in found:
            yield Listed(called, None, DOWNLOADS[published], PUBLISHED[published], "bsd-3-clause")


def size(folder: Path) -> int:
    """Return the bytes of a model's weights and texts."""
    return sum(file.stat().st_size for file in files(folder, *WEIGHTS, *TEXTS))


def _licence(called: str, folder: Path) -> str:
    if called == EMBEDDED or called.startswith(tuple(FAMILY)):
        return "bsd-3-clause"
    card = folder / "README.md"
    found = _LICENCE.search(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else None
    return found[1] if found else ""
