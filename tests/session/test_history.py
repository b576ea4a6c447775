from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codegen_chat.errors import SessionError
from codegen_chat.session.history import History, find, new_id, newest, remove, sessions
from codegen_chat.session.log import Log
from codegen_chat.turn import Completion, Execution, Turn

FullDisk = Callable[[int], AbstractContextManager[None]]
Held = Callable[[Path], AbstractContextManager[object]]


def grow(history: History, text: str, *, accepted: bool = True, status: str = "ok") -> Turn:
    completion = Completion(f"code = {text!r}\n", "stop", seed=7)
    turn = Turn(new_id(), history.head, text, f"code = {text!r}", completion, Execution(status), accepted)  # type: ignore[arg-type]
    history.append(turn)
    return turn


def words(history: History) -> list[str]:
    return [turn.text for turn in history.turns]


# ---------------------------------------------------------------- undo and redo


def test_undo_and_redo_move_the_head_and_rewrite_nothing(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        first, second = grow(history, "one"), grow(history, "two")
        assert history.path is not None
        before = history.path.read_bytes()
        assert history.undo() == second
        assert history.head == first.id
        assert words(history) == ["one"]
        assert history.undo() == first
        assert history.undo() is None
        assert history.head is None
        assert history.redo() == first
        assert history.redo() == second
        assert history.redo() is None
        assert words(history) == ["one", "two"]
        assert history.path.read_bytes().startswith(before)


def test_a_new_turn_takes_the_redo_away_a_failed_one_does_not() -> None:
    history = History.memory()
    grow(history, "one")
    history.undo()
    grow(history, "failed", accepted=False, status="error")
    assert words(history) == []
    assert history.redo() is not None
    history.undo()
    grow(history, "other")
    assert history.redo() is None
    assert words(history) == ["other"]
    assert [turn.text for turn in history.all_turns] == ["one", "failed", "other"]


def test_transcript_tells_the_branch_and_what_failed_on_it() -> None:
    history = History.memory()
    grow(history, "failed first", accepted=False, status="error")
    grow(history, "one")
    grow(history, "undone")
    grow(history, "failed on the undone", accepted=False, status="timeout")
    history.undo()
    grow(history, "a candidate not chosen", accepted=False)
    grow(history, "failed", accepted=False, status="memory")
    grow(history, "two")
    assert [turn.text for turn in history.transcript] == ["failed first", "one", "failed", "two"]


def test_a_turn_needs_a_parent_that_is_there_and_an_id_that_is_not() -> None:
    history = History.memory()
    turn = grow(history, "one")
    with pytest.raises(AssertionError):
        history.append(turn)
    with pytest.raises(AssertionError):
        history.append(Turn(new_id(), "nobody", "two", "pass"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.sampled_from(["turn", "turn", "turn", "fail", "undo", "undo", "redo", "resume", "note", "draft"]), max_size=25)
)
def test_any_order_of_steps_gives_what_a_plain_list_gives(steps: list[str]) -> None:
    branch: list[str] = []
    undone: list[str] = []
    every: list[str] = []
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)  # nothing here is about the power going out
        history = History.create(Path(name), {})
        path = history.path
        assert path is not None
        grow(history, "0")
        branch, every = ["0"], ["0"]
        for number, step in enumerate(steps, 1):
            match step:
                case "turn" | "fail":
                    grow(history, str(number), accepted=step == "turn", status="ok" if step == "turn" else "error")
                    every.append(str(number))
                    if step == "turn":
                        branch.append(str(number))
                        undone.clear()
                case "undo":
                    turn = history.undo()
                    assert (turn and turn.text) == (branch[-1] if branch else None)
                    undone += [branch.pop()] if branch else []
                case "redo":
                    turn = history.redo()
                    assert (turn and turn.text) == (undone[-1] if undone else None)
                    branch += [undone.pop()] if undone else []
                case "note":
                    history.note({"step": number})
                case "draft":
                    history.begin(f"draft {number}", "words")
                    history.stream(f"draft {number}", "x = 1\n")
                case "resume":
                    header = history.header
                    history.close()
                    history = History.open(path)
                    assert history.header == header
            assert words(history) == branch
            assert [turn.text for turn in history.all_turns] == every
        history.close()
        assert history.dropped == ()
        assert History.read(path).turns == history.turns
        assert History.read(path).head == history.head


