"""From the shell to the prompt, with nothing said beforehand: the whole product, the embedded model behind it."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.terminal.conftest import Terminal

COMMAND = [sys.executable, "-m", "codegen_chat.cli"]


def test_what_is_typed_before_anything_has_loaded_is_a_turn() -> None:
    screen = Terminal(COMMAND)
    try:
        screen.until(r"^>")
        screen.type(">>> 6 * 7\r")
        shown = screen.until(r"^= 42$")
        assert shown.count("6 * 7") == 1
        assert re.search(r"^> >>> 6 \* 7\n· Code runs in the sandbox, tier .*\n= 42$", shown, re.MULTILINE)
        screen.until(r"^ nano \w+ cpu")
        screen.type("\x04")
        assert screen.process.wait(60) == 0
    finally:
        screen.close()


def test_the_first_five_minutes() -> None:
    screen = Terminal(COMMAND, columns=80)
    try:
        screen.until(r"^· nano, a small model trained here, .*\n· /demo plays an example, /help lists the rest\.$")
        screen.type("/demo\r")
        screen.until(r"^\[3\] Print the sum of the list\.\nprint\(sum\(.*\n.*\n31\n· ok, ")
        screen.type("/model\r")
        screen.until(r"^Salesforce/codegen-350M-mono +\d.* can be had\n(.*\n)+.*models add DIR`\.$")
        screen.type("/doctor\r")
        screen.until(r"^ok  sandbox, self-test: tier (.*\n)+.*it computes with")
        screen.type("exit\r")
        screen.until(r"^! `exit` alone is not sent: /exit or Ctrl-D leaves")
    finally:
        screen.close()


def test_what_cannot_be_opened_ends_the_prompt_in_a_line_and_keeps_what_was_typed() -> None:
    screen = Terminal(COMMAND, environment={"CODEGEN_CHAT_MODEL": "none/such"})
    try:
        screen.until(r"^>")
        screen.type(">>> kept = 1")
        assert screen.process.wait(60) == 3
        screen.watch(0.1)
        assert re.search(r"^codegen-chat: none/such is not on this machine", screen.text, re.MULTILINE)
    finally:
        screen.close()
    screen = Terminal(COMMAND)
    try:
        screen.until(r"^>( |$)")
        screen.until(r"^ nano \w+ cpu")
        screen.type("\x1b[A")
        screen.until(r"^> >>> kept = 1$")
    finally:
        screen.close()


def test_ctrl_c_and_ctrl_d_while_everything_loads() -> None:
    screen = Terminal(COMMAND)
    try:
        screen.until(r"^ nano is loading")
        screen.type("half\x03")
        screen.until(r"^> half\n>$")
        screen.type("\x04")
        assert screen.process.wait(60) == 0
        assert "Traceback" not in screen.text
    finally:
        screen.close()


def test_plain_draws_its_prompt_once() -> None:
    screen = Terminal(COMMAND, environment={"TERM": "dumb"})
    try:
        screen.until(r"^>")
        screen.type(">>> 6 * 7\r")
        screen.until(r"^= 42$")
        assert b"\x1b" not in screen.raw
        assert not re.search(rb"\r(?!\n|\r)", screen.raw.replace(b"\r\r\n", b"\r\n"))
    finally:
        screen.close()


def test_the_first_prompt_needs_neither_parser_nor_model() -> None:
    heavy = "{'typer', 'rich', 'numpy', 'torch', 'prompt_toolkit', 'codegen_chat.api'}"
    watch = f"import sys; from codegen_chat.cli import start; print(*({heavy} & set(sys.modules)), 'none')"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "none\n"
