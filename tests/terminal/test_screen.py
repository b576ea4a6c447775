from __future__ import annotations

import io
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from codegen_chat.events import Chosen, Committed, Evicted, Executed, Fallback, Notice, Replayed, Several
from codegen_chat.terminal import views
from codegen_chat.terminal.printing import HEAD_LINES, TAIL_LINES, visible
from codegen_chat.terminal.screen import Screen
from codegen_chat.terminal.views import broken, side_by_side
from codegen_chat.turn import Change, Completed, Completion, Delta, Execution, Failure, Output, Turn, Usage

ANSI = re.compile(r"\x1b\[[\d;]*m")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def colours(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def drawn(*events: object, hints: bool = False) -> str:
    stream = io.StringIO()
    screen = Screen(stream, hints=hints)
    screen.start()
    for event in events:
        screen.draw(event)  # type: ignore[arg-type]
    return stream.getvalue()


def turn(execution: Execution | None, code: str = "a = 1\nb", *, accepted: bool = True, text: str = "words") -> Turn:
    return Turn("1", None, text, code, None, execution, accepted)


CODE = """\
def f(x: int) -> str:
    '''Doc
    string.'''
    # why
    return f"{x:>3}" + r"\\d" * 0x1F  # é

for i in range(3): print(f(i))
"""


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_code_is_printed_as_it_is_in_whatever_pieces_it_comes(colours: Terminal, size: int) -> None:
    screen = Screen(colours)
    for start in range(0, len(CODE), size):
        screen.draw(Delta(CODE[start : start + size]))
    screen.draw(Completed(Completion(CODE, "stop")))
    assert ANSI.sub("", colours.getvalue()).startswith(CODE + "· stop")
    assert "\x1b[94mdef" in colours.getvalue() or "\x1b[34mdef" in colours.getvalue()


@given(st.text(alphabet="'\"#ab1 \n=fr{}()\\é\t"), st.integers(1, 7))
def test_no_letter_of_code_is_lost_or_doubled(code: str, size: int) -> None:
    stream = Terminal()
    screen = Screen(stream)
    screen.console = screen.console.__class__(
        file=stream, color_system="256", force_terminal=True, soft_wrap=True, markup=False, highlight=False
    )
    screen._code.__init__(screen.console)  # type: ignore[misc]
    for start in range(0, len(code), size):
        screen.draw(Delta(code[start : start + size]))
    screen.draw(Completed(Completion(code, "stop")))
    shown = ANSI.sub("", stream.getvalue()).rpartition("· stop")[0]
    assert shown.strip("\n") == code.strip("\n") or (code.strip() != code.strip("\n") and shown.strip() == code.strip())


def test_code_is_shown_before_its_line_ends() -> None:
    assert drawn(Delta("x = so")) == "x = "
    assert drawn(Delta("x = some")) == "x = "
    assert drawn(Delta("x = some(")) == "x = some"


@pytest.mark.parametrize(
    "unsafe", ["\x1b[2J", "\x1b]0;t\x07", "\x9b2J", "\r", "\x08", "\u202e", "\u2066", "\ud800", "\x7f", "\x00"], ids=ascii
)
def test_no_control_character_reaches_the_terminal(unsafe: str) -> None:
    failure = Failure(f"E{unsafe}", unsafe, 1, "")
    execution = Execution(
        "error",
        value=unsafe,
        failure=failure,
        changes=(Change("+", f"n{unsafe}", unsafe),),
        files=(unsafe,),
        note=unsafe,
    )
    said = drawn(
        Delta(f"a{unsafe}b\n"),
        Completed(Completion(unsafe, "stop")),
        Output("stdout", unsafe),
        Executed(execution),
        Notice(unsafe),
        Committed(turn(execution, code=unsafe)),
    )
    assert unsafe not in said
    assert visible(unsafe) in said


def test_a_good_turn() -> None:
    execution = Execution(
        "ok", stdout="hi\n", value="7", duration=0.0042, changes=(Change("+", "nums", "list[3]"), Change("-", "old", ""))
    )
    said = drawn(
        Delta("a = 1\nb"),
        Completed(Completion("a = 1\nb", "eos", Usage(completion_tokens=14, decode_seconds=0.07))),
        Output("stdout", "hi\n"),
        Executed(execution),
        Committed(turn(execution)),
    )
    assert said == "a = 1\nb\n· end of text, 14 tokens, 200 tokens/s\nhi\n= 7\n· ok, 4 ms, + nums: list[3], - old\n"


def test_an_error_shows_the_line_of_the_turn_and_what_to_do() -> None:
    execution = Execution("error", duration=2.5, failure=Failure("NameError", "name 'b' is not defined", 2, ""))
    said = drawn(Executed(execution), Committed(turn(execution, accepted=False)), hints=True)
    assert said == (
        "· error, 2.5 s: NameError: name 'b' is not defined\n  line 2: b\n"
        "· not kept; /retry answers again, /fix tells the model the error, /edit lets you change it\n"
    )


@pytest.mark.parametrize(
    ("status", "said"),
    [("timeout", "--timeout"), ("memory", "--memory"), ("killed", "rule of the sandbox"), ("output", "wrote more")],
)
def test_a_limit_says_what_it_was(status: str, said: str) -> None:
    execution = Execution(status, duration=1)  # type: ignore[arg-type]
    assert said in drawn(Committed(turn(execution, accepted=False)))


def test_long_output_is_shown_with_head_and_tail() -> None:
    lines = [f"line {number}\n" for number in range(100)]
    execution = Execution("ok", stdout="".join(lines))
    said = drawn(*(Output("stdout", line) for line in lines), Executed(execution)).splitlines()
    assert said == [
        *(f"line {n}" for n in range(HEAD_LINES)),
        "· 50 lines left out",
        *(f"line {n}" for n in range(100 - TAIL_LINES, 100)),
    ]


@given(st.lists(st.integers(1, 400), max_size=6), st.integers(0, HEAD_LINES + TAIL_LINES))
def test_output_is_the_same_in_whatever_pieces_it_comes(cuts: list[int], lines: int) -> None:
    text = "".join(f"line {number}\n" for number in range(lines)) + "rest"
    places = sorted({0, len(text), *(cut % len(text) for cut in cuts)})
    pieces = [text[start:end] for start, end in pairwise(places)]
    said = drawn(*(Output("stdout", piece) for piece in pieces), Executed(Execution("ok")))
    assert said.replace("· 1 lines left out\n", "") == drawn(Output("stdout", text), Executed(Execution("ok"))).replace(
        "· 1 lines left out\n", ""
    )
    if lines < HEAD_LINES:
        assert said == text + "\n"


def test_a_long_line_is_cut() -> None:
    said = drawn(Output("stdout", "x" * 50_000 + "\n"), Executed(Execution("ok")))
    assert len(said) < 2100
    assert said.endswith("x…\n")


def candidate(name: str, code: str, execution: Execution) -> Turn:
    return Turn(name, None, "words", code, Completion(code, "stop"), execution, execution.status == "ok")


GOOD = candidate("good", "good", Execution("ok", stdout="6\n", duration=0.001))
BAD = candidate("bad", "bad", Execution("error", failure=Failure("NameError", "no name", 1, "")))


def test_several_candidates_stand_side_by_side_with_what_they_did() -> None:
    events = [
        event
        for index, one in enumerate((BAD, GOOD, GOOD))
        for event in (Delta(one.code, index), Completed(one.completion or Completion("", "stop"), index))
    ]
    ran = [Executed(one.execution or Execution("ok"), index) for index, one in enumerate((BAD, GOOD, GOOD))]
    said = drawn(
        Several(3), *events, Output("stdout", "6\n", 1), *ran, Chosen(GOOD, (BAD, GOOD, GOOD)), Committed(GOOD), hints=True
    )
    assert said.splitlines() == [
        "· 3 answers are drawn and run",
        "candidate 1: error, 0 ms                 candidates 2, 3: ok, 1 ms, kept",
        "bad                                      good",
        "-> NameError: no name                    -> 6",
        "",
        "· kept candidate 2 of 3, 2 of which ran; /pick K takes another",
        "6",
        "· ok, 1 ms",
    ]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("one two", ["one two"]),
        ("one two three four", ["one two", "  three four"]),
        ("  line 1: something", ["  line 1:", "  something"]),
        ("漢字漢字 漢字 漢字", ["漢字漢字", "  漢字 漢字"]),
        ("kept as /a/path/that/is/long x", ["kept as", "  /a/path/that/is/long", "  x"]),
    ],
)
def test_notices_break_between_words(text: str, lines: list[str]) -> None:
    assert [part.plain for part in broken(Text(text), 12)] == lines


