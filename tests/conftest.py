"""Each test has a home of its own, and no network."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("suite", deadline=None)  # how fast a machine is decides no test
settings.load_profile("suite")

# A shell that starts the tests in the background has Ctrl-C ignored, and every process that they start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point HOME and the XDG folders to an empty folder, drop every setting of the person who runs the tests."""
    folder = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("CODEGEN_CHAT_", "XDG_", "HF_")) or name in {
            "NO_COLOR",
            "ACCESSIBLE",
            "EDITOR",
            "VISUAL",
            "COLUMNS",
            "LINES",
        }:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail a test that leaves this machine from this process."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else ""
        if self.family in {socket.AF_INET, socket.AF_INET6} and host not in {"127.0.0.1", "::1"}:
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


@pytest.fixture(scope="session")
def scripted_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose answers are known; see tests/scripted.py."""
    from tests import scripted

    return scripted.write(tmp_path_factory.mktemp("models") / "scripted")


@pytest.fixture(scope="session")
def scripted_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smaller one that says the same."""
    from tests import scripted

    return scripted.write(tmp_path_factory.mktemp("models") / "small", width=16)
