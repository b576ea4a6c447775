"""What a conversation relies on: state that lasts and goes back, results that say what happened, limits that hold."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from codegen_chat.sandbox import limits, scratch
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Change, Execution, Limits, Output, Typed, last_execution
from tests.sandbox.host import below

_ids = itertools.count()


def new() -> str:
    return f"t{next(_ids)}"


def run(kernel: Kernel, code: str, parent: str | None = None, turn: str | None = None, timeout: float = 20.0) -> Execution:
    return last_execution(kernel.execute(code, parent=parent, turn=turn, timeout=timeout))


def ok(kernel: Kernel, code: str, parent: str | None = None, turn: str | None = None) -> Execution:
    execution = run(kernel, code, parent, turn)
    assert execution.status == "ok", execution
    return execution


def inside(pid: int) -> int:
    """Return the number that a process has in its own namespace."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("NSpid:")[2].split("\n")[0].split()[-1])


def state(kernel: Kernel, code: str, parent: str | None = None) -> str:
    """Run a turn that must succeed and return the name of its state."""
    turn = new()
    ok(kernel, code, parent, turn)
    return turn


# -- state


def test_names_last_from_turn_to_turn(kernel: Kernel) -> None:
    one = state(kernel, "a = [1, 2]\ndef total(): return sum(a) + later")
    two = state(kernel, "later = 10", one)
    assert ok(kernel, "total()", two).value == "13"
    assert kernel.names(two) == {"a": "list[2]", "total": "function total()", "later": "int 10"}
    assert kernel.names(None) == {}


def test_undo_is_another_parent(kernel: Kernel) -> None:
    one = state(
        kernel,
        "a = [1]\ng = (n * n for n in range(10))\nnext(g); next(g)\nimport random, numpy as np\nrandom.seed(5); np.random.seed(5)",
    )
    after = "a.append(2)\n(a, next(g), random.random(), float(np.random.rand()))"
    first, again = ok(kernel, after, one, new()), ok(kernel, after, one, new())
    assert first.value == again.value
    assert first.value is not None
    assert first.value.startswith("([1, 2], 4, ")
    two = state(kernel, after, one)
    assert ok(kernel, "(a, next(g))", two).value == "([1, 2], 9)"
    assert ok(kernel, "(a, next(g))", one).value == "([1], 4)"


def test_announced_turns_run_in_copies_that_are_there() -> None:
    with Kernel.start() as kernel:
        one = state(kernel, "a = [1]")
        kernel.expect(one, 4)
        kernel.expect("no such state", 4)
        started = kernel._sandbox._process.pid
        while len(there := below(started)) < 8:  # init, the empty state and its copy, this one and four; else the test never ends
            time.sleep(0.01)
        numbers = {inside(pid) for pid in there}
        ran = [ok(kernel, "a.append(2)\nimport os\n(a, os.getpid())", one, new()).value for _ in range(4)]
        assert set(ran) <= {f"([1, 2], {number})" for number in numbers}
        assert len(set(ran)) == 4


def test_a_copy_runs_no_hooks_of_forks(kernel: Kernel) -> None:
    hooks = "import os\nran = []\nos.register_at_fork(before=lambda: ran.append(1), after_in_child=lambda: ran.append(2))"
    one = state(kernel, hooks)
    assert [ok(kernel, "ran", one, new()).value for _ in range(3)] == ["[]"] * 3
    own = "import threading\nthreading.main_thread().native_id == threading.get_native_id() == os.getpid()"
    assert [ok(kernel, own, one, new()).value for _ in range(2)] == ["True"] * 2


def test_random_numbers_go_on_where_they_were(kernel: Kernel) -> None:
    whole = ok(kernel, "import random\nrandom.seed(1)\n[random.random(), random.random()]").typed_value
    one = state(kernel, "import random\nrandom.seed(1)\nx = random.random()")
    two = state(kernel, "y = random.random()", one)
    assert ok(kernel, "[x, y]", two).typed_value == whole


def test_a_failed_turn_leaves_no_trace_in_the_state_before(kernel: Kernel) -> None:
    one = state(kernel, "a = [1]")
    failed = run(kernel, "a.append(2)\nb = 1\n1 / 0", one, new())
    assert failed.status == "error"
    assert ok(kernel, "(a, 'b' in globals())", one).value == "([1], False)"


