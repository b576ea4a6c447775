"""How fast a model is here, in a conversation as people have them: tokens/s, the wait for the first token, memory, overhead."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from codegen_chat.conversation import Conversation
from codegen_chat.events import Committed, Executed
from codegen_chat.making import Options
from codegen_chat.models import Model
from codegen_chat.session.history import History
from codegen_chat.turn import Completed, Delta, Executor, Prompt, Sampling

TURNS = (
    'Assign the list [3, 1, 4, 1, 5, 9, 2, 6] to a variable named "nums".',
    'Sort nums and store the result in "ordered".',
    'Store the sum of nums in "total" and print it.',
    'Write a function "square" that returns the square of a number.',
    'Make a list "squares" of the squares of nums.',
    "Print the largest of squares.",
    'Assign the text "the quick brown fox" to a variable named "text".',
    'Split text into words and store them in "words".',
    'Make a dictionary "lengths" of the words and their lengths.',
    "Print the longest word.",
)
LONG = 128
"""Tokens of the completion by which the rate is measured."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn took: seconds to the first text, in the model, in the sandbox, and in all; tokens of prompt and answer."""

    first: float
    model: float
    sandbox: float
    whole: float
    prompt_tokens: int
    cached_tokens: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Speed:
    """The turns of a conversation, and rates in tokens/s: one completion, eight together, a prompt. `peak` is in bytes."""

    turns: tuple[Turn, ...]
    decode: float
    decode_many: float
    prefill: float
    peak: int

    @property
    def first(self) -> float:
        """The median of the waits for the first text, in seconds."""
        return median(turn.first for turn in self.turns)

    @property
    def overhead(self) -> float:
        """The median of what a turn took beside model and sandbox, in seconds."""
        return median(turn.whole - turn.model - turn.sandbox for turn in self.turns)


def measure(model: Model, executor: Executor, seconds: float = 45.0) -> Speed:
    """Hold a conversation of ten turns, or as many as there is time for, then complete long texts. About a minute at most."""
    engine = model.engine
    began = perf_counter()
    engine_first = Prompt("x = 1\n", _never, 1)
    list(engine.complete(engine_first, Sampling()))  # whatever is done once, at the first token, is done
    conversation = Conversation(engine, executor, History.memory(), Options(guard=False, max_new_tokens=64))
    turns: list[Turn] = []
    for text in TURNS:
        if turns and perf_counter() - began > seconds / 2:
            break
        turns.append(_turn(conversation, text))
    prompt = conversation.prompt_text() + "# Once more.\n"
    decode, prefill = _rate(model, prompt, 1)
    decode_many, _ = _rate(model, prompt, 8)
    return Speed(tuple(turns), decode, decode_many, prefill, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)


def _never(text: str) -> tuple[int, bool]:
    return len(text), False


def _turn(conversation: Conversation, text: str) -> Turn:
    began = perf_counter()
    first = model = sandbox = 0.0
    prompt = cached = tokens = 0
    for event in conversation.run(text):
        match event:
            case Delta():
                first = first or perf_counter() - began
            case Completed(completion):
                usage = completion.usage
                model += usage.prefill_seconds + usage.decode_seconds
                prompt, cached, tokens = usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens
            case Executed(execution):
                sandbox += execution.duration
            case Committed():
                pass
    return Turn(first or model, model, sandbox, perf_counter() - began, prompt, cached, tokens)


def _rate(model: Model, prompt: str, together: int) -> tuple[float, float]:
    """Return tokens/s of so many completions together, and of the prompt, run anew."""
    model.logits([model.tokenizer.end_of_text])  # the cache forgets the prompt
    draws = [Sampling(1.0, seed=seed) for seed in range(together)]
    ended = [
        event.completion
        for event in model.engine.complete_many(Prompt(prompt, _never, LONG), draws)
        if isinstance(event, Completed)
    ]
    usage = ended[0].usage
    drawn = sum(completion.usage.completion_tokens for completion in ended)
    seconds = max(completion.usage.decode_seconds for completion in ended)
    return drawn / seconds, (usage.prompt_tokens - usage.cached_tokens) / usage.prefill_seconds
