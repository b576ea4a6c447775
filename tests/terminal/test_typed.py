"""The slash commands, typed at a real terminal."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.terminal.conftest import Open


def test_candidates_are_picked_with_their_state(terminal: Open) -> None:
    screen = terminal()
    screen.type("number\r")
    screen.until(r"^n is 0$")
    screen.type("/retry 3 t=0.8\r")
    shown = screen.until(r"^· kept candidate \d of 3, 3 of which ran.*; /pick K takes another$")
    assert re.search(r"^candidate 1: ok, \d+ ms.* candidate 2: ok", shown, re.MULTILINE)
    assert re.search(r"^n = 0 +n = 1$", shown, re.MULTILINE)
    screen.type("/pick 3\r")
    screen.until(r"^> /pick 3\nn = 2\nprint\('n is', n\)\nn is 2\n· ok, ")
    screen.type(">>> n * 21\r")
    screen.until(r"^= 42$")
    screen.type("/pick 9\r")
    screen.until(r"^! there is no candidate 9: the last turn has 1")


def test_an_edit_changes_what_follows(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> x = 2\r")
    screen.until(r"\+ x: ")
    screen.type(">>> print('ten times', x * 10)\r")
    screen.until(r"^ten times 20$")
    screen.type("/edit 1\r")
    screen.until(r"^> >>> x = 2$")
    screen.type("\x7f5\r")
    screen.until(r"^· \[2\] print\('ten times', x \* 10\): ten times 20 -> ten times 50$")
    screen.type("/branches\r")
    screen.until(r"^├─ \[1\] x = 2$\n│  \[2\] .*branch 1$\n^└─ \[1\] x = 5$\n^   \[2\] .*branch 2  <- you are here$")
    screen.type("/branches 1\r")
    screen.until(r"^· branch 1: 2 turns")
    screen.type(">>> print('x is', x)\r")
    screen.until(r"^x is 2$")
    screen.type("/edit 7\r")
    screen.until(r"^! there is no turn 7: /show lists 3$")


def test_edited_words_are_answered_anew_and_a_failed_turn_can_be_edited(terminal: Open) -> None:
    screen = terminal()
    screen.type("fail\r")
    screen.until(r"^· not kept; /retry answers again, /fix tells the model the error, /edit lets you change it$")
    screen.type("/edit\r")
    screen.until(r"^> fail\n  >>> before = 1\n  \.\.\. 1 / 0$")
    screen.type("\x7f2\r")
    screen.until(r"^= 0\.5\n· ok, .*\+ before: int 1")
    screen.type("/edit 1\r")
    screen.until(r"^> fail\n  >>> before = 1\n  \.\.\. 1 / 2$")
    screen.type("\x1b[A\x1b[A\x01hello \r")  # up to the words: others above the same code
    screen.until(r"^said = 'hello fail'$")


def test_fix_after_an_error(terminal: Open) -> None:
    screen = terminal()
    screen.type("/fix\r")
    screen.until(r"^! /fix mends a turn that failed, and the last one did not$")
    screen.type(">>> a = 1 / 0\r")
    screen.until(r"^  line 1: a = 1 / 0$")
    screen.type("/fix\r")
    screen.until(r"^· kept candidate 1 of 4, 4 of which ran")


def test_fork_hide_pin_show_probs_and_set(terminal: Open) -> None:
    screen = terminal()
    for words in ("one", "two"):
        screen.type(f"{words}\r")
        screen.until(rf"^{words}\n· ok")
    screen.type("/hide 1\r/pin 2\r/prompt\r")
    shown = screen.until(r"^ +2  pinned ")
    assert re.search(r"^ +1  hidden ", shown, re.MULTILINE)
    assert "# one\n" not in shown
    screen.type("/fork 1\r")
    screen.until(r"^· the next turn goes on from turn 1;")
    screen.type("/show\r")
    assert "[2]" not in screen.until(r"^\[1\] one\nsaid = 'one'\nprint\(said\)\none\n· ok")
    screen.type("/probs\r")
    screen.until(r"^least sure: ")
    screen.type("/set seed=seven\r")
    screen.until(r"^! /set: seed is 'seven', wanted is a whole number")
    screen.type("/set samples 2\r")
    screen.until(r"^samples +2$")
    screen.type("number\r")
    screen.until(r"^· kept candidate \d of 2")
    screen.type("/doctor\r")
    screen.until(r"^ok  all is well\nNO  but this$")
    screen.type("/help pin\r")
    screen.until(r"^/pin N: never let turn N fall out of the window")


def test_first_lines_and_a_mention(terminal: Open) -> None:
    screen = terminal()
    screen.paste("A number.\n>>? def number():")
    screen.type("\r")
    screen.until(r"^def number\(\):\n    return 1\n· stop.*\n· ok, .*\+ number: function number\(\)")
    screen.type(">>> nums = [3, 1]\r")
    screen.until(r"\+ nums: ")
    screen.type("What of @nums and @nobody?\r")
    screen.until(r"^· There is no variable nobody: @nobody stays as it is\.\nsaid = 'What of nums and @nobody\?'$")


def test_exec_ask_runs_edits_or_leaves(terminal: Open) -> None:
    screen = terminal("--set=exec=ask")
    screen.type("hello\r")
    screen.until(r"run it\? Enter or y runs, e edits, n leaves it:$")
    screen.type("n\r")
    screen.until(r"^· not run, not kept; .*/pick 1 runs it$")
    screen.type("/pick 1\r")
    screen.until(r"^hello\n· ok")
    screen.type("other\r")
    screen.until(r"run it\?.*:$")
    screen.type("e\r")
    screen.until(r"^\.\.\. said = 'other'\n  print\(said\)$")
    screen.type("; print('edited')\r")
    screen.until(r"^other\nedited\n· ok")
    screen.type("third\r")
    screen.until(r"run it\?.*:$")
    screen.type("\x03")
    screen.until(r"^· not run, not kept", times=2)


def test_tables_pictures_and_long_output(terminal: Open, home: Path) -> None:
    screen = terminal("--set=plots=blocks")
    screen.type(">>> [{'name': 'Tom', 'age': 30}, {'name': 'Eva', 'age': 5}]\r")
    screen.until(r"^name  age\n----  ---\nTom    30\nEva     5\n\(2 rows, 2 columns\)$")
    png = (
        "89504e470d0a1a0a0000000d4948445200000002000000020802000000fdd49a73000000164944415478da63fccfc0c0c0c0c4c0c0c0c0c000"
        "000d1d0103e2a3c4d20000000049454e44ae426082"
    )
    screen.type(f">>> _ = open('dot.png', 'wb').write(bytes.fromhex('{png}'))\r")
    shown = screen.until(r"^· dot\.png is kept as(.*\n)?.*dot\.png$|dot\.png is kept as")
    assert "▀▀▀" in shown or "· a picture: dot.png" in shown
    (kept,) = (home / "sessions").glob("*.files/*/dot.png")
    assert kept.read_bytes() == bytes.fromhex(png)
    screen.type("many\r")
    screen.until(r"^· 150 lines left out; /show 3 shows them$")
    screen.type("/show 3\r")
    assert "row 77\n" in screen.until(r"^\[3\] many\n(.*\n)*row 199\n· ok")


def test_attributes_files_and_settings_are_completed(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> my_text = open('my_notes.txt', 'w').name\r")
    screen.until(r"\+ my_text: ")
    screen.type(">>> my_text.startsw\t")
    screen.until(r"^> >>> my_text\.startswith$")
    screen.type("\x03>>> open('my_no\t")
    screen.until(r"^> >>> open\('my_notes\.txt")
    screen.type("\x03/set temp\t")
    screen.until(r"^> /set temperature=$")


def test_vi_keys(terminal: Open) -> None:
    screen = terminal("--set=keys=vi")
    screen.type(">>> 6 * 8\x1br7a\r")
    screen.until(r"^= 42$")


def test_a_half_typed_line_is_kept(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> a = 1\r")
    screen.until(r"\+ a: ")
    screen.type("half a thought\n and more")
    screen.until(r"^   and more$")
    screen.kill()
    screen = terminal("-c", prompt=r"^   and more$")
    assert re.search(r"^> half a thought\n   and more$", screen.text, re.MULTILINE)
    screen.type("\x03")
    screen.until(r"^>$")
    screen.type("\x04")
    screen.until(r"^left$")
    assert "half" not in terminal("-c").text


def test_a_half_typed_line_of_another_session_is_on_up(terminal: Open) -> None:
    screen = terminal()
    screen.type("half a thought")
    screen.until(r"^> half a thought$")
    screen.kill()
    screen = terminal()
    screen.type("\x1b[A")
    screen.until(r"^> half a thought$")


def test_two_on_one_session_are_refused(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> a = 1\r")
    screen.until(r"\+ a: ")
    other = terminal("-c", prompt="is in use by another codegen-chat: close it there, or start a new session")
    assert other.process.wait(60) != 0
    screen.type(">>> a + 41\r")
    screen.until(r"^= 42$")


def test_a_full_disk_is_announced_and_work_goes_on(terminal: Open, home: Path) -> None:
    screen = terminal("--disk=3500", columns=200)
    for number in range(6):
        screen.type(f">>> a{number} = {'x' * 300!r}; print('turn', {number})\r")
        screen.until(rf"^turn {number}$\n· ok")
    screen.until(r"cannot be written: File too large\s*: make room there; the session goes on in memory$")
    screen.type("/vars\r")
    screen.until(r"^a5 +str")
    (log,) = (home / "sessions").glob("*.jsonl")
    assert all(json.loads(line) for line in log.read_text().splitlines())
    screen.type("\x04")
    screen.until(r"^! the last turns are not saved: make room, /export FILE elsewhere, or /exit once more to lose them$")
    screen.type("\x04")
    screen.until(r"^left$")


def test_narrow_wide_and_foreign(terminal: Open) -> None:
    """Wide letters, letters from right to left, and Windows' line ends, in a window that changes its size."""
    screen = terminal(columns=60)
    screen.paste(">>> s = '漢字' * 40\r\n... t = 'שלום'\r\n... print(len(s), t)")
    screen.type("\r")
    screen.until(r"^80 שלום$\n· ok")
    screen.resize(100, 40)
    screen.type("/vars\r")
    screen.until(r"^t +str 'שלום'$")
    screen.type("漢字\r")
    screen.until(r"^漢 *字 *$\n· ok")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_other_encodings(terminal: Open, encoding: str) -> None:
    screen = terminal("--plain", environment={"PYTHONIOENCODING": f"{encoding}:backslashreplace", "TERM": "dumb"})
    screen.type(">>> print('caf\\u00e9 \\u6f22')\r")
    screen.until(r"\\u6f22$\n. ok, ")
    assert b"Traceback" not in screen.raw


def test_a_bell_when_long_work_is_done(terminal: Open) -> None:
    screen = terminal("--set=bell=0.01")
    screen.type(">>> import time; time.sleep(0.1); print('done')\r")
    screen.until(r"^done\n· ok(.*\n)+>$")
    assert b"\x07" in screen.raw