def test_a_check_is_thrown_away(kernel: Kernel) -> None:
    one = state(kernel, "a = [1]")
    assert ok(kernel, "a.append(2)\na == [1, 2]", one).typed_value == Typed("bool", True)
    assert ok(kernel, "a", one).value == "[1]"


def test_a_failed_turn_can_be_taken_as_a_state(kernel: Kernel) -> None:
    turn = new()
    assert run(kernel, "kept = 1\n1 / 0", None, turn).status == "error"
    assert ok(kernel, "kept", turn).value == "1"


def test_states_that_were_evicted_or_forgotten_are_rebuilt(kernel: Kernel) -> None:
    one = state(kernel, "a = [1]")
    two = state(kernel, "a.append(2)", one)
    for _ in range(limits.PARKED + 1):
        state(kernel, "x = 1")
    rebuilt = ok(kernel, "a", two)
    assert rebuilt.value == "[1, 2]"
    assert rebuilt.note == "state rebuilt by running 2 turns again"
    assert ok(kernel, "a", two).note == ""
    kernel.forget(two)
    assert ok(kernel, "a", two).note == "state rebuilt by running 1 turn again"


def test_code_that_is_not_deterministic_is_said_to_be_when_it_is_rebuilt(kernel: Kernel) -> None:
    one = state(kernel, "import os\nx = os.urandom(8)\nprint(x)")
    kernel.forget(one)
    assert "not deterministic" in ok(kernel, "x", one).note


def test_restore_runs_a_branch_again(kernel: Kernel) -> None:
    a, b, c = new(), new(), new()
    executions = kernel.restore([(a, "x = 1"), (b, "x += 1"), (c, "x")])
    assert [execution.status for execution in executions] == ["ok"] * 3
    assert executions[-1].value == "2"
    assert ok(kernel, "x", a).value == "1"


def test_an_unknown_parent_is_an_error_of_the_caller(kernel: Kernel) -> None:
    with pytest.raises(ValueError, match="no state 'nowhere'"):
        run(kernel, "1", "nowhere")
    assert ok(kernel, "1").value == "1"


def test_many_candidates_start_from_one_state(kernel: Kernel) -> None:
    one = state(kernel, "a = []")
    values = [ok(kernel, f"a.append({n})\na", one, new()).value for n in range(8)]
    assert values == [f"[{n}]" for n in range(8)]


def test_two_kernels_do_not_see_each_other(kernel: Kernel) -> None:
    turn = new()
    with Kernel.start() as other:
        ok(kernel, "open('mine', 'w').write('a')\nx = 'mine'", None, turn)
        ok(other, "x = 'other'", None, turn)
        assert ok(kernel, "x", turn).value == "'mine'"
        assert ok(other, "x", turn).value == "'other'"
        assert ok(other, "import os\nos.path.exists('mine')").value == "False"


def test_a_state_has_no_thread_timer_or_child_of_the_turn_before(kernel: Kernel) -> None:
    ticks = "def tick():\n  while True:\n    ticks.append(1)\n    time.sleep(0.001)\nthreading.Thread(target=tick, daemon=True).start()"
    one = state(kernel, f"import os, signal, threading, time\nticks = []\n{ticks}\nwhile not ticks: pass")
    assert ok(kernel, "n = len(ticks)\ntime.sleep(0.02)\nlen(ticks) - n, threading.active_count()", one).value == "(0, 1)"
    two = state(kernel, "import os, signal, time\nsignal.alarm(1)\nsignal.setitimer(signal.ITIMER_PROF, 0.01)")
    assert ok(kernel, "signal.alarm(0)", two).value == "0"
    three = state(kernel, "import os, time\nif os.fork() == 0:\n  time.sleep(60)")
    for again in (three, three):
        waited = run(kernel, "os.waitpid(-1, os.WNOHANG)", again)
        assert waited.failure is not None
        assert waited.failure.type == "ChildProcessError"


def test_a_turn_runs_from_a_state_as_often_as_from_a_copy_of_it(kernel: Kernel) -> None:
    one = state(kernel, "import random\nrandom.seed(5)\ng = iter(range(9))\nnext(g)")
    draws = [ok(kernel, "random.random(), next(g), x if 'x' in globals() else 0", one).value for _ in range(3)]
    two = new()
    draws.append(ok(kernel, "x = 1\nrandom.random(), next(g), 0", one, two).value)
    assert len(set(draws)) == 1
    assert ok(kernel, "random.random(), next(g), x", two).value != draws[0]
    assert ok(kernel, "random.random(), next(g), 0", one).value == draws[0]


