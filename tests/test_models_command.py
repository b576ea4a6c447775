"""The `models` commands as a person types them; `pull` has tests/lm/test_fetch.py."""

from __future__ import annotations

import json
import re
from pathlib import Path

from codegen_chat.lm import fit, hub
from tests import scripted
from tests.test_cli import Cli, one_line, run

__all__ = ["run"]  # a fixture


def test_a_model_is_listed_converted_verified_measured_and_removed(run: Cli, tmp_path: Path) -> None:
    listed = run("models", "ls")
    assert (listed.code, listed.err) == (0, "")
    assert listed.out.splitlines()[0].split() == ["model", "disk", *fit.DTYPES, "licence"]
    assert len(listed.out.splitlines()) == 1 + 13 + 1
    told = [json.loads(line) for line in run("models", "ls", "--json").out.splitlines()]
    assert [(row["state"], row["licence"]) for row in told[:1]] == [("here", "bsd-3-clause")]
    assert told[-1]["name"] == "Salesforce/codegen-16B-mono"
    assert told[-1]["memory"]["fp16"] > 32e9

    done = run("models", "convert", "--to", "int4")
    assert (done.code, done.err) == (0, "")
    assert done.out.endswith(": use it with -m nano-int4\n")
    assert hub.locate("nano-int4") == hub.shelf() / "nano-int4"
    assert run("models", "convert", "--to", "int4").code == 2
    assert "nano-int4 " in run("models", "ls").out

    verified = run("models", "verify", "nano-int4")
    assert verified.code == 0
    assert all(line.startswith("ok ") for line in verified.out.splitlines())

    (tmp_path / "text.py").write_text("for i in range(10):\n    print(i)\n" * 4)
    measured = run("models", "report", "-m", "nano-int4", "--text", "text.py", "--json")
    rows = [json.loads(line) for line in measured.out.splitlines()]
    assert rows[0]["dtype"] == "fp32"
    assert (rows[0]["same"], rows[0]["divergence"]) == (1.0, 0.0)
    assert all(row["perplexity"] > 1 and row["speed"] > 0 and row["same"] > 0.5 for row in rows)
    assert run("models", "report", "--text", "text.py").out.count("\n") == 2 + len(rows)

    assert run("models", "rm", "nano-int4").out.startswith("nano-int4: ")
    assert "nano-int4" not in run("models", "ls").out


def test_a_model_that_is_not_whole_does_not_verify(run: Cli, tmp_path: Path) -> None:
    tiny = scripted.write(tmp_path / "tiny")
    data = bytearray((tiny / "model.safetensors").read_bytes())
    data[-4:] = b"\xff\xff\xff\x7f"  # not a number
    (tiny / "model.safetensors").write_bytes(data)
    done = run("models", "verify", tiny)
    assert done.code == 3
    assert re.search(r"^NO  weights that are no finite numbers: [\w.]+$", done.out, re.MULTILINE)
    (tiny / "model.safetensors").write_bytes(data[:-100])
    assert "is damaged or cut short" in run("models", "verify", tiny).out


def test_bad_input_is_one_line(run: Cli, tmp_path: Path) -> None:
    for code, *arguments in (
        (3, "pull", "nonsense"),
        (3, "pull", "a/b@c"),
        (3, "pull", "Salesforce/codegen-350M-mono"),  # HF_HUB_OFFLINE is set here
        (2, "add", "nowhere"),
        (2, "convert", "--to", "int2"),
        (3, "convert", "--to", "int8", "-m", "nothing"),
        (3, "verify", "nothing"),
        (2, "report", "--text", "nowhere"),
        (2, "report", "--tokens", "1"),
        (2, "rm", "nano"),
        (3, "rm", "nothing"),
    ):
        done = run("models", *arguments)
        assert (done.code, done.out, one_line(done.err)) == (code, "", True), (arguments, done)
