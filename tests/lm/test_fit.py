from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from codegen_chat.errors import ModelUnavailable
from codegen_chat.lm import fit, native, steps
from codegen_chat.lm.config import PUBLISHED
from tests import synthetic


def test_a_control_groups_files_are_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit.free_memory()
    monkeypatch.setattr(fit, "GROUP", tmp_path)
    told = {"max": "3000", "current": "2500", "stat": "anon 400\nactive_file 700\ninactive_file 1000\n"}
    for name, text in told.items():
        (tmp_path / f"memory.{name}").write_text(text)
    assert fit.free_memory() == 3000 - 2500 + 1700
    (tmp_path / "memory.max").write_text("max\n")
    assert fit.free_memory() == pytest.approx(whole, rel=0.2)


@pytest.mark.skipif(not native.instructions(), reason="torch has other dtypes")
def test_weights_that_memory_cannot_hold_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED["16B"].to_dict()))
    synthetic.published(tmp_path / "pytorch_model.bin", PUBLISHED["16B"], torch.float16, filled=False)
    for free, hint in ((20 * 10**9, ": --dtype int8 takes 16.04 GB"), (10**9, "")):
        monkeypatch.setattr(fit, "free_memory", lambda free=free: free)
        with pytest.raises(ModelUnavailable, match=rf"^the weights take 32.07 GB of memory in fp16, and .* are free{hint}$"):
            steps.load(tmp_path, device="cpu")
