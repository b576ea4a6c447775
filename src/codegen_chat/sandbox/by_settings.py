"""The sandbox that a person's settings ask for, and in words what it holds code to. Imports no model: `exec` needs none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.sandbox.outer import UNSAFE, Grants
from codegen_chat.settings import Settings
from codegen_chat.turn import Limits


def sandbox(settings: Settings, *, imports: Sequence[str] = (), unsafe: bool = False) -> tuple[Kernel | None, str | None]:
    """Return a sandbox, or None and why there is none.

    `imports`: modules that its empty state has imported. `unsafe`: where it cannot be had, run code all the same; for who has
    typed so. Raises UsageError for a folder that cannot be granted.
    """
    if settings.exec == "off":
        return None, "execution is off"
    limits = replace(Limits(), timeout=settings.timeout, memory=settings.memory)
    grants = Grants(settings.allow_read, settings.allow_write)
    try:
        return Kernel.start(limits, imports=imports, grants=grants, unsafe=unsafe), None
    except SandboxUnavailable as error:
        return None, str(error)


def walls(kernel: Kernel) -> list[str]:
    """Say in a line what code is held to, and what it was granted; louder where it is held to nothing."""
    if kernel.tier == UNSAFE:
        return [
            "!" * 80,
            "UNSAFE: no sandbox holds on this machine, and --unsafe-exec was given.",
            "Code that a model wrote runs with your rights: it can read, change and delete your files.",
            "!" * 80,
        ]
    grants = kernel.grants
    granted = [f"{what} {', '.join(folders)}" for what, folders in (("reads", grants.read), ("writes", grants.write)) if folders]
    but = f", but it {' and '.join(granted)}" if granted else ""
    return [f"Code runs in the sandbox, tier {kernel.tier}: no network, no files{but}."]
