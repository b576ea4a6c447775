from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.errors import SessionError
from codegen_chat.session.history import History, find, sessions
from codegen_chat.session.repair import examine, mend, repair
from codegen_chat.turn import Turn

Held = Callable[[Path], AbstractContextManager["Popen[str]"]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A session of three turns, the last one undone and done again. Its file has a header, three turns, undo, redo: six lines."""
    with History.create(tmp_path, {"model": "nano"}) as history:
        for number in range(3):
            history.append(Turn(f"t{number}", history.head, f"words {number}", f"x{number} = {number}"))
        history.undo()
        history.redo()
    assert history.path
    return history.path


def damage(path: Path, line: int, change: Callable[[bytes], bytes]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = change(lines[line])
    path.write_bytes(b"".join(lines))


def codes(path: Path) -> list[str]:
    history = History.read(path)
    assert history.dropped == ()
    return [turn.code for turn in history.turns]


def test_a_sound_session_stays_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    assert (examine(path), repair(path), path.read_bytes()) == ((), (), before)
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_flipped_bit_is_set_right(path: Path) -> None:
    damage(path, 2, lambda line: line[:70] + bytes([line[70] ^ 4]) + line[71:])
    before = path.read_bytes()
    assert examine(path) == ("line 3 is damaged, and whole again",)
    assert repair(path) == ("line 3 is damaged, and whole again", f"the file as it was is {path.name}.damaged1")
    assert codes(path) == ["x0 = 0", "x1 = 1", "x2 = 2"]
    assert path.with_name(f"{path.name}.damaged1").read_bytes() == before
    assert len(sessions(path.parent)) == 1
    assert examine(path) == ()


def test_line_ends_of_another_system_are_mended(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(repair(path)) == 7
    assert codes(path) == ["x0 = 0", "x1 = 1", "x2 = 2"]


def test_what_builds_on_a_lost_turn_goes_on_from_what_is_left(path: Path) -> None:
    damage(path, 2, lambda line: b"#" * len(line.strip()) + b"\n")
    said = repair(path)
    assert said[:2] == ("line 3 is damaged, and lost", "turn t2 builds on a lost one: it goes on from t0")
    assert said[2] == "an undo to the lost turn t1 is left out"
    assert codes(path) == ["x0 = 0", "x2 = 2"]


def test_a_line_that_was_cut_out_is_noticed(path: Path) -> None:
    damage(path, 2, lambda _: b"")
    assert "lines before line 3 are lost" in repair(path)
    assert codes(path) == ["x0 = 0", "x2 = 2"]


def test_a_lost_header_is_made_anew(path: Path) -> None:
    damage(path, 0, lambda _: b"\x00\x00\n")
    assert any("header" in line for line in repair(path))
    assert codes(path) == ["x0 = 0", "x1 = 1", "x2 = 2"]
    assert History.read(path).id == path.stem


def test_unknown_events_survive_a_repair(path: Path) -> None:
    with History.open(path) as history:
        history._record({"type": "from the future", "what": [1]})
    damage(path, 2, lambda line: line[:70] + bytes([line[70] ^ 4]) + line[71:])
    repair(path)
    last = json.loads(path.read_text().splitlines()[-1])
    assert (last["type"], last["what"]) == ("from the future", [1])


def test_what_is_no_session_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("hello\n")
    for act in (examine, repair):
        with pytest.raises(SessionError):
            act(path)
    assert path.read_text() == "hello\n"


def test_a_session_in_use_is_not_repaired(path: Path, held: Held) -> None:
    damage(path, 2, lambda line: line.replace(b"words", b"wards"))
    before = path.read_bytes()
    with held(path), pytest.raises(SessionError, match="in use"):
        repair(path)
    assert path.read_bytes() == before


@settings(max_examples=40)
@given(where=st.integers(0, 1400), length=st.integers(1, 40), put=st.binary(max_size=40))
def test_any_damage_is_told_of_and_mended(tmp_path_factory: pytest.TempPathFactory, where: int, length: int, put: bytes) -> None:
    folder = tmp_path_factory.mktemp("damage")
    with History.create(folder, {}) as history:
        for number in range(3):
            history.append(Turn(f"t{number}", history.head, "", f"x = {number}"))
    assert history.path
    whole = history.path.read_bytes()
    history.path.write_bytes(whole[:where] + put + whole[where + length :])
    wrong = examine(history.path)
    repair(history.path)
    assert examine(history.path) == ()
    History.read(history.path)
    assert wrong or [*mend(whole, "a").events] == [*mend(history.path.read_bytes(), "a").events]


def test_a_session_is_found_by_its_number(tmp_path: Path) -> None:
    made = []
    for _ in range(3):
        with History.create(tmp_path, {}) as history:
            history.append(Turn("t", None, "", "x = 1"))
        made.append(history.path)
    assert [find(tmp_path, str(number)) for number in (1, 2, 3)] == made[::-1]
    with pytest.raises(SessionError, match="no session starts with"):
        find(tmp_path, "-1")
