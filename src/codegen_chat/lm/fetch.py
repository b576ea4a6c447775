"""A model from the hub into its local cache, and whether what lies there is what the hub says it is.

The hub's library lists the files, knows the token and speaks HTTP; HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the proxies are its
own. What it would do otherwise is done here: a part of a file survives the process that fetched it, and a file joins the cache
only once its checksum is right. The cache's layout is the library's: what it fetched is found here, and the other way round.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from codegen_chat.errors import CheckpointError, ModelUnavailable, first_line
from codegen_chat.lm.hub import CARDS, TEXTS, by_hand, cache
from codegen_chat.lm.stored import LAYOUTS

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

Tell = Callable[[int, int], None]
"""Is told how many bytes are there, and how many there will be."""


class _File(NamedTuple):
    name: str
    size: int
    digest: str
    """sha256 of a large file, and of a small one what git calls it: sha1 of a header and the file."""


def pull(name: str, revision: str = "main", tell: Tell = lambda *_: None) -> Path:
    """Fetch a model's revision into the hub's cache and return its snapshot. Goes on where it was broken off.

    Of several layouts one is fetched, safetensors first. Raises ModelUnavailable with one line for whatever is in the way.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # the model is asked for, and nothing else
    import huggingface_hub  # noqa: PLC0415  heavy, and needed only here
    from huggingface_hub.utils import disable_progress_bars, logging  # type: ignore[attr-defined]  # noqa: PLC0415

    disable_progress_bars()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # it reports each new try
    repository = cache() / f"models--{name.replace('/', '--')}"
    try:
        info = huggingface_hub.HfApi().model_info(name, revision=revision, files_metadata=True)
        wanted = _wanted(name, info)
        _room(name, repository, wanted)
        snapshot = repository / "snapshots" / str(info.sha)
        total, done = sum(file.size for file in wanted), 0
        for file in wanted:
            blob = repository / "blobs" / file.digest
            if not blob.exists():
                url = huggingface_hub.hf_hub_url(name, file.name, revision=info.sha)
                _fetch(url, blob, file, partial(_further, tell, done, total))
            done += file.size
            tell(done, total)
            link = snapshot / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        reference = repository / "refs" / revision
        if revision != info.sha:
            reference.parent.mkdir(parents=True, exist_ok=True)
            reference.write_text(str(info.sha), encoding="utf-8")
    except ModelUnavailable:
        raise
    except Exception as error:  # noqa: BLE001  the library has dozens of kinds
        raise ModelUnavailable(f"{name} cannot be fetched: {_reason(error, name, revision)}") from None
    return snapshot


def _further(tell: Tell, done: int, total: int, size: int) -> None:
    tell(done + size, total)


def damaged(snapshot: Path) -> Iterator[tuple[str, bool]]:
    """Yield the files of a snapshot whose checksum the cache knows, and whether each is damaged: a blob's name is its digest."""
    for link in sorted(snapshot.iterdir()):
        blob = link.resolve()
        if blob.parent.name == "blobs":
            yield link.name, _digest(blob, blob.name) != blob.name


def _wanted(name: str, info: ModelInfo) -> list[_File]:
    """Return the files of a repository that make the model, the small ones first."""
    offered = {file.rfilename: file for file in info.siblings or []}
    layout = next((layout for layout in LAYOUTS if layout in offered), None)
    if layout is None or "config.json" not in offered:
        missing = "config.json" if layout else f"weights: none of {', '.join(LAYOUTS)}"
        raise CheckpointError(f"{name} holds no {missing}")
    stem, suffix = layout.removesuffix(".index.json").rsplit(".", 1)

    def belongs(path: str) -> bool:
        if "/" in path:
            return False
        if path.endswith((".safetensors", ".bin", ".index.json")):
            return path == layout or (layout.endswith(".json") and path.startswith(f"{stem}-") and path.endswith(f".{suffix}"))
        return any(Path(path).match(pattern) for pattern in (*TEXTS, *CARDS))

    found = [
        _File(path, file.size or 0, file.lfs.sha256 if file.lfs else file.blob_id or "")
        for path, file in offered.items()
        if belongs(path)
    ]
    if any(len(file.digest) not in {40, 64} for file in found):
        raise CheckpointError(f"{name}: the hub does not tell the checksums of its files")
    return sorted(found, key=lambda file: file.size)


def _room(name: str, repository: Path, wanted: list[_File]) -> None:
    """Refuse what does not fit the disk."""
    blobs = repository / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    present = {path.name: path.stat().st_size for path in blobs.iterdir()}
    missing = sum(file.size - present.get(_part(file.digest), 0) for file in wanted if file.digest not in present)
    free = shutil.disk_usage(blobs).free
    if missing > free:
        raise ModelUnavailable(
            f"{name} needs {missing / 1e9:.2f} GB more at {repository.parent}, and {free / 1e9:.2f} GB are free: "
            "make room, or set HF_HOME to a larger disk"
        )


def _fetch(url: str, blob: Path, file: _File, tell: Callable[[int], None]) -> None:
    """Fetch a file, from where its part ends; it becomes the blob once its checksum is right."""
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # noqa: PLC0415

    part = blob.with_name(_part(blob.name))
    with _Told(part, tell) as target:
        size = target.seek(0, os.SEEK_END)
        if size < file.size:
            headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # ranges of the file itself
            http_get(url, target, resume_size=size, headers=headers, expected_size=file.size, displayed_filename=file.name)
    if _digest(part, file.digest) != file.digest:
        part.unlink()
        raise ModelUnavailable(f"{file.name} came with a wrong checksum and was thrown away: try again")
    part.replace(blob)


class _Told(io.FileIO):
    """A file that tells how long it is after each piece."""

    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
        super().__init__(path, "r+" if path.exists() else "w+")
        self._tell = tell

    def write(self, data: bytes, /) -> int:  # type: ignore[override]
        """Write all of it, or raise OSError."""
        left = memoryview(data)
        while left:
            left = left[super().write(left) :]
        self._tell(self.tell())
        return len(data)


def _part(digest: str) -> str:
    return f"{digest}.part"


def _digest(path: Path, like: str) -> str:
    """Return the digest of a file, of the kind that another one is."""
    digest = hashlib.sha256() if len(like) == 64 else hashlib.sha1(f"blob {path.stat().st_size}\0".encode())  # noqa: S324  git's
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _reason(error: Exception, name: str, revision: str) -> str:
    """Say in a line what was in the way, and what to do."""
    from huggingface_hub import constants, errors  # noqa: PLC0415

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    unknown = f"the hub knows no such model, or it is private (answer {status}): check the name, set HF_TOKEN if it is private"
    kinds: dict[type[Exception], str] = {
        errors.OfflineModeIsEnabled: "HF_HUB_OFFLINE is set, and the network is not asked",
        errors.GatedRepoError: "its owner asks for an agreement: accept it on its page, and set HF_TOKEN",
        errors.RevisionNotFoundError: f"it has no revision {revision!r}",
        errors.RepositoryNotFoundError: unknown,
        errors.HfHubHTTPError: unknown if status in {401, 403, 404} else f"the hub answered {status}: try again later",
    }
    for kind, reason in kinds.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: make room and say it again, what has come is kept"
    if "Connect" in type(error).__name__:  # of httpx, httpx2 or requests, as the library's version has it
        return f"{constants.ENDPOINT} cannot be reached: {first_line(error)}; {by_hand(name)}"
    return f"{first_line(error)}: say it again, what has come is kept"
