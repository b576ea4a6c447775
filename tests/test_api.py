from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import codegen_chat
from codegen_chat import Completion, Delta, Settings
from codegen_chat.api import offers
from codegen_chat.lm import fit
from codegen_chat.models import drafting
from tests import scripted, synthetic


@pytest.fixture(scope="module")
def model(scripted_model: Path) -> codegen_chat.Model:
    return codegen_chat.load(scripted_model)


def test_load_says_what_it_loaded(model: codegen_chat.Model) -> None:
    assert (model.name, model.dtype, model.device) == ("scripted", "fp32", "cpu")
    assert len(model.revision) == 12


def test_complete(model: codegen_chat.Model) -> None:
    (completion,) = model.complete("def f():")
    assert completion.text == "\n    return 1\n"
    assert completion.finish_reason == "eos"
    assert completion.logprob == pytest.approx(0, abs=1e-3)
    assert model.tokenizer.decode(completion.token_ids) == completion.text


def test_complete_draws_n_with_seeds_of_their_own(model: codegen_chat.Model) -> None:
    drawn = model.complete("x", n=3, temperature=5.0, max_new_tokens=4, seed=11)
    assert [completion.seed for completion in drawn] == [11, 12, 13]
    assert len({completion.text for completion in drawn}) > 1
    assert [one.text for one in model.complete("x", n=3, temperature=5.0, max_new_tokens=4, seed=11)] == [
        one.text for one in drawn
    ]


def test_complete_stops_before_a_string(model: codegen_chat.Model) -> None:
    (completion,) = model.complete("def f():", stop=["urn", "zzz"])
    assert (completion.text, completion.finish_reason) == ("\n    ret", "stop")


def test_several_prompts_are_what_each_is_alone(model: codegen_chat.Model) -> None:
    texts = ["def f():", "x", "\n"]
    together = model.complete(texts, n=2, temperature=5.0, max_new_tokens=4, seed=3)
    alone = [model.complete(text, n=2, temperature=5.0, max_new_tokens=4, seed=3) for text in texts]
    assert [[one.text for one in drawn] for drawn in together] == [[one.text for one in drawn] for drawn in alone]
    assert model.complete([]) == []


def test_features_and_logits_of_a_text(model: codegen_chat.Model) -> None:
    ids = model.tokenizer.encode("def f():")
    assert model.features("def f():").shape == (len(ids), 32)
    assert (model.features("def f():") == model.features(ids)).all()
    assert (model.logits("def f():") == model.logits(ids)).all()


def test_a_gap_is_filled_by_a_model_that_knows_how(model: codegen_chat.Model, tmp_path: Path) -> None:
    with pytest.raises(
        codegen_chat.UsageError, match=r"^scripted cannot fill gaps: it knows no <mask_1>, <sep>, <eom>\. CodeGen2"
    ):
        model.infill("def f(", "):")
    folder = scripted.write(tmp_path / "codegen2", marks=("<mask_1>", "<sep>", "<eom>"))
    (filled,) = codegen_chat.load(folder).infill("def f():", "# end")
    assert (filled.text, filled.finish_reason) == ("    return 2", "stop")


def test_stream_ends_with_the_completion(model: codegen_chat.Model) -> None:
    *pieces, completion = model.stream("def f():")
    assert isinstance(completion, Completion)
    assert "".join(piece.text for piece in pieces if isinstance(piece, Delta)) == completion.text


@pytest.mark.parametrize(
    "arguments", [{"temperature": -1}, {"top_p": 0}, {"max_new_tokens": 0}, {"seed": -5}, {"stop": [""]}, {"stop": "x"}]
)
def test_arguments_out_of_range(model: codegen_chat.Model, arguments: dict[str, object]) -> None:
    with pytest.raises(codegen_chat.UsageError, match=r"complete\(\): "):
        model.complete("x", **arguments)  # type: ignore[call-overload]


