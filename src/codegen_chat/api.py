"""The product as a library: a model that completes text, and a session that turns words into Python that ran.

`load` and `Session` put together what the packages below know: engine, sandbox, log, conversation. The command line and the
terminal use the same two.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Event as Flag
from threading import Thread
from typing import TYPE_CHECKING, Self, overload

from codegen_chat import prompt as prompts
from codegen_chat.attention.record import Attention, Piece, parts, pieces, split
from codegen_chat.conversation import Committed, Conversation, Event, Options
from codegen_chat.errors import CodegenChatError, SandboxUnavailable, SessionError, UsageError
from codegen_chat.lm import hub
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.sandbox.outer import UNSAFE, Grants
from codegen_chat.session import export
from codegen_chat.session.history import History
from codegen_chat.settings import Settings, sessions_folder
from codegen_chat.turn import Accept, Completed, Completion, Delta, Limits, Prompt, Sampling, Turn, last_execution

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codegen_chat.lm.engine import Engine
    from codegen_chat.lm.model import CodeGen
    from codegen_chat.lm.tokenizer import Tokenizer


def load(model: str | Path = "nano", *, dtype: str = "auto", device: str = "auto") -> Model:
    """Load a model: "nano" (embedded), a checkpoint's folder, or a name that `models ls` shows as here. Nothing is downloaded.

    `dtype` is auto, fp32, bf16, fp16, int8 or int4; `device` auto, cpu, cuda, ... On a CPU the native step computes, where it was
    built and knows the dtype, and torch where not; auto is then the dtype that the weights are stored in. Raises
    ModelUnavailable, CheckpointError, UsageError.
    """
    folder = hub.locate(str(model))
    # They take long to import, torch longest: only who loads a model waits for them, and for torch only who needs it.
    from codegen_chat.lm import sampling, steps  # noqa: PLC0415
    from codegen_chat.lm.engine import Engine  # noqa: PLC0415
    from codegen_chat.lm.tokenizer import Tokenizer  # noqa: PLC0415

    step = steps.load(folder, dtype, device)
    engine = Engine(step, Tokenizer.load(folder), sampling.defaults(folder))
    return Model(engine, folder)


class Model:
    """A loaded model. Not for several threads at once: one cache serves one completion at a time.

    Attributes:
        name, revision: which model it is.
        dtype, device, backend: how it computes ("int8", "cpu", "native AVX2").
        engine: the completer underneath.
    """

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.name = hub.name(folder)
        self.revision = hub.revision(folder)
        self._folder = folder
        self.dtype = engine.step.dtype
        self.device = engine.step.device
        self.backend = engine.step.backend

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's vocabulary."""
        return self.engine.tokenizer

    @overload
    def complete(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion]: ...

    @overload
    def complete(
        self,
        prompt: list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[list[Completion]]: ...

    def complete(
        self,
        prompt: str | list[str] | tuple[str, ...],
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion] | list[list[Completion]]:
        """Continue a text `n` times, with seeds from `seed` on; of several texts each, one after the other, a list for each.

        None is the checkpoint's own default; temperature 0 is greedy, and then all n are alike. The text ends before the first
        of the `stop` strings. Raises UsageError for a value out of range, ContextWindowExceeded for a prompt past the window.
        """
        found: list[list[Completion]] = []
        for text in [prompt] if isinstance(prompt, str) else prompt:
            asked, sampling = self._asked(text, max_new_tokens, temperature, top_p, top_k, stop, seed)
            events = self.engine.complete_many(asked, [replace(sampling, seed=seed + index) for index in range(n)])
            ended = [event for event in events if isinstance(event, Completed)]
            found.append([event.completion for event in sorted(ended, key=lambda event: event.candidate)])
        return found[0] if isinstance(prompt, str) else found

    def stream(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        stop: Sequence[str] = (),
        seed: int = 0,
    ) -> Generator[Delta | Completion, None, None]:
        """Continue a text, in pieces as they are decided; the Completion comes last. Arguments and errors as in `complete`."""
        return self.engine.complete(*self._asked(prompt, max_new_tokens, temperature, top_p, top_k, stop, seed))

    def _asked(
        self,
        prompt: str,
        max_new_tokens: int,
        temperature: float | None,
        top_p: float | None,
        top_k: int | None,
        stop: Sequence[str],
        seed: int,
    ) -> tuple[Prompt, Sampling]:
        """Check the arguments of `complete`; return what they ask for."""
        wanted = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed}
        settings = Settings().updated({key: value for key, value in wanted.items() if value is not None}, "complete()")
        if isinstance(stop, str) or not all(stop):
            raise UsageError("complete(): stop is a list of strings that are not empty")
        return Prompt(prompt, prompts.stop_strings(*stop), max_new_tokens), drawing(settings, self.engine.sampling)

    def infill(
        self,
        prefix: str,
        suffix: str,
        *,
        max_new_tokens: int = 256,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        n: int = 1,
        seed: int = 0,
    ) -> list[Completion]:
        """Fill the gap between two texts `n` times: for CodeGen2 models, which were trained to.

        Arguments and errors as in `complete`; UsageError where the model's vocabulary has no `<mask_1>`, `<sep>` and `<eom>`.
        """
        marks = ("<mask_1>", "<sep>", "<eom>")
        if any(len(self.tokenizer.encode(mark)) != 1 for mark in marks):
            raise UsageError(f"{self.name} cannot fill gaps: it knows no {', '.join(marks)}. CodeGen2 models do")
        prompt = f"{prefix}<mask_1>{suffix}<|endoftext|><sep><mask_1>"
        return self.complete(
            prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            stop=["<eom>"],
            n=n,
            seed=seed,
        )

    def logits(self, text: str | Sequence[int]) -> NDArray[np.float32]:
        """Return the logits after each of T tokens of a text, or of ids, float32 (T, vocabulary)."""
        return self.engine.logits(self._ids(text))

    def features(self, text: str | Sequence[int]) -> NDArray[np.float32]:
        """Return the last hidden states of T tokens of a text, or of ids, after the final LayerNorm: float32 (T, n_embd)."""
        return self.engine.features(self._ids(text))

    def _ids(self, text: str | Sequence[int]) -> Sequence[int]:
        return self.tokenizer.encode(text) if isinstance(text, str) else text

    def attentions(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return what T tokens attend to in each head, float32 (layers, heads, T, T); see `Attention.weights`.

        The reference step of torch computes them, in fp32 where the native step serves this model: its weights are then loaded
        once more, when this is first called. The cache is left as it is. Raises UsageError for more than half of the memory.
        """
        from codegen_chat.lm.model import attentions  # noqa: PLC0415  torch

        array = self.engine.checked(ids)
        config = self.engine.step.config
        size = 4 * config.n_layer * config.n_head * len(array) ** 2
        if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2:
            raise UsageError(f"the attention of {len(array)} tokens is {size / 1e9:.1f} GB of numbers: shorten the text")
        return attentions(self._reference, array)

    def attention(self, text: str | Sequence[Piece]) -> Attention:
        """Return what the tokens of a text attend to. Of a plain text, lines of comments are a turn's words, the others its code.

        Raises UsageError for an empty one, and as `attentions` does.
        """
        split_up = list(split(text) if isinstance(text, str) else text)
        ids = self.tokenizer.encode("".join(piece for _, _, piece in split_up))
        if not ids:
            raise UsageError("there is no text to look at")
        tokens = [self.tokenizer.token_bytes(token) for token in ids]
        texts = tuple(token.decode("utf-8", "backslashreplace") for token in tokens)
        return Attention(self.name, texts, parts(split_up, tokens), self.attentions(ids))

    @cached_property
    def _reference(self) -> CodeGen:
        from codegen_chat.lm import steps  # noqa: PLC0415  numpy's part of the engine

        return steps.reference(self.engine.step, self._folder)


def drawing(settings: Settings, own: Sampling) -> Sampling:
    """Return how to draw: the checkpoint's own way, changed by what is set."""
    return Sampling(
        own.temperature if settings.temperature is None else settings.temperature,
        own.top_p if settings.top_p is None else settings.top_p,
        own.top_k if settings.top_k is None else settings.top_k,
        settings.seed,
    )


class Loading:
    """A model that loads in a thread, so that a prompt is there at once. Who needs it waits."""

    def __init__(self, make: Callable[[], Model]) -> None:
        self._make = make
        self._done = Flag()
        self._outcome: Model | BaseException | None = None
        Thread(target=self._run, name="loading", daemon=True).start()

    def _run(self) -> None:
        try:
            self._outcome = self._make()
        except BaseException as error:  # noqa: BLE001  who asks for the model gets it
            self._outcome = error
        self._done.set()

    @property
    def ready(self) -> bool:
        """Whether asking for the model would not wait."""
        return self._done.is_set()

    @property
    def model(self) -> Model:
        """The model; waits for it. Raises what loading it raised."""
        self._done.wait()
        if not isinstance(self._outcome, Model):
            raise self._outcome or AssertionError("a model neither loaded nor failed")
        return self._outcome


class _Drawing:
    """The Completer of a session: a model that may still be loading, and the person's own way to draw."""

    def __init__(self, loading: Loading, settings: Settings) -> None:
        self._loading = loading
        self._settings = settings

    @property
    def window(self) -> int:
        return self._loading.model.engine.window

    @property
    def sampling(self) -> Sampling:
        return drawing(self._settings, self._loading.model.engine.sampling)

    def count(self, text: str) -> int:
        return self._loading.model.engine.count(text)

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        return self._loading.model.engine.complete(prompt, sampling, accept=accept)

    def complete_many(
        self, prompt: Prompt, samplings: Sequence[Sampling], *, accept: Accept | None = None
    ) -> Generator[Delta | Completed, None, None]:
        return self._loading.model.engine.complete_many(prompt, samplings, accept=accept)


@dataclass(frozen=True, slots=True)
class Program:
    """A session as a Python file. `doubt` says why it is not verified, None where a run from nothing gave what was recorded."""

    text: str
    doubt: str | None

    def write(self, path: Path) -> None:
        """Write the file. Raises SessionError where that is not possible."""
        try:
            path.write_text(self.text, encoding="utf-8")
        except OSError as error:
            raise SessionError(f"{path} cannot be written: {error.strerror}") from None


def program(history: History, kernel: Kernel | None, timeout: float) -> Program:
    """Return a session as a Python file, run once more in a sandbox from nothing to see whether it gives what was recorded.

    `timeout` is a turn's, in seconds.
    """
    turns = history.transcript
    header = history.header
    facts = (
        f"codegen-chat session {history.id}",
        f"{header.get('model', '?')}@{header.get('revision', '?')}",
        f"seed {header.get('seed', 0)}",
    )
    text = export.render_py(turns, facts, verified=True)
    if kernel is None:
        doubt: str | None = "nothing can be executed here"
    else:
        rerun = last_execution(kernel.execute(text, parent=None, turn=None, timeout=timeout * max(1, len(turns))))
        doubt = export.mismatch(turns, rerun)
    return Program(text if doubt is None else export.render_py(turns, facts, verified=False), doubt)


def sandbox(settings: Settings, *, imports: Sequence[str] = (), unsafe: bool = False) -> tuple[Kernel | None, str | None]:
    """Return a sandbox, or None and why there is none.

    `imports`: modules that its empty state has imported. `unsafe`: where it cannot be had, run code all the same; for who has
    typed so. Raises UsageError for a folder that cannot be granted.
    """
    if settings.exec == "off":
        return None, "execution is off"
    limits = replace(Limits(), timeout=settings.timeout, memory=settings.memory)
    grants = Grants(settings.allow_read, settings.allow_write)
    try:
        return Kernel.start(limits, imports=imports, grants=grants, unsafe=unsafe), None
    except SandboxUnavailable as error:
        return None, str(error)


def walls(kernel: Kernel) -> list[str]:
    """Say in a line what code is held to, and what it was granted; louder where it is held to nothing."""
    if kernel.tier == UNSAFE:
        return [
            "!" * 80,
            "UNSAFE: no sandbox holds on this machine, and --unsafe-exec was given.",
            "Code that a model wrote runs with your rights: it can read, change and delete your files.",
            "!" * 80,
        ]
    grants = kernel.grants
    granted = [f"{what} {', '.join(folders)}" for what, folders in (("reads", grants.read), ("writes", grants.write)) if folders]
    but = f", but it {' and '.join(granted)}" if granted else ""
    return [f"Code runs in the sandbox, tier {kernel.tier}: no network, no files{but}."]


class Session:
    """A conversation with its model, its sandbox and its log: the whole product. Usable as a context manager.

    Attributes:
        conversation: runs turns as iterators of events, undoes and redoes them.
        history: its turns, and the file that they are kept in.
        model: what loads, or has loaded.
        unsafe: why nothing is executed, None where something is.
        walls: what code that is executed is held to, in lines.
        notes: what a person should know of a session that was opened again, a line each.
    """

    def __init__(self, settings: Settings, history: History, kernel: Kernel | None, unsafe: str | None, model: Loading) -> None:
        self.history = history
        self.model = model
        self.unsafe = unsafe
        self.walls = walls(kernel) if kernel else []
        self.notes = list(history.dropped)
        self._settings = settings
        self._kernel = kernel
        options = Options(
            samples=settings.samples,
            fallback=settings.fallback,
            guard=settings.guard,
            max_new_tokens=settings.max_new_tokens,
            timeout=settings.timeout,
        )
        self.conversation = Conversation(_Drawing(model, settings), kernel, history, options)

    @classmethod
    def open(
        cls,
        settings: Settings | None = None,
        *,
        resume: Path | None = None,
        model: Loading | Model | None = None,
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
        facts: dict[str, object] = {
            "model": hub.name(folder),
            "revision": hub.revision(folder),
            "dtype": wanted.dtype,
            "device": wanted.device,
            "seed": wanted.seed,
        }
        # The sandbox first: its processes are started before torch is in this one.
        kernel, unsafe = sandbox(wanted, imports=["numpy"], unsafe=unsafe_exec)  # as a conversation's header does
        if kernel is not None:
            facts["sandbox"] = {"tier": kernel.tier, "read": [*kernel.grants.read], "write": [*kernel.grants.write]}
        try:
            history = _history(wanted, facts, resume)
        except BaseException:
            if kernel is not None:
                kernel.close()
            raise
        if not isinstance(model, Loading):
            given = model
            model = Loading(lambda: given or load(wanted.model, dtype=wanted.dtype, device=wanted.device))
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
        """Model, dtype and device in a few words."""
        name = self.history.header["model"] + (" | UNSAFE, no sandbox" if len(self.walls) > 1 else "")
        if not self.ready:
            return f"{name} is loading"
        try:
            model = self.model.model
        except CodegenChatError:
            return f"{name} cannot be loaded"
        return f"{name} {model.dtype} {model.device}, {model.backend}"

    def run(self, text: str, *, samples: int | None = None) -> Turn:
        """Ask for a turn in words; return it with its code and what came of it, accepted or not. Raises as Conversation.run."""
        return _last(self.conversation.run(text, samples=samples))

    def run_code(self, code: str) -> Turn:
        """Run code of your own as a turn. Raises UsageError without code."""
        return _last(self.conversation.run_code(code))

    def attention(self, number: int | None = None) -> Attention:
        """Return what the model looked at while it wrote a turn (counted from 1; None: the last one), earlier turns included.

        Those that had left the window by then are left out. Raises UsageError where there is no such turn.
        """
        return look(self.model.model, self.turns, number, self._settings.max_new_tokens)

    def export(self, path: Path) -> str | None:
        """Write the session as a Python file. Returns why it is not verified, None where it is. Raises SessionError."""
        written = program(self.history, self._kernel, self._settings.timeout)
        written.write(path)
        return written.doubt

    def close(self) -> None:
        """Give the log back and end the sandbox. What was accepted is saved already."""
        self.history.close()
        if self._kernel is not None:
            self._kernel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
