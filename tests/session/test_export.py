from __future__ import annotations

import ast
import contextlib
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from codegen_chat.session.export import mismatch, render_py
from codegen_chat.session.history import History
from codegen_chat.turn import Completion, Execution, Failure, Turn, Typed

FACTS = ("codegen-chat session 7f3a", "nano@abc", "seed 7")


def session(*turns: tuple[str, str]) -> list[Turn]:
    """Run code turn after turn as a session does, and record what it printed, showed or failed with."""
    names: dict[str, Any] = {"__name__": "__main__"}
    exec("import numpy as np", names)
    history = History.memory()
    for number, (text, code) in enumerate(turns):
        tree = ast.parse(code)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        value, failure, out = None, None, io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(tree, "turn", "exec", dont_inherit=True), names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), "turn", "eval"), names)
        except Exception as error:  # noqa: BLE001 - whatever the code raises
            failure = Failure(type(error).__name__, str(error), 1, "")
        execution = Execution(
            "error" if failure else "ok",
            out.getvalue(),
            value=None if value is None else repr(value),
            typed_value=None if value is None else Typed(type(value).__name__, None),
            failure=failure,
        )
        completion = Completion(code, "stop") if text else None
        history.append(Turn(str(number), history.head, text, code, completion, execution, accepted=failure is None))
    return list(history.transcript)


def run(program: str, folder: Path) -> Execution:
    path = folder / "out.py"
    path.write_text(program, encoding="utf-8")
    done = subprocess.run([sys.executable, "-I", str(path)], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == "", program
    return Execution("ok", done.stdout)


def test_the_shape_of_the_file() -> None:
    turns = session(
        ("Make a list.", "nums = [3, 1, 2]"), ("Divide by zero.", "1 / 0  # oh"), ("Sort it\nand show it.", "sorted(nums)")
    )
    assert render_py(turns, FACTS, verified=True) == (
        '"""codegen-chat session 7f3a · nano@abc · seed 7 · verified"""\n'
        "\n"
        "# %% Setup\n"
        "# No turn uses numpy: nothing to import.\n"
        "\n"
        "# %% [1] Make a list.\n"
        "nums = [3, 1, 2]\n"
        "\n"
        "# %% [2] Divide by zero.\n"
        "# (failed: ZeroDivisionError: division by zero)\n"
        "# 1 / 0  # oh\n"
        "\n"
        "# %% [3] Sort it\n"
        "# and show it.\n"
        "print(sorted(nums))\n"
    )
    assert "verified" not in render_py(turns, FACTS, verified=False)


def test_numpy_is_imported_where_it_is_used() -> None:
    assert "# %% Setup\nimport numpy as np\n" in render_py(session(("a", "np.arange(3)")), FACTS, verified=False)


RUNS: list[Sequence[tuple[str, str]]] = [
    [("one", "x = 1\nprint(x)\nx + 1")],
    [("a string is shown with its quotes", "'a\\n\\'b\\''")],
    [("numpy", "a = np.arange(6).reshape(2, 3)"), ("value", "a"), ("scalar", "a.mean()"), ("", "a.tolist()")],
    [("tuples", "1, 2"), ("in brackets", "(1, 2)"), ("spread", "*[1], 2"), ("one", "1,")],
    [
        ("over lines", "(1 +\n 2)"),
        ("", "[\n  1,  # one\n  2,\n]"),
        ("", "{'a': 1,\n 'b': 2}['b']"),
        ("", "x = 1 ; x ; x + \\\n 2 # sum"),
    ],
    [("unicode before the end", "é = 'ü😀'; é  # ß"), ("", "'''größer\n  than'''"), ("", "len('数'); '数' * 2")],
    [("a call that gives nothing", "xs = [2, 1]\nxs.sort()"), ("", "print('once')"), ("", "xs")],
    [
        ("forms", "lambda: 1"),
        ("", "(y := 5)"),
        ("", "(i for i in 'ab')"),
        ("", "[i for i in 'ab']"),
        ("", "not y"),
        ("", "y if y else 0"),
    ],
    [("half a line", "print('no newline', end='')\n7"), ("and on", "print('next')")],
    [("dates", "import datetime\nd = datetime.date(2024, 2, 29)"), ("", "d"), ("", "str(d)"), ("", "d == d")],
    [
        ("types of one's own", "class P:\n    def __str__(self): return 'str'\n    def __repr__(self): return 'repr'\n"),
        ("", "P()"),
        ("", "P"),
    ],
    [("a function", "def f(n):\n    return n * 2\n\nf"), ("called", "f(21)")],
    [("crlf", "x = '''a\r\nb'''\r\nx"), ("", "\n\nx.upper()\n\n")],
    [("future", "from __future__ import annotations\nx: Undefined = 1; x"), ("", "from __future__ import division; 1 / 2")],
    [("fails", "x = 1\nraise ValueError('a\\nb')"), ("", "print('still here')"), ("fails too", "undefined")],
    [("a string with a cell in it", "s = '''\n# %% [9] no cell\n'''\nprint(s)"), ("only words", "# nothing to do"), ("", "...")],
    [
        ('"""', "1"),
        ("a\\", "2"),
        ("# %% [7] x\n%% y\n  %% z\nIn[3]", "3"),
        ("a\rb\x0cc\u2028d\x00e\u202e\ud800\x1b[2J", "4"),
        ("\n\nlast\n", "5"),
    ],
]


@pytest.mark.parametrize("turns", RUNS, ids=[turns[0][0][:20].strip('"') or "odd" for turns in RUNS])
def test_the_file_prints_what_the_session_printed_and_showed(turns: Sequence[tuple[str, str]], tmp_path: Path) -> None:
    recorded = session(*turns)
    program = render_py(recorded, FACTS, verified=False)
    rerun = run(program, tmp_path)
    assert mismatch(recorded, rerun) is None, program
    assert program.count("\n# %% ") == program.count("no cell") + len(turns) + 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(["a\u2028#%% b", "a\n%% b\n #%% c"])
@given(
    st.lists(st.text() | st.text(st.sampled_from("#% \n\r\t\x0b\x0c\x1c\x85\u2028\ud800\u202e\"'\\[]In<codel>\x00")), max_size=3)
)
def test_no_words_get_out_of_their_comment(texts: list[str]) -> None:
    for accepted in (True, False):
        turns = [Turn(str(n), None, text, "x = 1", None, Execution("ok"), accepted) for n, text in enumerate(texts)]
        program = render_py(turns, texts, verified=True)
        program.encode()
        tree = ast.parse(program)
        assert isinstance(tree.body[0], ast.Expr)
        assert [ast.unparse(node) for node in tree.body[1:]] == ["x = 1"] * len(texts) * accepted
        assert program.count("# %%") + program.count("#%%") >= len(texts) + 1
        heads = [line for line in program.splitlines() if line.removeprefix("#").lstrip().startswith("%%") and line[0] == "#"]
        assert len(heads) == len(texts) + 1


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text() | st.text(st.sampled_from("#% \n\r\x0c\x00\ud800\"'\\:(")))
def test_no_code_gets_out_of_its_comment(code: str) -> None:
    turn = Turn("t", None, "words", code, None, Execution("error", failure=Failure("E", code, 1, "")), accepted=False)
    program = render_py([turn], FACTS, verified=False)
    program.encode()
    assert len(ast.parse(program).body) == 1


