"""Turns to prompt text, and a model's text back to code."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.errors import ContextWindowExceeded
from codegen_chat.prompt import (
    HEADER,
    Mark,
    block,
    code,
    conversation_stop,
    fit,
    mtpb_stop,
    render,
    stop_at,
    stop_strings,
    uncommented_stop,
)
from codegen_chat.turn import Stop, Turn


def turn(number: int, text: str = "", written: str = "") -> Turn:
    return Turn(f"t{number}", f"t{number - 1}" if number else None, text or f"Step {number}.", written or f"x = {number}")


# Text in which every rule is likely to strike, and to almost strike.
parts = st.sampled_from(
    [
        "print",
        "prin",
        "def",
        "de",
        "#",
        "'''",
        "''",
        '"""',
        '"',
        "\n",
        "\n\n",
        "\n\n\n",
        " ",
        "x",
        "<|endoftext|>",
        "<|end",
        "é",
        "\r\n",
    ]
)
texts = st.lists(parts, max_size=25).map("".join)
own = stop_strings("abcd", "bc", "\nif", "aa")
own_texts = st.text(alphabet="abcd\nif", max_size=20)
stops = st.sampled_from([conversation_stop, mtpb_stop, uncommented_stop, own])


def cut(stop: Stop, text: str) -> str:
    shown, ended = stop(text)
    return text[:shown] if ended else text


def reference_truncate(completion: str) -> str:
    """Cut as the published evaluation of MTPB does: prints, then defs, then the terminals."""
    prints = list(re.finditer("^print", completion, re.MULTILINE))
    if len(prints) > 1:
        completion = completion[: prints[1].start()]
    defs = list(re.finditer("^def", completion, re.MULTILINE))
    if len(defs) > 1:
        completion = completion[: defs[1].start()]
    terminals = ["^#", re.escape("<|endoftext|>"), "^'''", '^"""', "\n\n\n"]
    found = [match.start() for match in (re.search(terminal, completion, re.MULTILINE) for terminal in terminals) if match]
    return completion[: min(found)] if found else completion


# ---------------------------------------------------------------- writing


def test_a_conversation_is_one_file() -> None:
    turns = [turn(0, "Assign 1 to a.", "a = 1\n"), turn(1, "Print it\nloudly.", "print(a, '!')\n\n")]
    assert render(turns, "Now\n\ndouble it. ") == (
        "# Import libraries.\n\nimport numpy as np\n\n"
        "# Assign 1 to a.\na = 1\n\n"
        "# Print it\n# loudly.\nprint(a, '!')\n\n"
        "# Now\n#\n# double it.\n"
    )


def test_without_words_the_conversation_stands_as_it_is() -> None:
    assert render([]) == HEADER
    assert render([Turn("a", None, "", "a = 1")]) == HEADER + "a = 1\n\n"


def test_a_prompt_continues_as_the_training_text_does() -> None:
    turns = [turn(0), turn(1)]
    assert render(turns).startswith(render(turns[:1], turns[1].text) + turns[1].code)


@given(st.text(max_size=30))
def test_whatever_the_words_are_they_stay_comments(words: str) -> None:
    written = render([], words).removeprefix(HEADER)
    assert all(line.startswith("#") for line in re.split("[\r\n]", written) if line)
    assert not written or written.endswith("\n")


# ---------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x = 1\n\n# Next\ny", "x = 1\n\n"),
        ("# Only a comment\n", ""),
        ("'''doc'''", ""),
        ("x = 1  # fine\ny = '''a'''\n", "x = 1  # fine\ny = '''a'''\n"),
        ("def f():\n    # fine\n    return 1\n", "def f():\n    # fine\n    return 1\n"),
        ('x = 1\n"""doc"""', "x = 1\n"),
        ("x = 1\n\n\ny = 2", "x = 1"),
        ("x = 1<|endoftext|>y", "x = 1"),
        ("print(1)\nprint(2)\nprint(3)\n", "print(1)\nprint(2)\nprint(3)\n"),
    ],
)
def test_where_a_conversation_is_cut(text: str, kept: str) -> None:
    assert cut(conversation_stop, text) == kept


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("print(1)\nprint(2)\n", "print(1)\n"),
        ("print(1)\nprinter = 2\n", "print(1)\n"),
        ("print(1)\n  print(2)\n", "print(1)\n  print(2)\n"),
        ("def f(): pass\ndefault = 1\n", "def f(): pass\n"),
        ("x = 1\nprint(x)\ndef f(): pass\n", "x = 1\nprint(x)\ndef f(): pass\n"),
    ],
)
def test_where_the_reference_cuts_too(text: str, kept: str) -> None:
    assert cut(mtpb_stop, text) == kept == reference_truncate(text)


@given(texts)
def test_mtpb_cuts_as_the_reference_does(text: str) -> None:
    assert cut(mtpb_stop, text) == reference_truncate(text)


@given(texts, stops)
def test_what_is_shown_is_never_taken_back(text: str, stop: Stop) -> None:
    _stays(text, stop)


@given(own_texts)
def test_what_is_shown_of_overlapping_strings_is_never_taken_back(text: str) -> None:
    _stays(text, own)


