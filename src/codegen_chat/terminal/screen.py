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

import math
from collections.abc import Iterable, Mapping
from typing import Protocol, TextIO

from rich.console import Console
from rich.text import Text

from codegen_chat.events import Chosen, Committed, Event, Evicted, Executed, Fallback, Notice, Replayed, Several
from codegen_chat.guard import blank
from codegen_chat.prompt import Window
from codegen_chat.terminal import views
from codegen_chat.terminal.printing import Code, Printed, put, visible
from codegen_chat.turn import Change, Completed, Completion, Delta, Execution, Output, Turn

_ASCII = str.maketrans({"·": "-", "…": "...", "├": "|", "└": "`", "│": "|", "─": "-"})
"""What stands for our own signs where the terminal's encoding has none."""

_ADVICE = {
    "timeout": "--timeout SECONDS allows more",
    "memory": "--memory SIZE allows more",
    "output": "it wrote more than a turn may",
    "killed": "it broke a rule of the sandbox, or crashed",
}

_STYLES = {"+": "green", "~": "yellow", "-": "red"}


class Finding(Protocol):
    """One thing about this machine."""

    @property
    def holds(self) -> bool:
        """Whether it is as it should be."""
        ...

    @property
    def what(self) -> str:
        """What it is, in words."""
        ...


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
        self._signs = {} if self.console.encoding.startswith("utf") else _ASCII
        self._code = Code(self.console)
        self._output = Printed(self.console)
        self._candidates = 1
        self._ran: Execution | None = None
        self._rest = ""
        self._quiet = False

    # ------------------------------------------------------------ lines

    def say(self, text: str, style: str = "") -> None:
        """Print lines of ours."""
        put(self.console, visible(text).translate(self._signs) + "\n", style)

    def lines(self, lines: Iterable[Text]) -> None:
        """Print lines of ours; on a terminal, what is wider than it is broken between words."""
        for line in lines:
            line.plain = line.plain.translate(self._signs) if self._signs else line.plain
            broken = self.console.is_terminal and not self.plain
            for part in views.broken(line, self.console.width) if broken else [line]:
                self.console.print(part)

    def note(self, text: str, style: str = "dim") -> None:
        """Print a line about what happens."""
        self.lines(Text(line, style) for line in visible(f"· {text}").split("\n"))

    def error(self, text: str) -> None:
        """Print what went wrong, and what to do."""
        self.lines(Text(line, "red") for line in visible(f"! {text}").split("\n"))

    def words(self, number: int | None, text: str) -> None:
        """Print the words, or the person's own code, of a turn that was not typed here; None: no command knows it by a number."""
        self.say(f"[{number or '-'}] {text}", "bold")

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

    def findings(self, findings: Iterable[Finding]) -> None:
        """Print what holds on this machine, each as it is found."""
        for finding in findings:
            self.lines([Text(f"{'ok' if finding.holds else 'NO':<3} {visible(finding.what)}", "" if finding.holds else "red")])

    def turn(self, number: int | None, turn: Turn, *, whole: bool = False) -> None:
        """Print a turn that happened before; `whole`: every line of its output, and where it failed in full."""
        self.words(number, turn.text or ("your first lines" if turn.given else "your own code"))
        self.code(turn.code)
        if turn.execution:
            self._output.whole = whole
            self._output.rest = f"; /show {number} shows them" if self._hints and number and not whole else ""
            self._result(turn.execution, turn.code, output=True)
            self._output.whole = False
        if whole and turn.execution and turn.execution.failure:
            self.say(turn.execution.failure.traceback.rstrip(), "red")
        if not turn.accepted:
            self.note("not kept")

    def turns(self, turns: Iterable[Turn]) -> None:
        """Print turns that happened before; those that are not kept have no number."""
        number = 0
        for turn in turns:
            number += turn.accepted
            self.turn(number if turn.accepted else None, turn)

    def candidates(self, candidates: Iterable[Turn], kept: str | None) -> None:
        """Print candidates beside one another."""
        theme = "ansi_dark" if self.console.color_system else "bw"
        self.lines(views.side_by_side(list(candidates), kept, self.console.width, theme))

    def window(self, window: Window) -> None:
        """Draw how the model's window is filled."""
        self.lines(views.window(window, self.console.width))

    def branches(self, branches: Iterable[tuple[Turn, ...]], head: str | None) -> None:
        """Draw the branches as a tree."""
        self.lines(views.tree(list(branches), head, self.console.width))

    def probabilities(self, pieces: Iterable[str], logprobs: Iterable[float]) -> None:
        """Shade a completion's tokens by their probability."""
        pairs = [(piece, math.exp(logprob)) for piece, logprob in zip(pieces, logprobs, strict=True)]
        self.lines(views.probabilities(pairs, plain=self.console.color_system is None))

    def bell(self) -> None:
        """Ring."""
        self.console.bell()

    # ------------------------------------------------------------ events

    def start(self, number: int = 0) -> None:
        """Get ready for the events of one turn; `number` is what `/show` will know it by."""
        self._candidates = 1
        self._quiet = False
        self._rest = f"; /show {number} shows them" if self._hints and number else ""

    def draw(self, event: Event) -> None:
        """Draw one event of a turn."""
        match event:
            case Delta() if self._candidates > 1:
                """Several are shown beside one another, once they have run; after a failure only the kept one."""
            case Delta(text):
                self._code.feed(text)
            case Completed(completion):
                self._code.end()
                if self._candidates == 1:
                    self.note(_stopped(completion))
            case Output(stream, text) if self._candidates == 1:
                self._code.end()
                self._output.feed(text, "yellow" if stream == "stderr" else "")
            case Executed(execution):
                self._ran = execution
                self._output.rest = self._rest if execution.status == "ok" else ""  # only what is kept has that number
                self.abandon()
            case Several(samples):
                self._candidates = samples
                self.note(f"{samples} answers are drawn and run")
            case Fallback(samples):
                self._quiet, self._candidates = True, samples + 1
                self.note(f"{self._ran and _brief(self._ran)}: {samples} more answers are drawn and run", "yellow")
            case Chosen(turn, candidates, reason):
                self._chosen(turn, candidates, reason)
            case Evicted(turns, tokens):
                self.note(
                    f"the window is full: the model no longer sees the {len(turns)} oldest turns ({tokens} tokens are left);"
                    " their variables stay",
                    "yellow",
                )
            case Notice(text):
                self.note(text, "yellow")
            case Replayed(number, before, after):
                self._replayed(number, before, after)
            case Committed(turn):
                self._committed(turn)
            case _:
                """Output of one of several candidates is shown once one is chosen; a question is for who asks it."""

    def abandon(self) -> None:
        """Finish the line that code or output left."""
        self._code.end()
        self._output.end()

    def _chosen(self, turn: Turn, candidates: tuple[Turn, ...], reason: str) -> None:
        """Show the candidates, which one is kept, and what it wrote; after a failure only the one that is kept."""
        number = [candidate.id for candidate in candidates].index(turn.id) + 1
        ran = sum(one.execution is not None and one.execution.status == "ok" for one in candidates)
        if self._quiet and number == 1:
            self.note("none of them did better", "yellow")
            return
        why = f": {reason}" if reason else ""
        pick = ("; /pick shows them" if self._quiet else "; /pick K takes another") if self._hints else ""
        if not self._quiet:
            self.candidates(candidates, turn.id if turn.accepted else None)
        if ran:
            self.note(f"kept candidate {number} of {len(candidates)}, {ran} of which ran{why}{pick}", "")
        else:
            self.note(f"none of the {len(candidates)} ran; the likeliest is candidate {number}", "yellow")
        if self._quiet:
            self.code(turn.code)
        self._output.rest = self._rest if turn.accepted else ""
        if turn.execution:
            for text, style in ((turn.execution.stdout, ""), (turn.execution.stderr, "yellow")):
                self._output.feed(text, style)
            self._output.end()

    def _committed(self, turn: Turn) -> None:
        if turn.execution is not None:
            self._result(turn.execution, turn.code)
        if turn.accepted:
            return
        again = ""
        if self._hints and turn.execution and turn.execution.status == "error":
            again = (
                "; /retry answers again, /fix tells the model the error, /edit lets you change it"
                if turn.text
                else ("; /edit lets you change it, /fix asks the model to")
            )
        elif self._hints and turn.text:
            again = "; /retry answers again, or say it in other words" + (
                "" if turn.execution or blank(turn.code) else "; /pick 1 runs it"
            )
        self.note(f"{'not kept' if turn.execution else 'not run, not kept'}{again}")

    def _replayed(self, number: int, before: Turn, after: Turn) -> None:
        """Say what became of a later turn after an edit."""
        was, now = (views.said(turn.execution) if turn.execution else "" for turn in (before, after))
        same = was == now and before.accepted == after.accepted
        line = Text(f"· [{number}] {views.title(after, 40)}: ", style="dim")
        line.append("the same" if same else f"{was or 'nothing'} -> {now or 'nothing'}", "dim" if same else "yellow")
        self.lines([line])

    def _result(self, execution: Execution, code: str, *, output: bool = False) -> None:
        """Print what came of a turn's code; its output only where it was not shown while it ran."""
        if output:
            self._output.feed(execution.stdout)
            self._output.feed(execution.stderr, "yellow")
            self._output.end()
        table = views.table(execution.typed_value, self.console.width)
        if table is not None:
            for row in table:
                self.say(row)
        elif execution.value is not None:
            self._output.feed(f"= {execution.value}")
            self._output.end()
        line = Text("· " + views.took(execution), style="dim" if execution.status == "ok" else "red")
        if execution.status in _ADVICE:
            at_once = self._hints and execution.status == "timeout"
            line.append(f": {'/set timeout=SECONDS allows more' if at_once else _ADVICE[execution.status]}")
        elif execution.failure and execution.status != "interrupted":
            line.append(visible(f": {execution.failure.type}: {execution.failure.message}".rstrip(": ")))
        for change in execution.changes[:8]:
            line.append(", ", "dim")
            line.append(visible(_changed(change)), _STYLES[change.kind])
        if len(execution.changes) > 8:
            line.append(f", and {len(execution.changes) - 8} more names", "dim")
        self.lines([line])
        lines = code.splitlines()
        if execution.failure and 0 < execution.failure.line <= len(lines):
            line_of_code = views.shorten(lines[execution.failure.line - 1].strip(), max(min(self.console.width - 10, 100), 20))
            self.say(f"  line {execution.failure.line}: {line_of_code}", "red")
        if execution.truncated:
            self.note(f"{execution.truncated} characters of output over the limit were dropped")
        if execution.files:
            self.note(f"files: {', '.join(execution.files)}")
        if execution.note:
            self.note(execution.note)


def _stopped(completion: Completion) -> str:
    usage, reasons = completion.usage, {"eos": "end of text", "length": "cut at the most tokens a turn may have"}
    parts = [reasons.get(completion.finish_reason, completion.finish_reason), f"{usage.completion_tokens} tokens"]
    if usage.decode_seconds > 0 and usage.completion_tokens:
        parts.append(f"{usage.completion_tokens / usage.decode_seconds:.0f} tokens/s")
    if completion.redrawn:
        parts.append(f"{completion.redrawn} line{'' if completion.redrawn == 1 else 's'} drawn again")
    return ", ".join(parts)


def _changed(change: Change) -> str:
    return f"{change.kind} {change.name}" + (f": {change.summary}" if change.summary else "")


def _brief(execution: Execution) -> str:
    """Return one line about an execution."""
    return ", ".join(filter(None, (views.took(execution), views.shorten(views.said(execution), 60))))
