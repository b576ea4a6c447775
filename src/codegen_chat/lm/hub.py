"""Where models lie: in the package, in a folder, on the own shelf, in the Hugging Face hub's local cache. No network here.

The shelf is `codegen-chat/models` below XDG_DATA_HOME: what was added from elsewhere or converted, by name.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm.config import PUBLISHED
from codegen_chat.settings import models_folder

EMBEDDED = "nano"
ASSETS = Path(__file__).parents[1] / "assets"

WEIGHTS = ("*.safetensors", "*.bin")
TEXTS = ("*.json", "merges.txt")
CARDS = ("README.md", "LICENSE*")

FAMILY = {f"Salesforce/codegen-{size}-{data}": size for size in PUBLISHED for data in ("nl", "multi", "mono")}
"""The twelve published models, and the size of each."""

HUB_NAME = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@(\w[\w./-]*))?")
"""A name, and perhaps a revision."""

SHELF_NAME = re.compile(r"\w[\w.-]*(?:/\w[\w.-]*)?")


def locate(name: str) -> Path:
    """Return the folder of a model.

    `name` is "nano", a folder, a name on the shelf, or a hub name such as Salesforce/codegen-350M-mono, with @REVISION or
    without, that is in the cache of HF_HOME. Raises ModelUnavailable with one line that says what to do.
    """
    if name == EMBEDDED:
        if not (ASSETS / EMBEDDED / "config.json").is_file():
            raise ModelUnavailable(
                "the embedded model is not in this installation: `codegen-chat train` makes it, or name another with -m"
            )
        return ASSETS / EMBEDDED
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        return folder
    if SHELF_NAME.fullmatch(name) and (shelf() / name / "config.json").is_file():
        return shelf() / name
    hub_name = HUB_NAME.fullmatch(name)
    if not hub_name:
        raise ModelUnavailable(
            f"there is no model {name!r}: {meant(name)}use {EMBEDDED}, a folder, or a hub name such as"
            " Salesforce/codegen-350M-mono (`codegen-chat models ls` lists them)"
        )
    found = cached(hub_name[1], hub_name[2] or "main")
    if found is None:
        revision = f" --revision {hub_name[2]}" if hub_name[2] else ""
        raise ModelUnavailable(
            f"{name} is not on this machine: {meant(name)}`codegen-chat models pull {hub_name[1]}{revision}` fetches it into"
            f" {cache()}; {by_hand(hub_name[1], revision)}"
        )
    return found


def by_hand(name: str, revision: str = "") -> str:
    """Say how a model comes here without a network; `revision` is a flag or nothing."""
    return f"with no network, `hf download {name}{revision} --local-dir DIR` there, `codegen-chat models add DIR` here"


def meant(name: str) -> str:
    """Say which published model a name is but for its owner, or for its capitals; "" where it is none."""
    spelled = f"/{name.lower().rpartition('/')[2]}"
    found = next((known for known in FAMILY if known.lower().endswith(spelled) and known != name), None)
    return f"is {found} meant? Else " if found else ""


def name(path: Path) -> str:
    """Return what records call the model of a folder: "nano", its name on the shelf or in the hub, else the folder's own."""
    if path == ASSETS / EMBEDDED:
        return EMBEDDED
    if path.is_relative_to(shelf()):
        return str(path.relative_to(shelf()))
    repository = _repository(path)
    return repository.removeprefix("models--").replace("--", "/", 1) if repository else path.resolve().name


def revision(path: Path) -> str:
    """Return twelve hexadecimal digits that tell versions of a model apart.

    Of a hub snapshot, its commit. Of any other folder, a digest of its files' names, sizes, first and last megabyte: 30 GB are
    not read through for a name, and no training leaves the ends of its files alone.
    """
    if _repository(path):
        return path.resolve().name[:12]
    digest = hashlib.sha256()
    for file in files(path, *WEIGHTS, *TEXTS):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as data:
            digest.update(data.read(1 << 20))
            data.seek(max(0, size - (1 << 20)))
            digest.update(data.read())
    return digest.hexdigest()[:12]


def files(folder: Path, *patterns: str) -> list[Path]:
    """Return the files of a folder that fit one of the patterns, in order."""
    return sorted(file for pattern in patterns for file in folder.glob(pattern) if file.is_file())


def shelf() -> Path:
    """Return the folder of the models that were added or converted."""
    return models_folder(os.environ)


def cache() -> Path:
    """Return the hub's cache folder, by the variables that its own library reads."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def cached(name: str, revision: str) -> Path | None:
    """Return the snapshot of a repository's revision if it is in the cache with a config and weights."""
    repository = cache() / f"models--{name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / revision).read_text(encoding="utf-8").strip()
    except OSError:
        commit = revision
    snapshot = repository / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() and files(snapshot, *WEIGHTS) else None


def _repository(path: Path) -> str:
    """Return `models--org--name` of a snapshot in a hub cache, "" for another folder."""
    parts = path.resolve().parts
    return parts[-3] if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--") else ""


def amount(count: float) -> str:
    """Write a number of bytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