def test_a_prompt_past_the_window(model: codegen_chat.Model) -> None:
    with pytest.raises(codegen_chat.ContextWindowExceeded):
        model.complete("x" * 600)


def test_logits_and_features(model: codegen_chat.Model) -> None:
    ids = model.tokenizer.encode("a:\n")
    logits, features = model.logits(ids), model.features(ids)
    assert logits.dtype == features.dtype == np.float32
    assert logits.shape == (len(ids), len(model.tokenizer))
    assert features.shape == (len(ids), 32)
    assert model.tokenizer.decode([int(logits[-1].argmax())]) == "total = sum([1, 2, 3])\n"


def test_no_such_model() -> None:
    with pytest.raises(codegen_chat.ModelUnavailable):
        codegen_chat.load("nobody/nothing")


@pytest.mark.parametrize("arguments", [{"dtype": "fp64"}, {"device": "abacus"}])
def test_no_such_number_or_device(scripted_model: Path, arguments: dict[str, str]) -> None:
    with pytest.raises(codegen_chat.UsageError):
        codegen_chat.load(scripted_model, **arguments)


def test_a_draft_model_changes_nothing_that_is_written(
    scripted_model: Path, scripted_draft: Path, model: codegen_chat.Model
) -> None:
    drafted = codegen_chat.load(scripted_model, draft=scripted_draft)
    assert (drafted.draft, model.draft) == ("small", "")
    for _ in range(3):  # it is tried once it is known what a token costs
        (one,), (other,) = (each.complete("# Add.\n", temperature=0.1) for each in (model, drafted))
        assert (one.text, one.token_ids, one.seed) == (other.text, other.token_ids, other.seed)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def test_what_cannot_draft_is_refused_in_a_line(scripted_model: Path, scripted_draft: Path) -> None:
    said = "nano cannot draft for scripted: their vocabularies differ. Give a smaller model of its family, or --draft off"
    for refused in (
        lambda: codegen_chat.load(scripted_model, draft="nano"),
        lambda: codegen_chat.Session.open(Settings(model=str(scripted_model), draft="nano", save=False)),
    ):
        with pytest.raises(codegen_chat.UsageError, match=f"^{said}$"):
            refused()
    for large in (scripted_draft, scripted_model):
        with pytest.raises(codegen_chat.UsageError, match=f"{large.name} cannot draft for small: it is not smaller"):
            codegen_chat.load(scripted_draft, draft=large)
    with pytest.raises(codegen_chat.ModelUnavailable, match="nobody/nothing is not on this machine"):
        codegen_chat.load(scripted_model, draft="nobody/nothing")


def test_published_models_share_their_vocabulary_whatever_file_it_stands_in(tmp_path: Path) -> None:
    large = synthetic.write(tmp_path / "large", synthetic.small("2B"), filled=False)
    small = synthetic.write(tmp_path / "small", synthetic.small("350M"), filled=False, parts=True)
    assert drafting(large, small) == small
    with pytest.raises(codegen_chat.UsageError, match="nano cannot draft for large: their vocabularies differ"):
        drafting(large, "nano")


