from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codegen_chat.session.comments import Question, answered, question, turns
from codegen_chat.turn import Execution, Failure, Turn

FILE = """\
#!/usr/bin/env python3
import math

# Three numbers.
nums = [3, 1, 2]
#> old result


@decorated
def f(x):

    # inside ?!
    return '''
# in a string ?!
'''

# Sort nums
# and print them. ?!
print("below")
"""


def turn(code: str, execution: Execution | None = None, *, accepted: bool = True) -> Turn:
    return Turn("t", None, "words", code, None, execution, accepted)


def test_a_question_is_a_comment_at_the_margin_with_those_above_it() -> None:
    found = question(FILE)
    assert found == Question("Sort nums\nand print them.", 16, 17)


def test_what_stands_above_is_turns_without_old_results() -> None:
    assert turns(FILE, 16) == [
        ("", "import math"),
        ("Three numbers.", "nums = [3, 1, 2]"),
        ("", "@decorated\ndef f(x):\n\n    # inside ?!\n    return '''\n# in a string ?!\n'''"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# no question?",
        "x = 1  # at the end of a line ?!",
        "if x:\n    # indented ?!\n    pass",
        "if x:\n    pass\n# at the margin, but the block goes on ?!\n    pass",
        "'''\n# in a string ?!\n'''",
        "# ?!",
        "#?!\n",
    ],
)
def test_no_question(text: str) -> None:
    assert question(text) is None


def test_a_file_that_is_no_python_below_can_be_asked_about_above() -> None:
    assert question("# Make x ?!\nfor (") == Question("Make x", 0, 0)
    with pytest.raises(SyntaxError):
        turns("for (\n# Make x ?!\n", 1)


def test_the_answer_stands_below_and_no_longer_asks() -> None:
    found = answered(FILE, "Sort nums\nand print them.", turn("print(sorted(nums))\n", Execution("ok", "[1, 2, 3]\n", value="7")))
    assert found is not None
    assert found.startswith(FILE[: FILE.index("# Sort nums")])
    assert found.endswith('# Sort nums\n# and print them.\nprint(sorted(nums))\n#> [1, 2, 3]\n#> 7\n\nprint("below")\n')
    assert question(found) is None


def test_a_failed_answer_is_a_comment() -> None:
    failed = Execution("error", failure=Failure("NameError", "name 'y' is not defined", 1, ""))
    found = answered("# Make x. ?!", "Make x.", turn("x = y\nz = 1", failed, accepted=False))
    assert found == (
        "# Make x.\n# x = y\n# z = 1\n#> failed: NameError: name 'y' is not defined\n#> end the comment in ?! to ask again\n"
    )
    assert "wrote no code" in (answered("# Make x. ?!", "Make x.", turn("", accepted=False)) or "")


def test_long_output_is_cut() -> None:
    found = answered("# Print. ?!\n", "Print.", turn("p()", Execution("ok", "x" * 999 + "\n" + "y\n" * 50, files=("a.png",))))
    assert found is not None
    assert len(found.splitlines()) == 2 + 20 + 2
    assert "\n#> … and 31 more lines\n#> wrote a.png, in the sandbox\n" in found


def test_windows_line_ends_and_a_byte_order_mark_stay() -> None:
    text = "\ufeffx = 1\r\n\r\n# Print x. ?!\r\ny = 2\r\n"
    found = question(text)
    assert found == Question("Print x.", 2, 2)
    assert turns(text, 2) == [("", "x = 1")]
    written = answered(text, "Print x.", turn("print(x)", Execution("ok", "1\n")))
    assert written == "\ufeffx = 1\r\n\r\n# Print x.\r\nprint(x)\r\n#> 1\r\n\r\ny = 2\r\n"


def test_a_question_that_was_changed_gets_no_answer() -> None:
    assert answered("# Make y. ?!\n", "Make x.", turn("x = 1")) is None
    assert answered("# Make x.\n", "Make x.", turn("x = 1")) is None


@given(st.text(st.sampled_from("#?!x= \n\r\t'\"\\([:>%@\u2028é"), max_size=60))
def test_all_else_stays_to_the_byte(text: str) -> None:
    found = question(text)
    if found is not None:
        written = answered(text, found.words, turn("x = 1"))
        assert written is not None
        lines = text.split("\n")
        above, below = "\n".join(lines[: found.last]), "\n".join(lines[found.last + 1 :])
        assert written.startswith(above)
        assert written.endswith(below)
