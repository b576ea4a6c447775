"""May this line stand?"""

from __future__ import annotations

import bisect
import fractions
import textwrap
from pathlib import Path

import pytest

from codegen_chat.guard import blank, guard, is_code

accept = guard({"nums", "np"})


@pytest.mark.parametrize(
    "text",
    [
        "x = = 1\n",
        "  x = 1\n",
        "x = (1,\n]\n",
        "if nums:\nx = 1\n",
        "if nums:\n        a = 1\n    b = 2\n",
        "for x in nums\n",
        "else:\n",
        "x = 'abc\n",
        "x = [1 2\n",
        "print nums\n",
        "def f(:\n",
        "x = '\0'\n",
    ],
)
def test_what_can_never_be_python_is_refused(text: str) -> None:
    assert not accept(text)


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n",
        "x = [\n",
        "try:\n    x = 1\n",
        "x = '''one\n",
        "x = \\\n",
        "@staticmethod\n",
        "match nums:\n",
        "d = {'a':\n",
        "class A:\n    def f(self):\n",
        "if nums:\n    pass\nelse:\n",
        "f'''{nums\n",
        "x = f(a=1,\n",
        "\n",
        "",
        "# words\n",
    ],
)
def test_what_only_lacks_its_end_stands(text: str) -> None:
    assert guard(None)(text)
    assert accept(text)


@pytest.mark.parametrize("module", [bisect, fractions, textwrap], ids=lambda module: module.__name__)
def test_every_beginning_of_real_code_stands(module: object) -> None:
    lines = Path(module.__file__).read_text(encoding="utf-8").splitlines(keepends=True)  # type: ignore[attr-defined]
    accept = guard({"__name__"})
    refused = [end for end in range(min(len(lines), 200)) if not accept("".join(lines[:end]))]
    assert refused == []


@pytest.mark.parametrize(
    "text",
    [
        "y = numz\n",
        "x = x + 1\n",
        "x += 1\n",
        "numz[0] = 1\n",
        "numz.append(1)\n",
        "for i in numz:\n",
        "while numz:\n",
        "if True:\n    if numz:\n",
        "for i in nums:\n    print(j)\n",
        "for i in nums:\n    total += i\n",
        "[i for i in nums if k]\n",
        "[i for i in nums]\ny = i\n",
        "print(f'{numz:>3}')\n",
        "def f(x=numz):\n",
        "def f(x):\n    return x\ny = x\n",
        "class A(numz):\n",
        "class A:\n    a = 1\n    b = c\n",
        "import numpy.linalg as la\nnumpy\n",
        "x: int = numz\n",
        "print(nums); print(numz)\n",
        "x = lambda a=numz: a\n",
        "sum(i for i in numz)\n",
    ],
)
def test_a_name_that_never_was_is_refused(text: str) -> None:
    assert not accept(text)
    assert guard(None)(text)


@pytest.mark.parametrize(
    "text",
    [
        "y = nums\n",
        "x = 1\nx += 1\n",
        "for i in nums:\n    print(i)\nprint(i)\n",
        "[(i, j) for i in nums for j in [i]]\n",
        "{i: j for i, j in enumerate(nums)}\n",
        "i = nums[i] = 5\n",
        "if (n := len(nums)) > 3:\n    print(n)\n",
        "print([last := i for i in nums], last)\n",
        "def f(a):\n    return later(a)\n",
        "def f():\n    global g\n    g = 1\nf()\nprint(g)\n",
        "x = lambda: later\n",
        "x = (i * k for i in nums)\n",
        "class A:\n    a = 1\n    b = a\n    b += a\n",
        "class A:\n    def f(self):\n        return self.b\n",
        "import os.path\nos.sep\n",
        "from math import sqrt as root\nroot(2)\n",
        "from math import *\nsin(1)\n",
        "exec('q = 1')\nq\n",
        "try:\n    numz\nexcept NameError:\n    numz = 1\n",
        "try:\n    pass\nexcept ValueError as error:\n    print(error)\n",
        "with open('f') as file:\n    print(file)\n",
        "match nums:\n    case [first, *rest]:\n        print(first, rest)\n",
        "match nums:\n    case {'a': a, **rest} as whole:\n        print(a, rest, whole)\n",
        "x: List[int] = []\n",
        "def f(x: List) -> Dict:\n    pass\n",
        "print(__name__, __file__, ValueError)\n",
        "a, (b, *c) = 1, (2, 3)\nprint(a, b, c)\n",
        "import numpy as np\nnp.array(nums)\n",
        "del nums\n",
    ],
)
def test_a_name_that_is_or_may_come_stands(text: str) -> None:
    assert accept(text)


@pytest.mark.parametrize(
    "text", ["x = = 1\ny = 2\n", "x = numz\ny = nums\n", "x = [\n    numz,\n]\n", "for i in numz:\n    pass\n"]
)
def test_only_the_last_line_is_judged(text: str) -> None:
    """An older line cannot be drawn again, and no draw of the last one would help."""
    assert accept(text)


def test_nesting_too_deep_to_parse_stands() -> None:
    assert accept("x = " + "(" * 150 + "1" + ")" * 150 + "\n")
    assert accept("x = " + "-" * 100_000 + "1\n")


def test_odd_escapes_warn_nobody() -> None:
    assert accept("x = '\\d'\n")


@pytest.mark.parametrize("code", ["", "\n", "# a\n  # b\n\n"])
def test_comments_alone_do_nothing(code: str) -> None:
    assert blank(code)


@pytest.mark.parametrize("code", ["x", "# a\npass", "'''doc'''"])
def test_anything_else_does_something(code: str) -> None:
    assert not blank(code)


@pytest.mark.parametrize(
    "text",
    [
        "nums",
        " nums\n",
        "len(nums)",
        "nums[0] + 1",
        "np.mean(nums)",
        "print('hello')",
        "x = 5",
        "nums.append(4)\nnums",
        "for n in nums:\n    print(n)",
        "2 + 2",
    ],
)
def test_words_that_are_python_and_nothing_else(text: str) -> None:
    assert is_code(text, {"nums", "np"})


@pytest.mark.parametrize(
    "text",
    [
        "sum",
        "sort",
        "sort nums",
        "sort (descending)",
        "min, max",
        "nums or np",
        "well-known",
        "note: later",
        "nums: list",
        "import data",
        "2024",
        "Print nums.",
        "total = price * nums",
        "# a heading",
        "x = nums +",
        "",
    ],
)
def test_words_that_may_be_words(text: str) -> None:
    assert not is_code(text, {"nums", "np"})
