"""The product as a library: a model that completes text, and a session that turns words into Python that ran.

`load` (of models.py) and `Session` put together what the packages below know: engine, sandbox, log, conversation. The command
line and the terminal use the same two.
"""

from __future__ import annotations

import codecs
import os
import platform
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from codegen_chat import prompt as prompts
from codegen_chat.attention.record import Attention, pieces
from codegen_chat.conversation import Conversation
from codegen_chat.errors import CodegenChatError, ModelUnavailable, SandboxUnavailable, SessionError, UsageError
from codegen_chat.events import Committed, Event
from codegen_chat.lm import hub
from codegen_chat.loading import Loading
from codegen_chat.making import Options
from codegen_chat.models import Model, by_settings, drafting, drawing
from codegen_chat.publish import publish
from codegen_chat.sandbox.by_settings import sandbox, walls
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.sandbox.probe import probe
from codegen_chat.session.history import History
from codegen_chat.settings import PROJECT_FILE, Settings, config_file, packed_folder, sessions_folder
from codegen_chat.turn import Accept, Completed, Completion, Delta, Prompt, Sampling, Turn


class _Drawing:
    """The Completer of a session: its model, which may still be loading, and the person's own way to draw, as they are now."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def _model(self) -> Model:
        return self._session.model.value

    @property
    def window(self) -> int:
        return self._model.engine.window

    @property
    def sampling(self) -> Sampling:
        return drawing(self._session.settings, self._model.engine.sampling)

    def count(self, text: str) -> int:
        return self._model.engine.count(text)

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        return self._model.engine.complete(prompt, sampling, accept=accept)

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return self._model.engine.complete_many(prompt, samplings, accept=accept)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about this machine: whether it holds, in words, and the exit code that it is worth."""

    holds: bool
    what: str
    code: int = 0


def examine(settings: Settings) -> Iterator[Finding]:
    """Say what holds on this machine: Python, the sandbox's walls, the model, the folders. It takes seconds."""
    from importlib import metadata  # noqa: PLC0415  it takes a tenth of a session's start

    version = f"codegen-chat {metadata.version('codegen-chat')}, python {platform.python_version()}, {sys.platform}"
    yield Finding(holds=True, what=version)
    *layers, together = probe()
    yield from (Finding(layer.holds, f"sandbox, {layer.name}: {layer.detail}") for layer in layers)
    code = 0 if together.holds else SandboxUnavailable.exit_code
    yield Finding(together.holds, f"sandbox, {together.name}: {together.detail}", code)
    try:
        from codegen_chat.lm import native  # noqa: PLC0415  as in `load`

        loaded = by_settings(settings)
        yield Finding(holds=True, what=f"model {loaded.name}, revision {loaded.revision}, {loaded.dtype} on {loaded.device}")
        drafts = f"; {loaded.draft} drafts for it" if loaded.draft else ""
        yield Finding(holds=True, what=f"it computes with {loaded.backend}; the native step {native.state()}{drafts}")
    except ModelUnavailable as error:
        yield Finding(holds=False, what=f"model: {error}", code=error.exit_code)
    packed = packed_folder(os.environ)
    if taken := sum(file.stat().st_size for file in packed.glob("*/*")):
        yield Finding(holds=True, what=f"weights made small take {hub.amount(taken)} in {packed}, which may be deleted")
    folder = sessions_folder(os.environ)
    above = next(path for path in (folder, *folder.parents) if path.exists())
    writable = above.is_dir() and os.access(above, os.W_OK)
    kept = f"sessions are kept in {folder}" + ("" if writable else ": not writable")
    yield Finding(writable, kept, 0 if writable else SessionError.exit_code)
    yield Finding(holds=True, what=f"settings: {config_file(os.environ)}, {PROJECT_FILE} here, CODEGEN_CHAT_*")


def offers() -> Iterator[str]:
    """Say in lines of 80 columns which models there are, what each takes, whether it fits this machine, and how to get one.

    Memory is that of int8 (`nano` needs no other); `codegen-chat models ls` has every dtype.
    """
    from codegen_chat.lm import fit, shelf  # noqa: PLC0415  as in `load`

    free, room = fit.free_memory(), fit.free_disk(hub.cache())
    yield f"{'model':<29} {'disk':>9} {'memory':>9}  free: {hub.amount(room)}, {hub.amount(free)}"
    for model in shelf.listing():
        need = fit.memory(model.config, "int8") if model.config else 0
        state = "here" if model.folder else "can be had" if model.bytes < room else "disk too small"
        fits = "damaged" if not need else state if need < free else f"{state}, memory too small"
        yield f"{model.name:<29} {hub.amount(model.bytes):>9} {hub.amount(need):>9}  {fits}"
    yield "Get one: `codegen-chat models pull NAME`, then /model NAME. Offline: elsewhere"
    yield "`hf download NAME --local-dir DIR`, then here `codegen-chat models add DIR`."


