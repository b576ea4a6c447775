from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from codegen_chat.conversation import Conversation
from codegen_chat.errors import UsageError
from codegen_chat.publish import publish
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.session.history import History

PLOT = "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nNone"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Kernel.start(imports=["numpy"]) as started:
        yield started


def session(kernel: Kernel, *codes: str) -> History:
    history = History.memory()
    conversation = Conversation(None, kernel, history)
    for code in codes:
        list(conversation.run_code(code))
    return history


def test_pictures_are_those_that_the_turns_draw(kernel: Kernel) -> None:
    history = session(kernel, PLOT, "plt.savefig('a.png')", "1 / 0", "print('x')", "plt.plot([2, 1])\nNone")
    page = publish(history, kernel, 60, Path("talk.md"))
    assert page.doubt is None
    assert list(page.files) == ["talk_files/1-figure-1.png", "talk_files/2-a.png", "talk_files/5-figure-1.png"]
    assert all(data.startswith(b"\x89PNG") for data in page.files.values())
    assert all(name in page.text for name in page.files)
    assert list(Conversation(None, kernel, history).names())  # the session's own states are as they were


def test_what_gives_something_else_is_not_called_verified(kernel: Kernel, tmp_path: Path) -> None:
    history = session(kernel, "import time\ntime.time_ns()")
    for name in ("a.py", "a.html", "a.md", "a.ipynb"):
        written = publish(history, kernel, 60, tmp_path / name)
        assert written.doubt
        assert "verified" not in written.text
    publish(history, kernel, 60, tmp_path / "a.ipynb").write(tmp_path / "a.ipynb")
    nbformat.validate(nbformat.read(tmp_path / "a.ipynb", as_version=4))


def test_without_a_sandbox_there_is_a_page_all_the_same(kernel: Kernel) -> None:
    history = session(kernel, "x = 1")
    assert publish(history, None, 60, Path("a.html")).doubt == "nothing can be executed here"


def test_an_unknown_kind_of_file_is_refused(kernel: Kernel) -> None:
    with pytest.raises(UsageError, match=r"end it in one of \.py, \.ipynb, \.md, \.html"):
        publish(session(kernel, "x = 1"), None, 60, Path("a.txt"))
