"""One turn, start to end."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.conversation import FIXES, Conversation
from codegen_chat.drawing import FALLBACK_TEMPERATURE
from codegen_chat.errors import ContextWindowExceeded, ModelUnavailable, SandboxUnavailable, UsageError
from codegen_chat.events import Chosen, Committed, Event, Evicted, Executed, Fallback, Proposed, Replayed
from codegen_chat.making import Options
from codegen_chat.namespace import ROOT
from codegen_chat.prompt import HEADER, render
from codegen_chat.session.history import History
from codegen_chat.turn import Accept, Completed, Completion, Delta, Execution, Output, Prompt, Sampling, Turn
from tests.fakes import FakeCompleter, FakeExecutor


def talk(*answers: str, options: Options | None = None, window: int = 100_000, sampling: Sampling | None = None) -> Conversation:
    completer = FakeCompleter(*answers, window=window, sampling=sampling or Sampling())
    return Conversation(completer, FakeExecutor(), History.memory(), options)


class InterruptedBuilding(FakeExecutor):
    """A Ctrl-C ends each of these programs once."""

    def __init__(self, *programs: str) -> None:
        super().__init__()
        self.interrupts = list(programs)

    def execute(
        self, code: str, *, parent: str | None, turn: str | None, timeout: float | None = None
    ) -> Generator[Output | Execution, None, None]:
        if code not in self.interrupts:
            yield from super().execute(code, parent=parent, turn=turn, timeout=timeout)
            return
        self.interrupts.remove(code)
        yield Execution("interrupted")


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


def choice(events: list[Event]) -> tuple[int, int]:
    """Return which candidate was chosen, from 0, and of how many."""
    [event] = [event for event in events if isinstance(event, Chosen)]
    return event.candidates.index(event.turn), len(event.candidates)


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
@given(
    st.lists(
        st.sampled_from(
            ["run", "fail", "code", "undo", "redo", "retry", "candidates", "fix", "edit", "pick", "fork", "switch", "hide", "pin"]
        ),
        max_size=14,
    ),
    st.integers(0, 9),
)
def test_the_history_is_the_only_truth(steps: list[str], choice: int) -> None:
    """After any steps, prompt and namespace are what the accepted turns alone would give."""
    conversation = talk(sampling=Sampling(seed=7))
    answers = model(conversation)._answers
    for number, step in enumerate(steps):
        answers[:] = [f"x{number} = {number}\n"] * 4
        turns = len(conversation.turns)
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
                case "fix":
                    list(conversation.fix())
                case "edit":
                    list(conversation.edit(1 + choice % max(turns, 1), f"Edit {number}."))
                case "pick":
                    list(conversation.pick(1 + choice % 4))
                case "fork":
                    conversation.fork(choice % (turns + 1))
                case "switch":
                    conversation.switch(1 + choice % 3)
                case "hide" | "pin":
                    (conversation.hide if step == "hide" else conversation.pin)(1 + choice % max(turns, 1))
        except UsageError:
            assert step not in {"run", "fail", "code", "undo", "redo", "candidates"}
    replayed = Conversation(None, FakeExecutor(), conversation.history)
    replayed.resume()
    assert replayed.names() == conversation.names()
    seen = [turn for turn in conversation.turns if turn.id not in conversation.history.hidden]
    assert conversation.prompt_text("Go.") == replayed.prompt_text("Go.") == render(seen, "Go.")
    assert all(turn.execution and turn.execution.status == "ok" for turn in conversation.turns)
    list(conversation.run_code("last = 1"))
    alive = {None, ROOT, *(turn.id for turn in conversation.history.all_turns if turn.accepted)}
    assert set(sandbox(conversation).states) <= alive  # nothing is kept that nobody will return to


# ---------------------------------------------------------------- what becomes of earlier turns


def test_a_picked_candidate_brings_the_state_that_it_made() -> None:
    conversation = talk("x = [1]\n", "x = [2]\n", "x = [1]\n", "y = x\n")
    list(conversation.run("One.", samples=3))
    assert [turn.code for turn in conversation.candidates] == ["x = [1]", "x = [2]", "x = [1]"]
    before = list(sandbox(conversation).ran)
    events = list(conversation.pick(2))
    assert kinds(events) == ["Executed", "Committed"]
    assert shown(events) == "x = [2]"
    assert conversation.names() == {"x": "[2]"}
    assert sandbox(conversation).ran == before  # nothing ran again
    assert [turn.code for turn in conversation.candidates] == ["x = [1]", "x = [2]", "x = [1]"]
    assert kinds(list(conversation.pick(2))) == ["Notice"]
    list(conversation.run("Two."))
    assert conversation.names() == {"x": "[2]", "y": "[2]"}
    conversation.undo()
    conversation.undo()
    assert conversation.names() == {}
    conversation.redo()
    assert conversation.names() == {"x": "[2]"}


def test_a_candidate_that_is_not_there_or_failed_is_not_picked() -> None:
    conversation = talk("x = 1\n", "1 / 0\n")
    with pytest.raises(UsageError, match="there is no candidate 1"):
        list(conversation.pick(1))
    list(conversation.run("One.", samples=2))
    with pytest.raises(UsageError, match="candidate 2 does not run"):
        list(conversation.pick(2))
    with pytest.raises(UsageError, match="there is no candidate 3: the last turn has 2"):
        list(conversation.pick(3))


def test_an_edit_runs_again_what_follows_and_says_what_became_different() -> None:
    conversation = talk("x = 2\n", "y = x * 10\nprint(y)\n", "print('same')\n", "x = 5\n")
    for words in ("Two.", "Ten times.", "Say it."):
        list(conversation.run(words))
    old = conversation.turns
    conversation.pin(2)
    events = list(conversation.edit(1, "Five."))
    assert [(event.number, event.before.id) for event in events if isinstance(event, Replayed)] == [
        (2, old[1].id),
        (3, old[2].id),
    ]
    assert [turn.text for turn in conversation.turns] == ["Five.", "Ten times.", "Say it."]
    outputs = [turn.execution.stdout for turn in conversation.turns if turn.execution]
    assert outputs == ["", "50\n", "same\n"]
    assert conversation.names() == {"x": "5", "y": "50"}
    assert conversation.history.pinned >= {conversation.turns[1].id}
    assert [[turn.text for turn in branch] for branch in conversation.history.branches] == [
        ["Two.", "Ten times.", "Say it."],
        ["Five.", "Ten times.", "Say it."],
    ]
    conversation.switch(1)
    assert conversation.names() == {"x": "2", "y": "20"}


def test_an_edit_may_be_code_and_ends_where_a_later_turn_fails() -> None:
    conversation = talk("x = 2\n", "y = x + 1\n", "z = 1\n")
    for words in ("One.", "Two.", "Three."):
        list(conversation.run(words))
    events = list(conversation.edit(1, "One.", code="x = 'a'"))
    assert kinds(events)[-2:] == ["Replayed", "Notice"]
    assert [turn.code for turn in conversation.turns] == ["x = 'a'"]
    assert conversation.turns[0].text == "One."
    with pytest.raises(UsageError, match="there is no turn 5"):
        list(conversation.edit(5, "Five."))


def test_an_edit_that_fails_changes_nothing() -> None:
    conversation = talk("x = 2\n", "y = x\n", "1 / 0\n")
    for words in ("One.", "Two."):
        list(conversation.run(words))
    before = conversation.turns
    assert not committed(list(conversation.edit(1, "No."))).accepted
    assert conversation.turns == before


def test_a_fork_leaves_a_branch_that_can_be_gone_back_to() -> None:
    conversation = talk("x = 1\n", "x = 2\n", "x = 3\n")
    for words in ("One.", "Two."):
        list(conversation.run(words))
    conversation.fork(1)
    assert conversation.names() == {"x": "1"}
    list(conversation.run("Three."))
    assert [[turn.text for turn in branch] for branch in conversation.history.branches] == [["One.", "Two."], ["One.", "Three."]]
    conversation.switch(1)
    assert conversation.names() == {"x": "2"}
    conversation.fork(0)
    assert (conversation.turns, conversation.names()) == ((), {})
    with pytest.raises(UsageError, match="no branch 3"):
        conversation.switch(3)


def test_other_branches_are_built_again_after_a_resume() -> None:
    conversation = talk("x = 1\n", "y = 2\n", "x = 5\n")
    for words in ("One.", "Two."):
        list(conversation.run(words))
    list(conversation.run("Five.", samples=1))
    conversation.undo()
    again = Conversation(None, FakeExecutor(), conversation.history)
    again.resume()
    again.redo()
    assert again.names() == {"x": "5", "y": "2"}
    again.fork(1)
    again.switch(1)
    assert again.names() == {"x": "5", "y": "2"}


def test_a_state_whose_building_was_interrupted_is_built_at_the_next_look() -> None:
    conversation = talk("x = 1\n", "y = 2\n", "z = 3\n")
    for words in ("One.", "Two.", "Three."):
        list(conversation.run(words))
    executor = InterruptedBuilding("z = 3")
    again = Conversation(None, executor, conversation.history)
    assert [execution.status for execution in again.resume()] == ["ok", "ok", "interrupted"]
    assert again.names() == {"x": "1", "y": "2", "z": "3"}
    again.fork(1)
    again.resume()
    again.switch(1)
    executor.interrupts = ["y = 2"]
    with pytest.raises(KeyboardInterrupt):
        again.names()
    assert again.names() == {"x": "1", "y": "2", "z": "3"}


def test_fix_tells_the_model_what_went_wrong() -> None:
    conversation = talk("x = 1\n", "y = 1 / 0\n", *["y = 2\n"] * FIXES)
    list(conversation.run("One."))
    with pytest.raises(UsageError, match="mends a turn that failed"):
        list(conversation.fix())
    list(conversation.run("Divide."))
    events = list(conversation.fix())
    assert choice(events) == (0, FIXES)
    assert model(conversation).prompts[-1].text.endswith("# It failed with ZeroDivisionError: division by zero\n# Divide.\n")
    assert committed(events).remarks == ("It failed with ZeroDivisionError: division by zero",)
    assert conversation.names() == {"x": "1", "y": "2"}
    assert all(sampling.temperature > 0 for sampling in model(conversation).samplings[2:])


def test_fix_mends_the_persons_own_code_too() -> None:
    conversation = talk(*["y = 2\n"] * FIXES)
    list(conversation.run_code("y = 1 / 0"))
    list(conversation.fix())
    told = "# y = 1 / 0\n# It failed with ZeroDivisionError: division by zero\n# Write this code without its error.\n"
    assert model(conversation).prompts[-1].text.endswith(told)


def test_a_hidden_turn_leaves_the_prompt_and_its_variables_live() -> None:
    conversation = talk("x = 1\n", "y = x\n")
    list(conversation.run("One."))
    assert conversation.hide(1)
    assert conversation.prompt_text("Two.") == HEADER + "# Two.\n"
    list(conversation.run("Two."))
    assert conversation.names() == {"x": "1", "y": "1"}
    assert not conversation.hide(1)
    assert conversation.prompt_text().startswith(HEADER + "# One.\n")
    with pytest.raises(UsageError, match="no turn 9"):
        conversation.hide(9)


def test_a_pinned_turn_is_not_evicted() -> None:
    conversation = talk(*(f"x{n} = {n}\n" for n in range(40)), options=Options(max_new_tokens=20), window=300)
    list(conversation.run("Step 0."))
    conversation.pin(1)
    for number in range(1, 40):
        list(conversation.run(f"Step {number}."))
    assert "# Step 0.\n" in conversation.prompt_text()
    assert "# Step 1.\n" not in conversation.prompt_text()
    window = conversation.window()
    fates = [fate for _, _, fate in window.turns]
    assert fates[0] == "pinned"
    assert fates[1] == "evicted"
    assert fates[-1] == "seen" or "next" in fates
    assert window.used == len(conversation.prompt_text())


# ---------------------------------------------------------------- code and values from the person


def test_the_model_goes_on_with_first_lines() -> None:
    conversation = talk("\n    return a + b\n\n# Next\n")
    events = list(conversation.run("Add.", given="def add(a, b):"))
    assert model(conversation).prompts[0].text == HEADER + "# Add.\ndef add(a, b):"
    turn = committed(events)
    assert (turn.code, turn.given) == ("def add(a, b):\n    return a + b", "def add(a, b):")
    assert shown(events) == "def add(a, b):\n    return a + b\n\n"
    assert conversation.prompt_text() == HEADER + "# Add.\ndef add(a, b):\n    return a + b\n\n"


def test_copies_of_the_words_literals_see_the_first_lines() -> None:
    conversation = talk("'m\n")
    list(conversation.run("Set it to the string 'Tom Sawyer'.", given="name = 'To"))
    copy = model(conversation).prompts[-1].copy
    assert copy
    assert [rest for rest, _ in copy("")] == ["m Sawyer'"]
    assert [rest for rest, _ in copy("m S")] == ["awyer'"]


def test_first_lines_need_no_words_and_are_given_again_to_a_retry() -> None:
    conversation = talk("1 + 1\n", "2 + 2\n")
    list(conversation.run("", given="x = "))
    assert committed(list(conversation.retry())).code == "x =2 + 2"
    assert [prompt.text for prompt in model(conversation).prompts] == [HEADER + "x ="] * 2


def test_the_guard_reads_first_lines_too() -> None:
    conversation = talk(" + z\ny = 1\n")
    model(conversation)._redraws = {" + z\n": " + 1\n"}
    assert committed(list(conversation.run("", given="x = 1"))).code == "x = 1 + 1\ny = 1"


def test_a_mention_brings_the_value_into_the_prompt() -> None:
    conversation = talk("y = max(nums)\n", "z = 1\n")
    list(conversation.run_code("nums = [3, 1, 2]"))
    events = list(conversation.run("The largest of @nums, not @other or me@nums.org."))
    assert kinds(events)[0] == "Notice"
    assert model(conversation).prompts[0].text.endswith("# nums: [3, 1, 2]\n# The largest of nums, not @other or me@nums.org.\n")
    assert committed(events).text == "The largest of @nums, not @other or me@nums.org."
    assert "# The largest of nums, not @other or me@nums.org.\ny = max(nums)\n" in conversation.prompt_text()


def test_attributes_of_what_lives() -> None:
    conversation = talk()
    list(conversation.run_code("s = 'abc'"))
    assert "upper" in conversation.attributes("s")
    assert conversation.attributes("nothing") == []


# ---------------------------------------------------------------- asked before it runs


def answered(turn: Generator[Event, str | None, None], answer: str | None) -> list[Event]:
    """Take a turn's events, and answer each `Proposed`."""
    events = [next(turn)]
    with suppress(StopIteration):
        while True:
            events.append(turn.send(answer) if isinstance(events[-1], Proposed) else next(turn))
    return events


