"""The prompt: a line is typed, a turn is drawn. It owns the input and the screen; the conversation owns everything else."""

from __future__ import annotations

import sys
import termios
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.filters import is_searching
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.utils import is_dumb_terminal

from codegen_chat.attention.record import Attention
from codegen_chat.conversation import Conversation, Events
from codegen_chat.errors import CodegenChatError, UsageError
from codegen_chat.terminal import attention, commands
from codegen_chat.terminal.screen import Screen, visible

MOST_CANDIDATES = 64


class Chat(Protocol):
    """What the prompt needs of a session."""

    @property
    def conversation(self) -> Conversation:
        """The turns."""
        ...

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        ...

    @property
    def title(self) -> str:
        """Model, dtype and device in a few words."""
        ...

    def attention(self, number: int | None = None) -> Attention:
        """What the model looked at while it wrote a turn; None: the last one."""
        ...

    def export(self, path: Path) -> str | None:
        """Write the session as a Python file; return why it is not verified."""
        ...


class Repl:
    """Reads turns and commands from a terminal until the person leaves."""

    def __init__(self, chat: Chat, stream: TextIO, *, history: Path | None, plain: bool = False) -> None:
        self._chat = chat
        self._conversation = chat.conversation
        self._screen = Screen(stream, plain=plain, hints=True)
        self._tokens = 0
        self._trouble: str | None = None
        self._names: Iterable[str] = ()
        self._prompt: PromptSession[str] = PromptSession(
            "> ",
            multiline=True,
            prompt_continuation="  ",
            history=_history(history),
            completer=_Names(lambda: self._names),
            complete_while_typing=False,
            enable_open_in_editor=True,
            tempfile_suffix=".txt",
            key_bindings=_keys(),
            bottom_toolbar=None if plain else self._bar,
            color_depth=ColorDepth.DEPTH_1_BIT if plain else None,
            output=PlainTextOutput(stream) if is_dumb_terminal() else None,
        )

    def run(self, banner: Iterable[str]) -> None:
        """Print the banner, then read and act until Ctrl-D or /exit."""
        with _quiet_keyboard():
            for line in banner:
                self._screen.note(line)
            self._look()
            while self._step():
                self._look()

    def _step(self) -> bool:
        """Read a line and act on it; return whether to go on."""
        try:
            said = commands.read(self._prompt.prompt(refresh_interval=0 if self._chat.ready else 0.3))
            if said == commands.Asked("/exit"):
                return False
            self._act(said)
        except EOFError:
            return False
        except CodegenChatError as error:
            self._screen.abandon()
            self._screen.error(str(error))
        except KeyboardInterrupt:
            self._screen.abandon()
        return True

    def _act(self, said: commands.Said | commands.Code | commands.Asked) -> None:
        match said:
            case commands.Said(text) if text.strip():
                if not self._chat.ready:
                    self._screen.note("the model is loading ...")
                self._play(self._conversation.run(text))
            case commands.Code(code):
                self._play(self._conversation.run_code(code))
            case commands.Asked(name, argument):
                self._command(name, argument)

    def _play(self, turn: Events) -> None:
        """Draw a turn. A Ctrl-C that comes while something is drawn belongs to the turn, like one that comes inside it."""
        self._screen.start()
        with suppress(StopIteration):
            event = next(turn)
            while True:
                try:
                    self._screen.draw(event)
                except KeyboardInterrupt as interrupt:
                    event = turn.throw(interrupt)
                else:
                    event = next(turn)

    def _command(self, name: str, argument: str) -> None:
        conversation, screen = self._conversation, self._screen
        match name:
            case "/undo":
                turn = conversation.undo()
                screen.note(f"undone: {_title(turn.text or turn.code)}" if turn else "there is nothing to undo")
            case "/redo":
                turn = conversation.redo()
                screen.note(f"done again: {_title(turn.text or turn.code)}" if turn else "there is nothing to redo")
            case "/retry":
                self._play(conversation.retry(samples=_count(argument)))
            case "/show":
                turns = conversation.history.transcript if argument == "all" else conversation.turns
                for number, turn in enumerate(turns, 1):
                    screen.turn(number, turn)
                if not turns:
                    screen.note("no turns yet")
            case "/vars":
                screen.names(conversation.names())
            case "/prompt":
                text = conversation.prompt_text()
                screen.say(text.rstrip("\n"))
                if conversation.completer:
                    screen.note(f"{conversation.completer.count(text)} of {conversation.completer.window} tokens")
            case "/attention":
                attention.command(screen, self._chat.attention, argument)
            case "/export":
                self._export(argument)
            case "/demo":
                for number, text in enumerate(commands.DEMO, 1):
                    screen.words(number, text)
                    self._play(conversation.run(text))
            case _:
                self._help()

    def _export(self, name: str) -> None:
        if not name.endswith(".py"):
            raise UsageError("/export writes Python: name a file that ends in .py")
        doubt = self._chat.export(Path(name).expanduser())
        self._screen.note(
            f"wrote {name}, " + (f"not verified: {doubt}" if doubt else "verified: run from nothing, it gives the same")
        )

    def _help(self) -> None:
        self._screen.say("Say in words what the next lines of the program should do. `>>> code` runs code of your own.")
        for command in commands.COMMANDS:
            self._screen.say(f"  {f'{command.name} {command.argument}':<18} {command.help}")
        for key, does in commands.KEYS:
            self._screen.say(f"  {key:<18} {does}")
        self._screen.say("  //...              words that begin with a slash")

    def _look(self) -> None:
        """Take note of what the last turn changed: names for Tab, tokens for the bar, a log that cannot be written."""
        with suppress(CodegenChatError):
            self._names = tuple(self._conversation.names())
            if self._chat.ready and self._conversation.completer:
                self._tokens = self._conversation.completer.count(self._conversation.prompt_text())
        trouble = self._conversation.history.trouble
        if trouble and trouble != self._trouble:
            self._screen.error(trouble)
        self._trouble = trouble

    def _bar(self) -> str:
        turns = len(self._conversation.turns)
        parts = [self._chat.title, f"{turns} turn{'' if turns == 1 else 's'}", f"session {self._conversation.history.id}"]
        if self._chat.ready and self._conversation.completer:
            with suppress(CodegenChatError):
                parts.insert(1, f"{self._tokens} of {self._conversation.completer.window} tokens")
        return " " + " | ".join(parts)