# -- results


def test_a_last_expression_is_the_value_and_not_output(kernel: Kernel) -> None:
    execution = ok(kernel, "x = 2\nx * 21")
    assert (execution.value, execution.typed_value, execution.stdout) == ("42", Typed("int", 42), "")
    assert ok(kernel, "print('a')").value is None
    assert ok(kernel, "x = 1").value is None
    assert ok(kernel, "").value is None
    assert ok(kernel, "# nothing").value is None


@pytest.mark.parametrize("end", ["yield 5", "await x", "return 5"])
def test_what_is_no_program_does_not_begin_to_run(kernel: Kernel, end: str) -> None:
    execution = run(kernel, f"print('never')\n{end}")
    assert (execution.status, execution.stdout) == ("error", "")
    assert execution.failure is not None
    assert (execution.failure.type, execution.failure.line) == ("SyntaxError", 2)
    assert "<turn" not in execution.failure.message


def test_prints_are_kept_as_data(kernel: Kernel) -> None:
    code = "import numpy as np\nprint(1.5, 'x')\nprint(np.float64(2))\nprint(np.array([1, 2]))\nprint((1, 'a'), float('inf'))\nprint()\n"
    execution = ok(kernel, code + "import sys\nprint('e', file=sys.stderr)")
    assert execution.stdout == "1.5 x\n2.0\n[1 2]\n(1, 'a') inf\n\n"
    assert execution.stderr == "e\n"
    assert execution.prints == (
        Typed("float", 1.5),
        Typed("numpy.float64", 2.0),
        Typed("numpy.ndarray", [1, 2]),
        Typed("tuple", [1, "a"]),
        Typed("NoneType", None),
    )


def test_what_has_no_json_is_kept_as_it_is_printed(kernel: Kernel) -> None:
    code = "import datetime\nd = datetime.date(2024, 2, 29)\nprint(d)\nprint({'a': 1}.keys())\nprint(range(3))"
    assert ok(kernel, code).prints == (Typed("datetime.date", "2024-02-29"), Typed("dict_keys", ["a"]), Typed("range", [0, 1, 2]))


def test_a_print_before_a_failure_is_kept(kernel: Kernel) -> None:
    assert run(kernel, "print(7)\n1 / 0").prints == (Typed("int", 7),)
    running = kernel.execute("print(7)\nwhile True: pass", parent=None, turn=None)
    next(running)
    kernel.interrupt()
    assert last_execution(running).prints == (Typed("int", 7),)


def test_of_very_many_prints_the_last_are_kept(kernel: Kernel) -> None:
    prints = ok(kernel, "for n in range(1000): print(n)").prints
    assert prints[-1] == Typed("int", 999)
    assert len(prints) < 1000


def test_pandas_comes_out_as_data(kernel: Kernel) -> None:
    execution = ok(
        kernel, "import pandas as pd\ndf = pd.DataFrame({'a': [1, 2, 3], 'b': [4, 5, 6]})\nprint(df['a'])\ndf['b'].sum()"
    )
    assert execution.prints == (Typed("pandas.Series", [1, 2, 3]),)
    assert execution.typed_value == Typed("numpy.int64", 15)
    assert Change("+", "df", "DataFrame 3x2") in execution.changes


def test_changes_name_what_was_bound_changed_and_deleted(kernel: Kernel) -> None:
    one = state(kernel, "a = [1]\nb = 'abc'\nc = {}\nd = 5")
    execution = ok(kernel, "a.append(2)\ndel b\nc = c\nd = 5\ne = lambda x: x\nimport math", one)
    assert set(execution.changes) == {
        Change("~", "a", "list[2]"),
        Change("-", "b", ""),
        Change("+", "e", "function <lambda>(x)"),
        Change("+", "math", "module math"),
    }


def test_what_is_imported_before_is_no_name_of_the_persons(kernel: Kernel) -> None:
    one = new()
    execution = ok(kernel, "import sys\nx = 'numpy' in sys.modules", None, one)
    assert [change.summary for change in execution.changes if change.name == "x"] == ["bool True"]
    assert set(kernel.names(one)) == {"sys", "x"}


# -- files


