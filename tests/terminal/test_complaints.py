"""What users of other tools complain of (the last table of surface.md), each shown not to happen here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from codegen_chat.api import Session
from codegen_chat.models import load
from codegen_chat.settings import Settings
from tests.terminal.conftest import Open


def test_results_lost_on_a_crash(terminal: Open, home: Path) -> None:
    screen = terminal()
    screen.type(">>> kept = 1\r")
    screen.until(r"\+ kept: ")
    screen.type("slowly\r")
    screen.until(r"^x3 = 3$")
    screen.kill()
    (log,) = (home / "sessions").glob("*.jsonl")
    assert "x2 = 2" in log.read_text()  # what the model was writing is there too
    screen = terminal("-c")
    screen.type(">>> kept + 41\r")
    screen.until(r"^= 42$")


def test_chat_rewound_code_and_variables_not(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> a = [1]\r")
    screen.until(r"\+ a: ")
    screen.type(">>> a.append(2); print('appended')\r")
    screen.until(r"^· ok.*~ a: list\[2\]")
    screen.type("/undo\r")
    screen.until(r"^· undone: a\.append")
    screen.type(">>> print('a is', a)\r")
    screen.until(r"^a is \[1\]$")
    screen.type("/prompt\r")
    assert "appended" not in screen.until(r"^> /prompt\n(.*\n)+\d+ of 2048").rpartition("> /prompt")[2]


def test_ctrl_c_kills_or_desyncs(terminal: Open) -> None:
    screen = terminal()
    screen.type("slowly\r")
    screen.until(r"^x3 = 3$")
    screen.type("\x03")
    screen.until(r"^· not run, not kept.*\n>$")
    screen.type(">>> import time; print('busy', flush=True); time.sleep(600)\r")
    screen.until(r"^busy$")
    screen.type("\x03")
    screen.until(r"^· interrupted, (.*\n)*· not kept\n>$")
    for number in (1, 2, 3):  # each answer belongs to its own question
        screen.type(f">>> print('number', {number})\r")
        screen.until(rf"^number {number}\n· ok")
    screen.type("after\r")
    screen.until(r"^said = 'after'\nprint\(said\)\n· .*\nafter\n")


def test_unlimited_output(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> for i in range(10**8): print('flood', i)\r")
    shown = screen.until(r"^· output, ")
    assert "it wrote more than a turn may" in shown
    assert "lines left out" in shown
    assert shown.count("flood") < 60
    screen.type(">>> 6 * 7\r")
    screen.until(r"^= 42$")


def test_redraw_duplicates_scrollback(terminal: Open) -> None:
    screen = terminal()
    screen.type(">>> for i in range(30): print('row', i)\r")
    screen.until(r"^· ok")
    screen.type("/vars\r")
    shown = screen.until(r"^i +int")
    assert [int(n) for n in re.findall(r"^row (\d+)$", shown, re.MULTILINE)] == list(range(30))
    drawn = screen.raw.decode()
    assert drawn.count("row 7\r\n") == 1
    assert "\x1b[2J" not in drawn


def test_the_window_is_invisible_history_silently_halved(terminal: Open) -> None:
    screen = terminal("--window=150", "--set=max_new_tokens=40")
    for number in range(7):
        screen.type(f"step {number} of the way\r")
        screen.until(rf"^step {number} of the way$\n· ok")
    assert re.search(
        r"^· the window is full: the model no longer sees the \d oldest turns \(\d+ tokens", screen.text, re.MULTILINE
    )
    screen.type("/prompt\r")
    shown = screen.until(r"^When it is full, turns? .* will go first")
    assert re.search(r"^ +1  evicted +\d+  step 0 of the way$", shown, re.MULTILINE)
    assert re.search(r"^ +7  (seen|next) +\d+  step 6 of the way$", shown, re.MULTILINE)
    assert re.search(r"\d+ of 150 tokens used, 40 kept for an answer", shown)
    assert "step 0" not in shown.rpartition("> /prompt")[2].partition("[h")[0]  # the text is what the model gets
    screen.type(">>> said\r")
    screen.until(r"^= 'step 6 of the way'")  # variables live on


def test_a_prompt_cache_breaks_seeds() -> None:
    cold, warm = load(), load()
    prompt = "# Print the squares of 1 to 5.\n"
    warm.complete("# Set x to 5.\nx = 5\n\n# Print x.\n", temperature=0.8, seed=9)
    warm.complete(prompt + "for", temperature=0.8, seed=2)
    assert [c.text for c in warm.complete(prompt, temperature=0.8, seed=3, n=3)] == [
        c.text for c in cold.complete(prompt, temperature=0.8, seed=3, n=3)
    ]


def test_local_still_needs_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is ever tried (conftest.py fails the test that does), and nothing tells the hub to stay offline."""
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with Session.open(Settings(save=False)) as session:
        turn = session.run('Assign the list [1, 2] to a variable named "nums".')
    assert turn.accepted


def test_importing_torch_slows_help() -> None:
    watch = "import sys; from codegen_chat.cli.commands import app; app(['--help'], standalone_mode=False); "
    told = "print(*({'torch', 'numpy', 'rich', 'prompt_toolkit'} & set(sys.modules)), 'none')"
    done = subprocess.run([sys.executable, "-c", watch + told], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("\nnone\n")


def test_spinners_hurt_screen_readers(terminal: Open) -> None:
    """Plain: every line is written once, from left to right, and states are words."""
    screen = terminal("--plain", environment={"TERM": "dumb"})
    screen.type("slowly\r")
    screen.until(r"^x5 = 5$")
    screen.type("\x03")
    screen.until(r"^· not run, not kept.*\n>$")
    screen.type("hello\r")
    screen.until(r"^· stop, .*\nhello\n· ok, ")
    screen.type("number\r")
    screen.until(r"^n is 0$")
    screen.type("/retry 3\r")
    screen.until(r"^candidate 3: ok")
    drawn = screen.raw.decode()
    assert "\x1b" not in drawn
    assert "\b" not in drawn
    assert not re.search(r"\r(?!\n|\r)", drawn.replace("\r\r\n", "\r\n"))
    assert not re.search("[\u2800-\u28ff]", drawn)


def test_a_paste_runs_early(terminal: Open) -> None:
    screen = terminal()
    screen.paste("one\ntwo\nthree\n")
    shown = screen.until(r"^  three$")
    assert "said" not in shown
    screen.type("\r")
    screen.until(r"^> one\n  two\n  three\n(.*\n)?said = 'three'")
