"""The line that is typed: keys, completion, what was typed before, and a half-typed line that outlives a crash."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import EditingMode
from prompt_toolkit.filters import is_searching, vi_mode
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import ColorDepth
from prompt_toolkit.output.plain_text import PlainTextOutput
from prompt_toolkit.utils import is_dumb_terminal

from codegen_chat.errors import CodegenChatError
from codegen_chat.loading import Loading
from codegen_chat.settings import Settings
from codegen_chat.terminal.commands import COMMANDS
from codegen_chat.terminal.keyboard import PROMPT

LOADING = 0.1
"""Seconds between two looks at whether the model has loaded; once it has, nothing looks any more."""


@dataclass(frozen=True, slots=True)
class Alive:
    """What a session tells the line: its id, the bar below, and for Tab names, the attributes of one, files that turns wrote."""

    session: str
    bar: Callable[[], str]
    names: Callable[[], Iterable[str]]
    attributes: Callable[[str], Iterable[str]]
    files: Callable[[], Iterable[str]]


class Opened(Protocol):
    """A session to type at."""

    @property
    def ready(self) -> bool:
        """Whether its model has loaded."""
        ...


class Line:
    """Reads lines from a terminal: `keys` is emacs or vi, `session` the id of one that goes on, `bar` stands below until `serve`.

    `typed` is the file of what was typed before, None where nothing is kept.
    """

    def __init__(self, stream: TextIO, keys: str, *, plain: bool, typed: Path | None, session: str = "", bar: str = "") -> None:
        self._alive = Alive(session, lambda: bar, tuple, lambda _expression: (), tuple)
        self._draft = _Draft(typed and typed.with_name("draft.json"), session)
        self._ahead: str | None = None
        history = _history(typed)
        self._unsent = self._draft.take(history)
        self._output = PlainTextOutput(stream) if is_dumb_terminal() else None
        self._depth = ColorDepth.DEPTH_1_BIT if plain else None
        self._mode = EditingMode.VI if keys == "vi" else EditingMode.EMACS
        self._prompt: PromptSession[str] = PromptSession(
            PROMPT,
            multiline=True,
            prompt_continuation="  ",
            history=history,
            completer=_Names(lambda: self._alive),
            complete_while_typing=False,
            auto_suggest=None if plain else AutoSuggestFromHistory(),
            editing_mode=self._mode,
            enable_open_in_editor=True,
            tempfile_suffix=".txt",
            key_bindings=_keys(),
            bottom_toolbar=None if plain else self._bar,
            color_depth=self._depth,
            output=self._output,
        )
        self._prompt.default_buffer.on_text_changed += self._draft.keep

    def serve(self, alive: Alive) -> None:
        """Read lines for this session from now on."""
        self._alive = alive
        self._draft.session = alive.session

    def first(self, opening: Loading[Opened]) -> bool:
        """Read a line while the session that it is for is opened; `read` then returns it. False where the person leaves instead.

        Raises why the session cannot be opened, as soon as that is known.
        """
        while True:
            try:
                self._ahead = self.read(lambda: opening.ready and opening.value.ready, behind=opening.begin)
                opening.value  # noqa: B018  it is there, or says why not
            except EOFError:
                return False
            except KeyboardInterrupt:
                self.forget()
            else:
                return True

    def read(self, loaded: Callable[[], bool], default: str = "", *, behind: Callable[[], None] | None = None) -> str:
        """Read a line, of which `default` is written already. Raises EOFError and KeyboardInterrupt, and what `loaded` raises.

        The bar is drawn anew once the model has loaded. `behind` is called when the prompt is on the screen.
        """
        if self._ahead is not None:
            text, self._ahead = self._ahead, None
            return text

        def wait() -> None:
            if behind or not loaded():
                self._prompt.app.create_background_task(self._until(loaded, behind))

        text = self._prompt.prompt(default=default or self._unsent, pre_run=wait)
        self._unsent = ""
        self._draft.drop()
        return text

    def ask(self, question: str, default: str = "") -> str:
        """Ask something in between; what is answered is not remembered."""
        asked: PromptSession[str] = PromptSession(
            f"{question} ",
            multiline=True,
            prompt_continuation="  ",
            editing_mode=self._mode,
            key_bindings=_keys(),
            color_depth=self._depth,
            output=self._output,
        )
        return asked.prompt(default=default)

    def forget(self) -> None:
        """Let go of what was half typed: the person has cleared it."""
        self._unsent = ""
        self._ahead = None
        self._draft.drop()

    def _bar(self) -> str:
        return self._alive.bar()

    async def _until(self, loaded: Callable[[], bool], behind: Callable[[], None] | None) -> None:
        if behind:
            behind()
        try:
            while not loaded():  # noqa: ASYNC110  a thread of numpy and torch sets no event of asyncio's
                await asyncio.sleep(LOADING)
        except CodegenChatError as error:
            self._prompt.app.exit(exception=error)
        else:
            self._prompt.app.invalidate()


class _Draft:
    """The half-typed line, in a file while it is typed. The next start of its session finds it; another one has it on Up."""

    def __init__(self, path: Path | None, session: str) -> None:
        self._path = path
        self.session = session

    def take(self, history: History) -> str:
        """Return the line that was left half typed in this session; that of another one joins what was typed before."""
        if self._path is None:
            return ""
        with suppress(OSError, ValueError, KeyError, TypeError):
            left = json.loads(self._path.read_text(encoding="utf-8"))
            text = str(left["text"])
            if left["session"] == self.session:
                return text
            history.append_string(text)
            self.drop()
        return ""

    def keep(self, buffer: Buffer) -> None:
        """Write the line down. A full disk loses it and nothing else."""
        if self._path is None:
            return
        if not buffer.text.strip():
            self.drop()
            return
        fresh = self._path.with_suffix(".new")
        with suppress(OSError):
            fresh.touch(mode=0o600)
            fresh.write_text(json.dumps({"session": self.session, "text": buffer.text}), encoding="utf-8")
            fresh.replace(self._path)

    def drop(self) -> None:
        """It was sent, or cleared."""
        if self._path is not None:
            with suppress(OSError):
                self._path.unlink(missing_ok=True)


class _Names(Completer):
    """Completes commands, settings, files, and the names alive in the sandbox with their attributes."""

    def __init__(self, alive: Callable[[], Alive]) -> None:
        self._alive = alive
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Yield what Tab offers."""
        before = document.text_before_cursor
        if before.startswith("/export "):
            path = before.removeprefix("/export ")
            yield from self._paths.get_completions(Document(path, len(path)), complete_event)
        elif before.startswith("/") and " " not in before:
            for command in COMMANDS:
                if command.name.startswith(before):
                    yield Completion(command.name, -len(before), display_meta=command.help)
        elif before.startswith("/set "):
            yield from _offer(before.rpartition(" ")[2], (f"{field.name}=" for field in fields(Settings)))
        elif found := re.search(r"(?<![\w.])([A-Za-z_][\w.]*)\.(\w*)$", before):
            yield from _offer(found[2], self._alive().attributes(found[1]))
        elif found := re.search(r"[\"']([\w./-]+)$", before):
            yield from _offer(found[1], sorted({*self._alive().files(), *self._alive().names()}))
        elif found := re.search(r"\w+$", before):
            yield from _offer(found[0], sorted(self._alive().names()))


def _offer(begun: str, words: Iterable[str]) -> Iterator[Completion]:
    return (Completion(word, -len(begun)) for word in words if word.startswith(begun))


class _SafeHistory(FileHistory):
    """What was typed, in a file; a full disk loses a line of it and nothing else."""

    def store_string(self, string: str) -> None:
        """Append a line."""
        with suppress(OSError):
            super().store_string(string)


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
    @keys.add("escape", "enter", filter=~vi_mode)  # in vi, Escape is a key of its own and waits for no other
    def _newline(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys
