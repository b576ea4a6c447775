from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.literals import LIKELY, SURE, copying


@pytest.mark.parametrize(
    ("words", "code", "rest"),
    [
        ('Assign the string "tea for two" to s', 's = "', 'tea for two"'),
        ('Assign the string "tea for two" to s', "s = 'tea", " for two'"),
        ("Put \"say 'hi'\" in s", "s = 'say ", "\\'hi\\''"),
        ("Store 'it is \"it\"' in s", 's = "it is ', '\\"it\\""'),
        ('Print "Zürich by night"', 'print("Zür', 'ich by night"'),
        ("Let nums be [1, 22, 333]", "nums = [1, 2", "2, 333]"),
        ("Let nums be [1, 22, 333]", "nums = np.array([1, 2", "2, 333]"),
        ("Let nums be [10,22]", "nums = [10,", "22]"),
        ("Let nums be [10,22]", "nums = [10, ", "22]"),
        ("use d = {'a': [1, 2], 'b': (3,)}", 'd = {"a": [1', ', 2], "b": (3,)}'),
        ("words are ['red', 'blue']", 'print(max(["red", "b', 'lue"])'[:-1]),
        (r'Let log be "one\ntwo \"2\""', 'log = "', r'one\ntwo \"2\""'),
        (r"Split it at '\d \d'", r"re.split(r'\d ", r"\d'"),
        ("a is [1, 2] and b is [1, 2]", "a = [1, 2]\nb = [1", ", 2]"),
    ],
)
def test_a_copy_that_has_begun_goes_on_for_sure(words: str, code: str, rest: str) -> None:
    assert (rest, SURE) in copying(words)("import re\n" + code)


@pytest.mark.parametrize(
    ("words", "code", "rest"),
    [
        ("Add 144 to n", "n += 14", "4"),
        ('Split "apple" at "p"', 'parts = "apple".split("p', '"'),
        ('Sum them into a variable named "my_total"', "my_", "total"),
        ('Join them with "words"', 'x = "', 'words"'),
    ],
)
def test_what_may_be_a_copy_is_only_likelier(words: str, code: str, rest: str) -> None:
    assert (rest, LIKELY) in copying(words)(code)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("Sort the numbers", "n = sorted(numbers)\nx = 1"),
        ("Let nums be [1, 2]", "x = nums[1"),
        ("Let pair be (1, 2)", "x = f(1"),
        ("Double each of [1, 22, 333]", "x = ["),
        ("Let nums be [1, 2]", "# nums = [1"),
        ('Store "tea for two"', 's = "tea for two"'),
        ('Store "tea for two"', 's = "coffee'),
        ('Store "tea for two"', 'parts = s.split("'),
        ("It's Tom's hat and Ann's", "s = 's"),
        ("Compare [1, 2 with (3", "x = [1"),
        ('Print a line like "hour 3: 7.0"', 'print(f"hour '),
        ("The outcome is `x`", 'x = "'),
        ("At most 30 costs 30, more 300", "fee = 30"),
        ('a is ["p", "q"] and b has only "q"', 'a = ["p", "q"]\nb = ["'),
    ],
)
def test_nothing_is_favoured_where_nothing_is_copied(words: str, code: str) -> None:
    assert copying(words)(code) == []


@given(st.text(st.characters(exclude_characters='"\r\n\\', exclude_categories=("C", "Z")) | st.just(" "), min_size=1))
def test_any_text_in_quotes_is_copied_whole(text: str) -> None:
    code, rests = 's = "', copying(f'Assign the string "{text}" to s')
    for rest, _ in rests(code):
        assert ast.literal_eval(code[4:] + rest) == text
    assert rests(code)


@given(
    st.recursive(st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, min_size=1), max_leaves=6).filter(
        lambda x: isinstance(x, list)
    )
)
def test_any_list_is_copied_whole(value: list[object]) -> None:
    begun = repr(value)[:2]
    rests = copying(f"Let x be {value!r}")("x = " + begun)
    assert rests
    assert all(ast.literal_eval(begun + rest) == value for rest, _ in rests)


@given(st.text(), st.text())
def test_no_words_and_no_code_break_it(words: str, code: str) -> None:
    copying(words)(code)
