from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.terminal.conftest import Open, Terminal


def test_words_become_code_that_runs(terminal: Open) -> None:
    screen = terminal()
    screen.type("hello\r")
    shown = screen.until(r"^· ok, ")
    assert re.search(
        r"^> hello\nsaid = 'hello'\nprint\(said\)\n· stop, 5 tokens, 50 tokens/s\nhello\n· ok, \S+ m?s, \+ said: str",
        shown,
        re.MULTILINE,
    )
    screen.until(r"scripted fp32 cpu \| \d+/2048 tokens, 50/s \| session \w{6} \| 1 turn$")


def test_own_code_and_vars(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> nums = [1, 2, 3]\r")
    screen.until(r"\+ nums: list\[3\]")
    screen.type("/vars\r")
    screen.until(r"^nums +list\[3\]")
    screen.type("nums\rnp.sum(nums)\r")  # who forgets the sign means no words
    screen.until(r"^> nums\n· that is Python: it runs as it is\n= \[1, 2, 3\]$")
    screen.until(r"^> np.sum\(nums\)\n· that is Python: it runs as it is\n= .*6")
    screen.type("undo\r")
    screen.until(r"^! `undo` alone is not sent: did you mean /undo\?$")
    screen.type("Sum nums\r")
    screen.until(r"^said = 'Sum nums'$")


def test_an_error_shows_its_line_and_what_to_do(terminal: Open) -> None:
    screen = terminal()
    screen.paste(">>> a = 1\n... print(b)")
    screen.type("\r")
    screen.until(r"^· error, .*: NameError: name 'b' is not defined.*\n  line 2: print\(b\)\n· not kept")


@pytest.mark.parametrize("newline", ["\n", "\x1b\r"], ids=["ctrl-j", "alt-enter"])
def test_new_line_keys(terminal: Open, newline: str) -> None:
    screen = terminal()
    screen.type(f">>> if True:{newline}    z = 12{newline}    print(z * 2)")
    assert "· ok" not in screen.until(r"^      print\(z \* 2\)")
    screen.type("\r")
    screen.until(r"^24\n· ok")


def test_undo_and_redo_take_the_variables_along(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> a = 1\r")
    screen.until(r"\+ a: ")
    screen.type(">>> a = 2\r")
    screen.until(r"~ a: ")
    screen.type("/undo\r")
    screen.until(r"^· undone: a = 2$")
    screen.type(">>> print('a is', a)\r")
    screen.until(r"^a is 1$")
    screen.type("/undo\r/undo\r/undo\r")
    screen.until(r"^· there is nothing to undo$")
    screen.type("/redo\r")
    screen.until(r"^· done again: a = 1$")
    screen.type(">>> print('now', a)\r")
    screen.until(r"^now 1$")


def test_an_unknown_command_is_an_error_and_no_turn(terminal: Open) -> None:
    screen = terminal()
    screen.type("/und\r")
    shown = screen.until(r"^! there is no command /und; did you mean /undo\?$")
    assert "said" not in shown
    screen.type("//und\r")
    screen.until(r"^said = '/und'$")


def test_what_is_typed_ahead_waits_for_the_next_prompt(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> import time; print('busy', flush=True); time.sleep(2)\r")
    screen.until(r"^busy$")
    screen.type("/vars\r")
    screen.until(r"^busy\n· ok, .*\n> /vars\ntime +module")


def test_ctrl_c_while_typing_clears_the_line(terminal: Open) -> None:
    screen = terminal()
    screen.type("half a thou")
    screen.until(r"^> half a thou$")
    screen.type("\x03")
    screen.until(r"^>$")
    screen.type("whole\r")
    assert "said = 'whole'" in screen.until(r"^said = .*\n[^>]*^>$")


def test_ctrl_c_while_loading_goes_back_to_the_prompt(terminal: Open) -> None:
    screen = terminal()
    screen.type("loading\r")
    screen.until(r"^> loading\n$")
    screen.type("\x03")
    screen.until(r"^> loading\n>$")
    screen.type(">>> 6 * 7\r")
    screen.until(r"^= 42$")


def test_ctrl_c_while_generating_keeps_the_partial_unrun(terminal: Open, home: Path) -> None:
    screen = terminal()
    screen.type("slowly\r")
    screen.until(r"^x3 = 3$")
    screen.type("\x03")
    screen.until(r"^· not run, not kept; /retry .*\n>$")
    screen.type("/show all\r/vars\r")
    screen.until(r"^· no variables yet$")
    (log,) = (home / "sessions").glob("*.jsonl")
    (turn,) = [event["turn"] for event in map(json.loads, log.read_text().splitlines()) if event.get("type") == "turn"]
    assert turn["code"].startswith("x0 = 0\nx1 = 1\n")
    assert f"> slowly\n{turn['code']}\n· interrupted" in screen.text  # what is kept is what was shown
    assert turn["accepted"] is False
    assert turn["execution"] is None


def test_ctrl_c_while_executing_restores_the_state_before(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> a = 1\r")
    screen.until(r"\+ a: ")
    screen.paste(">>> import time\n... a = 2\n... print('working', flush=True)\n... time.sleep(600)")
    screen.type("\r")
    screen.until(r"^working$")
    screen.type("\x03")
    screen.until(r"^· interrupted, (.*\n)*· not kept\n>$")
    screen.type(">>> print('a is', a)\r")
    screen.until(r"^a is 1$")


def test_ctrl_c_kills_code_that_ignores_it(terminal: Open) -> None:
    screen = terminal()
    screen.paste(
        ">>> import time\n... print('stubborn', flush=True)\n... while True:\n"
        "...     try:\n...         time.sleep(600)\n...     except BaseException:\n...         pass"
    )
    screen.type("\r")
    screen.until(r"^stubborn$")
    screen.type("\x03")
    screen.until(r"^· interrupted, (.*\n)*· not kept\n>$")


def test_ctrl_d_leaves_on_an_empty_line_only(terminal: Open) -> None:
    screen = terminal()
    screen.type("word\x01\x04")  # Home, Ctrl-D: deletes a letter
    screen.until(r"^> ord$")
    screen.type("\x03\x04")
    screen.until(r"^left$")
    assert screen.process.wait(60) == 0


def test_exit_leaves(terminal: Open) -> None:
    screen = terminal()
    screen.type("/exit\r")
    screen.until(r"^left$")


def test_prompt_shows_the_exact_text(terminal: Open) -> None:
    screen = terminal()
    screen.type("hello\r")
    screen.until(r"^· ok")
    screen.type("/prompt\r")
    screen.until(
        r"^# Import libraries\.\n\nimport numpy as np\n\n# hello\nsaid = 'hello'\nprint\(said\)\n\[[hx]\.+a+\]\n\d+ of 2048"
    )


def test_tab_completes_commands_and_names(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> my_long_name = 5\r")
    screen.until(r"\+ my_long_name")
    screen.type(">>> my_l\t")
    screen.until(r"^> >>> my_long_name = 5$")  # completed, and what was typed before suggested behind it
    screen.type(" + 1\r")
    screen.until(r"^= 6$")
    screen.type("/va\t")
    screen.until(r"^> /vars$")
    screen.type("\r")
    screen.until(r"^> /vars *\nmy_long_name ")


def test_ctrl_r_finds_what_was_typed(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> 'need' + 'le'\r")
    screen.until(r"^= 'needle'$")
    screen.type("/vars\r")
    screen.until(r"^· no variables yet$")
    screen.type("\x12need")
    screen.until(r"I-search backward")
    screen.type("\r")
    screen.until(r"^> >>> 'need'", times=2)
    screen.type("\r")
    screen.until(r"^= 'needle'$", times=2)


def test_the_editor_sends_what_was_written(terminal: Open, home: Path) -> None:
    editor = home / "editor"
    editor.write_text("#!/bin/sh\nprintf '>>> 20 + 22\\n' > \"$1\"\n")
    editor.chmod(editor.stat().st_mode | stat.S_IXUSR)
    screen = terminal(environment={"EDITOR": str(editor)})
    screen.type("\x18\x05")
    screen.until(r"^= 42$")


def test_export_and_retry(terminal: Open, home: Path) -> None:
    screen = terminal()
    screen.type("/retry\r")
    screen.until(r"^! there is no turn to retry yet$")
    screen.type("hello\r")
    screen.until(r"^· ok")
    screen.type("/retry 2\r")
    screen.until(r"^· kept candidate 1 of 2")
    screen.type("/retry none\r")
    screen.until(r"^! /retry takes how many answers")
    screen.type("/export\r")
    screen.until(r"^! /export needs FILE after it")
    screen.type("/export program.py\r")
    screen.until(r"^· wrote program\.py, verified")
    assert (home / "program.py").read_text().strip() == "said = 'hello'\nprint(said)"


def test_sixty_columns(terminal: Open) -> None:
    screen = terminal(columns=60)
    screen.type(f">>> print({'x' * 100!r})\r")
    shown = screen.until(r"^· ok")
    assert re.search(r"^x{60}\nx{40}\n· ok", shown, re.MULTILINE)
    screen.until(r"^ scripted fp32 cpu \| \d+/2048 tokens \| session \w{6}$")


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {}], ids=["NO_COLOR", "plain"])
def test_no_colour_where_none_is_wanted(terminal: Open, environment: dict[str, str]) -> None:
    screen = terminal(*([] if environment else ["--plain"]), environment=environment)
    before = len(screen.raw)
    screen.type("hello\r")
    screen.until(r"^· ok(.*\n)+>$")
    if environment:
        screen.until(r"^ scripted fp32 cpu")
    assert not re.search(rb"\x1b\[[\d;]*3[1-7]m|\x1b\[[\d;]*9[1-7]m", screen.raw[before:])
    assert environment or "scripted fp32 cpu" not in screen.text


def test_a_dumb_terminal(terminal: Open) -> None:
    screen = terminal("--plain", environment={"TERM": "dumb"})
    screen.type(">>> 6 * 7\r")
    screen.until(r"^= 42$")
    assert b"\x1b" not in screen.raw


def test_the_model_cannot_reach_the_terminal(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> print('\\x1b]0;owned\\x07 \\x1b[2J \\u202e after')\r")
    screen.until(r"^· ok")
    assert b"\x1b]0;owned" not in screen.raw
    assert "\u202e" not in screen.raw.decode()


def test_the_command_line_needs_a_terminal(scripted_model: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "codegen_chat.cli", "-m", str(scripted_model)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("codegen-chat: the prompt needs a terminal")
    assert done.stderr.count("\n") == 1


def test_the_command_line_at_a_terminal(home: Path, scripted_model: Path) -> None:
    """The whole product: prompt at once, model behind it, session kept and gone on with."""
    command = [sys.executable, "-m", "codegen_chat.cli", "-m", str(scripted_model)]
    screen = Terminal(command)
    try:
        screen.until(r"^>$")
        screen.type("Add them.\r")
        screen.until(r"^total = sum\(\[1, 2, 3\]\)\nprint\(total\)\n· .*\n6\n· ok, ")
        screen.type("\x04")
        assert screen.process.wait(60) == 0
    finally:
        screen.close()
    screen = Terminal([*command, "-c"])
    try:
        screen.until(r"^· Session \w+ goes on: 1 turn, variables rebuilt")
        screen.type(">>> total * 7\r")
        screen.until(r"^= 42$")
    finally:
        screen.close()
    assert (home / ".local" / "share" / "codegen-chat" / "sessions").is_dir()


def test_leaving_while_the_model_loads(scripted_model: Path) -> None:
    screen = Terminal([sys.executable, "-m", "codegen_chat.cli", "-m", str(scripted_model), "--exec", "off", "--no-save"])
    try:
        screen.until(r"^>$")
        screen.type("\x04")
        assert screen.process.wait(60) == 0
        assert "Traceback" not in screen.text
    finally:
        screen.close()
