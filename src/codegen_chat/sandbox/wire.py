"""Frames between product, init and turns: two lengths, a head of JSON, a body of bytes. Never a pickle.

The head is our own words; the body is whatever it carries, opaque (a turn's code, its output, its report). Who reads from a turn
gives a cap, and a frame over it is an error before anything is stored.
"""

from __future__ import annotations

import array
import json
import socket
import struct
from collections.abc import Iterator, Sequence

TYPE_CHECKING = False  # from typing it would cost every start of a sandbox the import
if TYPE_CHECKING:
    from typing import Any

_LENGTHS = struct.Struct("!II")
_HEAD = 1 << 20
_BODY = 1 << 26
_CREDENTIALS = struct.Struct("3i")

Head = dict[str, "Any"]

to_json = json.JSONEncoder().encode
"""As `json.dumps`, which the code of a turn may have replaced."""


class BrokenWireError(Exception):
    """The other side closed, or sent what is no frame."""


def encode(head: Head, body: bytes = b"") -> bytes:
    """Return a frame as bytes."""
    words = to_json(head).encode()
    return _LENGTHS.pack(len(words), len(body)) + words + body


class Reader:
    """Puts frames together from pieces. `cap` is the most bytes that a head or a body may have."""

    def __init__(self, cap: int = _BODY) -> None:
        self._cap = cap
        self._buffer = bytearray()

    def holds_more(self) -> bool:
        """Whether something has come that was not told yet: a frame, or the beginning of one."""
        return bool(self._buffer)

    def feed(self, piece: bytes) -> Iterator[tuple[Head, bytes]]:
        """Yield the frames that are complete with this piece.

        Raises:
            BrokenWireError: What came is no frame, or is over the cap.
        """
        self._buffer += piece
        while len(self._buffer) >= _LENGTHS.size:
            head_size, body_size = _LENGTHS.unpack_from(self._buffer)
            if head_size > min(_HEAD, self._cap) or body_size > self._cap:
                raise BrokenWireError("a frame is too long")
            end = _LENGTHS.size + head_size + body_size
            if len(self._buffer) < end:
                return
            words = bytes(self._buffer[_LENGTHS.size : _LENGTHS.size + head_size])
            body = bytes(self._buffer[_LENGTHS.size + head_size : end])
            del self._buffer[:end]
            try:
                head = json.loads(words)
            except (ValueError, RecursionError) as error:
                raise BrokenWireError("a head is not JSON") from error
            if not isinstance(head, dict):
                raise BrokenWireError("a head is not an object")
            yield head, body


def receive(channel: socket.socket, reader: Reader) -> tuple[Head, bytes]:
    """Wait for one frame on a channel where frames are answers, one at a time.

    Raises:
        BrokenWireError: The other side closed, or sent what is no frame.
        TimeoutError: The channel's timeout passed.
    """
    piece = b""  # a frame may be waiting already: it came with the one before
    while True:
        for frame in reader.feed(piece):
            return frame
        piece = channel.recv(1 << 16)
        if not piece:
            raise BrokenWireError("the other side closed")


def send_descriptors(channel: socket.socket, message: bytes, descriptors: Sequence[int]) -> None:
    """Send open files along with a few bytes."""
    socket.send_fds(channel, [message], list(descriptors))


def receive_descriptors(channel: socket.socket, count: int) -> tuple[bytes, list[int]]:
    """Receive a few bytes and the open files that came along."""
    message, ancillary, _, _ = channel.recvmsg(16, socket.CMSG_SPACE(4 * count))
    return message, [descriptor for _, _, data in ancillary for descriptor in struct.unpack(f"{len(data) // 4}i", data)]


def receive_from(channel: socket.socket) -> tuple[bytes, int]:
    """Receive a piece and the pid of who sent it, by the kernel's word. Descriptors sent along are closed.

    The channel has SO_PASSCRED set.

    Raises:
        BlockingIOError: Nothing is there.
    """
    rights = socket.CMSG_SPACE(253 * array.array("i").itemsize)
    piece, ancillary, _, _ = channel.recvmsg(1 << 16, socket.CMSG_SPACE(_CREDENTIALS.size) + rights)
    sender = 0
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])[0]
        elif level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            _close_all(data)
    return piece, sender


def _close_all(data: bytes) -> None:
    descriptors = array.array("i")
    descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    for descriptor in descriptors:
        socket.close(descriptor)
