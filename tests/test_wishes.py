"""What words plainly ask for, and whether code did it."""

from __future__ import annotations

import pytest

from codegen_chat.turn import Change, Execution
from codegen_chat.wishes import missed

DONE = Execution("ok", changes=(Change("+", "x", "int"),))
SHOWN = Execution("ok", stdout="1\n")


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ('Store 7 in a variable named "count".', "count = 7", "x = 7"),
        ("Let `m` be the transpose.", "m = a.T", "b = a.T"),
        ('take the column "price"', "p = df['price']", "p = df['cost']"),
        ('Put "|" between them.', "line = '|'.join(words)", "line = ' '.join(words)"),
        (r'Let log be "a\nb"', r'log = "a\nb"', r'log = "a b"'),
        (r'Find each "\d+"', r"x = re.findall(r'\d+', s)", r"x = re.findall('[0-9]+', s)"),
        ('make it like "3:07 min"', "t = f'{m}:{s:02d} min'", "t = '3:07 min'"),
        ("drop those under 18", "kept = [n for n in ages if n >= 18]", "kept = [n for n in ages if n >= 0]"),
        ("the first 3 words", "x = words[0:3]", "x = words[5:]"),
        ("add 5 percent", "x = x * 1 + x * 0.05", "x = x + 2"),
        ("call it total.", "total = sum(x)", "y = sum(x)"),
        ("keep the outcome in best", "best = max(x)", "worst = max(x)"),
        ("both orders: p = f then g, q = g then f", "p, q = f(g), g(f)", "p = f(g)"),
        ("a class called Jar please", "class Jar:\n    pass", "class Box:\n    pass"),
        ("multiply by scale", "x = x * scale", "x = x * 2"),
    ],
)
def test_a_wish_is_met_or_not(text: str, good: str, bad: str) -> None:
    assert missed(text, good, DONE, {"scale"}) == 0
    assert missed(text, bad, DONE, {"scale"}) == 1


def test_something_is_done_and_shown_where_they_want_to_see_it() -> None:
    assert missed("do it", "x = 1", DONE) == 0
    assert missed("do it", "pass", Execution("ok")) == 1
    for text in ("What is x?", "Then tell me x", "how many are there", "print it"):
        assert missed(text, "x", DONE) == 1
        assert missed(text, "print(x)", SHOWN) == 0
    assert missed("Compute what share the first has.", "x = y[0]", DONE) == 0


def test_plain_words_are_no_names_and_what_is_no_program_is_not_judged() -> None:
    assert missed("call it a day, then put the rest into a list and let me know", "x = 1", DONE, {"a", "i", "it"}) == 0
    assert missed("Print 5", "print(", DONE) == 0
