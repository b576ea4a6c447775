from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from codegen_chat.errors import SessionError
from codegen_chat.session.log import Log, read, recover, remove

Child = Callable[..., subprocess.Popen[str]]
FullDisk = Callable[[int], AbstractContextManager[None]]
Held = Callable[[Path], AbstractContextManager[subprocess.Popen[str]]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions" / "abc.jsonl"


def kinds(path: Path) -> list[str]:
    return [event["type"] for event in read(path).events]


def test_file_and_folder_are_the_owners_alone(path: Path) -> None:
    Log.create(path, {"id": "abc"}).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_lines_are_json_with_header_id_parent_time_and_checksum(path: Path) -> None:
    with Log.create(path, {"id": "abc", "model": "nano"}) as log:
        identity = log.append({"type": "note", "text": "später \ud800 \x1b[31m"})
    assert path.read_bytes().isascii()
    assert path.read_text().startswith('{"v": 1, ')
    header, event = map(json.loads, path.read_text().splitlines())
    assert (header["v"], header["id"], header["model"]) == (1, "abc", "nano")
    assert event["id"] == identity
    assert event["parent"] is None
    assert event["text"] == "später \ud800 \x1b[31m"
    assert event["previous"] == header["checksum"]
    assert {"time", "checksum"} <= set(event)


def test_what_was_appended_is_there_again_and_unknown_kinds_too(path: Path) -> None:
    with Log.create(path, {"id": "abc"}) as log:
        log.append({"type": "a", "n": 1})
        log.append({"type": "from the future", "x": {"y": [1.5, None]}})
        written = list(log.events)
    with Log.open(path) as log:
        assert log.events == written
        assert log.dropped == ()
        log.append({"type": "b"})
    assert kinds(path) == ["a", "from the future", "b"]
    assert read(path).dropped == ()


def test_an_existing_file_is_never_made_anew(path: Path) -> None:
    Log.create(path, {}).close()
    with pytest.raises(SessionError, match="File exists"):
        Log.create(path, {})


def test_what_is_kept_beside_a_log_goes_with_it(path: Path) -> None:
    Log.create(path, {}).close()
    beside = path.with_suffix(".files") / "turn"
    beside.mkdir(parents=True)
    (beside / "a.png").write_bytes(b"")
    remove(path)
    assert list(path.parent.iterdir()) == []


# ---------------------------------------------------------------- damage


def sample(path: Path) -> bytes:
    with Log.create(path, {"id": "abc"}) as log:
        for number in range(4):
            log.append({"type": "note", "n": number, "text": "x" * number})
    return path.read_bytes()


def test_cut_at_every_byte_keeps_every_whole_line_and_goes_on(path: Path) -> None:
    data = sample(path)
    ends = [index for index, byte in enumerate(data) if byte == ord("\n")]
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends)
        if whole == 0:
            with pytest.raises(SessionError, match="not a session"):
                Log.open(path)
            continue
        with Log.open(path) as log:
            assert [event["n"] for event in log.events] == list(range(whole - 1))
            torn = cut not in ends and cut - 1 not in ends
            assert len(log.dropped) == torn
            if torn:
                assert "the last line was cut off and is dropped" in log.dropped[0]
            assert path.read_bytes() == data[:cut], "opening alone changes nothing"
            log.append({"type": "note", "n": "new"}, sync=False)
        again = read(path)
        assert [event["n"] for event in again.events] == [*range(whole - 1), "new"]
        assert again.dropped == ()
        assert path.read_bytes().startswith(data[: ends[whole - 1] + 1])


@pytest.mark.parametrize("mask", [0x01, 0x20, 0x80])
def test_every_flipped_byte_is_noticed_and_nothing_is_invented(path: Path, mask: int) -> None:
    data = sample(path)
    true = {event["id"]: event for event in recover(data, "log").events}
    for index in range(len(data)):
        damaged = bytearray(data)
        damaged[index] ^= mask
        found = recover(bytes(damaged), "log")
        assert found.dropped, f"byte {index}"
        assert all(true[event["id"]] == event for event in found.events), f"byte {index}"
        assert len(found.events) >= len(true) - 2, "at most the two lines that touch the byte"


def test_lost_moved_and_doubled_lines_are_noticed(path: Path) -> None:
    header, *lines = sample(path).splitlines(keepends=True)
    for wrong in ([lines[0], lines[2], lines[3]], [lines[1], lines[0], *lines[2:]], [lines[0], *lines], lines[1:]):
        assert "lines are missing before line" in recover(b"".join([header, *wrong]), "log").dropped[0]
    assert recover(b"".join(lines), "log").dropped == ("log: the header is missing",)


