"""One turn, start to end."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.conversation import (
    FALLBACK_TEMPERATURE,
    ROOT,
    Chosen,
    Committed,
    Conversation,
    Event,
    Evicted,
    Executed,
    Fallback,
    Options,
)
from codegen_chat.errors import ContextWindowExceeded, ModelUnavailable, SandboxUnavailable, UsageError
from codegen_chat.prompt import HEADER, render
from codegen_chat.session.history import History
from codegen_chat.turn import Accept, Completed, Completion, Delta, Execution, Output, Prompt, Sampling, Turn
from tests.fakes import FakeCompleter, FakeExecutor


def talk(*answers: str, options: Options | None = None, window: int = 100_000, sampling: Sampling | None = None) -> Conversation:
    completer = FakeCompleter(*answers, window=window, sampling=sampling or Sampling())
    return Conversation(completer, FakeExecutor(), History.memory(), options)


def model(conversation: Conversation) -> FakeCompleter:
    assert isinstance(conversation.completer, FakeCompleter)
    return conversation.completer


def sandbox(conversation: Conversation) -> FakeExecutor:
    assert isinstance(conversation.executor, FakeExecutor)
    return conversation.executor


def ran(conversation: Conversation) -> list[str]:
    return [code for code in sandbox(conversation).ran if code != HEADER]


def committed(events: list[Event]) -> Turn:
    [turn] = [event.turn for event in events if isinstance(event, Committed)]
    return turn


def kinds(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events if not isinstance(event, Delta)]


def shown(events: list[Event], candidate: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, Delta) and event.candidate == candidate)


# ---------------------------------------------------------------- the ordinary turn


def test_words_become_code_that_ran() -> None:
    conversation = talk("x = 2\nprint(x)\n\n# Next\nx = 3\n")
    events = list(conversation.run(" Assign 2 to x and print it. "))
    assert kinds(events) == ["Completed", "Output", "Executed", "Committed"]
    turn = committed(events)
    assert (turn.text, turn.code, turn.accepted) == ("Assign 2 to x and print it.", "x = 2\nprint(x)", True)
    assert turn.completion
    assert turn.completion.finish_reason == "stop"
    assert shown(events) == turn.completion.text == "x = 2\nprint(x)\n\n"
    assert turn.execution
    assert (turn.execution.status, turn.execution.stdout) == ("ok", "2\n")
    assert conversation.turns == conversation.history.all_turns == (turn,)
    assert conversation.names() == {"x": "2"}
    assert model(conversation).prompts[0].text == HEADER + "# Assign 2 to x and print it.\n"


def test_the_next_turn_knows_the_last_one() -> None:
    conversation = talk("x = 2\n", "y = x + 1")
    list(conversation.run("One."))
    assert conversation.prompt_text("Two.") == HEADER + "# One.\nx = 2\n\n# Two.\n"
    turn = committed(list(conversation.run("Two.")))
    assert model(conversation).prompts[1].text == HEADER + "# One.\nx = 2\n\n# Two.\n"
    assert turn.parent == conversation.turns[0].id
    assert conversation.names() == {"x": "2", "y": "3"}


def test_a_failed_turn_stays_in_the_log_only() -> None:
    conversation = talk("x = 2\n", "x = 9\n1 / 0\n", "y = x\n")
    list(conversation.run("One."))
    failed = committed(list(conversation.run("Two.")))
    assert not failed.accepted
    assert failed.execution
    assert failed.execution.failure
    assert failed.execution.failure.type == "ZeroDivisionError"
    assert conversation.names() == {"x": "2"}
    third = committed(list(conversation.run("Three.")))
    assert "1 / 0" not in conversation.prompt_text()
    assert third.parent == conversation.turns[0].id
    assert failed in conversation.history.all_turns


def test_the_persons_own_code_joins_without_the_model() -> None:
    conversation = talk("y = x + 1")
    events = list(conversation.run_code("\nx = 41\nprint(x)\n\n"))
    assert kinds(events) == ["Output", "Executed", "Committed"]
    turn = committed(events)
    assert (turn.text, turn.code, turn.completion) == ("", "x = 41\nprint(x)", None)
    list(conversation.run("Add one."))
    assert model(conversation).prompts[0].text == HEADER + "x = 41\nprint(x)\n\n# Add one.\n"
    assert conversation.names()["y"] == "42"


def test_recorded_code_is_played_with_its_words() -> None:
    conversation = talk("y = 2\n")
    turn = committed(list(conversation.run_code("x = 1", text="Assign. ")))
    assert (turn.text, turn.code, turn.completion) == ("Assign.", "x = 1", None)
    assert conversation.prompt_text() == HEADER + "# Assign.\nx = 1\n\n"
    assert committed(list(conversation.retry())).code == "y = 2"


def test_the_guard_knows_the_living_names() -> None:
    conversation = talk("x = 1\n", "y = z + 1\nnp.abs(y)\n")
    model(conversation)._redraws = {"y = z + 1\n": "y = np.abs(x) + 1\n", "np.abs(y)\n": "never"}
    list(conversation.run("One."))
    turn = committed(list(conversation.run("Two.")))
    assert turn.code == "y = np.abs(x) + 1\nnp.abs(y)"
    assert model(conversation).refused == ["y = z + 1\n"]


def test_what_the_prompt_imports_is_there() -> None:
    conversation = talk()
    assert committed(list(conversation.run_code("x = np.arange(3).sum()"))).accepted
    assert list(conversation.names()) == ["x"]
    assert not committed(list(conversation.run_code("np = 1\nnp.arange"))).accepted
    assert committed(list(conversation.run_code("np = 1"))).accepted
    assert conversation.names()["np"] == "1"
    assert sandbox(conversation).ran.count(HEADER) == 1


# ---------------------------------------------------------------- undo, redo, retry, resume


def test_undo_and_redo_take_prompt_and_namespace_together() -> None:
    conversation = talk("x = [1]\n", "x = [*x, 2]\n")
    list(conversation.run("One."))
    before = conversation.prompt_text(), conversation.names()
    second = committed(list(conversation.run("Two.")))
    after = conversation.prompt_text(), conversation.names()
    assert conversation.undo() == second
    assert (conversation.prompt_text(), conversation.names()) == before
    assert conversation.redo() == second
    assert (conversation.prompt_text(), conversation.names()) == after
    assert conversation.redo() is None


def test_a_retry_starts_where_the_turn_started_and_draws_anew() -> None:
    conversation = talk("x = 1\n", "y = x\n", "y = x + 1\n", "y = x + 2\n")
    for words in ("One.", "Two."):
        list(conversation.run(words))
    first = conversation.turns[1]
    second = committed(list(conversation.retry()))
    assert (second.text, second.parent) == (first.text, first.parent)
    assert conversation.turns[1:] == (second,)
    assert conversation.names() == {"x": "1", "y": "2"}
    third = committed(list(conversation.retry(temperature=0.9)))
    how = model(conversation).samplings[1:]
    assert len({sampling.seed for sampling in how}) == 3
    assert [sampling.temperature for sampling in how] == [0, FALLBACK_TEMPERATURE, 0.9]
    assert len({prompt.text for prompt in model(conversation).prompts[1:]}) == 1
    assert third.completion
    assert third.completion.seed == how[-1].seed


def test_a_retry_that_fails_leaves_the_turn_that_was() -> None:
    conversation = talk("x = 1\n", "x = 1 / 0\n", "x = 2\n")
    list(conversation.run("One."))
    assert not committed(list(conversation.retry())).accepted
    assert conversation.names() == {"x": "1"}
    assert committed(list(conversation.retry())).code == "x = 2"  # and may be tried again
    assert [turn.code for turn in conversation.turns] == ["x = 2"]


def test_a_failed_turn_is_retried_in_its_place() -> None:
    conversation = talk("x = 1\n", "y = 1 / 0\n", "y = 2\n")
    list(conversation.run("One."))
    list(conversation.run("Two."))
    turn = committed(list(conversation.retry()))
    assert (turn.text, turn.parent) == ("Two.", conversation.turns[0].id)
    assert conversation.names() == {"x": "1", "y": "2"}


def test_a_retry_needs_words() -> None:
    conversation = talk()
    with pytest.raises(UsageError, match="no turn"):
        list(conversation.retry())
    list(conversation.run_code("x = 1"))
    with pytest.raises(UsageError, match="your own code"):
        list(conversation.retry())


def test_resume_rebuilds_the_namespace() -> None:
    conversation = talk("x = 1\n", "1 / 0\n", "y = x + 1\n", "z = 3\n")
    for words in ("One.", "Two.", "Three.", "Four."):
        list(conversation.run(words))
    conversation.undo()
    again = Conversation(None, FakeExecutor(), conversation.history)
    assert [execution.status for execution in again.resume()] == ["ok", "ok"]
    assert again.names() == conversation.names() == {"x": "1", "y": "2"}


@settings(deadline=None)
@given(st.lists(st.sampled_from(["run", "fail", "code", "undo", "redo", "retry", "candidates"]), max_size=14))
def test_the_history_is_the_only_truth(steps: list[str]) -> None:
    """After any steps, prompt and namespace are what the accepted turns alone would give."""
    conversation = talk(sampling=Sampling(seed=7))
    answers = model(conversation)._answers
    for number, step in enumerate(steps):
        answers[:] = [f"x{number} = {number}\n"] * 3
        try:
            match step:
                case "run":
                    list(conversation.run(f"Step {number}."))
                case "fail":
                    answers[:] = [f"x{number} = 1 / 0\n"]
                    list(conversation.run(f"Step {number}."))
                case "code":
                    list(conversation.run_code(f"x{number} = {number}"))
                case "undo":
                    conversation.undo()
                case "redo":
                    conversation.redo()
                case "retry":
                    list(conversation.retry())
                case "candidates":
                    list(conversation.run(f"Step {number}.", samples=3))
        except UsageError:
            assert step == "retry"
    replayed = Conversation(None, FakeExecutor(), conversation.history)
    replayed.resume()
    assert replayed.names() == conversation.names()
    assert conversation.prompt_text("Go.") == render(conversation.turns, "Go.")
    assert all(turn.execution and turn.execution.status == "ok" for turn in conversation.turns)
    alive = {None, ROOT, *(turn.id for turn in conversation.history.all_turns if turn.accepted)}
    assert set(sandbox(conversation).states) == alive  # nothing is kept that nobody will return to


# ---------------------------------------------------------------- candidates


def test_results_choose_among_candidates() -> None:
    conversation = talk(
        "x = 1\n", "x = 2\n", "x = 1 / 0\n", "x = 2  # so\n", options=Options(samples=4), sampling=Sampling(seed=5)
    )
    events = list(conversation.run("One."))
    assert kinds(events) == ["Completed"] * 4 + ["Executed"] * 4 + ["Chosen", "Committed"]
    assert [event for event in events if isinstance(event, Chosen)] == [Chosen(1, 4)]
    assert [event.candidate for event in events if isinstance(event, Executed)] == [0, 1, 2, 3]
    assert [shown(events, candidate) for candidate in range(4)] == ["x = 1\n", "x = 2\n", "x = 1 / 0\n", "x = 2  # so\n"]
    assert committed(events).code == "x = 2"
    assert conversation.names() == {"x": "2"}
    assert conversation.history.all_turns == conversation.turns
    assert [sampling.seed for sampling in model(conversation).samplings] == [5, 6, 7, 8]
    assert [sampling.temperature for sampling in model(conversation).samplings] == [0] + [FALLBACK_TEMPERATURE] * 3


def test_candidates_run_from_the_same_state() -> None:
    conversation = talk("x = [1]\n", "x = x + [2]\nprint(x)\n", "x += [2]\nprint(x)\n")
    list(conversation.run("One."))
    events = list(conversation.run("Two.", samples=2))
    assert [event.execution.stdout for event in events if isinstance(event, Executed)] == ["[1, 2]\n"] * 2
    assert [event.candidate for event in events if isinstance(event, Output)] == [0, 1]


def test_a_program_that_several_wrote_runs_once_and_counts_for_each() -> None:
    conversation = talk("x = 1\n", "x = 2\n", "x=2  # so\n")
    events = list(conversation.run("One.", samples=3))
    assert ran(conversation) == ["x = 1", "x = 2"]
    assert [event.candidate for event in events if isinstance(event, Executed)] == [0, 1, 2]
    (chosen,) = [event for event in events if isinstance(event, Chosen)]
    assert (chosen, chosen.reason) == (Chosen(1, 3), "2 of 3 left the same names")


def test_examples_in_the_words_choose() -> None:
    codes = ["def f(x):\n    return x + x\n"] * 2 + ["def f(x):\n    return x * x\n", "def f(x):\n    return 1 / 0\n"]
    conversation = talk(*codes)
    events = list(conversation.run("Write a function f that squares, so that f(3) is 9.", samples=4))
    (chosen,) = [event for event in events if isinstance(event, Chosen)]
    assert (chosen, chosen.reason) == (Chosen(2, 4), "the examples in the words hold")


def test_the_states_of_the_unchosen_are_forgotten() -> None:
    conversation = talk("x = 1\n", "x = 2\n", "x = 1 + 1\n")
    turn = committed(list(conversation.run("One.", samples=3)))
    assert set(sandbox(conversation).states) == {None, ROOT, turn.id}
    assert len(sandbox(conversation).forgotten) == 2


def test_a_checkpoints_own_temperature_serves_all_candidates() -> None:
    conversation = talk("x = 1\n", "x = 1\n", sampling=Sampling(temperature=0.2, top_p=0.95))
    list(conversation.run("One.", samples=2))
    assert model(conversation).samplings == [Sampling(0.2, 0.95, 0, 0), Sampling(0.2, 0.95, 0, 1)]


def test_the_persons_sampling_comes_before_the_checkpoints() -> None:
    conversation = talk("x = 1\n", options=Options(sampling=Sampling(0.7, seed=3)))
    list(conversation.run("One."))
    assert model(conversation).samplings == [Sampling(0.7, seed=3)]


def test_candidates_without_code_do_not_take_part() -> None:
    conversation = talk("# a\n", "x = 1\n", "# b\n", "# a\n", "# b\n")
    events = list(conversation.run("One.", samples=3))
    assert committed(events).code == "x = 1"
    assert Chosen(1, 3) in events
    assert ran(conversation) == ["x = 1"]


# ---------------------------------------------------------------- comments instead of code


def test_comments_alone_are_drawn_again() -> None:
    conversation = talk("# I would add them.\n", "# Well.\nx = 1\n# Next\n")
    events = list(conversation.run("One."))
    assert kinds(events) == ["Notice", "Completed", "Executed", "Committed"]
    first, second = model(conversation).samplings
    assert second.seed != first.seed
    assert second.temperature == FALLBACK_TEMPERATURE
    turn = committed(events)
    assert turn.code == "# Well.\nx = 1"
    assert turn.completion
    assert turn.completion.seed == second.seed
    assert shown(events) == turn.completion.text


def test_the_second_time_a_leading_comment_is_banned() -> None:
    conversation = talk("# Well.\n", "# Well.\nx = 1\n")
    model(conversation)._redraws = {"# Well.\n": "y = 2\n"}
    assert committed(list(conversation.run("One."))).code == "y = 2\nx = 1"


def test_comments_twice_are_no_turn() -> None:
    conversation = talk("# a\n", "", "x = 1\n")
    events = list(conversation.run("One."))
    assert kinds(events) == ["Notice", "Completed", "Notice", "Committed"]
    assert not committed(events).accepted
    assert ran(conversation) == []
    assert committed(list(conversation.retry())).code == "x = 1"


# ---------------------------------------------------------------- the window


def test_eviction_is_announced_once_and_the_variables_live_on() -> None:
    conversation = talk(*(f"x{n} = {n}\n" for n in range(40)), options=Options(max_new_tokens=20), window=300)
    announced: list[str] = []
    for number in range(40):
        for event in conversation.run(f"Step {number}."):
            if isinstance(event, Evicted):
                announced += event.turns
                assert event.tokens == len(conversation.prompt_text(f"Step {number}.")) <= 280
    assert announced
    assert announced == [turn.id for turn in conversation.turns[: len(announced)]]
    assert "# Step 0.\n" not in model(conversation).prompts[-1].text
    assert len(conversation.names()) == 40


def test_words_past_the_window_raise_and_change_nothing() -> None:
    conversation = talk("x = 1\n", options=Options(max_new_tokens=20), window=100)
    with pytest.raises(ContextWindowExceeded):
        next(conversation.run("w" * 100))
    assert conversation.history.all_turns == ()


# ---------------------------------------------------------------- Ctrl-C and other ends


def interrupt_at(turn: Generator[Event, None, None], kind: type[Event]) -> list[Event]:
    """Take events up to the first of a kind; then Ctrl-C comes while it is shown, and the rest follows."""
    events: list[Event] = []
    for event in turn:
        events.append(event)
        if isinstance(event, kind):
            break
    events.append(turn.throw(KeyboardInterrupt))
    return events + list(turn)


def test_interrupted_while_it_writes() -> None:
    conversation = talk("x = 1\ny = 2\n", "x = 3\n")
    events = interrupt_at(conversation.run("One."), Delta)
    turn = committed(events)
    assert (turn.code, turn.accepted, turn.execution) == ("x =", False, None)
    assert turn.completion
    assert turn.completion.finish_reason == "interrupted"
    assert kinds(events) == ["Completed", "Committed"]
    assert ran(conversation) == []
    assert committed(list(conversation.retry())).code == "x = 3"


class Interrupted(FakeCompleter):
    """A model in which Ctrl-C strikes before it can do anything about it."""

    def complete(
        self, prompt: Prompt, sampling: Sampling, *, accept: Accept | None = None
    ) -> Generator[Delta | Completion, None, None]:
        for event in super().complete(prompt, sampling, accept=accept):
            yield event
            raise KeyboardInterrupt


def test_interrupted_inside_the_model() -> None:
    conversation = Conversation(Interrupted("x = 1\ny = 2\n"), FakeExecutor(), History.memory())
    turn = committed(list(conversation.run("One.")))
    assert (turn.code, turn.accepted) == ("x =", False)
    assert turn.completion == Completion("x =", "interrupted")


def test_candidates_interrupted_before_they_ran_are_kept_unrun() -> None:
    conversation = talk("x = 1\n", "x = 2\ny = 3\n", "x = 4\n")
    turn = conversation.run("One.", samples=3)
    events: list[Event] = []
    while not (events and isinstance(events[-1], Delta) and events[-1].candidate == 1):
        events.append(next(turn))
    events += [turn.throw(KeyboardInterrupt), *turn]
    assert [turn.code for turn in conversation.history.all_turns] == ["x = 1", "x = 2\ny = 3", "x = 4"]
    assert not any(turn.accepted or turn.execution for turn in conversation.history.all_turns)
    assert kinds(events) == ["Completed", "Committed", "Committed", "Committed"]


def test_a_failure_is_answered_by_more_candidates_and_the_best_is_kept() -> None:
    conversation = talk("1 / 0\n", "x = 1\n", "x = 2\n", "x = 2\n", options=Options(fallback=3))
    events = list(conversation.run("One."))
    assert Fallback(3) in events
    assert Chosen(2, 4) in events
    assert committed(events).code == "x = 2"
    assert committed(events).accepted
    assert [turn.code for turn in conversation.history.all_turns] == ["x = 2"]
    samplings = model(conversation).samplings
    assert samplings[0].temperature == 0
    assert all(sampling.temperature > 0 for sampling in samplings[1:])


def test_where_no_candidate_does_better_the_first_failure_stands() -> None:
    conversation = talk("1 / 0\n", "2 / 0\n", "3 / 0\n", options=Options(fallback=2))
    events = list(conversation.run("One."))
    assert (committed(events).code, committed(events).accepted) == ("1 / 0", False)
    assert not conversation.turns


def test_what_works_is_not_drawn_again_nor_where_several_were_asked_for() -> None:
    assert Fallback(3) not in list(talk("x = 1\n", options=Options(fallback=3)).run("One."))
    assert Fallback(3) not in list(talk("1 / 0\n", "2 / 0\n", options=Options(fallback=3)).run("One.", samples=2))


def test_interrupted_while_it_runs() -> None:
    conversation = talk("x = 1\n", "sleep\n")
    list(conversation.run("One."))
    turn = committed(interrupt_at(conversation.run("Two."), Output))
    assert turn.execution == Execution("interrupted", stdout="zzz\n", note="by the sandbox")
    assert not turn.accepted
    assert conversation.names() == {"x": "1"}


class Deaf(FakeExecutor):
    """A sandbox in which Ctrl-C strikes before it can do anything about it."""

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        if code == HEADER:
            yield from super().execute(code, parent=parent, turn=turn)
            return
        yield Output("stdout", "a")
        yield Output("stderr", "b")
        yield Output("stdout", "c")
        raise KeyboardInterrupt


def test_interrupted_inside_the_sandbox() -> None:
    conversation = Conversation(FakeCompleter("x = 1\n"), Deaf(), History.memory())
    turn = committed(list(conversation.run("One.")))
    assert turn.execution == Execution("interrupted", stdout="ac", stderr="b")
    assert not turn.accepted


def test_an_interrupt_ends_the_candidates_behind_it() -> None:
    conversation = talk("x = 1\n", "sleep\n", "x = 1\n")
    events = interrupt_at(conversation.run("One.", samples=3), Output)
    assert ran(conversation) == ["x = 1", "sleep"]
    assert committed(events).code == "sleep"
    assert conversation.turns == ()
    assert set(sandbox(conversation).states) == {None, ROOT}


@pytest.mark.parametrize("kind", [Delta, Completed, Output, Executed])
def test_whoever_leaves_early_loses_nothing(kind: type[Event]) -> None:
    conversation = talk("print(1)\n")
    events = conversation.run("One.")
    assert any(isinstance(event, kind) for event in events)
    events.close()
    [turn] = conversation.history.all_turns
    assert turn.code == ("pri" if kind is Delta else "print(1)")
    assert not turn.accepted
    assert conversation.turns == ()
    assert set(sandbox(conversation).states) == {None, ROOT}


@pytest.mark.parametrize("kind", [Completed, Executed])
def test_interrupted_in_between(kind: type[Event]) -> None:
    """The turn ends there, and the person gets the rest of its events."""
    conversation = talk("print(1)\n")
    events = interrupt_at(conversation.run("One."), kind)
    assert isinstance(events[-1], Committed)
    assert (committed(events).code, committed(events).accepted) == ("print(1)", False)
    assert ran(conversation) == ([] if kind is Completed else ["print(1)"])
    assert set(sandbox(conversation).states) == {None, ROOT}


def test_interrupted_at_the_very_end_the_turn_stands() -> None:
    conversation = talk("x = 1\n")
    turn = conversation.run("One.")
    assert any(isinstance(event, Committed) for event in turn)
    turn.close()
    assert conversation.names() == {"x": "1"}


class Broken(FakeExecutor):
    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        if code != HEADER:
            raise SandboxUnavailable("the walls fell")
        yield from super().execute(code, parent=parent, turn=turn)


def test_a_failing_sandbox_loses_nothing() -> None:
    conversation = Conversation(FakeCompleter("x = 1\n"), Broken(), History.memory())
    with pytest.raises(SandboxUnavailable):
        list(conversation.run("One."))
    [turn] = conversation.history.all_turns
    assert (turn.code, turn.accepted) == ("x = 1", False)


def test_what_is_written_is_on_disk_before_the_turn_ends(tmp_path: Path) -> None:
    history = History.create(tmp_path, {})
    conversation = Conversation(FakeCompleter("x = 1\ny = 2\n"), FakeExecutor(), history)
    events = conversation.run("One.")
    while not any(turn.code for turn in History.read(history.path or tmp_path).unfinished):
        next(events)
    [partial] = History.read(history.path or tmp_path).unfinished
    assert (partial.text, partial.code) == ("One.", "x = 1\n")
    list(events)
    history.close()
    assert [turn.code for turn in History.read(history.path or tmp_path).turns] == ["x = 1\ny = 2"]


# ---------------------------------------------------------------- without a model, without a sandbox


@pytest.mark.parametrize("off", ["no executor", "an option"])
def test_without_execution_code_is_shown(off: str) -> None:
    executor = FakeExecutor()
    conversation = Conversation(
        FakeCompleter("x = y\n", "z = x\n"),
        executor if off == "an option" else None,
        History.memory(),
        Options(execute=off != "an option"),
    )
    events = list(conversation.run("One.", samples=3))
    assert kinds(events) == ["Notice", "Completed", "Committed"]
    turn = committed(events)
    assert (turn.code, turn.accepted, turn.execution) == ("x = y", True, None)
    assert conversation.prompt_text() == HEADER + "# One.\nx = y\n\n"
    assert (conversation.names(), conversation.resume(), executor.ran) == ({}, [], [])
    assert conversation.check("True") == (False, "nothing was executed")


def test_without_a_model_own_code_runs() -> None:
    conversation = Conversation(None, FakeExecutor(), History.memory())
    with pytest.raises(ModelUnavailable, match="no model"):
        list(conversation.run("One."))
    list(conversation.run_code("x = 1"))
    assert conversation.names() == {"x": "1"}
    assert conversation.prompt_text("Next.") == HEADER + "x = 1\n\n# Next.\n"


def test_nothing_to_say() -> None:
    conversation = talk()
    with pytest.raises(UsageError, match="words"):
        list(conversation.run(" \n"))
    with pytest.raises(UsageError, match="no code"):
        list(conversation.run_code("# a\n"))


# ---------------------------------------------------------------- expectations


@pytest.mark.parametrize(
    ("expression", "passed", "detail"),
    [
        ("out == 'edcba'", True, ""),
        ("  out == 'edcba'  # so", True, ""),
        ("out", True, ""),
        ("out == 'abcde'", False, "out is 'edcba'"),
        ("out[:2] in ('ab',)", False, "out[:2] is 'ed'"),
        ("out.isdigit()", False, "it is not true"),
        ("missing", False, "NameError: name 'missing' is not defined"),
        ("out ==", False, "not a Python expression: invalid syntax"),
        ("out = 1", False, "not a Python expression: invalid syntax"),
    ],
)
def test_expectations(expression: str, passed: object, detail: str) -> None:
    conversation = talk("out = 'edcba'\nbool = str\n")
    list(conversation.run("One."))
    states = dict(sandbox(conversation).states)
    assert conversation.check(expression) == (passed, detail)
    assert sandbox(conversation).states == states


def test_an_expectation_leaves_no_trace() -> None:
    conversation = talk("out = [1]\n")
    list(conversation.run("One."))
    assert conversation.check("(new := 3) == 3") == (True, "")
    assert conversation.names() == {"out": "[1]"}