def test_files_in_scratch_are_named(kernel: Kernel) -> None:
    one = new()
    code = "open('a.txt', 'w').write('x')\nimport os\nos.makedirs('d', exist_ok=True)\nopen('d/b.txt', 'w').close()"
    assert ok(kernel, code, None, one).files == ("a.txt", "d/b.txt")
    assert ok(kernel, "open('a.txt').read()", one).files == ()
    assert ok(kernel, "open('a.txt', 'a').write('y')", one).files == ("a.txt",)


def test_files_of_a_turn_that_is_not_kept_are_removed(kernel: Kernel) -> None:
    code = "import os\nos.makedirs('away/in', exist_ok=True)\nopen('away/in/f', 'w').close()\nos.symlink('/', 'away/link')"
    assert ok(kernel, code).files == ("away/in/f",)
    assert ok(kernel, "import os\nos.path.lexists('away')").value == "False"


TREE = """
import os, stat
def tree():
    found = {}
    for folder, folders, files in os.walk('.'):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            facts = os.lstat(path)
            kind = stat.S_IFMT(facts.st_mode)
            content = os.readlink(path) if os.path.islink(path) else open(path).read() if kind == stat.S_IFREG else ''
            found[path] = (facts.st_mode, content, facts.st_mtime if kind == stat.S_IFREG else 0)
    return sorted(found.items())
"""


def test_files_follow_undo_exactly(kernel: Kernel) -> None:
    begin = TREE + (
        "os.makedirs('d/e')\nfor name, text in (('changed', 'old'), ('removed', 'r'), ('replaced', 'f'), ('d/e/deep', 'x')):\n"
        "    open(name, 'w').write(text)\nos.chmod('changed', 0o640)\nos.utime('changed', (1, 2))\nos.symlink('changed', 'link')\n"
        "os.mkfifo('pipe')\nos.chmod('d', 0o750)\nopen('secret', 'w').write('s')\nos.chmod('secret', 0)\nos.chmod('secret', 0o400)"
    )
    one = state(kernel, begin)
    before = ok(kernel, "tree()", one).typed_value
    spoil = (
        "open('changed', 'r+').write('new')\nos.remove('removed')\nos.remove('replaced')\nos.mkdir('replaced')\n"
        "open('replaced/in', 'w').close()\nos.remove('link')\nos.symlink('/', 'link')\nos.remove('pipe')\nopen('pipe', 'w').close()\n"
        "os.chmod('d', 0o700)\nos.rename('d', 'moved')\nos.remove('secret')\nos.mkdir('dark')\nopen('dark/x', 'w').close()\nos.chmod('dark', 0)"
    )
    two = state(kernel, spoil, one)
    after = ok(kernel, "tree()", two).typed_value
    assert after != before
    assert ok(kernel, "tree()", one).typed_value == before
    assert ok(kernel, "tree()", two).typed_value == after
    assert run(kernel, spoil + "\n1 / 0", one, new()).status == "error"
    assert ok(kernel, "tree()", one).typed_value == before


def test_a_file_that_is_open_in_a_state_is_the_same_file_after_undo(kernel: Kernel) -> None:
    one = state(kernel, "f = open('log', 'a+')\nf.write('one,')\nf.flush()")
    state(kernel, "f.write('two,')\nf.flush()", one)
    assert (
        ok(kernel, "f.write('three')\nf.flush()\nf.seek(0)\nf.read(), open('log').read()", one).value
        == "('one,three', 'one,three')"
    )


def test_candidates_do_not_see_each_others_files(kernel: Kernel) -> None:
    one = state(kernel, "open('f', 'w').write('0')")
    code = "with open('f', 'a') as f: f.write('{n}')\nopen('f').read()"
    kept = [new() for _ in range(8)]
    values = [ok(kernel, code.format(n=n), one, turn).value for n, turn in enumerate(kept)]
    assert values == [f"'0{n}'" for n in range(8)]
    assert [ok(kernel, "open('f').read()", turn).value for turn in kept] == values


def test_linked_files_go_back_each_to_its_own_content(kernel: Kernel) -> None:
    one = state(kernel, "import os\nopen('a', 'w').write('a')\nopen('b', 'w').write('b')")
    state(kernel, "os.remove('b')\nos.link('a', 'b')\nopen('a', 'w').write('both')", one)
    assert ok(kernel, "open('a').read(), open('b').read()", one).value == "('a', 'b')"