# ---------------------------------------------------------------- files


def test_a_resumed_session_is_the_one_that_was_left(tmp_path: Path) -> None:
    with History.create(tmp_path, {"model": "nano", "dtype": "fp32"}) as history:
        grow(history, "one")
        grow(history, "failed", accepted=False, status="error")
        grow(history, "two")
        history.undo()
        history.note({"model": "other", "dtype": "fp32"})
    assert history.path == tmp_path / f"{history.id}.jsonl"
    with History.open(history.path) as again:
        assert (again.id, again.header, again.head, again.turns) == (history.id, history.header, history.head, history.turns)
        assert again.all_turns == history.all_turns
        assert again.header["model"] == "other"
        assert again.dropped == ()
        redone = again.redo()
        assert redone is not None
        assert redone.text == "two"
    assert stat.S_IMODE(history.path.stat().st_mode) == 0o600


def test_a_note_that_says_nothing_new_is_not_written(tmp_path: Path) -> None:
    with History.create(tmp_path, {"model": "nano"}) as history:
        grow(history, "one")
        assert history.path is not None
        before = history.path.read_bytes()
        history.note({"model": "nano"})
        assert history.path.read_bytes() == before


def test_a_session_in_which_nothing_happened_leaves_no_file(tmp_path: Path) -> None:
    with History.create(tmp_path, {}):
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


