"""What a person sees of a conversation: events drawn as they come, each line once. Nothing above the current line is touched.

A turn looks like this, where `·` starts what the product says and everything else is the program's own:

    nums = [3, 1, 2]
    print(sorted(nums))
    · stop, 14 tokens, 190 tokens/s
    [1, 2, 3]
    · ok, 4 ms, + nums: list[3]

The model's text and the running code's output are not trusted: no control character of theirs reaches the terminal.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import TextIO

from pygments.lexers.python import PythonLexer
from pygments.token import Comment, String
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style
from rich.syntax import Syntax
from rich.text import Text

from codegen_chat.conversation import Chosen, Committed, Event, Evicted, Executed, Fallback, Notice
from codegen_chat.turn import Change, Completed, Completion, Delta, Execution, Output, Turn

HEAD_LINES, TAIL_LINES = 40, 10
"""What is shown of a long output."""

LONG_LINE = 2000
"""Characters shown of one line of output, and of a value."""

_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

_ADVICE = {
    "timeout": "--timeout SECONDS allows more",
    "memory": "--memory SIZE allows more",
    "output": "it wrote more than a turn may",
    "killed": "it broke a rule of the sandbox, or crashed",
}

_STYLES = {"+": "green", "~": "yellow", "-": "red"}


def visible(text: str) -> str:
    """Return a text in which control, bidi and surrogate characters are spelt out; newline and tab stay."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