class _Names(Completer):
    """Completes commands, the file of /export, and the names alive in the sandbox."""

    def __init__(self, names: Callable[[], Iterable[str]]) -> None:
        self._alive = names
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what Tab offers."""
        before = document.text_before_cursor
        if before.startswith("/export "):
            path = before.removeprefix("/export ")
            yield from self._paths.get_completions(Document(path, len(path)), complete_event)
        elif before.startswith("/"):
            for command in commands.COMMANDS:
                if command.name.startswith(before):
                    yield Completion(command.name, -len(before), display_meta=command.help)
        else:
            word = document.get_word_before_cursor()
            for name in sorted(self._alive()):
                if word and name.startswith(word):
                    yield Completion(name, -len(word))


class _SafeHistory(FileHistory):
    """What was typed, in a file; a full disk loses a line of it and nothing else."""

    def store_string(self, string: str) -> None:
        """Append a line."""
        with suppress(OSError):
            super().store_string(string)


@contextmanager
def _quiet_keyboard() -> Iterator[None]:
    """Between prompts, keep what is typed ahead as it is for the next one, and echo neither it nor Ctrl-C's ^C into a turn."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    quiet = [before[0] & ~termios.ICRNL, *before[1:3], before[3] & ~(termios.ECHO | termios.ICANON), *before[4:]]
    termios.tcsetattr(keyboard, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _history(path: Path | None) -> History:
    try:
        if path is not None:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
            return _SafeHistory(str(path))
    except OSError:
        """Typing works without it."""
    return InMemoryHistory()


def _keys() -> KeyBindings:
    """Enter sends, Alt-Enter and Ctrl-J make a new line. A paste comes in as one piece and sends nothing."""
    keys = KeyBindings()

    @keys.add("enter", filter=~is_searching)
    def _send(event: KeyPressEvent) -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("c-j")
    @keys.add("escape", "enter")
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _count(argument: str) -> int | None:
    if argument and not (argument.isdecimal() and 0 < int(argument) <= MOST_CANDIDATES):
        raise UsageError(f"/retry takes how many answers to draw, from 1 to {MOST_CANDIDATES}")
    return int(argument) if argument else None


def _title(text: str) -> str:
    line = visible(text.strip().partition("\n")[0])
    return line if len(line) <= 60 else f"{line[:59]}…"