@pytest.mark.parametrize(
    ("answer", "code", "names"), [(None, "x = 1", {"x": "1"}), ("x = 2\n", "x = 2", {"x": "2"}), ("", "x = 1", {})]
)
def test_code_runs_when_the_person_says_so(answer: str | None, code: str, names: dict[str, str]) -> None:
    conversation = talk("x = 1\n", options=Options(ask=True, fallback=3))
    events = answered(conversation.run("One."), answer)
    assert Proposed("x = 1") in events
    assert (committed(events).code, committed(events).accepted) == (code, answer != "")
    assert conversation.names() == names
    if answer == "":
        list(conversation.pick(1))
        assert conversation.names() == {"x": "1"}


# ---------------------------------------------------------------- candidates


def test_results_choose_among_candidates() -> None:
    conversation = talk(
        "x = 1\n", "x = 2\n", "x = 1 / 0\n", "x = 2  # so\n", options=Options(samples=4), sampling=Sampling(seed=5)
    )
    events = list(conversation.run("One."))
    assert kinds(events) == ["Several"] + ["Completed"] * 4 + ["Executed"] * 4 + ["Chosen", "Committed"]
    assert choice(events) == (1, 4)
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
    (reason,) = [event.reason for event in events if isinstance(event, Chosen)]
    assert (choice(events), reason) == ((1, 3), "2 of 3 left the same names")


