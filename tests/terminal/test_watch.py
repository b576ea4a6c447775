from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from codegen_chat.conversation import Conversation
from codegen_chat.session.history import History
from codegen_chat.terminal.screen import Screen
from codegen_chat.terminal.watch import Watch
from tests.fakes import FakeCompleter, FakeExecutor


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.py"


class Bench:
    """A watch without its loop, on a model from a script and code that runs in this process."""

    def __init__(self, path: Path, *answers: str) -> None:
        self.path = path
        self.model = FakeCompleter(*answers)
        self.executor = FakeExecutor()
        self.shown = io.StringIO()
        self.conversation = Conversation(self.model, self.executor, History.memory())
        self.watch = Watch(path, self.conversation, Screen(self.shown, plain=True))

    def saved(self, text: str | bytes) -> str:
        """Save the file, let it be answered, return it."""
        self.path.write_bytes(text.encode() if isinstance(text, str) else text)
        while self.watch._answer():
            pass
        return self.path.read_bytes().decode(errors="replace")


def test_questions_are_answered_in_order_on_what_stands_above(path: Path) -> None:
    bench = Bench(path, "y = x + 1\nprint(y)\n", "z = y * 2\nz\n")
    text = bench.saved("x = 1\n\n# Add one to x. ?!\n# Double it. ?!\n")
    assert text == "x = 1\n\n# Add one to x.\ny = x + 1\nprint(y)\n#> 2\n\n# Double it.\nz = y * 2\nz\n#> 4\n"
    assert bench.model.prompts[1].text.endswith("\n\nx = 1\n\n# Add one to x.\ny = x + 1\nprint(y)\n\n# Double it.\n")
    assert bench.executor.ran[1:] == ["x = 1", "y = x + 1\nprint(y)", "z = y * 2\nz"]


def test_only_what_was_edited_runs_again(path: Path) -> None:
    bench = Bench(path, "c = a + b\n", "d = c\n")
    text = bench.saved("a = 1\n\nb = 2\n\n# Add. ?!\n")
    before = len(bench.executor.ran)
    bench.saved(text.replace("b = 2", "b = 3") + "\n# Copy. ?!\n")
    assert bench.executor.ran[before:] == ["b = 3", "c = a + b", "d = c"]
    assert [turn.code for turn in bench.conversation.turns] == ["a = 1", "b = 3", "c = a + b", "d = c"]
    assert bench.conversation.names()["d"] == "4"


def test_asked_again_it_answers_otherwise(path: Path) -> None:
    bench = Bench(path, "y = 1\n", "y = 2\n", "y = nope\n", "y = 3\n")
    assert bench.saved("# Make y. ?!\n") == "# Make y.\ny = 1\n"
    assert bench.saved("# Make y. ?!\n") == "# Make y.\ny = 2\n"
    assert "#> failed: NameError" in bench.saved("# Make y. ?!\n")
    assert bench.saved("# Make y. ?!\n") == "# Make y.\ny = 3\n"
    assert len({sampling.seed for sampling in bench.model.samplings}) == 4
    assert bench.model.samplings[0].temperature == 0 < bench.model.samplings[1].temperature
    assert [turn.code for turn in bench.conversation.turns] == ["y = 3"]


def test_what_fails_above_is_left_out_and_said(path: Path) -> None:
    bench = Bench(path, "y = 1\n")
    assert bench.saved("import nothing_like_it\n\n# Make y. ?!\n").endswith("# Make y.\ny = 1\n")
    assert "! what stands above fails, and is left out: import nothing_like_it\n" in bench.shown.getvalue()
    assert "ModuleNotFoundError" in bench.shown.getvalue()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("for (\n\n# Make y. ?!\n", "a.py:1: no Python yet, so 'Make y.' waits"),
        (b"\xff\n# Make y. ?!\n", "is not UTF-8 text: byte 0 cannot be read"),
    ],
)
def test_what_cannot_be_read_waits_and_is_said_once(path: Path, text: str | bytes, said: str) -> None:
    bench = Bench(path)
    for _ in range(2):
        assert "# Make y. ?!" in bench.saved(text)
    assert bench.shown.getvalue().count(said) == 1


def test_edits_made_while_the_model_writes_stay(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(path, "y = 1\n", "z = 1\n")
    ask = bench.watch._turn

    def slow(above: list[tuple[str, str]], words: str) -> object:
        turn = ask(above, words)
        if words == "Make y.":
            path.write_text("first = 0\n\n# Make y. ?!\nlast = 9\n")
        else:
            path.write_text("# Make another. ?!\n" if "another" not in words else path.read_text())
        return turn

    monkeypatch.setattr(bench.watch, "_turn", slow)
    assert bench.saved("# Make y. ?!\n") == "first = 0\n\n# Make y.\ny = 1\n\nlast = 9\n"
    with pytest.raises(IndexError):  # the other question comes next, and the script has no answer to it
        bench.saved("# Make z. ?!\n")
    assert path.read_text() == "# Make another. ?!\n"
    assert "the question is gone" in bench.shown.getvalue()


def test_a_file_that_cannot_be_written_loses_no_answer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(path, "y = 1\n")

    def refuse(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bench.watch._swap, "write", refuse)
    assert bench.saved("# Make y. ?!\n") == "# Make y. ?!\n"
    assert "y = 1\n" in bench.shown.getvalue()
    assert "cannot be written: No space left on device; the answer stands only here" in bench.shown.getvalue()


# ---------------------------------------------------------------- as a process


@pytest.fixture
def started(scripted_model: Path, path: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "codegen_chat.cli", "watch", "-m", str(scripted_model), str(path)]
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, stderr=subprocess.STDOUT))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def until(path: Path, text: str) -> None:
    deadline = time.monotonic() + 60
    while path.read_text() != text:
        assert time.monotonic() < deadline, path.read_text()
        time.sleep(0.02)


def test_a_file_is_watched_until_ctrl_c(started: Callable[[], subprocess.Popen[str]], path: Path) -> None:
    path.write_text("x = 1\n\n# Add. ?!\n")
    process = started()
    answer = "total = sum([1, 2, 3])\nprint(total)\n#> 6\n"
    until(path, f"x = 1\n\n# Add.\n{answer}")
    fresh = path.with_suffix(".new")  # as an editor saves: another file takes the name
    fresh.write_text("# Add ?!\n")
    fresh.replace(path)
    until(path, f"# Add\n{answer}")
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "· watching " in out
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_ctrl_c_at_once_ends_quietly(started: Callable[[], subprocess.Popen[str]], path: Path) -> None:
    path.write_text("")
    process = started()
    assert process.stdout
    while "watching" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")


def test_a_file_that_is_not_there(started: Callable[[], subprocess.Popen[str]]) -> None:
    process = started()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out.endswith("make it, with a comment that ends in ?!\n")
