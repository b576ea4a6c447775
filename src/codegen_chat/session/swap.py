"""New content for a file that somebody edits meanwhile: whole or not at all, and nothing of theirs is lost."""

from __future__ import annotations

import ctypes
import os
import shutil
from contextlib import suppress
from pathlib import Path

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


class Swap:
    """A file that gets new content. What it had before stays beside it until `settle`: an editor may be writing there.

    `path` may be a link; the file that it leads to changes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self._aside = self.path.with_name(f".{self.path.name}.codegen-chat")
        self._before: bytes | None = None

    def write(self, before: bytes, after: bytes) -> bool:
        """Replace the content `before`. Returns False, with nothing changed, where the file has another one by now.

        Whoever reads the file sees the one or the other, whole. The new file and the old one change names in one step; where the
        old one then is not what was expected, because it was saved a moment ago, they change back. Raises OSError.
        """
        self.settle()
        try:
            self._prepare(after)
            current = self.path.read_bytes()
        except OSError:
            self._aside.unlink(missing_ok=True)
            raise
        if current != before:
            self._aside.unlink()
            return False
        if not self._exchange():
            self._aside.replace(self.path)
            return True
        if self._aside.read_bytes() == before:
            self._before = before
            return True
        self._exchange()
        if self._aside.read_bytes() != after:  # saved once more, over ours: that is the latest
            self._exchange()
        self._aside.unlink()
        return False

    def _prepare(self, content: bytes) -> None:
        """Write the new file beside the old one, with its owner and rights."""
        with self._aside.open("wb") as file:
            shutil.copymode(self.path, self._aside)
            with suppress(PermissionError):
                os.chown(self._aside, self.path.stat().st_uid, self.path.stat().st_gid)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def settle(self) -> bool:
        """Look once more at what the last `write` replaced, and forget it. Returns True where it was written to since.

        The file then is that again: somebody had opened it before it was replaced, and saved after.
        """
        if self._before is None:
            return False
        before, self._before = self._before, None
        late = self._aside.read_bytes() != before
        if late:
            self._exchange()
        self._aside.unlink()
        return late

    def _exchange(self) -> bool:
        """Let the two files change names. Returns False where the file system cannot."""
        old, new = os.fsencode(self._aside), os.fsencode(self.path)
        return bool(_libc.renameat2(_AT_FDCWD, old, _AT_FDCWD, new, _RENAME_EXCHANGE) == 0)
