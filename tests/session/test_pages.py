from __future__ import annotations

import base64
import html.parser
import json
import re
from collections.abc import Sequence

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codegen_chat.session.markdown import render_md
from codegen_chat.session.notebook import render_ipynb
from codegen_chat.session.page import render_html
from codegen_chat.session.picture import Picture, is_picture, picture
from codegen_chat.session.table import table
from codegen_chat.turn import Change, Execution, Failure, Turn, Typed

FACTS = ("codegen-chat session 7f3a", "nano@abc", "verified")
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")
FRAME = Typed("pandas.DataFrame", {"columns": ["name", "age"], "rows": [["ann", 30], ["a|b <i>", 5.5]]})
ODD = st.text() | st.text(st.sampled_from("#<>&\"'`~|\\*_[]()!-+=1. \n\r\t\x00\x1b\u2028\u202e\ud800</script>"))

TURNS = (
    Turn("1", None, 'Set "nums" to [3, 1]\nand print it.', "nums = [3, 1]\nprint(nums)", None, Execution("ok", "[3, 1]\n")),
    Turn("2", "1", "", "np.array(nums)", None, Execution("ok", value="array([3, 1])", stderr="careful\n")),
    Turn(
        "3",
        "2",
        "Divide.",
        "1 / 0",
        None,
        Execution("error", failure=Failure("ZeroDivisionError", "division by zero", 1, "Traceback: <b>")),
        accepted=False,
    ),
    Turn("4", "2", "Show them.", "df", None, Execution("ok", value="...", typed_value=FRAME, changes=(Change("+", "df", "x"),))),
    Turn("5", "4", "Plot.", "plot()", None, Execution("ok")),
)
DRAWN = {"5": [Picture("bars.png", "image/png", PNG)]}


class Page(html.parser.HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


# ---------------------------------------------------------------- notebook


def test_a_notebook_is_valid_and_has_what_was_recorded() -> None:
    notebook = nbformat.reads(render_ipynb(TURNS, FACTS, DRAWN), as_version=4)
    nbformat.validate(notebook)
    shape = [(cell.cell_type, cell.id, cell.get("execution_count")) for cell in notebook.cells]
    assert shape == [
        ("markdown", "title", None),
        ("code", "setup", 1),
        ("markdown", "words-1", None),
        ("code", "turn-1", 2),
        ("code", "turn-2", 3),
        ("markdown", "turn-3", None),
        ("markdown", "words-4", None),
        ("code", "turn-4", 4),
        ("markdown", "words-5", None),
        ("code", "turn-5", 5),
    ]
    cells = {cell.id: cell for cell in notebook.cells}
    assert cells["turn-1"].outputs[0].text == "[3, 1]\n"
    stderr, result = cells["turn-2"].outputs
    assert (stderr.name, stderr.text) == ("stderr", "careful\n")
    assert (result.output_type, result.data["text/plain"]) == ("execute_result", "array([3, 1])")
    assert "failed: ZeroDivisionError" in cells["turn-3"].source
    assert "<td>a|b &lt;i&gt;</td>" in cells["turn-4"].outputs[0].data["text/html"]
    assert base64.b64decode(cells["turn-5"].outputs[0].data["image/png"]) == PNG


def test_a_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    scope: dict[str, object] = {}
    for cell in json.loads(render_ipynb(TURNS[:3], FACTS, {}))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), scope)
    assert capsys.readouterr().out == "[3, 1]\n"


@settings(max_examples=30)
@given(ODD, ODD)
def test_any_session_is_a_valid_notebook(words: str, code: str) -> None:
    turns = [Turn("a", None, words, code, None, Execution("ok", code)), Turn("b", "a", code, words)]
    text = render_ipynb(turns, [words], {})
    text.encode()
    nbformat.validate(nbformat.reads(text, as_version=4))


# ---------------------------------------------------------------- HTML


def test_a_page_needs_nothing_else_and_has_all_of_it() -> None:
    text = render_html(TURNS, FACTS, DRAWN)
    page = Page(text)
    assert page.open == []
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "a"})
    assert not re.search(r"https?://|url\(|@import", text)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources == [f"data:image/png;base64,{base64.b64encode(PNG).decode()}"]
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    assert "prefers-color-scheme: dark" in text
    for shown in (
        'Set "nums" to [3, 1]\nand print it.',
        "nums = [3, 1]",
        "array([3, 1])",
        "a|b <i>",
        "Traceback: <b>",
        "+ df: x",
    ):
        assert shown in page.text
    assert '<span class="nb">print</span>' in text