def test_files_of_a_rebuilt_state_are_rebuilt(kernel: Kernel) -> None:
    one = state(kernel, "open('f', 'w').write('1')")
    two = state(kernel, "open('f', 'a').write('2')", one)
    kernel.forget(one)
    kernel.forget(two)
    assert ok(kernel, "open('f').read()", two).value == "'12'"
    assert ok(kernel, "open('f').read()", one).value == "'1'"


def test_more_files_than_are_kept_stay_and_it_is_said(kernel: Kernel) -> None:
    one = state(kernel, "x = 1")
    two = new()
    much = ok(kernel, f"for n in range({scratch.MOST_BYTES >> 20} + 1): open(f'f{{n}}', 'wb').write(bytes(1 << 20))", one, two)
    assert "undo will not take them back" in much.note
    assert ok(kernel, "import os\nlen(os.listdir())", two).note == ""
    assert ok(kernel, "import os\nlen(os.listdir())", one).value == "0"
    back = ok(kernel, "import os\nlen(os.listdir())", two)
    assert (back.value, back.note) == ("0", "files are not what they were in the state before: it had more than is kept")


def test_copies_of_states_that_are_gone_are_dropped(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "store").mkdir()
    files = scratch.Scratch([str(tmp_path / "work")], str(tmp_path / "store"), None)
    (tmp_path / "work" / "f").write_text("1")
    assert files.keep("one", files.look())
    (tmp_path / "work" / "f").write_text("2")
    assert files.keep("two", files.look())
    assert len(list((tmp_path / "store").iterdir())) == 2
    files.forget("one")
    assert [path.read_text() for path in (tmp_path / "store").iterdir()] == ["2"]
    assert files.return_to(None)
    files.forget("two")
    assert not list((tmp_path / "store").iterdir())


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "link", "folder/../../outside", "pipe", "folder", "linked/inside", ""]
)
def test_only_ordinary_files_below_the_folder_are_read(tmp_path: Path, name: str) -> None:
    work = tmp_path / "work"
    (work / "folder").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "inside").write_text("secret")
    (work / "link").symlink_to(tmp_path / "outside")
    (work / "linked").symlink_to(tmp_path / "out")
    os.mkfifo(work / "pipe")
    (work / "folder" / "f").write_text("mine")
    files = scratch.Scratch([str(work)], str(tmp_path / "store"), None)
    assert files.read(str(work), "folder/f", 100) == b"mine"
    assert files.read(str(work), "folder/f", 3) is None
    assert files.read(str(work), name, 100) is None


def test_a_folder_of_any_depth_and_mode_can_be_emptied(tmp_path: Path) -> None:
    here = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            Path("d").mkdir()
            os.chdir("d")
        Path("f").touch()
        Path().chmod(0)
    finally:
        os.chdir(here)
    (tmp_path / "outside").mkdir()
    (tmp_path / "d" / "link").symlink_to(tmp_path / "outside")
    scratch.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_output_is_streamed_while_the_code_runs(kernel: Kernel) -> None:
    running = kernel.execute("import time\nprint('early')\ntime.sleep(60)", parent=None, turn=None)
    assert next(running) == Output("stdout", "early\n")
    running.close()
    assert ok(kernel, "1").value == "1"


def test_output_is_clean_and_whole(kernel: Kernel) -> None:
    execution = ok(
        kernel, "import os\nos.write(1, 'é'.encode()[:1]); os.write(1, 'é'.encode()[1:])\nprint('\\x1b[31m', '\\r\\n\\u202e 数')"
    )
    assert execution.stdout == "é␛[31m \n\ufffd 数\n"


def test_long_output_is_cut_and_counted(kernel: Kernel) -> None:
    execution = ok(kernel, "print('é' * 100_000)")
    assert len(execution.stdout.encode()) <= 64 << 10
    assert len(execution.stdout) + execution.truncated == pytest.approx(100_001, abs=2)


def test_a_failure_has_the_line_of_the_turns_own_code(kernel: Kernel) -> None:
    one = state(kernel, "def f(x):\n    return 1 / x")
    failed = run(kernel, "y = 1\n\nf(0)", one, "t-failing")
    assert failed.failure is not None
    assert (failed.failure.type, failed.failure.message, failed.failure.line) == ("ZeroDivisionError", "division by zero", 3)
    assert failed.failure.traceback == (
        "Traceback (most recent call last):\n"
        '  File "<turn t-failing>", line 3, in <module>\n'
        "    f(0)\n"
        f'  File "<turn {one}>", line 2, in f\n'
        "    return 1 / x\n"
        "            ~~^~~\n"
        "ZeroDivisionError: division by zero\n"
    )


