"""The prompt: a line is typed, a turn is drawn. It owns the input and the screen; the conversation owns everything else."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Protocol, TextIO

from codegen_chat.attention.record import Attention
from codegen_chat.conversation import Conversation
from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.events import Committed, Event, Events, Proposed
from codegen_chat.session.picture import is_picture
from codegen_chat.settings import Settings
from codegen_chat.terminal import attention, commands, picture, views
from codegen_chat.terminal.line import Alive, Line
from codegen_chat.terminal.screen import Finding, Screen
from codegen_chat.turn import Completed, Completion, Turn

MOST_CANDIDATES = 64

SHORT = 6
"""Digits of a session's id in the bar, as in `sessions ls`: `--resume` takes the start of one."""


class Chat(Protocol):
    """What the prompt needs of a session."""

    @property
    def conversation(self) -> Conversation:
        """The turns."""
        ...

    @property
    def settings(self) -> Settings:
        """What is set."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        ...

    @property
    def title(self) -> str:
        """Model, dtype, device and draft model in a few words."""
        ...

    def change(self, values: Mapping[str, object]) -> None:
        """Change settings for the turns to come, another model too."""
        ...

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each of these tokens of the model."""
        ...

    def doctor(self) -> Iterable[Finding]:
        """Say what holds on this machine."""
        ...

    def models(self) -> Iterable[str]:
        """Say which models there are and how to get one."""

    def attention(self, number: int | None = None) -> Attention:
        """Return what the model looked at while it wrote a turn; None: the last one."""
        ...

    def export(self, path: Path) -> str | None:
        """Write the session as a Python file; return why it is not verified."""
        ...


