"""Where a model lies: in the package, in a folder, or in the Hugging Face hub's local cache. The network is not asked unasked."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from codegen_chat.errors import ModelUnavailable

EMBEDDED = "nano"
ASSETS = Path(__file__).parents[1] / "assets"

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_WEIGHTS = ("*.safetensors", "*.bin")
_TEXTS = ("*.json", "merges.txt")


def locate(name: str, *, download: bool = False) -> Path:
    """Return the folder of a model: "nano", a folder, or a hub name such as Salesforce/codegen-350M-mono in the cache of HF_HOME.

    With `download` a hub name that is not in the cache is fetched. Raises ModelUnavailable with one line that says what to do.
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
    if not _HUB_NAME.fullmatch(name):
        raise ModelUnavailable(
            f"there is no model {name!r}: use {EMBEDDED}, a folder, or a hub name such as Salesforce/codegen-350M-mono"
        )
    found = _cached(name)
    if found is None and download:
        found = _download(name)
    if found is None:
        raise ModelUnavailable(
            f"{name} is neither a folder nor in the hub's cache {_cache()}: `hf download {name}` fetches it there"
        )
    return found


def name(path: Path) -> str:
    """Return what to call the model of a folder in records: "nano", the hub name of a snapshot, else the folder's own name."""
    if path == ASSETS / EMBEDDED:
        return EMBEDDED
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
    for file in sorted(file for pattern in (*_WEIGHTS, *_TEXTS) for file in path.glob(pattern)):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as data:
            digest.update(data.read(1 << 20))
            data.seek(max(0, size - (1 << 20)))
            digest.update(data.read())
    return digest.hexdigest()[:12]


def _cache() -> Path:
    """Return the hub's cache folder, by the variables that its own library reads."""
    home = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()


def _cached(name: str) -> Path | None:
    """Return the snapshot of a repository's `main` if it is in the cache with a config and weights."""
    repository = _cache() / f"models--{name.replace('/', '--')}"
    try:
        snapshot = repository / "snapshots" / (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    whole = (snapshot / "config.json").is_file() and any(file for pattern in _WEIGHTS for file in snapshot.glob(pattern))
    return snapshot if whole else None


def _repository(path: Path) -> str:
    """Return `models--org--name` of a snapshot in a hub cache, "" for another folder."""
    parts = path.resolve().parts
    return parts[-3] if len(parts) > 2 and parts[-2] == "snapshots" and parts[-3].startswith("models--") else ""


def _download(name: str) -> Path:
    """Fetch a repository into the cache. The hub's library honours HF_TOKEN and HF_HUB_OFFLINE."""
    from huggingface_hub import snapshot_download  # noqa: PLC0415  heavy, and needed only here

    try:
        return Path(snapshot_download(name, allow_patterns=[*_WEIGHTS, *_TEXTS]))
    except Exception as error:  # noqa: BLE001  the library has dozens of kinds
        reason = str(error).partition("\n")[0]
        raise ModelUnavailable(f"{name} cannot be fetched: {reason}") from None
