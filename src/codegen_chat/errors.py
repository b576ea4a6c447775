"""Everything that codegen-chat raises on purpose.

CodegenChatError                 1  internal: our machinery failed
├── UsageError                   2  the person can mend it: a flag, a setting, a file name
│   ├── SettingsError            2  an unknown or misspelt setting, a value out of range
│   ├── SpecError                2  a bad line of a spec: file:line:column
│   └── SessionError             2  a session that is missing, locked, unwritable or not a session
├── ModelUnavailable             3  no such model here, or its files are damaged
│   └── CheckpointError          3  a tensor missing, of a wrong shape, a file that is not a checkpoint
├── ContextWindowExceeded        6  the prompt cannot be made to fit the window
└── SandboxUnavailable           7  the machine cannot wall in a turn, so nothing is executed

The number is the process's exit code. What a turn's *code* does (error, timeout, out of memory) is never an exception:
it is data in `Execution.status`. A message is one line that says what to do next.
"""

from __future__ import annotations

from typing import ClassVar

INTERRUPTED = 130
"""The exit code of a Ctrl-C, as shells give it."""


class CodegenChatError(Exception):
    """The root: our own machinery failed."""

    exit_code: ClassVar[int] = 1


class UsageError(CodegenChatError):
    """Something the person typed or named cannot be used."""

    exit_code = 2


class SettingsError(UsageError):
    """A setting that does not exist, or whose value is out of range."""


class SpecError(UsageError):
    """A line of a spec that cannot be read. `where` is file:line:column, counted from 1."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where


class SessionError(UsageError):
    """A session that cannot be opened or written."""


class ModelUnavailable(CodegenChatError):
    """The model is not on this machine, or cannot be loaded."""

    exit_code = 3


class CheckpointError(ModelUnavailable):
    """A checkpoint's files do not hold the model that its config describes."""


class ContextWindowExceeded(CodegenChatError):
    """The turn alone is longer than the model's window."""

    exit_code = 6


class SandboxUnavailable(CodegenChatError):
    """No wall holds on this machine: nothing is executed."""

    exit_code = 7


def first_line(error: Exception) -> str:
    """Return the first line of what another's error says, 200 characters at most: what our one line quotes."""
    return str(error).partition("\n")[0][:200] or type(error).__name__
