from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from codegen_chat import cli, errors
from codegen_chat.sandbox.by_settings import sandbox
from codegen_chat.settings import Settings

SPEC = """\
@set seed=7
@var A="abc"
Add the numbers and print them.
@expect total == 6
>>> name = "{A}"
@expect name == "abc"
"""


@dataclass
class Result:
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


class Stdin(io.TextIOWrapper):
    """Standard input, a pipe or a terminal."""

    terminal = False

    def isatty(self) -> bool:
        return self.terminal


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """Call the command line in this process, in an empty working directory."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, stdin: str = "") -> Result:
        monkeypatch.setattr(sys, "argv", ["codegen-chat", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", Stdin(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        code = ended.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


def process(*arguments: str | Path, **options: object) -> subprocess.Popen[str]:
    """Start the command line as a process."""
    return subprocess.Popen([sys.executable, "-m", "codegen_chat.cli", *map(str, arguments)], text=True, **options)  # type: ignore[call-overload]


def one_line(text: str) -> bool:
    return text.startswith("codegen-chat: ") and text.count("\n") == 1


# ---------------------------------------------------------------- run


def test_run_plays_a_spec_and_keeps_the_session(run: Cli, scripted_model: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(SPEC)
    done = run("run", "-m", scripted_model, "a.txt", "-o", "a.py")
    assert done.code == 0
    assert re.search(
        r"^· spec a\.txt, model scripted, revision \w+, session (\w+)\n"
        r"\[1\] Add the numbers and print them\.\ntotal = sum\(\[1, 2, 3\]\)\n"
        r"print\(total\)\n· end of text, .*\n6\n· ok, .*, \+ total: int.*\n· as expected: total == 6\n\[2\] .*\nname = \"abc\"\n"
        r"· ok, .*\n· as expected: name == \"abc\"\n· 2 turns, 2 of 2 expectations met\n$",
        done.out,
    )
    assert done.err == "· wrote a.py, verified\n"
    assert subprocess.run([sys.executable, "a.py"], capture_output=True, text=True, check=True).stdout == "6\n"

    listed = run("sessions", "ls").out
    identity = json.loads(run("sessions", "ls", "--json").out)["id"]
    when = r"\d{4}-\d\d-\d\d \d\d:\d\d"
    assert re.fullmatch(rf"  1  {identity[:6]}  {when}   2 turns   \d kB  scripted  Add the numbers and print them\.\n", listed)
    assert run("sessions", "show", "1").out == run("sessions", "show", identity).out
    assert "total = sum([1, 2, 3])" in run("sessions", "show", identity).out
    exported = run("export", identity[:6])
    assert (exported.code, exported.err) == (0, "· verified\n")
    assert exported.out == (tmp_path / "a.py").read_text()
    sessions = Path(os.environ["HOME"]) / ".local/share/codegen-chat/sessions"
    replayed = run("run", "-m", scripted_model, sessions / f"{identity}.jsonl", "--no-save", "-q")
    assert replayed.code == 0
    assert "[1] Add the numbers and print them.\ntotal = sum" in replayed.out
    assert run("sessions", "rm", identity).code == 0
    assert run("sessions", "ls").out == ""
    assert (run("sessions", "show", identity).code, run("export", identity).code) == (2, 2)


def test_run_prints_json(run: Cli, scripted_model: Path) -> None:
    done = run("run", "-m", scripted_model, "--json", "--no-save", "--var", "A=xyz", stdin=SPEC)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 5
    assert [event["event"] for event in events if event["event"] != "delta"] == [
        "begin",
        *("step", "completed", "output", "executed", "committed", "expectation"),
        *("step", "executed", "committed", "expectation", "end"),
    ]
    assert next(event for event in events if event["event"] == "executed")["stdout"] == "6\n"
    assert events[-2]["holds"] is False
    assert events[-2]["where"] == "<stdin>:6:9"
    assert events[-1] | {"turns": 2, "held": 1, "missed": 1, "failed": False, "left": 0} == events[-1]


def test_a_missed_expectation_is_5(run: Cli, scripted_model: Path) -> None:
    done = run("run", "-m", scripted_model, "-", stdin="Add.\n@expect total == 7\n>>> x = 1\n")
    assert done.code == 5
    assert "! <stdin>:2:9: expected total == 7: total is 6\n" in done.out
    assert done.out.endswith("· 2 turns, 0 of 1 expectations met\n")


def test_a_failed_turn_is_4_and_ends_its_spec(run: Cli, scripted_model: Path) -> None:
    done = run("run", "-m", scripted_model, "-", stdin=">>> x = 1 / 0\nAdd.\n")
    assert done.code == 4
    assert "· error, " in done.out
    assert "  line 1: x = 1 / 0\n" in done.out
    assert "! turn 1 failed: 1 more not played\n" in done.out
    assert "total" not in done.out


def test_without_a_sandbox_code_is_shown_and_7(run: Cli, scripted_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("codegen_chat.api.sandbox", lambda *_, **__: (None, "no wall holds"))
    done = run("run", "-m", scripted_model, "-", stdin="Add.\n@expect total == 6\n")
    assert done.code == 7
    assert "print(total)\n" in done.out
    assert "\n6\n" not in done.out
    assert "! nothing was executed: no wall holds\n" in done.err


def test_execution_can_be_switched_off(run: Cli, scripted_model: Path) -> None:
    done = run("run", "-m", scripted_model, "--exec", "off", "-", stdin="Add.\n")
    assert (done.code, done.err) == (0, "")
    assert "print(total)\n" in done.out
    assert "\n6\n" not in done.out


def test_flags_beat_the_spec_and_may_stand_before_the_command(run: Cli, scripted_model: Path) -> None:
    done = run(
        "-m", scripted_model, "--exec", "off", "run", "--json", "--seed", "9", "-", stdin="@set seed=8 max_new_tokens=1\nAdd.\n"
    )
    completed = next(event for event in map(json.loads, done.out.splitlines()) if event["event"] == "completed")
    assert (completed["seed"], completed["finish_reason"]) == (9, "length")


def test_a_spec_cannot_loosen_the_sandbox(run: Cli, scripted_model: Path) -> None:
    done = run("run", "-m", scripted_model, "-", stdin="@set timeout=600\nAdd.\n")
    assert done.code == 2
    assert one_line(done.err)
    assert "would loosen the sandbox" in done.err


def test_every_spec_is_read_before_one_is_played(run: Cli, scripted_model: Path, tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text("Add.\n")
    (tmp_path / "bad.txt").write_text("Add.\n@expcet total == 6\n")
    done = run("run", "-m", scripted_model, "good.txt", "bad.txt")
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("codegen-chat: bad.txt:2:1: unknown directive @expcet")
    assert one_line(done.err)


def test_no_spec_at_a_terminal_is_help_and_2(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stdin, "terminal", True)
    done = run("run")
    assert done.code == 2
    assert done.out.startswith("Usage: codegen-chat run")


def test_an_interrupt_saves_and_is_130(scripted_model: Path) -> None:
    started = process("run", "-m", scripted_model, "-", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert started.stdin
    assert started.stdout
    started.stdin.write(">>> kept = 1\n>>> print('working', flush=True)\n... import time; time.sleep(600)\n")
    started.stdin.close()
    for line in started.stdout:
        if line == "working\n":
            break
    started.send_signal(signal.SIGINT)
    assert started.wait(60) == 130
    assert started.stderr
    told = started.stderr.read()
    identity = re.search(r"! interrupted; `codegen-chat --resume (\w+)` goes on", told)
    assert identity, told
    started.stdout.close()
    started.stderr.close()
    (log,) = (Path(os.environ["HOME"]) / ".local/share/codegen-chat/sessions").glob("*.jsonl")
    assert log.stem == identity[1]
    assert '"kept = 1"' in log.read_text()


def test_nobody_is_asked_in_a_run(run: Cli, tmp_path: Path) -> None:
    spec = tmp_path / "a.txt"
    spec.write_text("One.\n")
    done = run("run", spec, "--exec", "ask")
    assert done.code == 2
    assert "give --exec auto or --exec off" in done.err


def test_first_lines_in_a_spec(run: Cli, scripted_model: Path, tmp_path: Path) -> None:
    spec = tmp_path / "a.txt"
    spec.write_text("A function.\n    >>? def one():\n@expect one() == 1\n")
    done = run("run", spec, "-m", scripted_model, "--json")
    assert done.code == 0, done.err
    step, *_ = [event for event in map(json.loads, done.out.splitlines()) if event["event"] == "step"]
    assert (step["text"], step["given"], step["code"]) == ("A function.", "def one():", None)


# ---------------------------------------------------------------- complete, exec, doctor


def test_complete(run: Cli, scripted_model: Path) -> None:
    assert run("complete", "-m", scripted_model, "def f():").out == "\n    return 1\n\n"
    assert run("complete", "-m", scripted_model, "-", "--stop", " 1", stdin="def f():").out == "\n    return\n"
    lines = run("complete", "-m", scripted_model, "def f():", "--json", "-n", "2").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["\n    return 1\n"] * 2
    assert json.loads(lines[0])["finish_reason"] == "eos"


def test_exec(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("import sys\nprint('out')\nprint('err', file=sys.stderr)\n6 * 7\n")
    done = run("exec", "a.py")
    assert (done.code, done.out, done.err) == (0, "out\n42\n", "err\n")
    told = json.loads(run("exec", "a.py", "--json").out)
    assert list(told) == ["status", "stdout", "stderr", "value", "error", "duration", "tier"]
    assert [told[key] for key in ("status", "stdout", "stderr", "value", "error")] == ["ok", "out\n", "err\n", "42", None]


def test_exec_fails_with_4(run: Cli) -> None:
    done = run("exec", "-", stdin="x = 1\nx.y\n")
    assert (done.code, done.out) == (4, "")
    assert done.err.endswith("AttributeError: 'int' object has no attribute 'y'\n")
    told = json.loads(run("exec", "-", "--json", stdin="x = 1\nx.y\n").out)
    assert (told["status"], told["error"]["type"], told["error"]["line"]) == ("error", "AttributeError", 2)


def test_exec_holds_a_timeout(run: Cli) -> None:
    done = run("exec", "-", "--timeout", "0.3", "--json", stdin="while True:\n    pass\n")
    assert (done.code, json.loads(done.out)["status"]) == (4, "timeout")
    told = run("exec", "-", "--timeout", "0.3", stdin="while True:\n    pass\n").err
    assert re.search(r"KeyboardInterrupt\ncodegen-chat: timeout after", told)


def test_exec_reads_a_file_as_python_does(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "old.py").write_bytes(b"# coding: latin-1\r\nprint('\xe4')\r\n")
    assert run("exec", "old.py").out == "ä\n"


def test_exec_without_a_sandbox_is_7(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise errors.SandboxUnavailable("no wall holds")

    monkeypatch.setattr("codegen_chat.sandbox.outer._walled", refuse)
    done = run("exec", "-", stdin="1")
    assert (done.code, done.out, done.err) == (7, "", "codegen-chat: nothing was executed: no wall holds\n")
    told = json.loads(run("exec", "-", "--json", stdin="1").out)
    assert list(told) == ["status", "stdout", "stderr", "value", "error", "duration", "tier"]
    assert (told["status"], told["tier"], told["error"]["message"]) == ("refused", None, "no wall holds")
    done = run("exec", "-", "--unsafe-exec", stdin="6 * 7")
    assert (done.code, done.out) == (0, "42\n")
    assert "UNSAFE" in done.err
    assert json.loads(run("exec", "-", "--json", "--unsafe-exec", stdin="1").out)["tier"] == "unsafe"


def test_only_the_command_line_can_ask_to_run_without_a_sandbox(
    run: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CODEGEN_CHAT_UNSAFE_EXEC", "1")
    assert run("exec", "-", stdin="1").code == 2
    monkeypatch.delenv("CODEGEN_CHAT_UNSAFE_EXEC")
    (tmp_path / "codegen-chat.toml").write_text("unsafe_exec = true\n")
    assert run("exec", "-", stdin="1").code == 2


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("print(1)", "ok"),
        ("1 / 0", "error"),
        ("while True: pass", "timeout"),
        ("x = bytearray(1 << 31)", "memory"),
        ("while True: print('x' * 9999)", "output"),
        ("import os\nos._exit(0)", "killed"),
    ],
)
def test_exec_says_how_it_ended(run: Cli, code: str, status: str) -> None:
    done = run("exec", "-", "--json", "--timeout", "3", "--memory", "64M", stdin=code)
    told = json.loads(done.out)
    assert (told["status"], done.code) == (status, 0 if status == "ok" else 4)
    assert (told["error"] or {"type": None})["type"] == {"ok": None, "error": "ZeroDivisionError"}.get(status, status)
    assert told["error"] is None or told["error"]["message"]


def test_exec_that_is_interrupted_says_so(tmp_path: Path) -> None:
    (tmp_path / "granted").mkdir()
    (tmp_path / "granted").chmod(0o777)
    code = f"open({str(tmp_path / 'granted' / 'started')!r}, 'w').close()\nwhile True: pass"
    flags = ("--json", "--allow-write", tmp_path / "granted")
    started = process("exec", "-", *flags, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert started.stdin is not None
    started.stdin.write(code)
    started.stdin.close()
    wait_for((tmp_path / "granted" / "started").exists)
    started.send_signal(signal.SIGINT)
    assert started.stdout is not None
    with started.stdout as out:
        assert json.loads(out.read())["status"] == "interrupted"
    assert started.wait(20) == 130


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_exec_copies_files_out(run: Cli, tmp_path: Path) -> None:
    code = "import os\nos.makedirs('d')\nopen('d/a.txt', 'w').write('x')\nos.symlink('/etc', 'link')\nopen('\\x1b', 'w').close()"
    done = run("exec", "-", "--files", tmp_path / "out", stdin=code)
    assert done.code == 0
    assert [str(path.relative_to(tmp_path / "out")) for path in sorted((tmp_path / "out").rglob("*"))] == ["d", "d/a.txt"]
    assert (tmp_path / "out" / "d" / "a.txt").read_text() == "x"
    assert "␛ was left out" in done.err
    assert run("exec", "-", "--files", tmp_path / "out", stdin="x = 1").code == 2


def test_granted_folders_are_shown_and_logged(
    run: Cli, tmp_path: Path, scripted_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.py").write_text("x = 42\n")
    done = run("run", "-m", scripted_model, "--allow-read", tmp_path / "data", "-", stdin=">>> import mine; mine.x\n")
    assert (done.code, "42" in done.out) == (0, True)
    assert f"reads {tmp_path / 'data'}" in done.err
    (log,) = (Path(os.environ["HOME"]) / ".local/share/codegen-chat/sessions").glob("*.jsonl")
    assert json.loads(log.read_text().splitlines()[0])["sandbox"]["read"] == [str(tmp_path / "data")]
    (tmp_path / "codegen-chat.toml").write_text(f"allow_read = ['{tmp_path}']\n")
    refused = run("exec", "-", stdin="1")
    assert (refused.code, "would loosen the sandbox; say --allow-read yourself" in refused.err) == (2, True)


def test_doctor(run: Cli, scripted_model: Path) -> None:
    done = run("doctor", "-m", scripted_model)
    assert done.code == 0
    for wanted in (
        r"^ok +codegen-chat \S+, python 3",
        r"^ok +it computes with (native|torch 2\.)",
        r"^ok +model scripted",
        r"^ok +sandbox, self-test: tier",
        r"^ok +sessions",
    ):
        assert re.search(wanted, done.out, re.MULTILINE), done.out


def test_doctor_names_the_draft_model(run: Cli, scripted_model: Path, scripted_draft: Path) -> None:
    done = run("doctor", "-m", scripted_model, "--draft", scripted_draft)
    assert (done.code, "; small drafts for it" in done.out) == (0, True)


@pytest.mark.parametrize("command", [["complete", "x"], ["run", "-"], ["doctor"], ["bench", "speed"]], ids=lambda each: each[0])
def test_a_draft_of_another_vocabulary_is_2(run: Cli, scripted_model: Path, command: list[str]) -> None:
    done = run(*command, "-m", scripted_model, "--draft", "nano", stdin="Add.\n")
    assert done.code == 2
    assert done.err == (
        "codegen-chat: nano cannot draft for scripted: their vocabularies differ. "
        "Give a smaller model of its family, or --draft off\n"
    )


def test_doctor_names_what_is_missing(run: Cli) -> None:
    done = run("doctor", "-m", "nobody/nothing")
    assert done.code == 3
    assert re.search(r"^NO +model: nobody/nothing is not on this machine", done.out, re.MULTILINE)


# ---------------------------------------------------------------- bad input: one line, the documented code


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "nowhere.txt"], 2, "nowhere.txt cannot be read: No such file"),
        (["run", "."], 2, "cannot be read: Is a directory"),
        (["run", "-", "--seeed", "1"], 2, "--seed"),
        (["run", "-", "--seed", "one"], 2, "--seed"),
        (["run", "-", "--seed", "-1"], 2, "seed is -1, wanted is a whole number"),
        (["run", "-", "--temperature", "-1"], 2, "temperature is -1"),
        (["run", "-", "--dtype", "int3"], 2, "dtype is 'int3', wanted is one of auto"),
        (["run", "-", "--memory", "lots"], 2, "memory is 'lots'"),
        (["run", "-", "--var", "novalue"], 2, "--var takes NAME=VALUE"),
        (["run", "-", "--replay", "never"], 2, "--replay is recorded or resample"),
        (["run", "a", "b", "-o", "c.py"], 2, "-o takes the program of one spec"),
        (["run", "-", "-m", "nobody/nothing"], 3, "nobody/nothing is not on this machine"),
        (["rnu"], 2, "rnu"),
        (["complete"], 2, "TEXT"),
        (["complete", "x", "-m", "nobody/nothing"], 3, "nobody/nothing"),
        (["exec", "nowhere.py"], 2, "nowhere.py cannot be read"),
        (["export", "nosuch"], 2, "no session starts with 'nosuch'"),
        (["sessions", "show", "nosuch"], 2, "no session starts with"),
        (["sessions", "rm", "nosuch"], 2, "no session starts with"),
        (["-c", "run", "-"], 2, "-c and --resume are for the prompt"),
        ([], 2, "the prompt needs a terminal"),
        (["train", "nowhere.toml", "-o", "there"], 2, "nowhere.toml"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input(run: Cli, arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments, stdin="Add.\n")
    assert (done.code, done.out) == (code, "")
    assert one_line(done.err), done.err
    assert said in done.err


def test_a_prompt_past_the_window_is_6(run: Cli, scripted_model: Path) -> None:
    assert run("complete", "-m", scripted_model, "x" * 600).code == 6
    done = run("run", "-m", scripted_model, "--no-save", "-", stdin="x" * 600 + "\n")
    assert done.code == 6
    assert one_line(done.err)


def test_text_that_is_not_utf8(run: Cli, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_bytes(b"x = '\xff'")
    done = run("exec", "bad.py")
    assert (done.code, done.err) == (2, "codegen-chat: bad.py is not UTF-8 text: byte 5 cannot be read\n")


def test_a_misspelt_setting(run: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "codegen-chat.toml").write_text("sede = 1\n")
    done = run("exec", "-", stdin="1")
    assert (done.code, done.err) == (2, "codegen-chat: codegen-chat.toml: there is no setting 'sede'; did you mean 'seed'?\n")
    (tmp_path / "codegen-chat.toml").unlink()
    monkeypatch.setenv("CODEGEN_CHAT_TEMP", "0.3")
    assert "did you mean 'temperature'?" in run("exec", "-", stdin="1").err


def test_a_sessions_folder_that_cannot_be_written(
    run: Cli, scripted_model: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_DATA_HOME", str(home / "file"))
    done = run("run", "-m", scripted_model, "-", stdin="Add.\n")
    assert (done.code, done.out) == (2, "")
    assert one_line(done.err)


def test_control_characters_in_a_name_do_not_reach_the_terminal(run: Cli) -> None:
    done = run("run", "\x1b]0;owned\x07")
    assert done.code == 2
    assert "\x1b" not in done.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    for arguments in (["--help"], ["exec", "-"]):
        reader, writer = os.pipe()
        os.close(reader)
        started = process(*arguments, stdin=subprocess.PIPE, stdout=writer, stderr=subprocess.PIPE)
        os.close(writer)
        _, told = started.communicate("print('x' * 100000)")
        assert (started.returncode, told) == (0, "")


def test_a_full_disk_is_one_line() -> None:
    with Path("/dev/full").open("w") as full:
        started = process("exec", "-", stdin=subprocess.PIPE, stdout=full, stderr=subprocess.PIPE)
        _, told = started.communicate("print('x' * 10)")
    assert started.returncode == 1
    assert one_line(told), told


def test_the_page_of_commands_is_up_to_date() -> None:
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, root / "docs/generate.py", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_exit_codes_of_the_help_are_those_of_the_errors(run: Cli) -> None:
    text = " ".join(run("--help").out.split())
    for error, words in [
        (errors.CodegenChatError, "internal"),
        (errors.UsageError, "usage"),
        (errors.ModelUnavailable, "no model"),
        (errors.ContextWindowExceeded, "the window is too small"),
        (errors.SandboxUnavailable, "no sandbox"),
    ]:
        assert f"{error.exit_code} {words}" in text


def test_the_sandbox_of_the_settings_is_off_on_demand() -> None:
    assert sandbox(Settings(exec="off")) == (None, "execution is off")


# ---------------------------------------------------------------- config, sessions


def test_config_says_where_each_setting_comes_from(run: Cli, home: Path, tmp_path: Path) -> None:
    (home / ".config/codegen-chat").mkdir(parents=True)
    (home / ".config/codegen-chat/config.toml").write_text("seed = 1\ntop_k = 1\nallow_read = ['/usr']\n")
    (tmp_path / "codegen-chat.toml").write_text("seed = 2\n")
    told = [json.loads(line) for line in run("--samples", "3", "config", "--json").out.splitlines()]
    came = {each["name"]: (each["value"], each["from"]) for each in told}
    user = str(home / ".config/codegen-chat/config.toml")
    assert came["seed"] == (2, "codegen-chat.toml")
    assert came["top_k"] == (1, user)
    assert came["allow_read"] == (["/usr"], user)
    assert came["samples"] == (3, "command line")
    assert came["temperature"] == (None, "default")
    assert run("config", "seed").out == "seed            2                         codegen-chat.toml\n"


def test_config_refuses_a_misspelt_name_with_the_nearest(run: Cli, tmp_path: Path) -> None:
    done = run("config", "temprature")
    assert (done.code, done.err) == (2, "codegen-chat: there is no setting 'temprature'; did you mean 'temperature'?\n")
    (tmp_path / "codegen-chat.toml").write_text("sede = 2\n")
    assert "codegen-chat.toml: there is no setting 'sede'; did you mean 'seed'?" in run("config").err


def test_sessions_are_checked_repaired_and_deleted_by_id(run: Cli, scripted_model: Path, home: Path) -> None:
    for _ in range(2):
        run("run", "-q", "-m", scripted_model, "-", stdin="Add.\n")
    folder = home / ".local/share/codegen-chat/sessions"
    newest, oldest = (json.loads(line)["id"] for line in run("sessions", "ls", "--json").out.splitlines())
    assert run("sessions", "fsck").code == 0
    path = folder / f"{oldest}.jsonl"
    path.write_bytes(path.read_bytes().replace(b"scripted", b"????????", 1))
    assert "(damaged: see `sessions fsck`)" in run("sessions", "ls").out
    checked = run("sessions", "fsck")
    assert checked.code == 2
    assert checked.out.splitlines() == [
        f"{oldest}: line 1 is damaged, and lost",
        f"{oldest}: the header is lost: made anew, without the model's name",
        "· 2 checked, 1 damaged: --repair mends what can be",
    ]
    assert run("sessions", "fsck", "2", "--repair").out.endswith(f"· {oldest} is whole: 1 turn\n· 1 checked, 0 damaged\n")
    assert run("sessions", "fsck").code == 0
    refused = run("sessions", "rm", "2")
    assert refused.code == (0 if oldest.startswith("2") else 2)
    assert run("sessions", "rm", newest).err == f"· deleted {newest}\n"
    assert not (folder / f"{newest}.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        (("a.py",), "a.py is no command: `codegen-chat exec` runs Python"),
        (("run", "a.py"), "a.py is Python, not words: `codegen-chat exec a.py` runs it"),
        (("session", "ls"), "No such command 'session'. Did you mean 'sessions'?"),
        (("watch", "a.py"), "there is no file a.py: make it"),
    ],
)
def test_what_a_new_person_tries_first(run: Cli, arguments: tuple[str, ...], advice: str) -> None:
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"codegen-chat: {advice}")
    assert one_line(done.err)


def test_a_group_without_a_command_is_its_help(run: Cli) -> None:
    done = run("sessions")
    assert (done.code, done.err) == (2, "")
    assert done.out.startswith("Usage: codegen-chat sessions")


def test_tab_completes_commands_settings_and_sessions(home: Path) -> None:
    from codegen_chat.session.history import History
    from codegen_chat.settings import sessions_folder
    from codegen_chat.turn import Turn

    with History.create(sessions_folder({"HOME": str(home)}), {}) as history:
        history.append(Turn("t", None, "", "x = 1"))
    tried = {"sess": "sessions", "sessions f": "fsck", "config tempe": "temperature", "sessions show ": history.id}
    tried |= {"-m na": "nano", "run -m n": "nano", "--dtype int8": "int8", "run --exec a": "auto ask"}
    for words, completed in tried.items():
        variables = {"_CODEGEN_CHAT_COMPLETE": "complete_bash", "COMP_WORDS": f"codegen-chat {words}"}
        variables["COMP_CWORD"] = str(len(words.split(" ")))
        done = process(env={**os.environ, **variables}, stdout=subprocess.PIPE)
        assert done.communicate(timeout=60)[0].split() == completed.split()


# ---------------------------------------------------------------- docs/events.md


def schema() -> dict[str, dict[str, str]]:
    """Read the fields of each kind, and their types, from docs/events.md."""
    page = Path(__file__).parents[1].joinpath("docs/events.md").read_text()
    sections = re.findall(r"^### ([\w ]+)\n(.*?)(?=^##|\Z)", page, re.MULTILINE | re.DOTALL)
    kinds = {name: dict(re.findall(r"^\| (\w+) \| ([\w ]+) \|", text, re.MULTILINE)) for name, text in sections}
    for fields in kinds.values():
        fields.pop("field", None)
    for name, of in (("completion", "completed"), ("execution", "executed")):
        kinds[name] = {field: kind for field, kind in kinds[of].items() if field != "candidate"}
    return kinds


JSON_TYPES = {"string": str, "integer": int, "number": int | float, "boolean": bool, "any": object, "null": type(None)}


def conforms(value: object, kind: str, kinds: dict[str, dict[str, str]]) -> bool:
    if " or " in kind:
        return any(conforms(value, part, kinds) for part in kind.split(" or "))
    if kind.startswith("list of "):
        return isinstance(value, list) and all(conforms(item, kind.removeprefix("list of "), kinds) for item in value)
    if kind in JSON_TYPES:
        return isinstance(value, JSON_TYPES[kind]) and (kind in {"boolean", "any"} or not isinstance(value, bool))
    fields = kinds[kind]
    return (
        isinstance(value, dict)
        and value.keys() == fields.keys()
        and all(conforms(value[name], of, kinds) for name, of in fields.items())
    )


def test_the_page_of_events_is_what_is_printed(run: Cli, scripted_model: Path, tmp_path: Path) -> None:
    from tests import scripted

    failing = scripted.write(tmp_path / "failing", ("total = nope\n",))
    commenting = scripted.write(tmp_path / "commenting", ("# nothing\n",))
    kinds = schema()
    seen = set()
    (tmp_path / "a.txt").write_text(SPEC.replace("== 6", "== 7") + ">>> 1 / 0\nNever.\n")
    (tmp_path / "long.txt").write_text(f'>>> x = "{"y" * 300}"\nAdd.\n')
    plays: list[tuple[str | Path, ...]] = [
        ("-m", scripted_model, "a.txt", "-n", "2"),
        ("-m", failing, "long.txt", "--max-new-tokens", "300"),
        ("-m", commenting, "--no-save", "-"),
    ]
    for arguments in plays:
        done = run("run", "--json", *arguments, stdin=">>> [1, (2,)]\nAdd.\n")
        assert done.out.isascii()
        for line in done.out.splitlines():
            event = json.loads(line)
            kind = event.pop("event")
            assert conforms(event, kind, kinds), (kind, event)
            seen.add(kind)
    objects = {"usage", "typed", "failure", "change", "completion", "execution"}
    assert seen == kinds.keys() - objects - {"exec", "sessions ls", "config"}
    others: list[tuple[str, tuple[str | Path, ...]]] = [
        ("completion", ("complete", "-m", scripted_model, "def f():", "--json")),
        ("exec", ("exec", "-", "--json")),
        ("sessions ls", ("sessions", "ls", "--json")),
        ("config", ("config", "--json")),
    ]
    for kind, arguments in others:
        lines = run(*arguments, stdin="1 / 0").out.splitlines()
        assert lines
        assert all(conforms(json.loads(line), kind, kinds) for line in lines), (kind, lines)