class Session:
    """A conversation with its model, its sandbox and its log: the whole product. Usable as a context manager.

    Attributes:
        conversation: runs turns as iterators of events, undoes and redoes them.
        history: its turns, and the file that they are kept in.
        model: what loads, or has loaded.
        unsafe: why nothing is executed, None where something is.
        settings: how it was opened, and what `change` made of that.
        walls: what code that is executed is held to, in lines.
        notes: what a person should know of a session that was opened again, a line each.
    """

    def __init__(
        self, settings: Settings, history: History, kernel: Kernel | None, unsafe: str | None, model: Loading[Model]
    ) -> None:
        self.history = history
        self.model = model
        self.unsafe = unsafe
        self.walls = walls(kernel) if kernel else []
        self.notes = list(history.dropped)
        self.settings = settings
        self._kernel = kernel
        self.conversation = Conversation(_Drawing(self), kernel, history, _options(settings))

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        resume: Path | None = None,
        model: Loading[Model] | Model | None = None,
        unsafe_exec: bool = False,
    ) -> Self:
        """Start a session, or go on with the one in a file: its variables are rebuilt by running its code again.

        The model of the settings loads behind it, and a turn waits for it, unless one is given. Where the machine cannot wall
        code in, nothing is executed: `unsafe` says why. With `unsafe_exec` it is all the same, which no setting asks for.

        Raises ModelUnavailable where there is no such model, SessionError where the file is none or cannot be written,
        UsageError for a folder that cannot be granted.
        """
        wanted = settings or Settings()
        folder = hub.locate(wanted.model)
        drafting(folder, wanted.draft)
        facts: dict[str, object] = {
            "model": hub.name(folder),
            "revision": hub.revision(folder),
            "dtype": wanted.dtype,
            "device": wanted.device,
            "seed": wanted.seed,
        }
        if not isinstance(model, Loading):
            given = model
            model = Loading(lambda: given or by_settings(wanted))
            model.begin()
        kernel, unsafe = sandbox(wanted, imports=["numpy"], unsafe=unsafe_exec)  # as a conversation's header does
        if kernel is not None:
            facts["sandbox"] = {"tier": kernel.tier, "read": [*kernel.grants.read], "write": [*kernel.grants.write]}
        try:
            history = _history(wanted, facts, resume)
        except BaseException:
            if kernel is not None:
                kernel.close()
            raise
        session = cls(wanted, history, kernel, unsafe, model)
        if resume is not None:
            session._resume(facts)
        return session

    def _resume(self, facts: dict[str, object]) -> None:
        """Rebuild the variables, and note what differs from when the session was left."""
        before = self.history.header.get("model")
        if before != facts["model"]:
            self.notes.append(f"it was begun with the model {before} and goes on with {facts['model']}")
        self.history.note(facts)
        for turn, execution in zip(self.turns, self.conversation.resume(), strict=False):
            if execution.status != "ok":
                self.notes.append(f"{turn.text or turn.code!r} does not run any more: {execution.status}")
        self.notes.extend(f"a turn that was not finished was kept aside: {turn.text}" for turn in self.history.unfinished)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The accepted turns, oldest first."""
        return self.conversation.turns

    @property
    def ready(self) -> bool:
        """Whether the model is loaded (or failed to): a turn does not wait for it."""
        return self.model.ready

    @property
    def title(self) -> str:
        """Model, dtype, device and draft model in a few words."""
        name = self.history.header["model"] + (" | UNSAFE, no sandbox" if len(self.walls) > 1 else "")
        if not self.ready:
            return f"{name} is loading"
        try:
            model = self.model.value
        except CodegenChatError:
            return f"{name} cannot be loaded"
        return f"{name} {model.dtype} {model.device}, {model.backend}" + (f", draft {model.draft}" if model.draft else "")

    def run(self, text: str, *, given: str = "", samples: int | None = None) -> Turn:
        """Ask for a turn in words; return it with its code and what came of it, accepted or not. As Conversation.run."""
        return _last(self.conversation.run(text, given=given, samples=samples))

    def run_code(self, code: str, *, text: str = "") -> Turn:
        """Run code of your own as a turn, with words where it has any. Raises UsageError without code."""
        return _last(self.conversation.run_code(code, text=text))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the text of each of these tokens; together they are the text of all."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a letter may have several tokens
        return [decoder.decode(self.model.value.tokenizer.token_bytes(token)) for token in ids]

    def doctor(self) -> Iterator[Finding]:
        """Say what holds on this machine, as `codegen-chat doctor` does."""
        return examine(self.settings)

    def models(self) -> Iterator[str]:
        """Say which models there are and how to get one: lines for a person."""
        return offers()

    def attention(self, number: int | None = None) -> Attention:
        """Return what the model looked at while it wrote a turn (counted from 1; None: the last one), earlier turns included.

        Those that had left the window by then are left out. Raises UsageError where there is no such turn.
        """
        return look(self.model.value, self.turns, number, self.settings.max_new_tokens)

    def export(self, path: Path) -> str | None:
        """Write the session as .py, .ipynb, .md or .html. Returns why it is not verified, None where it is.

        Raises UsageError for another kind of file, SessionError where it cannot be written.
        """
        written = publish(self.history, self._kernel, self.settings.timeout, path)
        written.write(path)
        return written.doubt

    def change(self, values: Mapping[str, object]) -> None:
        """Change settings for the turns to come; another model loads behind the prompt, and the session goes on with it.

        Raises SettingsError for what is no setting, UsageError for one that holds from a session's start on, ModelUnavailable.
        """
        fixed = sorted(_FROM_THE_START & values.keys())
        if fixed:
            raise UsageError(
                f"{fixed[0]} holds from the start on: leave, and give it on the command line or in the settings file"
            )
        wanted = self.settings.updated(values, "/set")
        if wanted.exec != "off" and self._kernel is None:
            raise UsageError(f"nothing can be executed in this session: {self.unsafe}")
        if any(getattr(wanted, name) != getattr(self.settings, name) for name in ("model", "dtype", "device", "draft")):
            folder = hub.locate(wanted.model)
            drafting(folder, wanted.draft)
            self.model = Loading(lambda: by_settings(wanted))
            self.model.begin()
            facts = {"model": hub.name(folder), "revision": hub.revision(folder)}
            self.history.note({**facts, "dtype": wanted.dtype, "device": wanted.device})
        self.settings = wanted
        self.conversation.options = _options(wanted)

    def close(self) -> None:
        """Give the log back and end the sandbox. What was accepted is saved already."""
        self.history.close()
        if self._kernel is not None:
            self._kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_FROM_THE_START = {"memory", "allow_read", "allow_write", "save", "plain", "keys"}


def _options(settings: Settings) -> Options:
    return Options(
        samples=settings.samples,
        fallback=settings.fallback,
        guard=settings.guard,
        max_new_tokens=settings.max_new_tokens,
        timeout=settings.timeout,
        execute=settings.exec != "off",
        ask=settings.exec == "ask",
    )


def look(model: Model, turns: Sequence[Turn], number: int | None, max_new_tokens: int) -> Attention:
    """Return what a model looks at while it writes one of a conversation's turns; see `Session.attention`."""
    last = len(turns) if number is None else number
    if not 0 < last <= len(turns):
        raise UsageError(f"there is no turn {last} of {len(turns)} to look at" if turns else "there are no turns to look at yet")
    before, turn = turns[: last - 1], turns[last - 1]
    fit = prompts.fit(before, turn.text, model.engine.count, model.engine.window, max_new_tokens)
    seen = [(place, each) for place, each in enumerate(turns[:last], 1) if each.id not in fit.evicted]
    return model.attention(list(pieces(seen)))


def _history(settings: Settings, facts: dict[str, object], resume: Path | None) -> History:
    if resume is not None:
        return History.open(resume)
    return History.create(sessions_folder(os.environ), facts) if settings.save else History.memory(facts)


def _last(events: Iterator[Event]) -> Turn:
    """Drain a turn's events and return the turn."""
    turns = [event.turn for event in events if isinstance(event, Committed)]
    return turns[-1]
