"""Attention seen: the record's numbers, the page in a real browser, the picture, the command."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from codegen_chat import api, cli
from codegen_chat.attention import files, page
from codegen_chat.attention.record import Attention, Part, parts, pieces, split
from codegen_chat.conversation import Conversation
from codegen_chat.errors import ContextWindowExceeded, UsageError
from codegen_chat.making import Options
from codegen_chat.models import Model, load
from codegen_chat.prompt import HEADER, render
from codegen_chat.session.history import History
from codegen_chat.turn import Turn

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
TURNS = [Turn(str(n), str(n - 1) if n else None, f"Set x{n}.", f"x{n} = {n}") for n in range(3)]


@pytest.fixture(scope="module")
def model() -> Model:
    return load("nano")


def random(layers: int = 2, heads: int = 3, *, tokens: tuple[str, ...]) -> Attention:
    count = len(tokens)
    weights = np.tril(np.random.default_rng(0).random((layers, heads, count, count), dtype=np.float32)) + np.eye(count) / 100
    weights = (weights / weights.sum(axis=3, keepdims=True)).astype(np.float32)
    half = count // 2
    return Attention("made", tokens, (Part(1, "words", 0, half), Part(1, "code", half, count)), weights)


def test_a_conversation_is_parted_as_it_is_prompted(model: Model) -> None:
    split_up = list(pieces([(n + 1, turn) for n, turn in enumerate(TURNS)]))
    text = render(TURNS)
    assert "".join(piece for _, _, piece in split_up) == text
    assert list(split(text)) == split_up
    seen = model.attention(split_up)
    assert "".join(seen.tokens) == text
    assert [part.name for part in seen.parts[:3]] == ["header", "[1] words", "[1] code"]
    assert [part.end for part in seen.parts] == [*(part.start for part in seen.parts[1:]), len(seen.tokens)]
    assert "".join(seen.tokens[seen.parts[3].start : seen.parts[3].end]) == "# Set x1.\n"
    assert [piece[:2] for piece in split("a = 1\n# b\nb = 2")] == [(1, "code"), (2, "words"), (2, "code")]


def test_a_token_over_a_border_belongs_where_it_begins() -> None:
    assert parts([(1, "words", "é\n"), (1, "code", "x"), (2, "words", "y")], [b"\xc3", b"\xa9\nxy"]) == (Part(1, "words", 0, 2),)


def test_the_numbers_add_up(model: Model) -> None:
    seen = model.attention(render(TURNS))
    layers, heads, count, _ = seen.weights.shape
    assert (layers, heads, seen.weights.dtype.name) == (6, 8, "float32")
    assert np.abs(seen.weights.sum(axis=3) - 1).max() < 1e-5
    assert not seen.weights[..., np.triu(np.ones((count, count), dtype=bool), 1)].any()  # the mask
    assert np.array_equal(seen.mean(2, 5), seen.weights[2, 5])
    assert np.allclose(seen.mean(), seen.weights.mean(axis=(0, 1)), atol=1e-6)
    last = seen.parts[-1]
    back = seen.back(last, seen.mean())
    assert back.sum() == pytest.approx(1, abs=1e-5)
    asked = seen.mean()[last.start - 1 : last.end - 1]  # each token is predicted one position earlier
    assert back[0] == pytest.approx(asked[:, : seen.parts[0].end].sum() / len(asked), abs=1e-5)
    for layer, head in ((6, None), (None, 8), (-1, None)):
        with pytest.raises(UsageError, match="there is no"):
            seen.mean(layer, head)


def test_the_engine_goes_on_as_before(model: Model) -> None:
    asked = "# Import libraries.\n\nimport numpy as np\n\n# Set x to 3.\n"
    before = model.complete(asked)[0].text
    model.attention("anything = [1]\n")
    assert model.complete(asked)[0].text == before


def test_bad_input_is_told(model: Model) -> None:
    for wrong, kind in (("", UsageError), ("x " * 3000, ContextWindowExceeded)):
        with pytest.raises(kind):
            model.attention(wrong)
    with pytest.raises(UsageError, match="from 0 to"):
        model.attentions([6144])
    assert model.attention("\ud800x").tokens[0] == "?"  # as it is encoded


def test_a_turn_is_seen_with_what_the_model_saw_of_those_before(model: Model) -> None:
    with pytest.raises(UsageError, match="no turns"):
        api.look(model, [], None, 256)
    with pytest.raises(UsageError, match="no turn 4 of 3"):
        api.look(model, TURNS, 4, 256)
    seen = api.look(model, TURNS, 2, 256)
    assert "".join(seen.tokens) == render(TURNS[:2])
    evicted = api.look(model, TURNS, None, 2048 - 35)  # the room that an answer is promised is not the history's
    assert [part.turn for part in evicted.parts][1] > 1
    assert evicted.parts[-1].name == "[3] code"


# ---------------------------------------------------------------- the page


def browser(path: Path, where: str) -> str:
    """Return what the page's script made of the page."""
    assert CHROMIUM
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *flags, f"--user-data-dir={path.parent / 'profile'}", "--dump-dom", f"{path.as_uri()}#{where}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout


