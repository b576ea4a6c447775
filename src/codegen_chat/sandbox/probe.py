"""Whether each layer of the wall holds on this machine, and how to get those that do not. For `doctor`."""

from __future__ import annotations

import os
from dataclasses import dataclass

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox import outer, walls
from codegen_chat.sandbox.kernel import Kernel


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of the wall on this machine: whether it holds, what it gives, and where it does not how to get it."""

    name: str
    holds: bool
    detail: str


_LACKS = {
    "A": "",
    "A-": "; without Landlock a turn sees the names of the sandbox's own processes",
    "B": "; without namespaces a turn can tell which files exist (stat), and multiprocessing pools and /tmp are out of its reach",
}


def probe() -> list[Layer]:
    """Try each layer here, then all of them together. For `doctor`."""
    bwrap, version, filters = outer.bwrap_lacks(), walls.landlock_version(), walls.seccomp_known()
    landlock = version >= walls.LANDLOCK_NEEDED
    layers = [
        Layer(
            "namespaces",
            not bwrap,
            f"bubblewrap: {bwrap}; {outer.INSTALL_BWRAP}"
            if bwrap == outer.NOT_INSTALLED
            else f"bubblewrap: {bwrap}; allow it user namespaces (sysctl kernel.apparmor_restrict_unprivileged_userns=0, or in "
            "a container --security-opt seccomp=unconfined)"
            if bwrap
            else "bubblewrap: own files, network, processes",
        ),
        Layer(
            "landlock",
            landlock,
            f"ABI {version}: only what was granted can be read or written"
            if landlock
            else f"ABI {version}: Linux 6.2 or later, with landlock among its security modules (lsm= at boot)",
        ),
        Layer("seccomp", filters, "allow-list of system calls" if filters else "Linux 4.14 or later on x86_64 or aarch64"),
    ]
    if os.getuid() == 0:
        hidden = outer.hidden_from_others() if bwrap else ""
        what = (
            f"only root can read {hidden}: use a Python that everybody can read" if hidden else "code runs under one of its own"
        )
        layers.append(Layer("another uid", not hidden, what))
    disk = "watched" if bwrap else "capped"
    layers.append(Layer("limits", True, f"memory, processes, open files and output capped, disk {disk}, time kept from outside"))
    try:
        with Kernel.start() as kernel:
            what = f"tier {kernel.tier}: what must fail failed, what must work worked{_LACKS[kernel.tier]}"
            layers.append(Layer("self-test", True, what))
    except SandboxUnavailable as error:
        layers.append(Layer("self-test", False, str(error)))
    return layers
