"""The REPL as a process of its own, for tests that type at it: real screen, sandbox and log, a model from a script.

Words choose what the model does: "slowly" writes a line every 20 ms for ever, "loading" never loads, "fail" divides by zero,
"number" differs by seed, "many" answers with 200 lines of output; anything else is answered with the words in a print. First
lines of a block are gone on with by a return.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from codegen_chat.attention.record import Attention, Part
from codegen_chat.conversation import Conversation
from codegen_chat.errors import UsageError
from codegen_chat.making import Options
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History, newest
from codegen_chat.settings import Settings
from codegen_chat.terminal.keyboard import quiet_keyboard
from codegen_chat.terminal.line import Line
from codegen_chat.terminal.repl import Repl
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling, Usage
from tests.fakes import interleaved


class Model:
    """A Completer; see above."""

    sampling = Sampling()

    def __init__(self, window: int) -> None:
        self.window = window

    def count(self, text: str) -> int:
        if text.endswith("# loading\n"):
            threading.Event().wait()
        return len(text) // 3

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        words = prompt.text.rstrip().rpartition("# ")[2]
        text, reason = "", "stop"
        try:
            if words == "slowly":
                for number in range(1_000_000):
                    text += f"x{number} = {number}\n"
                    yield Delta(f"x{number} = {number}\n")
                    time.sleep(0.02)
            text = self._answer(words, sampling)
            for letter in text:
                yield Delta(letter)
        except KeyboardInterrupt:
            reason = "interrupted"
        ids = tuple(map(ord, text))
        sure = tuple(-0.01 if letter.isalpha() else -2.0 for letter in text)
        usage = Usage(10, 0, 5, 0.01, 0.1)
        yield Completion(text, reason, usage, sum(sure), ids, sure, seed=sampling.seed)  # type: ignore[arg-type]

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return interleaved([self.complete(prompt, sampling, accept=accept) for sampling in samplings])

    def _answer(self, words: str, sampling: Sampling) -> str:
        match words:
            case "fail":
                return "before = 1\n1 / 0\n"
            case "number":
                return f"n = {sampling.seed % 1000 % 3}\nprint('n is', n)\n"
            case "many":
                return "for i in range(200): print('row', i)\n"
        return "\n    return 1\n" if words.endswith(":") else f"said = {words!r}\nprint(said)\n"


@dataclass
class Finding:
    holds: bool
    what: str


class Chat:
    """A session without its api."""

    ready = True
    title = "scripted fp32 cpu"

    def __init__(self, conversation: Conversation, settings: Settings) -> None:
        self.conversation = conversation
        self.settings = settings

    def change(self, values: Mapping[str, object]) -> None:
        self.settings = self.settings.updated(values, "/set")
        self.conversation.options = _options(self.settings)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return [chr(token) for token in ids]

    def doctor(self) -> list[Finding]:
        return [Finding(holds=True, what="all is well"), Finding(holds=False, what="but this")]

    def models(self) -> list[str]:
        return ["nano  here"]

    def attention(self, number: int | None = None) -> Attention:
        last = number or len(self.conversation.turns)
        if not last:
            raise UsageError("there are no turns")
        parts = tuple(Part(turn, "code", 2 * turn - 2, 2 * turn) for turn in range(1, last + 1))
        weights = np.tril(np.ones((1, 1, 2 * last, 2 * last), dtype=np.float32))
        return Attention("scripted", ("x", "\n") * last, parts, weights / weights.sum(axis=3, keepdims=True))

    def export(self, path: Path) -> str | None:
        path.write_text("".join(turn.code for turn in self.conversation.turns))
        return None


def _options(settings: Settings) -> Options:
    return Options(samples=settings.samples, max_new_tokens=settings.max_new_tokens, timeout=20, ask=settings.exec == "ask")


def main() -> None:
    """Run it: a folder for the log and what was typed, then flags."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("-c", action="store_true", help="go on with the newest session")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--disk", type=int, help="the largest file that may be written, in bytes")
    parser.add_argument("--window", type=int, default=2048)
    parser.add_argument(
        "--state", type=Path, help="a folder for the prompt and the names of each session, as they are at its end"
    )
    parser.add_argument("--sessions", type=int, default=1, help="so many, one after another")
    given = parser.parse_args()
    folder: Path = given.folder
    if given.disk:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.disk, resource.RLIM_INFINITY))
    settings = replace(Settings(), plain=given.plain).updated(dict(pair.split("=") for pair in given.set), "--set")
    sessions = folder / "sessions"
    with Kernel.start(imports=("numpy",)) as kernel:
        for number in range(given.sessions):
            goes_on = given.c and not number
            history = History.open(newest(sessions)) if goes_on else History.create(sessions, {"model": "scripted"})
            with history:
                chat = Chat(Conversation(Model(given.window), kernel, history, _options(settings)), settings)
                if goes_on:
                    chat.conversation.resume()
                line = Line(sys.stdout, settings.keys, plain=given.plain, typed=folder / "typed", session=history.id)
                repl = Repl(chat, sys.stdout, line, ["ready"], plain=given.plain)
                signal.signal(signal.SIGINT, signal.default_int_handler)
                with quiet_keyboard():
                    repl.run()
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # no session is on yet, or any more
                told = {"prompt": chat.conversation.prompt_text(), "names": dict(chat.conversation.names())}
            if given.state:  # whole at once, and not before the log is: who waits for it reads both
                fresh = folder / "state"
                fresh.write_text(json.dumps(told))
                fresh.rename(given.state / history.id)
    sys.stdout.write("left\n")


if __name__ == "__main__":
    main()