def test_examples_in_the_words_choose() -> None:
    codes = ["def f(x):\n    return x + x\n"] * 2 + ["def f(x):\n    return x * x\n", "def f(x):\n    return 1 / 0\n"]
    conversation = talk(*codes)
    events = list(conversation.run("Write a function f that squares, so that f(3) is 9.", samples=4))
    (reason,) = [event.reason for event in events if isinstance(event, Chosen)]
    assert (choice(events), reason) == ((2, 4), "the examples in the words hold")


def test_the_states_of_the_unchosen_are_forgotten() -> None:
    conversation = talk("x = 1\n", "x = 2\n", "x = 1 + 1\n")
    turn = committed(list(conversation.run("One.", samples=3)))
    rivals = {rival.id for rival in conversation.candidates}
    assert set(sandbox(conversation).states) == {None, ROOT} | rivals  # one may still be picked
    list(conversation.run_code("y = 1"))
    assert set(sandbox(conversation).states) == {None, ROOT, turn.id, conversation.turns[-1].id}
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
    assert choice(events) == (1, 3)
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
    assert [turn.code for turn in conversation.candidates] == ["x = 1", "x = 2\ny = 3", "x = 4"]
    assert not any(turn.accepted or turn.execution for turn in conversation.candidates)
    assert kinds(events) == ["Several", "Completed", "Committed"]
    assert committed(list(conversation.pick(3))).code == "x = 4"  # it never ran, and does now
    assert conversation.names() == {"x": "4"}


def test_a_failure_is_answered_by_more_candidates_and_the_best_is_kept() -> None:
    conversation = talk("1 / 0\n", "x = 1\n", "x = 2\n", "x = 2\n", options=Options(fallback=3))
    events = list(conversation.run("One."))
    assert Fallback(3) in events
    assert choice(events) == (2, 4)
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
    assert [turn.code for turn in conversation.candidates] == ["x = 1", "sleep", "x = 1"]
    list(conversation.pick(1))
    assert conversation.names() == {"x": "1"}


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
