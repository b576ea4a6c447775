"""A hub on this machine that speaks the real one's HTTP: model API, /resolve/ with commits and etags, redirects, ranges.

The knobs are attributes: what is asked of who wants a model, where the connection breaks off, which bytes are false.
"""

from __future__ import annotations

import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".bin", ".safetensors")


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories. Usable as a context manager; `asked` are the requests, with the range that each wants."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.token: str | None = None
        self.gated = False
        self.cut: int | None = None
        """After so many bytes of the next large file the connection breaks off."""
        self.stall = False
        """It stands still there instead; `stalled` tells when."""
        self.stalled = Event()
        self.false = False
        """Whether the last byte of large files is another one."""
        self.claimed: int | None = None
        """What a large file's size is said to be."""
        self.asked: list[tuple[str, str, str | None]] = []
        self._digests: dict[Path, str] = {}

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def digest(self, path: Path) -> str:
        if path not in self._digests:
            data = path.read_bytes()
            git = hashlib.sha1(f"blob {len(data)}\0".encode() + data)
            self._digests[path] = (hashlib.sha256(data) if path.suffix in LARGE else git).hexdigest()
        return self._digests[path]

    def __enter__(self) -> Self:
        Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path, self.headers.get("Range")))
        if large := re.fullmatch(r"/cdn/(\w+)/(.*)", path):
            assert "Authorization" not in self.headers
            self._send(Path("/", large[2]), body=body)
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(?:revision|tree)/(.+))?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        found = api or file
        name, revision = (found[1], found[2]) if found else ("", None)
        folder = self.server.repositories.get(name)
        if folder is None:
            self._refuse(404 if self.headers.get("Authorization") else 401, "RepoNotFound", "Repository not found")
        elif self.server.token is not None and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self._refuse(401, "RepoNotFound", "Repository not found")
        elif self.server.gated:
            self._refuse(403, "GatedRepo", f"Access to model {name} is restricted")
        elif (revision or "main") not in {"main", COMMIT}:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif api:
            told = self._tree(folder) if "/tree/" in path else self._info(name, folder)
            self._say(json.dumps(told).encode(), {"Content-Type": "application/json"}, body=body)
        elif file and (folder / file[3]).is_file():
            self._resolve(folder / file[3], body=body)
        else:
            self._refuse(404, "EntryNotFound", "Entry not found")

    def _info(self, name: str, folder: Path) -> dict[str, Any]:
        siblings: list[dict[str, Any]] = []
        for path in sorted(path for path in folder.iterdir() if path.is_file()):
            size, digest = path.stat().st_size, self.server.digest(path)
            entry: dict[str, Any] = {"rfilename": path.name, "size": size, "blobId": digest[:40]}
            if path.suffix in LARGE:
                size = self.server.claimed or size
                entry |= {"size": size, "lfs": {"sha256": digest, "size": size, "pointerSize": 134}}
            siblings.append(entry)
        counts = {"private": False, "tags": [], "downloads": 0, "likes": 0}
        return {"_id": "0", "id": name, "modelId": name, "sha": COMMIT, "siblings": siblings} | counts

    def _tree(self, folder: Path) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": file["rfilename"], "oid": file["blobId"], "size": file["size"]}
            | ({"lfs": file["lfs"] | {"oid": file["lfs"]["sha256"]}} if "lfs" in file else {})
            for file in self._info("", folder)["siblings"]
        ]

    def _resolve(self, path: Path, *, body: bool) -> None:
        digest = self.server.digest(path)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{digest}"'}
        if path.suffix not in LARGE:
            self._say(path.read_bytes(), headers, body=body)
            return
        # As another host, as the real one's are: a token must not go there.
        linked = {"X-Linked-Size": str(path.stat().st_size), "X-Linked-Etag": f'"{digest}"'}
        self._head(
            302,
            headers
            | linked
            | {"Location": f"http://localhost:{self.server.server_port}/cdn/{digest}{path}", "Content-Length": "0"},
        )

    def _send(self, path: Path, *, body: bool) -> None:
        size, start = path.stat().st_size, 0
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        if wanted:
            start = int(wanted[1])
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._head(206 if wanted else 200, headers | {"Content-Length": str(size - start)})
        if not body:
            return
        with path.open("rb") as file:
            file.seek(start)
            left = size - start if self.server.cut is None else min(self.server.cut, size - start)
            broken, self.server.cut = self.server.cut is not None, None
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                left -= len(piece)
                if self.server.false and file.tell() == size:
                    piece = piece[:-1] + bytes([piece[-1] ^ 1])
                self.wfile.write(piece)
        if broken:
            self.wfile.flush()
            if self.server.stall:
                self.server.stalled.set()
                self.rfile.read(1)  # until the other side goes away
            self.close_connection = True

    def _say(self, data: bytes, headers: dict[str, str], *, body: bool) -> None:
        self._head(200, headers | {"Content-Length": str(len(data))})
        if body:
            self.wfile.write(data)

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._head(status, {"X-Error-Code": code, "X-Error-Message": message, "Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
