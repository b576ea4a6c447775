"""The public names are a promise: a change here is a change of the interface."""

from __future__ import annotations

import subprocess
import sys

import pytest

import codegen_chat

NAMES = [
    "Attention",
    "Change",
    "CheckpointError",
    "CodegenChatError",
    "Completion",
    "ContextWindowExceeded",
    "Delta",
    "Execution",
    "Failure",
    "Model",
    "ModelUnavailable",
    "Sampling",
    "SandboxUnavailable",
    "Session",
    "SessionError",
    "Settings",
    "SettingsError",
    "SpecError",
    "Turn",
    "Typed",
    "Usage",
    "UsageError",
    "load",
]


def test_the_names() -> None:
    assert sorted(codegen_chat.__all__) == NAMES
    assert sorted(dir(codegen_chat)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_there(name: str) -> None:
    assert getattr(codegen_chat, name).__name__ == name


def test_no_other_name() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Engine'"):
        _ = codegen_chat.Engine


@pytest.mark.parametrize(
    "code",
    [
        "import codegen_chat",
        "import codegen_chat; codegen_chat.Settings, codegen_chat.Turn, codegen_chat.ModelUnavailable",
        "import codegen_chat; codegen_chat.Session",
        "from codegen_chat.cli.commands import app; app(['--help'], standalone_mode=False)",
        "from codegen_chat.cli.commands import app; app(['run', '--help'], standalone_mode=False)",
    ],
)
def test_no_torch_before_a_model_is_loaded(code: str) -> None:
    heavy = "{'torch', 'transformers', 'tokenizers', 'pandas', 'matplotlib'}"
    subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nassert not sys.modules.keys() & {heavy}"], check=True, capture_output=True
    )
