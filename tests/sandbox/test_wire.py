"""Frames come out as they went in, however they are cut; what is no frame is refused before it is stored."""

from __future__ import annotations

import itertools
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.sandbox import wire

frames = st.lists(
    st.tuples(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8), max_size=3), st.binary(max_size=50))
)


@given(frames, st.lists(st.integers(0, 1000), max_size=8))
def test_frames_survive_any_cut(sent: list[tuple[dict[str, object], bytes]], cuts: list[int]) -> None:
    data = b"".join(wire.encode(head, body) for head, body in sent)
    reader = wire.Reader()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    received = [frame for begin, end in itertools.pairwise(edges) for frame in reader.feed(data[begin:end])]
    assert received == sent


@given(st.binary(max_size=100))
def test_noise_is_refused_or_waits(noise: bytes) -> None:
    reader = wire.Reader(cap=50)
    try:
        for head, body in reader.feed(noise):
            assert isinstance(head, dict)
            assert len(body) <= 50
    except wire.BrokenWireError:
        pass


@pytest.mark.parametrize("sizes", [(51, 0), (0, 51), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_a_frame_over_the_cap_is_refused_by_its_lengths(sizes: tuple[int, int]) -> None:
    with pytest.raises(wire.BrokenWireError, match="too long"):
        list(wire.Reader(cap=50).feed(struct.pack("!II", *sizes)))


def test_two_frames_in_one_piece_are_two_answers() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(wire.encode({"n": 1}) + wire.encode({"n": 2}, b"x"))
        theirs.shutdown(socket.SHUT_WR)
        reader = wire.Reader()
        assert wire.receive(ours, reader) == ({"n": 1}, b"")
        assert reader.holds_more()
        assert wire.receive(ours, reader) == ({"n": 2}, b"x")
        assert not reader.holds_more()
        with pytest.raises(wire.BrokenWireError, match="closed"):
            wire.receive(ours, reader)