@given(ODD, ODD)
def test_nothing_gets_out_of_its_place_on_a_page(words: str, code: str) -> None:
    execution = Execution("ok", code, value=words, changes=(Change("+", "x", code),))
    failed = Execution("error", failure=Failure(words, code, 1, code))
    turns = [Turn("a", None, words, code, None, execution), Turn("b", "a", code, words, None, failed, accepted=False)]
    text = render_html(turns, [code], {"a": [Picture(words, "image/png", PNG)]})
    text.encode()
    page = Page(text)
    assert page.open == []
    known = "html head meta title style body h1 p main section h2 pre span img"
    assert {tag for tag, _ in page.tags} <= {*known.split()}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)


# ---------------------------------------------------------------- Markdown


def test_a_markdown_page() -> None:
    text = render_md(TURNS, FACTS, {"5": ["talk_files/5-bars.png"]})
    assert text.startswith('# Set "nums" to \\[3, 1\\]\n\ncodegen-chat session 7f3a · nano@abc · verified\n\n## 1. Set "nums"')
    assert "and print it.\n\n```python\nnums = [3, 1]\nprint(nums)\n```\n\n```text\n[3, 1]\n```\n" in text
    assert "| name | age |\n| --- | --: |\n| ann | 30 |\n| a\\|b \\<i\\> | 5.5 |\n" in text
    assert "*failed: ZeroDivisionError: division by zero*" in text
    assert text.endswith("![5-bars.png](<talk_files/5-bars.png>)\n")


@given(ODD)
def test_nothing_ends_its_fence(code: str) -> None:
    text = render_md([Turn("a", None, "words", code, None, Execution("ok", code))], FACTS, {})
    text.encode()
    fence = None
    for line in text.splitlines():
        if fence is None and (match := re.match(r"(`{3,})(python|text)$", line)):
            fence = match[1]
        elif fence is not None and re.fullmatch(rf"{fence}`*\s*", line):
            fence = None
        elif fence is None and line.startswith("##"):
            assert line == "## 1. words"
    assert fence is None


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("# no heading", "\\# no heading"),
        ("1. no list", "1\\. no list"),
        ("- no item", "\\- no item"),
        ("a*b*_c_", "a\\*b\\*\\_c\\_"),
    ],
)
def test_words_are_no_markup(line: str, shown: str) -> None:
    assert f"## 1. {shown}\n" in render_md([Turn("a", None, line, "x = 1")], FACTS, {})


# ---------------------------------------------------------------- tables, pictures


@pytest.mark.parametrize(
    ("typed", "names", "rows"),
    [
        (FRAME, ("name", "age"), (("ann", "30"), ("a|b <i>", "5.5"))),
        (
            Typed(
                "list", [{"kind": "dict", "data": [["a", 1]]}, {"kind": "dict", "data": [["b", {"kind": "set", "data": [1]}]]}]
            ),
            ("a", "b"),
            (("1", ""), ("", "[1]")),
        ),
        (Typed("pandas.DataFrame", {"columns": ["a"], "rows": [[1], [1, 2], 3]}), ("a",), (("1",),)),
        (
            Typed(
                "pandas.DataFrame", {"columns": ["a"], "rows": [[1], [2]], "index": {"name": "city", "labels": ["Bern", "Oslo"]}}
            ),
            ("city", "a"),
            (("Bern", "1"), ("Oslo", "2")),
        ),
    ],
)
def test_tables(typed: Typed, names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    found = table(typed)
    assert found is not None
    assert (found.names, found.rows) == (names, rows)


@pytest.mark.parametrize(
    "typed", [None, Typed("list", [1, 2]), Typed("list", []), Typed("dict", []), Typed("pandas.DataFrame", "x")]
)
def test_other_values_are_no_tables(typed: Typed | None) -> None:
    assert table(typed) is None


def test_a_picture_is_what_its_bytes_say() -> None:
    assert is_picture("a/b.PNG")
    assert not is_picture("a.svg")
    assert picture("a/b.jpg", PNG) == Picture("b.jpg", "image/png", PNG)
    assert [getattr(picture("p", start + bytes(9)), "kind", None) for start in (b"BM", b"RIFF\n\0\0\0WEBP")] == [
        "image/bmp",
        "image/webp",
    ]
    for data in (None, b"<svg onload=alert(1)>", b"", PNG + bytes(9 << 20)):
        assert picture("b.png", data) is None