class Repl:
    """Reads turns and commands from a terminal until the person leaves. The keyboard is to be quiet (line.py)."""

    def __init__(self, chat: Chat, stream: TextIO, line: Line, banner: Iterable[str], *, plain: bool = False) -> None:
        self._chat = chat
        self._conversation = chat.conversation
        self._screen = Screen(stream, plain=plain, hints=True)
        self._window: tuple[int, int] | None = None
        self._speed = 0.0
        self._trouble: str | None = None
        self._warned = False
        self._names: Iterable[str] = ()
        self._banner = banner
        self._line = line
        line.serve(
            Alive(
                self._conversation.history.id,
                self._bar,
                lambda: self._names,
                self._conversation.attributes,
                lambda: [name for turn in self._conversation.turns if turn.execution for name in turn.execution.files],
            )
        )

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._chat.ready

    def run(self) -> None:
        """Print the banner, then read and act until Ctrl-D or /exit."""
        lines = iter(self._banner)
        while True:
            with suppress(KeyboardInterrupt):  # it came where nothing was going on that it could end
                with _whole():
                    for line in lines:
                        self._screen.note(line)
                self._loop()
                return

    def _loop(self) -> None:
        self._look()
        while self._step():
            self._look()

    def _step(self) -> bool:
        """Read a line and act on it; return whether to go on."""
        try:
            said = commands.read(self._line.read(lambda: self._chat.ready))
            if said == commands.Asked("/exit"):
                return self._stays()
            self._act(said)
        except EOFError:
            return self._stays()
        except CodegenChatError as error:
            with _whole():
                self._screen.abandon()
                self._screen.error(str(error))
        except KeyboardInterrupt:
            with _whole():
                self._line.forget()
                self._screen.abandon()
        return True

    def _stays(self) -> bool:
        """Keep who would lose something by leaving, once: the file lags behind, and memory goes."""
        self._warned, warned = True, self._warned
        if warned or not self._conversation.history.trouble:
            return False
        self._screen.error("the last turns are not saved: make room, /export FILE elsewhere, or /exit once more to lose them")
        return True

    def _act(self, said: commands.Said | commands.Code | commands.Asked) -> None:
        match said:
            case commands.Said(text, "") if self._conversation.is_code(text):
                self._screen.note("that is Python: it runs as it is")
                self._play(self._conversation.run_code(text))
            case commands.Said(text, "") if f"/{text.lower()}" in commands.NAMES:
                raise UsageError(f"`{text}` alone is not sent: did you mean /{text.lower()}?")
            case commands.Said(text, given) if text.strip() or given.strip():
                self._play(self._conversation.run(text, given=given), wait=True)
            case commands.Code(code, text):
                self._play(self._conversation.run_code(code, text=text))
            case commands.Asked(name, argument):
                self._command(name, argument)

    # ------------------------------------------------------------ a turn

    def _play(self, turn: Events, *, wait: bool = False) -> None:
        """Draw a turn. A Ctrl-C that comes while an event is drawn waits until it is, and then ends the turn like any other."""
        if wait and not self._chat.ready:
            self._screen.note("the model is loading ...")
        self._screen.start(len(self._conversation.turns) + 1)
        began = time.monotonic()
        with suppress(StopIteration):
            event = next(turn)
            while True:
                try:
                    answer = self._draw(event)
                except KeyboardInterrupt as interrupt:
                    event = turn.throw(interrupt)
                else:
                    event = turn.send(answer)
        bell = self._chat.settings.bell
        if bell and time.monotonic() - began > bell:
            self._screen.bell()

    def _draw(self, event: Event) -> str | None:
        """Draw an event; return the answer to it where it is a question."""
        match event:
            case Proposed(code, candidate):
                return self._ask(code, candidate)
            case Completed(completion):
                self._measure(completion)
        with _whole():
            self._screen.draw(event)
            if isinstance(event, Committed):
                self._pictures(event.turn)
        return None

    def _measure(self, completion: Completion) -> None:
        usage = completion.usage
        if usage.decode_seconds > 0:
            self._speed = usage.completion_tokens / usage.decode_seconds

    def _ask(self, code: str, candidate: int) -> str | None:
        """Ask whether code is to run. Returns the code, "" for not at all, None for as it is."""
        if len(self._conversation.history.unfinished) > 1:
            self._screen.note(f"candidate {candidate + 1}:")
            self._screen.code(code)
        while True:
            try:
                answer = self._line.ask("run it? Enter or y runs, e edits, n leaves it:").strip().lower()
                if answer in {"", "y", "yes", "r", "run"}:
                    return None
                if answer in {"e", "edit"}:
                    return self._line.ask("...", default=code)
            except EOFError:
                return ""
            if answer in {"n", "no", "s", "skip"}:
                return ""

    def _pictures(self, turn: Turn) -> None:
        """Save the pictures that a turn made, say where, and draw them where that can be."""
        names = [name for name in turn.execution.files if is_picture(name)] if turn.execution and turn.accepted else []
        path = self._conversation.history.path
        for name in names:
            data = self._conversation.file(turn, name)
            if data is None:
                continue
            if not picture.draw(self._screen.console, data, self._chat.settings.plots):
                self._screen.note(f"a picture: {name}")
            if path is not None:
                kept = path.with_suffix(".files") / turn.id / Path(name).name
                try:
                    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    kept.write_bytes(data)
                except OSError as error:
                    self._screen.error(f"{kept} cannot be written: {error.strerror}")
                else:
                    self._screen.note(f"{name} is kept as {kept}")

    # ------------------------------------------------------------ commands

    def _command(self, name: str, argument: str) -> None:  # noqa: C901, PLR0912, PLR0915  a line or two for each command
        conversation, screen = self._conversation, self._screen
        match name:
            case "/retry":
                samples, temperature = commands.retry(argument, MOST_CANDIDATES)
                self._play(conversation.retry(samples=samples, temperature=temperature), wait=True)
            case "/fix":
                self._play(conversation.fix(), wait=True)
            case "/pick" if argument:
                self._play(conversation.pick(commands.number(argument, "/pick takes the number of a candidate")))
            case "/pick":
                screen.candidates(conversation.candidates, conversation.history.head)
                screen.note("/pick K takes one" if conversation.candidates else "there are no candidates yet")
            case "/edit":
                self._edit(argument)
            case "/undo":
                turn = conversation.undo()
                screen.note(f"undone: {views.title(turn)}" if turn else "there is nothing to undo")
            case "/redo":
                turn = conversation.redo()
                screen.note(f"done again: {views.title(turn)}" if turn else "there is nothing to redo")
            case "/fork" | "/branches":
                self._branches(name, argument)
            case "/hide" | "/pin":
                self._mark(name, commands.number(argument, f"{name} takes the number of a turn"))
            case "/vars":
                screen.names(conversation.names())
            case "/show":
                self._show(argument)
            case "/prompt":
                screen.say(conversation.prompt_text().rstrip("\n"))
                screen.window(conversation.window())
            case "/probs":
                self._probabilities()
            case "/set":
                self._set(commands.settings(argument))
            case "/model":
                if argument:
                    self._chat.change({"model": argument})
                else:
                    for line in self._chat.models():
                        screen.say(line)
                screen.note(self._chat.title)
            case "/attention":
                attention.command(screen, self._chat.attention, argument)
            case "/export":
                self._export(argument)
            case "/doctor":
                screen.findings(self._chat.doctor())
            case "/demo":
                for number, text in enumerate(commands.DEMO, 1):
                    screen.words(number, text)
                    self._play(conversation.run(text), wait=True)
            case _:
                self._help(argument)

    def _edit(self, argument: str) -> None:
        """Let the person change a turn: its words, and the model answers anew; or its code, and that runs."""
        conversation = self._conversation
        turns, latest = conversation.turns, conversation.candidates
        number = commands.number(argument, "/edit takes the number of a turn") if argument else len(turns) or 1
        failed = next((turn for turn in latest if not argument and not turn.accepted), None)
        before = failed or conversation.numbered(number)
        text = self._line.read(lambda: self._chat.ready, default=commands.written(before.text, before.code))
        said = commands.read(text)
        if said == commands.read(commands.written(before.text, before.code)):
            self._screen.note("nothing was changed")
            return
        match said:
            case commands.Code(code, words) if code.rstrip() == before.code.rstrip() and words:
                wanted: tuple[str, str | None, str] = words, None, before.given  # the words changed: the model answers them
            case commands.Code(code, words):
                wanted = words, code, ""
            case commands.Said(words, given):
                wanted = words, None, given
            case _:
                raise UsageError("an edited turn is words, code, or words with code below them")
        words, changed, given = wanted
        if failed is None:
            self._play(conversation.edit(number, words, code=changed, given=given), wait=changed is None)
            if len(turns) > number and conversation.turns != turns:
                self._screen.note("/branches shows how it was before, and goes back there")
        elif changed is None:
            self._play(conversation.run(words, given=given), wait=True)
        else:
            self._play(conversation.run_code(changed, text=words))

    def _branches(self, name: str, argument: str) -> None:
        conversation, screen = self._conversation, self._screen
        turns = len(conversation.turns)
        if name == "/fork":
            number = commands.number(argument, "/fork takes the number of a turn, or 0", least=0) if argument else turns
            conversation.fork(number)
            screen.note(
                f"the next turn goes on from {f'turn {number}' if number else 'the beginning'}; /branches shows the others"
            )
        elif argument:
            conversation.switch(commands.number(argument, "/branches takes the number of a branch"))
            screen.note(f"branch {argument}: {len(conversation.turns)} turns, with their variables")
        elif conversation.history.branches:
            screen.branches(conversation.history.branches, conversation.history.head)
        else:
            screen.note("no turns yet")

    def _mark(self, name: str, number: int) -> None:
        if name == "/hide":
            now = "out of the prompt" if self._conversation.hide(number) else "in the prompt again"
            self._screen.note(f"turn {number} is {now}; its variables live")
        else:
            now = "stays in the window" if self._conversation.pin(number) else "may fall out of the window"
            self._screen.note(f"turn {number} {now}")

    def _show(self, argument: str) -> None:
        turns = self._conversation.history.transcript if argument == "all" else self._conversation.turns
        if argument not in {"", "all"}:
            number = commands.number(argument, "/show takes the number of a turn, or all")
            self._screen.turn(number, self._conversation.numbered(number), whole=True)
            return
        self._screen.turns(turns)
        if not turns:
            self._screen.note("no turns yet")

    def _probabilities(self) -> None:
        conversation = self._conversation
        told = [turn for turn in conversation.candidates if turn.completion and turn.completion.token_ids]
        last = next((turn for turn in told if turn.id == conversation.history.head), told[0] if told else None)
        if last is None or last.completion is None:
            raise UsageError("the last turn is not the model's: there are no probabilities to show")
        self._screen.probabilities(self._chat.pieces(last.completion.token_ids), last.completion.logprobs)

    def _set(self, values: dict[str, str]) -> None:
        if values:
            self._chat.change(values)
        names = values or [field.name for field in fields(Settings)]
        for name in names:
            value = getattr(self._chat.settings, name)
            said = "what the checkpoint says" if value is None else ", ".join(value) if isinstance(value, tuple) else value
            self._screen.say(f"{name:<16} {said}")

    def _export(self, name: str) -> None:
        doubt = self._chat.export(Path(name).expanduser())
        self._screen.note(
            f"wrote {name}, " + (f"not verified: {doubt}" if doubt else "verified: run from nothing, it gives the same")
        )

    def _help(self, name: str) -> None:
        if not name:
            self._screen.say(commands.HELP)
            return
        command = next((each for each in commands.COMMANDS if each.name == f"/{name.removeprefix('/')}"), None)
        if command is None:
            raise UsageError(f"there is no command {name}: /help lists them")
        self._screen.say(f"{command.name} {command.argument}".rstrip() + f": {command.help}")

    # ------------------------------------------------------------ the bar

    def _look(self) -> None:
        """Take note of what the last turn changed: names for Tab, tokens for the bar, a log that cannot be written."""
        with suppress(CodegenChatError, KeyboardInterrupt):  # a state that takes long to build again can wait until it is needed
            self._names = tuple(self._conversation.names())
        self._window = self._filled()
        trouble = self._conversation.history.trouble
        if trouble and trouble != self._trouble:
            self._screen.error(trouble)
        elif self._trouble and not trouble:
            self._screen.note("the session is saved again, with all that had waited")
        self._trouble = trouble

    def _filled(self) -> tuple[int, int] | None:
        """Return the prompt's tokens and those that the window holds; None while that cannot be known."""
        completer = self._conversation.completer
        with suppress(CodegenChatError):  # it could not be loaded, or what is pinned leaves no room
            if completer and self._chat.ready:
                return completer.count(self._conversation.prompt_text()), completer.window
        return None

    def _bar(self) -> str:
        """Return the bottom line: what matters most first, and no more than fits."""
        turns = len(self._conversation.turns)
        self._window = self._window or self._filled()  # it may just have loaded
        parts = [self._chat.title]
        speed = f", {self._speed:.0f}/s" if self._speed else ""
        parts += [f"{self._window[0]}/{self._window[1]} tokens{speed}"] if self._window else []
        parts += [f"session {self._conversation.history.id[:SHORT]}"]
        parts += [f"{turns} turn{'' if turns == 1 else 's'}"]
        width = self._screen.console.width - 2
        while len(parts) > 1 and len(" | ".join(parts)) > width:
            parts.pop()
        return " " + views.shorten(" | ".join(parts), width)


@contextmanager
def _whole() -> Iterator[None]:
    """Let a Ctrl-C come once all of this is done: half an event on the screen could not be gone on from."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        raise KeyboardInterrupt