def test_where_no_candidate_ran_none_is_called_kept() -> None:
    said = drawn(Several(2), Completed(Completion("", "stop"), 0), Chosen(BAD, (BAD, BAD)), Committed(BAD))
    assert "none of the 2 ran; the likeliest is candidate 1" in said
    assert ", kept" not in said


@pytest.mark.parametrize(("width", "across"), [(30, 1), (60, 1), (80, 2), (200, 5)])
def test_candidates_fit_the_width(width: int, across: int) -> None:
    many = [candidate(str(n), f"漢字 = '{n} {'x' * 90}'", Execution("ok", stdout=f"{n}" * 50)) for n in range(5)]
    lines = [line.plain for line in side_by_side(many, "3", width, "bw")]
    assert max(map(cell_len, lines)) <= width
    assert max(len(re.findall("candidate ", line)) for line in lines) == across


def test_the_words_of_a_failure_stay_whole_beside_others() -> None:
    failure = Failure("AttributeError", "'DataFrame' object has no attribute 'savefig'", 1, "")
    failed = [Turn(name, None, "", f"{name}.savefig()", execution=Execution("error", failure=failure)) for name in "ab"]
    lines = [line.plain for line in side_by_side(failed, None, 100, "bw")]
    assert [line[51:] for line in lines[2:4]] == ["-> AttributeError: 'DataFrame' object has no", "  attribute 'savefig'"]