def test_a_traceback_leaves_out_our_frames_and_those_of_libraries(kernel: Kernel) -> None:
    failed = run(kernel, "import json\ntry:\n    json.loads('x')\nexcept ValueError as e:\n    raise KeyError('k') from e")
    assert failed.failure is not None
    assert failed.failure.line == 5
    assert "site-packages" not in failed.failure.traceback
    assert "worker.py" not in failed.failure.traceback
    assert "json/" not in failed.failure.traceback
    assert "JSONDecodeError" in failed.failure.traceback


def test_a_syntax_error_has_its_line(kernel: Kernel) -> None:
    failed = run(kernel, "x = 1\nfor:\n")
    assert failed.failure is not None
    assert (failed.status, failed.failure.type, failed.failure.line) == ("error", "SyntaxError", 2)
    assert "worker.py" not in failed.failure.traceback


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("import sys\nx = 1\nsys.exit()", "ok", None),
        ("import sys\nsys.exit(3)", "error", "SystemExit"),
        ("raise KeyboardInterrupt", "error", "KeyboardInterrupt"),
        ("raise MemoryError", "memory", "MemoryError"),
        ("input('name? ')", "error", "EOFError"),
        ("x = '\\0'", "ok", None),
        ("class E(Exception): pass\nraise E('\\x1b')", "error", "E"),
        ("(" * 500, "error", "SyntaxError"),
    ],
)
def test_statuses(kernel: Kernel, code: str, status: str, kind: str | None) -> None:
    execution = run(kernel, code)
    assert (execution.status, execution.failure.type if execution.failure else None) == (status, kind)
    assert not execution.failure or "\x1b" not in execution.failure.message + execution.failure.traceback


def test_a_null_byte_in_the_code_is_the_codes_error(kernel: Kernel) -> None:
    assert run(kernel, "x = \0").status == "error"  # a ValueError, and a SyntaxError from Python 3.11.4 on


def test_how_a_process_ended_is_told(kernel: Kernel) -> None:
    assert run(kernel, "import ctypes\nctypes.string_at(0)").note == "ended by SIGSEGV"
    assert run(kernel, "import os\nos._exit(7)").note == "left by itself with exit code 7"


def test_too_much_code_is_refused(kernel: Kernel) -> None:
    assert run(kernel, "x = 1\n" * 300_000).status == "error"
    assert ok(kernel, "1").value == "1"


# -- ordinary code


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("class A:\n    def __init__(self): self.x = 1\nimport pickle\npickle.loads(pickle.dumps(A())).x", "1"),
        ("import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\nP(1)", "P(x=1)"),
        ("import __main__\nx = 3\n__main__.x, __name__", "(3, '__main__')"),
        ("import inspect\ndef f():\n    return 1\ninspect.getsource(f)", "'def f():\\n    return 1\\n'"),
        ("import asyncio\nasync def f():\n    await asyncio.sleep(0)\n    return 3\nasyncio.run(f())", "3"),
        ("import threading\nx = []\nt = threading.Thread(target=x.append, args=(1,)); t.start()\nt.join()\nx", "[1]"),
        ("import os\npid = os.fork()\nif pid == 0:\n    x = 1\nelse:\n    os.waitpid(pid, 0)\n'done'", "'done'"),
        ("import tempfile\nwith tempfile.TemporaryFile('w+') as f:\n    f.write('x'); f.seek(0)\n    y = f.read()\ny", "'x'"),
        ("import sqlite3\nc = sqlite3.connect('db.sqlite')\nc.execute('create table if not exists t (x)')\nc.execute('select 1').fetchone()", "(1,)"),
        ("import csv, io\nlist(csv.reader(io.StringIO('a,b')))", "[['a', 'b']]"),
        ("from datetime import date\ndate(2024, 2, 29).isoformat()", "'2024-02-29'"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test(self): pass\nunittest.main(argv=['x'], exit=False, verbosity=0).result.wasSuccessful()", "True"),
        ("import signal, os\nx = []\nsignal.signal(signal.SIGUSR1, lambda *a: x.append(1))\nos.kill(os.getpid(), signal.SIGUSR1)\nx", "[1]"),
        ("import zoneinfo, time, locale, logging, subprocess, multiprocessing, concurrent.futures\n1", "1"),
        ("import shutil, pathlib\npathlib.Path('a').write_text('x')\nshutil.copy('a', 'b')\npathlib.Path('b').read_text()", "'x'"),
    ],
)  # fmt: skip
def test_ordinary_code_works(kernel: Kernel, code: str, value: str) -> None:
    assert ok(kernel, code).value == value