def _stays(text: str, stop: Stop) -> None:
    """Every longer text shows as much or more; once the text ends, it ends there for good; so chunks do not matter."""
    before, ended_before = 0, False
    for end in range(len(text) + 1):
        shown, ended = stop(text[:end])
        assert before <= shown <= end
        if ended_before:
            assert (shown, ended) == (before, True)
        before, ended_before = shown, ended


@given(texts)
def test_only_what_may_become_a_mark_is_held_back(text: str) -> None:
    shown, ended = conversation_stop(text)
    if not ended:
        assert any(cut(conversation_stop, text + more) == text[:shown] for more in _completions_of_marks())


def _completions_of_marks() -> list[str]:
    marks = ["#", "'''", '"""', "<|endoftext|>", "\n\n\n"]
    return [mark[size:] for mark in marks for size in range(len(mark))] + ["\n#", ""]


def test_a_letter_is_shown_at_once() -> None:
    assert conversation_stop("x") == (1, False)
    assert conversation_stop("x = '") == (5, False)
    assert mtpb_stop("prin") == (4, False)  # the first print is no mark
    assert uncommented_stop("# a") == (3, False)


def test_the_first_complete_string_ends_the_text() -> None:
    assert own("abc") == (1, True)
    assert own("abcd") == (1, True)


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        stop_strings("\n", "")


def test_no_marks_never_stop() -> None:
    assert stop_strings()("abc") == (3, False)


def test_the_third_occurrence_is_a_matter_of_data() -> None:
    assert cut(stop_at(Mark("x", nth=3)), "xaxbxc") == "xaxb"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("# a\n# b\nx = 1\n# c\n", "# a\n# b\nx = 1\n"),
        ("x = 1\n# c\n", "x = 1\n"),
        ("# never a line's end", "# never a line's end"),
    ],
)
def test_comments_may_lead_where_they_are_let(text: str, kept: str) -> None:
    assert cut(uncommented_stop, text) == kept


@pytest.mark.parametrize(
    ("text", "tidy"),
    [("\n \n\nx = 1\n\n", "x = 1"), ("    x\n", "    x"), ("", ""), ("\n\n", ""), ("a\n\n\n  b\n \n", "a\n\n\n  b")],
)
def test_code_is_tidied_at_its_ends(text: str, tidy: str) -> None:
    assert code(text) == tidy


@given(texts)
def test_tidy_code_comes_back_from_its_own_prompt(text: str) -> None:
    kept = code(cut(conversation_stop, text))
    if kept:
        # What the model sees of its own code ends where the model ended it.
        written = block("Do it.", kept).removeprefix("# Do it.\n")
        assert code(cut(conversation_stop, written + "# Next\n")) == kept


# ---------------------------------------------------------------- fitting


def test_what_fits_is_left_whole() -> None:
    turns = [turn(n) for n in range(3)]
    found = fit(turns, "Go.", len, 1000, 100)
    assert found.prompt_text == render(turns, "Go.")
    assert (found.evicted, found.newly, found.tokens) == ((), (), len(found.prompt_text))


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 60), max_size=30),
    st.integers(1, 60),
    st.integers(160, 500),
)
def test_whole_turns_go_oldest_first_and_the_rest_fits(sizes: list[int], asked: int, window: int) -> None:
    turns = [turn(n, "w" * 5, "c" * size) for n, size in enumerate(sizes)]
    words = "q" * asked
    found = fit(turns, words, len, window, 40)
    gone = len(found.evicted)
    assert found.tokens == len(found.prompt_text) <= window - 40
    assert found.evicted == tuple(turn.id for turn in turns[:gone])
    assert found.prompt_text == render(turns[gone:], words)
    assert found.newly == found.evicted[gone - len(found.newly) :]
    if not gone:
        assert render(turns, words) == found.prompt_text


def test_one_step_makes_room_for_many_turns() -> None:
    """The cache keeps its prefix: over a long conversation the first turn of the prompt changes rarely."""
    turns: list[Turn] = []
    starts: list[int] = []
    announced: list[str] = []
    for number in range(200):
        found = fit(turns, f"Step {number}.", len, 1000, 100)
        starts.append(len(found.evicted))
        announced += found.newly
        turns.append(turn(number))
    assert announced == [turn.id for turn in turns[: starts[-1]]]  # each is announced once
    assert 0 < len(set(starts)) - 1 <= 200 // 15  # 45 turns fit at most


def test_an_undo_brings_turns_back() -> None:
    turns = [turn(n) for n in range(100)]
    found = {n: fit(turns[:n], "Go.", len, 1000, 100) for n in (50, 51, 99)}
    assert fit(turns[:50], "Go.", len, 1000, 100) == found[50]


def test_words_longer_than_the_window_are_refused() -> None:
    with pytest.raises(ContextWindowExceeded, match=r"1042 tokens.*40.*200"):
        fit([turn(0)], "q" * (1042 - len(HEADER) - 3), len, 200, 40)


def test_tokens_across_turns_are_counted_in_the_end() -> None:
    """A tokenizer that needs more for the whole than for its parts: more turns go."""
    turns = [turn(n, "w" * 5, "c" * 20) for n in range(10)]
    count = {HEADER: 10}

    def crooked(text: str) -> int:
        return count.get(text, len(text) * (2 if text.startswith(HEADER) else 1))

    found = fit(turns, "Go.", crooked, 300, 20)
    assert found.tokens <= 280
    assert found.evicted