class Screen:
    """Draws on one stream. Colour where the stream is a terminal that has it, `plain` is off and NO_COLOR unset.

    `hints` adds what a person at the prompt can do next.
    """

    def __init__(self, stream: TextIO, *, plain: bool = False, hints: bool = False) -> None:
        self.console = Console(
            file=stream, color_system=None if plain else "auto", highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self.plain = plain
        self._hints = hints
        self._code = _Code(self.console)
        self._output = _Output(self.console)
        self._candidates = 1
        self._executions: dict[int, Execution] = {}
        self._completions: dict[int, Completion] = {}
        self._quiet = False

    # ------------------------------------------------------------ lines

    def say(self, text: str, style: str = "") -> None:
        """Print lines of ours."""
        _put(self.console, visible(text) + "\n", style)

    def note(self, text: str, style: str = "dim") -> None:
        """Print a line about what happens."""
        self.say(f"· {text}", style)

    def error(self, text: str) -> None:
        """Print what went wrong, and what to do."""
        self.say(f"! {text}", "red")

    def words(self, number: int, text: str) -> None:
        """Print the words, or the person's own code, of a turn that was not typed here."""
        self.say(f"[{number}] {text}", "bold")

    def code(self, code: str) -> None:
        """Print a whole piece of code, highlighted."""
        self._code.feed(code)
        self._code.end()

    def names(self, names: Mapping[str, str]) -> None:
        """Print variables with their summaries."""
        width = min(max((len(name) for name in names), default=0), 24)
        for name, summary in names.items():
            self.say(f"{name:<{width}}  {summary}")
        if not names:
            self.note("no variables yet")

    def turn(self, number: int, turn: Turn) -> None:
        """Print a turn that happened before."""
        if turn.text:
            self.words(number, turn.text)
        self.code(turn.code)
        if turn.execution:
            self._result(turn.execution, turn.code, output=True)
        if not turn.accepted:
            self.note("not kept")

    # ------------------------------------------------------------ events

    def start(self) -> None:
        """Get ready for the events of one turn."""
        self._candidates = 1
        self._quiet = False
        self._executions.clear()
        self._completions.clear()

    def draw(self, event: Event) -> None:
        """Draw one event of a turn."""
        match event:
            case Delta() if self._quiet:
                """Of what is drawn after a failure only the chosen one is shown."""
            case Delta(text, candidate):
                if candidate >= self._candidates:
                    self._candidates = candidate + 1
                    self.note(f"candidate {candidate + 1}")
                self._code.feed(text)
            case Completed(completion, candidate):
                self._completions[candidate] = completion
                self._code.end()
                if not self._quiet:
                    self.note(_stopped(completion))
            case Output(stream, text) if self._candidates == 1:
                self._output.feed(text, "yellow" if stream == "stderr" else "")
            case Executed(execution, candidate):
                self._output.end()
                self._executions[candidate] = execution
                if self._candidates > 1 and not self._quiet:
                    self.note(f"candidate {candidate + 1}: {_brief(execution)}")
            case Fallback(samples):
                self._quiet, self._candidates = True, samples + 1
                self.note(f"{_brief(self._executions[0])}: {samples} more answers are drawn and run", "yellow")
            case Chosen(candidate, of, reason):
                self._chosen(candidate, of, reason)
            case Evicted(turns, tokens):
                self.note(
                    f"the window is full: the model no longer sees the {len(turns)} oldest turns ({tokens} tokens are left);"
                    " their variables stay",
                    "yellow",
                )
            case Notice(text):
                self.note(text, "yellow")
            case Committed(turn):
                self._committed(turn)
            case _:
                """Output of one of several candidates is shown once one is chosen."""

    def abandon(self) -> None:
        """Finish the line that a broken-off turn left."""
        self._code.end()
        self._output.end()

    def _chosen(self, candidate: int, of: int, reason: str) -> None:
        """Say which candidate is kept and why, with its code where that was not shown, and what it wrote."""
        if self._quiet and candidate == 0:
            self.note("none of them did better", "yellow")
            return
        ran = sum(execution.status == "ok" for execution in self._executions.values())
        self.note(f"kept candidate {candidate + 1} of {of}, {ran} of which ran: {reason}", "")
        if self._quiet:
            self.code(self._completions[candidate].text)
        execution = self._executions[candidate]
        for stream, text in (("stdout", execution.stdout), ("stderr", execution.stderr)):
            self._output.feed(text, "yellow" if stream == "stderr" else "")
        self._output.end()

    def _committed(self, turn: Turn) -> None:
        if turn.execution is not None:
            self._result(turn.execution, turn.code)
        if not turn.accepted:
            again = "; /retry answers again, or say it in other words" if self._hints and turn.text else ""
            self.note(f"{'not kept' if turn.execution else 'not run, not kept'}{again}")

    def _result(self, execution: Execution, code: str, *, output: bool = False) -> None:
        """Print what came of a turn's code; its output only where it was not shown while it ran."""
        if output:
            self._output.feed(execution.stdout)
            self._output.feed(execution.stderr, "yellow")
            self._output.end()
        if execution.value is not None:
            self._output.feed(f"= {execution.value}")
            self._output.end()
        line = Text("· " + _time(execution), style="dim" if execution.status == "ok" else "red")
        if execution.failure:
            line.append(visible(f": {execution.failure.type}: {execution.failure.message}".rstrip(": ")))
        elif execution.status in _ADVICE:
            line.append(f": {_ADVICE[execution.status]}")
        for change in execution.changes[:8]:
            line.append(", ", "dim")
            line.append(visible(_changed(change)), _STYLES[change.kind])
        if len(execution.changes) > 8:
            line.append(f", and {len(execution.changes) - 8} more names", "dim")
        self.console.print(line)
        lines = code.splitlines()
        if execution.failure and 0 < execution.failure.line <= len(lines):
            self.say(f"  line {execution.failure.line}: {lines[execution.failure.line - 1].strip()}", "red")
        if execution.truncated:
            self.note(f"{execution.truncated} characters of output over the limit were dropped")
        if execution.files:
            self.note(f"files: {', '.join(execution.files)}")
        if execution.note:
            self.note(execution.note)


class _Code:
    """Prints code as it grows. A lexeme is printed once it can no longer change, so nothing is drawn twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lexer = PythonLexer(stripnl=False, ensurenl=False)
        self._theme = Syntax.get_theme("ansi_dark" if console.color_system else "bw")
        self._text = ""
        self._shown = 0

    def feed(self, piece: str) -> None:
        self._text += visible(piece)
        if not self._text.strip():
            self._text = ""  # no empty lines between the words and the code
            return
        self._show(final=False)

    def end(self) -> None:
        """Print what was held back and end the line; be ready for other code."""
        if self._text:
            self._text = self._text.rstrip() if not self._shown else self._text
            self._show(final=True)
            if not self._text.endswith("\n"):
                _put(self._console, "\n")
        self._text, self._shown = "", 0

    def _show(self, *, final: bool) -> None:
        text = self._text if final else self._text.rstrip(" \t")
        for start, kind, lexeme in self._lexer.get_tokens_unprocessed(text):
            end = start + len(lexeme)
            if end <= self._shown:
                continue
            grows = end == len(text) and not final and lexeme[-1:] != "\n"
            if grows and kind not in String and kind not in Comment:
                break
            style = self._theme.get_style_for_token(kind)
            _put(self._console, text[max(start, self._shown) : end], style)
            self._shown = end


class _Output:
    """Prints output as it comes: the first lines at once, of the rest the last ones at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._reset()

    def _reset(self) -> None:
        self._lines = 0
        self._column = 0
        self._tail: deque[tuple[str, str]] = deque(maxlen=TAIL_LINES)

    def feed(self, text: str, style: str = "") -> None:
        for line in visible(text).splitlines(keepends=True):
            if self._lines >= HEAD_LINES:
                if self._column and self._tail:
                    before, style = self._tail.pop()
                    line = before + line  # noqa: PLW2901
                else:
                    self._lines += 1
                self._tail.append((line, style))
            else:
                self._print(line, style)
                self._lines += line.endswith("\n")
            self._column = 0 if line.endswith("\n") else self._column + len(line)

    def end(self) -> None:
        """Print the tail and end the line; be ready for other output."""
        if self._column and self._lines < HEAD_LINES:
            _put(self._console, "\n")
        self._column = 0
        left_out = self._lines - HEAD_LINES - len(self._tail)
        if left_out > 0:
            _put(self._console, f"· {left_out} lines left out\n", "dim")
        for line, style in self._tail:
            self._column = 0
            self._print(line.removesuffix("\n") + "\n", style)
        self._reset()

    def _print(self, line: str, style: str) -> None:
        room = max(LONG_LINE - self._column, 0)
        body = line.removesuffix("\n")
        shown = body[:room] + ("…" if len(body) > room > 0 else "")
        _put(self._console, shown + line[len(body) :], style)


def _put(console: Console, text: str, style: str | Style = "") -> None:
    """Print text as it is: no wrapping, and tabs stay tabs."""
    console.print(Segments([Segment(text, console.get_style(style))]), end="")


def _stopped(completion: Completion) -> str:
    usage, reasons = completion.usage, {"eos": "end of text", "length": "cut at the most tokens a turn may have"}
    parts = [reasons.get(completion.finish_reason, completion.finish_reason), f"{usage.completion_tokens} tokens"]
    if usage.decode_seconds > 0 and usage.completion_tokens:
        parts.append(f"{usage.completion_tokens / usage.decode_seconds:.0f} tokens/s")
    if completion.redrawn:
        parts.append(f"{completion.redrawn} lines drawn again")
    return ", ".join(parts)


def _time(execution: Execution) -> str:
    took = f"{execution.duration * 1000:.0f} ms" if execution.duration < 1 else f"{execution.duration:.1f} s"
    return f"{execution.status}, {took}"


def _changed(change: Change) -> str:
    return f"{change.kind} {change.name}" + (f": {change.summary}" if change.summary else "")


def _brief(execution: Execution) -> str:
    """Return one line about one of several candidates."""
    if execution.failure:
        return f"{execution.status}, {execution.failure.type}"
    said: Iterable[str] = (execution.stdout.strip().splitlines()[-1:], [execution.value or ""])[not execution.stdout.strip()]
    return ", ".join(
        [_time(execution), *(line[:60] for line in said if line), *(_changed(change) for change in execution.changes[:3])]
    )