def test_reading_leaves_the_file_alone(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        grow(history, "one")
        assert history.path is not None
        before = history.path.read_bytes()
        look = History.read(history.path)
        grow(look, "only here")
        look.close()
        assert words(look) == ["one", "only here"]
        assert history.path.read_bytes() == before


def test_an_event_written_twice_counts_once(tmp_path: Path) -> None:
    with Log.create(tmp_path / "a.jsonl", {}) as log:
        turn = {"type": "turn", "id": "t", "parent": None, "turn": {"text": "one", "code": "x", "accepted": True}}
        undo = {"type": "undo", "id": "u", "parent": "t", "head": None}
        draft = {"type": "begin", "id": "d", "turn": "x", "text": "words", "seed": 1}
        piece = {"type": "piece", "id": "p", "turn": "x", "text": "x = 1\n"}
        for event in (turn, turn, undo, undo, {"type": "of the future"}, draft, draft, piece, piece):
            log.append(event)
    history = History.read(tmp_path / "a.jsonl")
    assert (history.turns, history.dropped) == ((), ())
    assert [draft.code for draft in history.unfinished] == ["x = 1\n"]
    assert history.redo() is not None
    assert history.redo() is None


# ---------------------------------------------------------------- recovery


def long_session(folder: Path) -> tuple[Path, list[tuple[int, History]]]:
    """Make a session of every kind of event; return its file and, for each size it had, the history that it then held."""
    history = History.create(folder, {"model": "nano"})
    path = history.path
    assert path is not None
    stages: list[tuple[int, History]] = []

    def done() -> None:
        stages.append((path.stat().st_size, History.from_bytes(path.read_bytes(), "stage")))

    done()
    for step in ("one", "two", "undo", "redo", "undo", "failed", "three", "draft", "piece", "piece", "four", "undo"):
        match step:
            case "undo":
                history.undo()
            case "redo":
                history.redo()
            case "draft":
                history.begin("d", "half written", seed=3)
            case "piece":
                history.stream("d", "for x in y:\n    pa")
            case _:
                grow(history, step, accepted=step != "failed", status="error" if step == "failed" else "ok")
        done()
    history.close()
    assert words(stages[-1][1]) == ["one", "three"]
    return path, stages


def test_cut_at_every_byte_loses_nothing_accepted_and_invents_nothing(tmp_path: Path) -> None:
    path, stages = long_session(tmp_path)
    data = path.read_bytes()
    assert stages[-1][0] == len(data)
    for cut in range(stages[0][0], len(data) + 1):
        # A line that lacks only its newline is whole.
        size, expected = next(stage for stage in reversed(stages) if stage[0] <= cut + 1)
        found = History.from_bytes(data[:cut], "cut")
        assert found.turns == expected.turns
        assert found.all_turns == expected.all_turns
        assert found.unfinished == expected.unfinished
        assert bool(found.dropped) == (cut > size), "dropped bytes are reported, and only they"


@pytest.mark.parametrize("mask", [0x01, 0x80])
def test_a_flipped_byte_is_reported_and_never_makes_a_branch_that_was_not_there(tmp_path: Path, mask: int) -> None:
    path, stages = long_session(tmp_path)
    data = path.read_bytes()
    true = {turn.id: turn for turn in stages[-1][1].all_turns}
    for index in range(0, len(data), 7):
        damaged = bytearray(data)
        damaged[index] ^= mask
        found = History.from_bytes(bytes(damaged), "flipped")
        assert found.dropped
        assert all(turn == true[turn.id] for turn in found.all_turns)
        parents = [None, *(turn.id for turn in found.turns)]
        assert [turn.parent for turn in found.turns] == parents[:-1], "a branch has no hole"
        assert all(turn.accepted for turn in found.turns)


def test_turns_that_build_on_a_lost_one_stay_off_the_branch(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        grow(history, "one")
        lost, left = grow(history, "two"), grow(history, "three")
    assert history.path is not None
    lines = history.path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"two", b"too")
    history.path.write_bytes(b"".join(lines))
    with History.open(history.path) as again:
        assert words(again) == ["one"]
        assert [turn.text for turn in again.all_turns] == ["one", "three"]
        assert again.dropped == (
            f"{history.path}: line 3 is damaged and left out",
            f"{history.path}: turn {left.id} builds on one that is lost: it stays in the file, off the branch",
        )
        assert again.undo() is not None
        assert again.redo() is not None
        grow(again, "four")
    assert words(History.read(history.path)) == ["one", "four"]
    assert lost.id not in {turn.id for turn in History.read(history.path).all_turns}


def test_a_redo_never_jumps_over_an_undo_that_is_lost(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        for text in ("one", "two", "three"):
            grow(history, text)
        for _ in range(3):
            history.undo()
    assert history.path is not None
    lines = history.path.read_bytes().splitlines(keepends=True)
    history.path.write_bytes(b"".join(lines[:5] + lines[6:]))  # the undo of two
    with History.open(history.path) as again:
        assert again.dropped
        assert words(again) == []
        assert again.redo() is not None
        assert words(again) == ["one"]
        assert again.redo() is None, "three stood on two"


@pytest.mark.parametrize(
    "event", [{"type": "turn"}, {"type": "turn", "turn": {"text": 1}}, {"type": "undo"}, {"type": "facts", "facts": 3}]
)
def test_an_event_of_the_wrong_shape_is_reported(tmp_path: Path, event: dict[str, object]) -> None:
    with Log.create(tmp_path / "a.jsonl", {}) as log:
        identity = log.append(event)
    assert History.read(tmp_path / "a.jsonl").dropped == (f"{tmp_path}/a.jsonl: event {identity} cannot be read",)


# ---------------------------------------------------------------- candidates half written


def test_what_streamed_before_a_crash_is_an_unrun_candidate(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        first = grow(history, "one")
        history.begin("d", "make it so", seed=9)
        for piece in ("x = ", "1\ny", " = 2\nz = ", "3"):
            history.stream("d", piece)
        assert history.path is not None
        found = History.read(history.path)  # as kill -9 would leave it
        code = "x = 1\ny = 2\n"
        expected = Turn("d", first.id, "make it so", code, Completion(code, "interrupted", seed=9), None, accepted=False)
        assert found.unfinished == (expected,)
        assert words(found) == ["one"]
        grow(history, "two")
    assert History.read(history.path).unfinished == ()


def test_a_candidate_that_wrote_nothing_is_none(tmp_path: Path) -> None:
    with History.create(tmp_path, {}) as history:
        history.begin("d", "words")
        history.stream("d", "no whole line")
        assert history.path is not None
        assert History.read(history.path).unfinished == ()


# ---------------------------------------------------------------- a full disk


def test_work_goes_on_in_memory_and_is_written_when_there_is_room(tmp_path: Path, full_disk: FullDisk) -> None:
    with History.create(tmp_path, {}) as history:
        grow(history, "one")
        assert history.path is not None
        assert history.trouble is None
        before = history.path.read_bytes()
        with full_disk(len(before) + 40):
            grow(history, "two")
            assert history.trouble == (
                f"{history.path} cannot be written: File too large: make room there; the session goes on in memory"
            )
            history.undo()
            history.begin("d", "words")
            history.stream("d", "x = 1\n")
            grow(history, "three")
            assert words(history) == ["one", "three"]
            assert history.path.read_bytes() == before
        grow(history, "four")
        assert history.trouble is None
    found = History.read(history.path)
    assert found.turns == history.turns
    assert found.all_turns == history.all_turns
    assert found.dropped == ()


def test_closing_tries_once_more_and_says_what_is_lost(tmp_path: Path, full_disk: FullDisk) -> None:
    history = History.create(tmp_path, {})
    assert history.path is not None
    with full_disk(history.path.stat().st_size):
        grow(history, "one")
        history.close()
        assert history.trouble is not None
    assert History.read(history.path).turns == ()
    history = History.create(tmp_path, {})
    assert history.path is not None
    with full_disk(history.path.stat().st_size):
        grow(history, "one")
    history.close()
    assert history.trouble is None
    assert words(History.read(history.path)) == ["one"]


# ---------------------------------------------------------------- a folder of sessions


def test_sessions_are_listed_the_last_changed_first(tmp_path: Path) -> None:
    made = []
    for name in ("old", "new"):
        with History.create(tmp_path, {"model": "nano"}) as history:
            grow(history, f"{name}\nsecond line")
        made.append(history)
    empty = Log.create(tmp_path / "empty.jsonl", {})
    empty.close()
    (tmp_path / "broken.jsonl").write_text("nothing")
    (tmp_path / "other.txt").write_text("nothing")
    old, new = made
    with History.open(tmp_path / f"{old.id}.jsonl") as again:
        again.undo()
    listed = {summary.id: summary for summary in sessions(tmp_path)}
    assert list(listed) == [old.id, "empty", new.id, "broken"]
    assert (listed[new.id].turns, listed[new.id].title, listed[new.id].model) == (1, "new", "nano")
    assert listed[old.id].turns == 0
    assert listed[new.id].created < listed[new.id].changed < listed[old.id].changed
    assert listed["broken"].dropped
    assert newest(tmp_path) == tmp_path / f"{old.id}.jsonl", "nothing to continue in an empty one"


def test_no_session_is_said_so(tmp_path: Path) -> None:
    assert sessions(tmp_path / "nowhere") == []
    with pytest.raises(SessionError, match="there is no session in"):
        newest(tmp_path / "nowhere")
    with pytest.raises(SessionError, match="no session starts with '7f'"):
        find(tmp_path, "7f")


def test_a_session_is_found_by_the_start_of_its_id_or_by_its_file(tmp_path: Path) -> None:
    for name in ("7f3a", "7f3abc", "91"):
        Log.create(tmp_path / f"{name}.jsonl", {}).close()
    assert find(tmp_path, "9") == tmp_path / "91.jsonl"
    assert find(tmp_path, "7f3a") == tmp_path / "7f3a.jsonl"
    assert find(tmp_path, "elsewhere/x.jsonl") == Path("elsewhere/x.jsonl")
    with pytest.raises(SessionError, match="2 sessions start with '7f': give more of one of 7f3a, 7f3abc"):
        find(tmp_path, "7f")
    with pytest.raises(SessionError, match="no session starts with ''"):
        find(tmp_path, "")
    with pytest.raises(SessionError, match=r"no session starts with '\.\./91'"):
        find(tmp_path / "sub", "../91")


def test_a_session_in_use_is_not_removed_a_broken_one_is(tmp_path: Path, held: Held) -> None:
    path = tmp_path / "a.jsonl"
    Log.create(path, {}).close()
    with held(path), pytest.raises(SessionError, match="is in use"):
        remove(path)
    path.write_text("broken")
    remove(path)
    assert not path.exists()
    with pytest.raises(SessionError, match="is not a session file"):
        remove(path)