def test_damage_in_the_middle_is_named_and_stays_in_the_file(path: Path) -> None:
    lines = sample(path).splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"n": 1', b'"n": 7')
    path.write_bytes(b"".join(lines))
    with Log.open(path) as log:
        assert log.dropped == (f"{path}: line 3 is damaged and left out",)
        assert [event["n"] for event in log.events] == [0, 2, 3]
        log.append({"type": "note", "n": 4})
    assert path.read_bytes().startswith(b"".join(lines))
    assert read(path).dropped == (f"{path}: line 3 is damaged and left out",)


def test_zeros_after_a_power_cut_are_a_torn_line(path: Path) -> None:
    data = sample(path)
    found = recover(data + b"\0" * 512, "log")
    assert len(found.events) == 4
    assert found.dropped == ("log: the last line was cut off and is dropped (512 bytes)",)


@pytest.mark.parametrize("content", [b"", b"\n", b"words\n", b'{"v": 1}\n', b"\x80\x04pickle", b"\0" * 100])
def test_what_is_no_log_is_refused_in_a_line(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for opening in (Log.open, read):
        with pytest.raises(SessionError, match="is not a session: it does not start with a whole header line") as caught:
            opening(path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == content


def test_a_newer_version_is_refused(path: Path) -> None:
    Log.create(path, {"v": 2}).close()
    with pytest.raises(SessionError, match="has version 2, this one reads 1: install a newer codegen-chat"):
        Log.open(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("nothing", "pipe", "."):
        with pytest.raises(SessionError, match="is not a session file"):
            Log.open(tmp_path / name)
        with pytest.raises(SessionError, match="is not a session file"):
            read(tmp_path / name)


# ---------------------------------------------------------------- locks


def test_a_second_process_is_refused_until_the_first_is_gone(path: Path, held: Held) -> None:
    Log.create(path, {}).close()
    with held(path):
        with pytest.raises(SessionError, match="is in use by another codegen-chat") as caught:
            Log.open(path)
        assert "\n" not in str(caught.value)
        with pytest.raises(SessionError, match="is in use"):
            remove(path)
        assert read(path).events == (), "looking is allowed"
    Log.open(path).close()
    remove(path)
    assert not path.exists()


def test_a_failed_opening_leaves_no_lock(path: Path) -> None:
    sample(path)
    whole = path.read_bytes()
    path.write_bytes(b"nothing\n")
    with pytest.raises(SessionError):
        Log.open(path)
    path.write_bytes(whole)
    Log.open(path).close()


APPEND = """
import sys; from pathlib import Path; from codegen_chat.session.log import Log
log = Log.open(Path(sys.argv[1]))
while True: print(log.append({"type": "note", "text": "x" * 3000}, sync=False), flush=True)
"""


def test_nothing_that_append_returned_from_is_lost_by_kill_9(path: Path, child: Child) -> None:
    Log.create(path, {}).close()
    with child(APPEND, str(path)) as writer:
        assert writer.stdout is not None
        told = [writer.stdout.readline().strip() for _ in range(30)]
        writer.send_signal(signal.SIGKILL)
        told += writer.stdout.read().split()
    with Log.open(path) as log:
        kept = [event["id"] for event in log.events]
    assert kept[: len(told)] == told
    assert len(kept) <= len(told) + 1


# ---------------------------------------------------------------- a disk that takes no more


def test_a_full_disk_leaves_whole_lines_and_the_log_goes_on_when_there_is_room(path: Path, full_disk: FullDisk) -> None:
    with Log.create(path, {}) as log:
        log.append({"type": "first"})
        before = path.read_bytes()
        with full_disk(len(before) + 50):
            for _ in range(2):
                with pytest.raises(SessionError, match="cannot be written: File too large: make room there"):
                    log.append({"type": "big", "text": "x" * 500})
                assert path.read_bytes() == before
        log.append({"type": "second"})
    assert kinds(path) == ["first", "second"]
    assert read(path).dropped == ()


def test_a_session_that_cannot_be_made_leaves_no_file(path: Path, full_disk: FullDisk) -> None:
    with full_disk(10), pytest.raises(SessionError, match="make room there"):
        Log.create(path, {})
    assert not path.exists()


def test_a_folder_that_is_none_is_refused_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SessionError, match=r"cannot be created: .*: name another folder by XDG_DATA_HOME, or give --no-save"):
        Log.create(tmp_path / "file" / "sessions" / "a.jsonl", {})


def test_ctrl_c_in_an_append_leaves_no_half_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    with Log.create(path, {}) as log:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.append({"type": "interrupted"})
        log.append({"type": "next"})
    assert kinds(path) == ["next"]
    assert read(path).dropped == ()


def test_a_closed_log_takes_nothing(path: Path) -> None:
    log = Log.create(path, {})
    log.close()
    log.close()
    with pytest.raises(SessionError, match="is closed"):
        log.append({"type": "late"})
