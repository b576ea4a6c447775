r"""Words become Python that runs: CodeGen models in multi-turn conversations, in a walled sandbox.

    import codegen_chat

    model = codegen_chat.load("nano")
    print(model.complete("# Sum of the squares of 1 to 5.\n")[0].text)

    with codegen_chat.Session.open() as session:
        session.run('Assign the list [3, 1, 2] to a variable named "nums".')
        print(session.run("Sort it and print it.").execution.stdout)

The names below are the whole public interface. They are imported when they are first used (PEP 562), so that `import
codegen_chat` loads no torch.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # from typing it would cost every start of a sandbox the import

if TYPE_CHECKING:
    from codegen_chat.api import Session
    from codegen_chat.attention.record import Attention
    from codegen_chat.errors import (
        CheckpointError,
        CodegenChatError,
        ContextWindowExceeded,
        ModelUnavailable,
        SandboxUnavailable,
        SessionError,
        SettingsError,
        SpecError,
        UsageError,
    )
    from codegen_chat.models import Model, load
    from codegen_chat.settings import Settings
    from codegen_chat.turn import Change, Completion, Delta, Execution, Failure, Sampling, Turn, Typed, Usage

__all__ = [
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

_HOMES = {
    "api": ("Session",),
    "models": ("Model", "load"),
    "attention.record": ("Attention",),
    "settings": ("Settings",),
    "turn": ("Change", "Completion", "Delta", "Execution", "Failure", "Sampling", "Turn", "Typed", "Usage"),
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = next((module for module, names in _HOMES.items() if name in names), "errors")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