def test_what_ran_too_long_is_said_so_and_its_output_has_no_number() -> None:
    stopped = Failure("KeyboardInterrupt", "", 1, "")
    late = Turn("t", None, "", "loop()", execution=Execution("timeout", failure=stopped, duration=10.0), accepted=False)
    assert late.execution
    stream = io.StringIO()
    screen = Screen(stream, hints=True)
    screen.start(3)
    for event in (Output("stdout", "1\n" * 60), Executed(late.execution), Committed(late)):
        screen.draw(event)
    assert stream.getvalue().splitlines()[40] == "· 10 lines left out"
    assert stream.getvalue().splitlines()[51] == "· timeout, 10.0 s: /set timeout=SECONDS allows more"
    assert views.said(late.execution) == "timeout"
    good = Execution("ok", stdout="1\n" * 60)
    kept = Turn("k", None, "", "once()", execution=good)
    for further in (Executed(late.execution), Fallback(1), Executed(good, 1), Chosen(kept, (late, kept))):
        screen.draw(further)
    assert "· 10 lines left out; /show 3 shows them\n" in stream.getvalue()
    screen.turns((GOOD, late, GOOD))
    assert re.findall(r"^\[.\]", stream.getvalue(), re.MULTILINE) == ["[1]", "[-]", "[2]"]


def test_no_code_is_not_offered_to_run() -> None:
    wrote_none = Turn("t", None, "words", "# words", completion=Completion("# words", "stop"), accepted=False)
    assert drawn(Committed(wrote_none), hints=True) == "· not run, not kept; /retry answers again, or say it in other words\n"


def test_after_a_failure_only_the_kept_answer_is_shown() -> None:
    first = (Delta("bad\n"), Completed(Completion("bad", "stop")), Executed(BAD.execution or Execution("ok"), 0), Fallback(2))
    drawn_more = (Delta("worse\n", 1), Completed(Completion("worse\n", "stop"), 1), Delta("good\n", 2))
    ran = (Completed(Completion("good\n", "stop"), 2), Output("stdout", "6\n", 2), Executed(GOOD.execution or Execution("ok"), 2))
    said = drawn(*first, *drawn_more, *ran, Chosen(GOOD, (BAD, BAD, GOOD)), Committed(GOOD))
    assert "worse" not in said
    assert re.search(
        r"error, 0 ms, NameError: no name: 2 more answers are drawn and run\n"
        r"· kept candidate 3 of 3, 1 of which ran.*\ngood\n6\n· ok, 1 ms\n$",
        said,
    )
    said = drawn(*first, *drawn_more[:2], Chosen(BAD, (BAD, BAD, BAD)), Committed(BAD))
    assert "none of them did better" in said


def test_an_edit_says_what_became_different() -> None:
    before, after = turn(Execution("ok", stdout="6\n")), turn(Execution("ok", stdout="8\n"))
    assert drawn(Replayed(2, before, before)) == "· [2] words: the same\n"
    assert drawn(Replayed(2, before, after)) == "· [2] words: 6 -> 8\n"
    failed = turn(Execution("error", failure=Failure("KeyError", "a", 1, "")), accepted=False)
    assert drawn(Replayed(2, before, failed)) == "· [2] words: 6 -> KeyError: a\n"


def test_an_eviction_is_announced() -> None:
    assert "no longer sees the 2 oldest turns (90 tokens are left); their variables stay" in drawn(Evicted(("a", "b"), 90))


def test_plain_has_no_colour(colours: Terminal) -> None:
    screen = Screen(colours, plain=True)
    screen.code("def f(): pass\n")
    screen.error("no")
    assert colours.getvalue() == "def f(): pass\n! no\n"


def test_no_color_is_honoured(colours: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen = Screen(colours)
    screen.code("def f(): pass\n")
    assert not re.search(r"\x1b\[[\d;]*[39]\dm", colours.getvalue())


def test_visible_keeps_what_is_harmless() -> None:
    assert visible("é 漢\t🙂\n") == "é 漢\t🙂\n"
