"""Answers the questions of a Python file as it is saved, for people who stay in their editor; comments.py says what they are.

The file is looked at, not the editor: it is read once its inode, time and size have been the same at two looks, whichever way it
was saved. An answer is written only below the question as it stands then; see swap.py for what happens to edits of that moment.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import sleep

from codegen_chat.conversation import Conversation
from codegen_chat.errors import CodegenChatError
from codegen_chat.events import Committed, Events
from codegen_chat.session import comments
from codegen_chat.session.swap import Swap
from codegen_chat.terminal.play import interrupted
from codegen_chat.terminal.screen import Screen
from codegen_chat.turn import Turn

LOOK = 0.25
"""Seconds between two looks at the file."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A turn that ran: its words and code, and whether it counts."""

    words: str
    code: str
    accepted: bool


class Watch:
    """Watches a file until Ctrl-C."""

    def __init__(self, path: Path, conversation: Conversation, screen: Screen) -> None:
        self._path = path
        self._swap = Swap(path)
        self._conversation = conversation
        self._screen = screen
        self._done: list[_Done] = []
        self._said = ""
        self._answering = False

    def run(self) -> bool:
        """Answer until a Ctrl-C comes. Returns whether it broke off an answer."""
        looked: object = None
        read: object = None
        try:
            self._screen.note(f"watching {self._path}: end a comment in ?! and save; Ctrl-C ends")
            while True:
                seen, looked = looked, self._look()
                if looked is not None and looked == seen != read:
                    if self._swap.settle():
                        self._screen.note("saved while an answer was written: what was saved counts")
                        continue
                    read = looked
                    while self._answer():
                        """One after another."""
                    self._answering = False
                sleep(LOOK)
        except KeyboardInterrupt:
            self._screen.abandon()
            return self._answering
        finally:
            with suppress(OSError):
                self._swap.settle()

    def _look(self) -> object:
        """Return what tells one state of the file from another; None while there is none."""
        try:
            found = self._path.stat()
        except OSError as error:
            self._say(f"{self._path} cannot be seen: {error.strerror}; waiting for it")
            return None
        return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size

    def _answer(self) -> bool:
        """Answer the first question. Returns whether there may be another."""
        try:
            data = self._path.read_bytes()
            text = data.decode("utf-8")
        except OSError as error:
            self._say(f"{self._path} cannot be read: {error.strerror}")
            return False
        except UnicodeDecodeError as error:
            self._say(f"{self._path} is not UTF-8 text: byte {error.start} cannot be read")
            return False
        asked = comments.question(text)
        if asked is None:
            self._said = ""
            return False
        self._answering = True
        try:
            above = comments.turns(text, asked.first)
        except (SyntaxError, ValueError) as error:
            line = getattr(error, "lineno", None) or 1
            self._say(f"{self._path}:{line}: no Python yet, so {asked.words!r} waits: {getattr(error, 'msg', error)}")
            return False
        self._screen.start()
        self._screen.words(asked.first + 1, asked.words)
        try:
            turn = self._turn(above, asked.words)
        except CodegenChatError as error:
            self._say(str(error))
            return False
        return self._write(asked.words, turn)

    def _turn(self, above: list[tuple[str, str]], words: str) -> Turn:
        """Go to the state above a question and ask it there."""
        same = 0
        while same < min(len(above), len(self._done)) and above[same] == (self._done[same].words, self._done[same].code):
            same += 1
        conversation = self._conversation
        if same == len(above) == len(self._done) - 1 and self._done[-1].words == words:
            self._done.pop()
            events = conversation.retry()
        else:
            for left in self._done[same:]:
                if left.accepted:
                    conversation.undo()
            del self._done[same:]
            for text, code in above[same:]:
                ran = self._play(conversation.run_code(code, text=text), quiet=True)
                self._done.append(_Done(text, code, ran.accepted))
                if not ran.accepted:
                    self._screen.error(f"what stands above fails, and is left out: {code.splitlines()[0]}")
                    self._screen.turn(len(self._done), ran)
            events = conversation.run(words)
        turn = self._play(events)
        self._done.append(_Done(words, turn.code.strip("\n"), turn.accepted))
        return turn

    def _play(self, events: Events, *, quiet: bool = False) -> Turn:
        """Draw a turn and return it. Raises KeyboardInterrupt where one ended it."""
        turn = None
        for event in events:
            if not quiet:
                self._screen.draw(event)
            if isinstance(event, Committed):
                turn = event.turn
        if turn is None or interrupted(turn):
            raise KeyboardInterrupt
        return turn

    def _write(self, asked: str, turn: Turn) -> bool:
        """Write an answer below its question, wherever that stands by now. Returns whether the next one may be answered."""
        try:
            data = self._path.read_bytes()
            text = comments.answered(data.decode("utf-8"), asked, turn)
            if text is None:
                self._screen.note("the question is gone: its answer stands only here", "yellow")
                return True
            written = self._swap.write(data, text.encode("utf-8", "replace"))
        except (OSError, UnicodeDecodeError) as error:
            self._say(f"{self._path} cannot be written: {getattr(error, 'strerror', error)}; the answer stands only here")
            return False
        if written:
            self._screen.note(f"written into {self._path}")
        return True if written else self._write(asked, turn)

    def _say(self, text: str) -> None:
        """Say something once, however often it is found."""
        if text != self._said:
            self._said = text
            self._screen.error(text)