def test_a_plot_is_saved(kernel: Kernel) -> None:
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.savefig('plot.png')\nopen('plot.png', 'rb').read(4)"
    execution = run(kernel, code, timeout=60)
    assert execution.value == "b'\\x89PNG'", execution
    assert "plot.png" in execution.files


# -- limits and life


def test_a_timeout_holds_and_says_where(kernel: Kernel) -> None:
    one = state(kernel, "a = 1")
    begun = time.monotonic()
    execution = run(kernel, "a = 2\nwhile True: pass", one, new(), timeout=0.3)
    assert execution.status == "timeout"
    assert execution.duration >= 0.3
    assert time.monotonic() - begun < 15
    assert execution.failure is not None
    assert execution.failure.line == 2
    assert ok(kernel, "a", one).value == "1"


def test_memory_is_limited_and_told() -> None:
    with Kernel.start(Limits(memory=64 << 20)) as small:
        execution = run(small, "x = 1\ny = bytearray(1 << 28)")
        assert execution.status == "memory"
        assert execution.failure is not None
        assert execution.failure.line == 2
        assert ok(small, "len(bytearray(1 << 20))").value == "1048576"


def test_interrupt_from_another_thread_restores_the_state(kernel: Kernel) -> None:
    one = state(kernel, "a = [1]")
    turn = new()
    running = kernel.execute("a.append(2)\nprint('in')\nimport time\ntime.sleep(60)", parent=one, turn=turn)
    assert next(running) == Output("stdout", "in\n")
    threading.Thread(target=kernel.interrupt).start()
    execution = last_execution(running)
    assert (execution.status, execution.stdout) == ("interrupted", "in\n")
    assert ok(kernel, "a", one).value == "[1]"


def test_code_that_ignores_an_interrupt_is_killed(kernel: Kernel) -> None:
    running = kernel.execute(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nprint('in')\nwhile True: pass", parent=None, turn=None
    )
    next(running)
    kernel.interrupt()
    assert last_execution(running).status == "interrupted"


def test_ctrl_c_ends_the_turn_and_not_the_product(kernel: Kernel) -> None:
    running = kernel.execute("print('in')\nimport time\ntime.sleep(60)", parent=None, turn=None)
    next(running)
    signal.raise_signal(signal.SIGINT)
    assert last_execution(running).status == "interrupted"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_thrown_in_ends_the_turn(kernel: Kernel) -> None:
    running = kernel.execute("print('in')\nimport time\ntime.sleep(60)", parent=None, turn=None)
    next(running)
    thrown = running.throw(KeyboardInterrupt)
    assert isinstance(thrown, Execution)
    assert thrown.status == "interrupted"


def test_an_interrupt_that_comes_too_late_hits_nobody(kernel: Kernel) -> None:
    ok(kernel, "1")
    kernel.interrupt()
    kernel._sandbox.alarm(kernel._serial)  # as a signal handler does that lost the race
    assert ok(kernel, "import time\ntime.sleep(0.05)\n2").value == "2"


def test_a_second_turn_while_one_runs_is_an_error_of_the_caller(kernel: Kernel) -> None:
    running = kernel.execute("print('in')\nimport time\ntime.sleep(60)", parent=None, turn=None)
    next(running)
    with pytest.raises(RuntimeError, match="running"):
        run(kernel, "1")
    running.close()


def test_a_turn_that_runs_again_and_fails_leaves_nothing_of_its_first_run(kernel: Kernel) -> None:
    turn = new()
    ok(kernel, "x = 1", None, turn)
    assert kernel.names(turn) == {"x": "int 1"}
    assert run(kernel, "while True: pass", None, turn, timeout=0.3).status == "timeout"
    assert kernel.names(turn) == {}
    assert run(kernel, "x", turn).status == "error"
