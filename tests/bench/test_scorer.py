"""The reference's rules of scoring, one by one, on what real programs print in the sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from codegen_chat.bench.scorer import equal, passes, python, showing
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Typed, last_execution


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel.start(imports=["numpy"]) as started:
        yield started


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("print(1)\nprint(2)", 2),  # the last one
        ("print(2, 'of', 3)", 2),  # its first argument
        ("print(2)\n1 / 0", 2),  # an exception after it
        ("x = [1, 2]\nx", [1, 2]),  # a last bare expression
        ("x = 3; x  # the answer", 3),
        ("'é'; (1,\n 2)", [1, 2]),
        ("print(2.9999999)", 3.0),
        ("print(3)", 3.0),
        ("print(3.7)", 3),  # int() cuts
        ("print('5')", 5),
        ("print(5)", "5"),
        ("print({2, 1})", [1, 2]),
        ("print((1, 2))", [1, 2]),
        ("print('ab')", ["a", "b"]),
        ("print([(1, 2), (3, 4)])", [[1, 2], [3, 4]]),
        ("print({'a': 1}.keys())", ["a"]),
        ("print(range(3))", [0, 1, 2]),
        ("print(True)", 1),
        ("print(True)", True),
        ("print('True')", True),
        ("print(1 < 2, 'yes')", True),
        ("import numpy as np\nprint(np.float32(0.5))", 0.5),
        ("import numpy as np\nprint(np.array([[1, 2], [3, 4]]))", [[1, 2], [3, 4]]),
        ("import numpy as np\nprint(np.bool_(True))", True),
        ("import pandas as pd\nprint(pd.Series([1.5, 2.5]))", [1.5, 2.5]),
        ("import datetime\nprint(datetime.date(2024, 2, 29))", "2024-02-29"),
        ("from decimal import Decimal\nprint(Decimal('0.1') + Decimal('0.2'))", 0.3),
        ("print(2**70)", 2**70),
        ("print([None, 'a', {'b': (1,)}])", [None, "a", {"b": (1,)}]),
        ("print(float('inf'))", "inf"),
        ("print([1, (2, 3)])", "[1, [2, 3]]"),  # first the tuples, then the cast
    ],
)
def test_passes(kernel: Kernel, program: str, wanted: object) -> None:
    result = last_execution(kernel.execute(showing(program), parent=None, turn=None))
    assert passes(result.prints, wanted)


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("x = 1", 1),
        ("print(1)\nprint()", 1),
        ("print(1)\nx = []\nx.append(1)", 1),  # the bare expression is printed: None
        ("print(1", 1),
        ("print(1.00001)", 1.0),
        ("print(2.999999)", 3),
        ("print([0.1 + 0.2])", [0.3]),  # no tolerance inside of a list
        ("print(((1, 2), (3, 4)))", [[1, 2], [3, 4]]),  # tuples in a tuple stay
        ("print(1)", True),
        ("print('x')", 1),
        ("print([1])", 1),
        ("print(None)", "x"),
        ("print(float('nan'))", float("nan")),
        ("print(float('nan'))", 1),
        ("print({'a': 1})", {"a": 1}),
        ("print(None)", None),
    ],
)
def test_fails(kernel: Kernel, program: str, wanted: object) -> None:
    result = last_execution(kernel.execute(showing(program), parent=None, turn=None))
    assert not passes(result.prints, wanted)


@pytest.mark.parametrize(
    ("program", "wanted", "right"),
    [
        ("print({'a': 0.1 + 0.2})", {"a": 0.3}, True),
        ("print({1: (2, 3)})", {"1": [2, 3]}, True),
        ("print({'a': 1, 'b': 2})", {"a": 1}, False),
        ("print([1])", {"a": 1}, False),
        ("print(None)", None, True),
        ("print()", None, True),
        ("print(0)", None, False),
        ("x = 1", None, False),
    ],
)
def test_the_corrected_rules_know_dicts_and_none(kernel: Kernel, program: str, wanted: object, *, right: bool) -> None:
    result = last_execution(kernel.execute(showing(program), parent=None, turn=None))
    assert passes(result.prints, wanted, corrected=True) == right


def test_what_the_sandbox_could_not_describe_is_text() -> None:
    assert str(python(Typed("thing", "<thing>"))) == "<thing>"
    assert not equal(python(Typed("thing", "<thing>")), 1)
    assert not equal(python(Typed("list", "[0, 0, …")), [0, 0])
    assert not equal(10**5000, True)  # too long for Python to write


def test_a_program_that_cannot_be_read_is_left_as_it_is() -> None:
    for program in ("x = (", "\0", "print(1)", "", "x = 1\n"):
        assert showing(program) == program
