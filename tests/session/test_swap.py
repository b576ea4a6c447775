from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from codegen_chat.session.swap import Swap


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.py"
    path.write_bytes(b"before")
    path.chmod(0o640)
    return path


def alone(path: Path) -> bool:
    return [each.name for each in path.parent.iterdir()] == [path.name]


def test_a_file_is_replaced_and_keeps_its_rights(path: Path) -> None:
    swap = Swap(path)
    inode = path.stat().st_ino
    assert swap.write(b"before", b"after")
    assert path.read_bytes() == b"after"
    assert path.stat().st_ino != inode
    assert path.stat().st_mode & 0o777 == 0o640
    assert not swap.settle()
    assert alone(path)


def test_what_was_saved_meanwhile_stays(path: Path) -> None:
    path.write_bytes(b"theirs")
    assert not Swap(path).write(b"before", b"after")
    assert path.read_bytes() == b"theirs"
    assert alone(path)


@pytest.mark.parametrize("saved", [b"theirs", b""])
def test_what_is_saved_between_look_and_change_stays(path: Path, saved: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = Swap(path)
    exchange = swap._exchange

    def late() -> bool:
        monkeypatch.setattr(swap, "_exchange", exchange)
        path.write_bytes(saved)
        return exchange()

    monkeypatch.setattr(swap, "_exchange", late)
    assert not swap.write(b"before", b"after")
    assert path.read_bytes() == saved
    assert alone(path)


def test_what_is_saved_while_it_changes_back_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = Swap(path)
    exchange = swap._exchange
    saves = iter([b"first", b"second"])

    def late() -> bool:
        text = next(saves, None)
        if text is not None:
            fresh = path.with_name("editor")
            fresh.write_bytes(text)
            fresh.replace(path)
        return exchange()

    monkeypatch.setattr(swap, "_exchange", late)
    assert not swap.write(b"before", b"after")
    assert path.read_bytes() == b"second"
    assert alone(path)


def test_who_had_the_file_open_and_writes_late_is_heard(path: Path) -> None:
    swap = Swap(path)
    with path.open("r+b") as editor:
        assert swap.write(b"before", b"after")
        editor.write(b"theirs, later")
    assert swap.settle()
    assert path.read_bytes() == b"theirs, later"
    assert alone(path)


def test_a_link_leads_to_the_file(path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    link = tmp_path_factory.mktemp("other") / "link.py"
    link.symlink_to(path)
    swap = Swap(link)
    assert swap.write(b"before", b"after")
    swap.settle()
    assert link.is_symlink()
    assert path.read_bytes() == b"after"


def test_a_file_system_that_cannot_exchange_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swap = Swap(path)
    monkeypatch.setattr(swap, "_exchange", lambda: False)
    assert swap.write(b"before", b"after")
    assert path.read_bytes() == b"after"
    assert not swap.settle()
    assert alone(path)


EDITOR = """
import os, sys
path, way = sys.argv[1:]
for number in range(300):
    if way == "rename":
        with open(path + "~", "w") as file:
            file.write(f"saved {number}\\n")
        os.replace(path + "~", path)
    else:
        with open(path, "w") as file:
            file.write(f"saved {number}\\n")
"""


@pytest.mark.parametrize("way", ["rename", "in place"])
def test_no_save_of_an_editor_is_ever_lost(path: Path, way: str) -> None:
    swap = Swap(path)
    with subprocess.Popen([sys.executable, "-c", EDITOR, path, way]) as editor:
        while editor.poll() is None:
            before = path.read_bytes()
            if before:  # else it is being saved: who watches waits until it is settled
                swap.write(before, before + b"answered\n")
                swap.settle()
    swap.settle()
    assert path.read_text().startswith("saved 299\n")


def test_a_file_that_is_gone_is_not_made_again(path: Path) -> None:
    swap = Swap(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        swap.write(b"before", b"after")
    assert list(path.parent.iterdir()) == []