def test_what_never_ran_is_kept_if_it_is_python() -> None:
    turns = [Turn(str(n), None, "", code) for n, code in enumerate(["x = [2, 1]", "x.sort()", "x", "x ="])]
    program = render_py(turns, FACTS, verified=False)
    assert program.endswith("\nx = [2, 1]\n\n# %% [2]\nx.sort()\n\n# %% [3]\nprint(repr(x))\n\n# %% [4]\n# (no Python)\n# x =\n")
    assert mismatch(turns, Execution("ok", "[1, 2]\n")) == "turn 1 was never executed: there is nothing to compare with"


@pytest.mark.parametrize(
    ("rerun", "message"),
    [
        (Execution("ok", "1\n2\n"), None),
        (Execution("ok", "1\n3\n"), "turn 3 gave '2\\n', the re-run '3\\n'"),
        (Execution("ok", "1\n"), "turn 3 gave '2\\n', the re-run ''"),
        (Execution("ok", "1\n2\nmore"), "the re-run printed 'more' beyond what was recorded"),
        (Execution("ok", "1\n2\n", truncated=5), "turn 1 printed more than was kept: it cannot be compared"),
        (Execution("timeout", "1\n2\n"), "the re-run ended with timeout"),
        (
            Execution("error", "1\n2\n", failure=Failure("NameError", "name 'x' is not defined", 1, "")),
            "the re-run ended with error: NameError: name 'x' is not defined",
        ),
    ],
)
def test_verified_means_the_recorded_results(rerun: Execution, message: str | None) -> None:
    turns = session(("one", "print(1)"), ("fail", "1 / 0"), ("two", "1 + 1"))
    assert mismatch(turns, rerun) == message


def test_output_that_was_not_kept_cannot_be_verified() -> None:
    turns = [Turn("t", None, "", "print(1)", None, Execution("ok", "1\n", truncated=3))]
    assert mismatch(turns, Execution("ok", "1\n")) == "turn 1 printed more than was kept: it cannot be compared"


def test_addresses_do_not_count() -> None:
    turns = [Turn("t", None, "", "f", None, Execution("ok", value="<function f at 0x7f00aa>"))]
    assert mismatch(turns, Execution("ok", "<function f at 0x7f11bb>\n")) is None
    assert mismatch(turns, Execution("ok", "<function g at 0x7f11bb>\n")) is not None