def listed(dom: str, name: str) -> list[float]:
    """Return the weights of one of the page's lists."""
    found = re.search(rf'id="{name}">(.*?)</[ou]l>', dom, re.DOTALL)
    assert found
    return [float(number) for number in re.findall(r'data-weight="([\d.]+)"', found[1])]


def test_the_page_asks_nothing_of_the_network() -> None:
    html = page.render(random(tokens=("</script>", "<b>", "&", "\n")))
    assert not re.search(r"(src|href)\s*=|https?:|@import|url\(", html)
    assert html.count("</script>") == 2  # its own two


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_in_a_browser(tmp_path: Path) -> None:
    tokens = ("# say", " </script>", "\n", "<b>print</b>", "(", "&amp;", "é", "\n")
    seen = random(tokens=tokens)
    files.write(seen, tmp_path / "page.html")
    dom = ""
    for where, weights in (
        ("layer=1&head=2&token=5", seen.mean(1, 2)[5, :6]),
        ("layer=-1&head=-1&token=5", seen.mean()[5, :6]),
        ("layer=0&head=-1&token=7", seen.mean(0)[7]),
    ):
        dom = browser(tmp_path / "page.html", where)
        assert 'data-ready="yes"' in dom
        assert np.allclose(listed(dom, "strongest"), sorted(weights, reverse=True), atol=5e-5)
        assert np.allclose(listed(dom, "parts"), [weights[:4].sum(), weights[4:].sum()], atol=5e-5)
    shown = re.search(r'<div id="text".*?<main>|<div id="text".*?</pre></div></div>', dom, re.DOTALL)
    assert shown
    assert "&lt;b&gt;print&lt;/b&gt;" in shown[0]
    assert "&amp;amp;" in shown[0]
    assert dom.count("<button") == 6


def test_pictures_and_files(tmp_path: Path) -> None:
    seen = random(tokens=tuple("f(x) = $\\alpha$\n\ud7ff"))
    files.write(seen, tmp_path / "all.png")
    files.write(seen, tmp_path / "one.png", 1, 2)
    for name in ("all.png", "one.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    for name, message in (("a.pdf", "ends in .html or .png"), ("none/a.html", "cannot be written")):
        with pytest.raises(UsageError, match=message):
            files.write(seen, tmp_path / name)
    with pytest.raises(UsageError, match="there is no layer 2"):
        files.write(seen, tmp_path / "a.png", 2)


# ---------------------------------------------------------------- the command


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str, stdin: str = ""
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["codegen-chat", *arguments])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), *capsys.readouterr()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = call(monkeypatch, capsys, "attention", "-", stdin=render(TURNS))
    assert code == 0
    assert re.search(r"^· nano, \d+ tokens, 6 layers of 8 heads; the average of all layers and heads\n", out)
    assert re.search(r"how far \[3\] code looks back.*\n  header +\d+\.\d%", out)
    code, out, _ = call(monkeypatch, capsys, "attention", "# a\nx = 1", "--json", "--layer", "1", "--head", "0")
    first, *rows = map(json.loads, out.splitlines())
    assert (code, first["layer"], first["head"], first["parts"][0]["name"]) == (0, 1, 0, "[1] words")
    assert [len(row["weights"]) for row in rows] == [*range(1, len(first["tokens"]) + 1)]
    code, out, err = call(monkeypatch, capsys, "attention", "x = 1", "-o", str(tmp_path / "a.html"))
    assert (code, out, err) == (0, "", f"· wrote {tmp_path / 'a.html'}\n")
    for arguments in (["attention"], ["attention", "x", "--turn", "1"], ["attention", "x", "--layer", "6"], ["attention", ""]):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)


def test_a_saved_session(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with History.create(tmp_path, {"model": "nano"}) as history:
        for text in ("a = 1", "b = a"):
            list(Conversation(None, None, history, Options()).run_code(text, text=f"Write {text}."))
    code, out, _ = call(monkeypatch, capsys, "attention", "--session", str(history.path), "--turn", "2", "--plain")
    assert code == 0
    assert re.search(r"^  \[1\] code +\d+\.\d%$", out, re.MULTILINE)
    assert HEADER.count("\n") == 4