def test_memory_must_hold_both(scripted_model: Path, scripted_draft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The draft model is loaded first, and what is free then must hold the other: here, not one byte is."""
    asked: list[int] = []

    def free() -> int:
        asked.append(1)
        return 10**9 if len(asked) == 1 else 0

    monkeypatch.setattr(fit, "free_memory", free)
    with pytest.raises(codegen_chat.ModelUnavailable, match=r"the weights take .* and 0.0 MB are free"):
        codegen_chat.load(scripted_model, draft=scripted_draft)


def test_a_session_changes_its_draft_model(scripted_model: Path, scripted_draft: Path) -> None:
    with codegen_chat.Session.open(Settings(model=str(scripted_model), exec="off", save=False)) as session:
        first = session.run("Add the numbers.")
        with pytest.raises(codegen_chat.UsageError, match="nano cannot draft for scripted"):
            session.change({"draft": "nano"})
        assert session.model.value.draft == ""
        session.change({"draft": str(scripted_draft)})
        assert session.model.value.draft == "small"
        assert session.title.endswith(", draft small")
        assert session.run("Add the numbers.").code == first.code
        session.change({"draft": "off"})
        assert session.model.value.draft == ""
        assert "draft" not in session.title


def test_a_session_runs_undoes_exports_and_goes_on(scripted_model: Path, model: codegen_chat.Model, tmp_path: Path) -> None:
    settings = Settings(model=str(scripted_model))
    with codegen_chat.Session.open(settings, model=model) as session:
        assert session.unsafe is None
        turn = session.run("Add the numbers.")
        assert (turn.code, turn.accepted) == ("total = sum([1, 2, 3])\nprint(total)", True)
        assert turn.execution is not None
        assert (turn.execution.status, turn.execution.stdout) == ("ok", "6\n")
        double = session.run_code("double = total * 2\ndouble")
        assert double.execution is not None
        assert double.execution.value == "12"
        failed = session.run_code("1 / 0")
        assert not failed.accepted
        assert session.turns == (turn, double)
        program = tmp_path / "program.py"
        assert session.export(program) is None
        path = session.history.path
    assert "verified" in program.read_text().splitlines()[0]
    ran = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=True)
    assert ran.stdout == "6\n12\n"

    assert path is not None
    with codegen_chat.Session.open(settings, resume=path, model=model) as session:
        assert [turn.code for turn in session.turns] == [turn.code, double.code]
        again = session.run_code("double + 30")
        assert again.execution is not None
        assert again.execution.value == "42"
        assert session.notes == []


def test_a_program_that_does_otherwise_is_not_verified(scripted_model: Path, model: codegen_chat.Model, tmp_path: Path) -> None:
    with codegen_chat.Session.open(Settings(model=str(scripted_model), save=False), model=model) as session:
        session.run_code("import time\nprint(time.time_ns())")
        doubt = session.export(tmp_path / "program.py")
        with pytest.raises(codegen_chat.SessionError, match="cannot be written"):
            session.export(tmp_path / "nowhere" / "program.py")
    assert doubt is not None
    assert "the re-run" in doubt
    assert "verified" not in (tmp_path / "program.py").read_text()


def test_without_execution_code_is_shown(scripted_model: Path, model: codegen_chat.Model) -> None:
    with codegen_chat.Session.open(Settings(model=str(scripted_model), exec="off", save=False), model=model) as session:
        turn = session.run("Add the numbers.")
        assert session.unsafe == "execution is off"
        assert (turn.execution, turn.accepted) == (None, True)


def test_settings_change_how_a_session_draws(scripted_model: Path, model: codegen_chat.Model) -> None:
    settings = Settings(model=str(scripted_model), exec="off", save=False, seed=40, temperature=0.3, max_new_tokens=1)
    with codegen_chat.Session.open(settings, model=model) as session:
        turn = session.run("Add the numbers.")
    assert turn.completion is not None
    assert (turn.completion.seed, turn.completion.finish_reason) == (40, "length")


def test_a_model_that_cannot_be_loaded_fails_the_turn_and_not_the_session(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{}")
    with codegen_chat.Session.open(Settings(model=str(tmp_path / "broken"), save=False)) as session:
        with pytest.raises(codegen_chat.CheckpointError):
            session.run("Add the numbers.")
        assert session.title == "broken cannot be loaded"
        turn = session.run_code("6 * 7")
    assert turn.execution is not None
    assert turn.execution.value == "42"


def test_the_models_are_offered_on_one_screen() -> None:
    lines = list(offers())
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert re.search(r"^nano +\d+\.\d MB +\d+\.\d MB  here$", "\n".join(lines), re.MULTILINE)
    assert sum("Salesforce/codegen-" in line for line in lines) == 12
    assert "`codegen-chat models pull NAME`" in lines[-2]
