"""Folders that a person grants: they are what was granted and nothing more, and nobody else can grant them."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_chat.errors import UsageError
from codegen_chat.sandbox import outer
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import last_execution
from tests.sandbox.host import Host, Leg, gone, legs


@pytest.fixture(
    scope="module", params=[leg for leg in legs(every="EVERY_LEG" in os.environ) if leg.tier != "A-"], ids=lambda leg: leg.name
)
def granted(request: pytest.FixtureRequest) -> Iterator[Host]:
    leg: Leg = request.param
    with Host(leg, read=("given",), write=("shared",)) as machine:
        yield machine


def value(host: Host, code: str) -> str | None:
    execution = host.execute(host.filled(code))
    assert execution.status == "ok", execution
    return execution.value


def test_a_granted_folder_is_read_and_imported_from(granted: Host) -> None:
    assert value(granted, "open('«folder»/given/data.csv').read()") == "'a,b\\n1,2\\n'"
    assert value(granted, "import mine\nmine.twice(21)") == "42"
    assert value(granted, "import os\nsorted(os.listdir('«folder»/given'))") == "['data.csv', 'mine.py']"


@pytest.mark.parametrize(
    "code",
    [
        "open('«folder»/given/new', 'w').write('x')",
        "open('«folder»/given/data.csv', 'a').write('x')",
        "import os\nos.truncate('«folder»/given/data.csv', 0)",
        "import os\nos.remove('«folder»/given/data.csv')",
        "import os\nos.rename('«folder»/given/data.csv', 'mine.csv')",
        "import os\nos.chmod('«folder»/given/data.csv', 0o777)",
        "import os\nos.utime('«folder»/given/data.csv', (1, 1))",
        "import os\nos.link('«folder»/given/data.csv', 'linked')\nopen('linked', 'w').write('x')",
        "import os\nos.link('«folder»/given/data.csv', '«folder»/shared/linked')\nopen('«folder»/shared/linked', 'w').write('x')",
        "import os\nos.symlink('«folder»/given/data.csv', 'soft')\nopen('soft', 'w').write('x')",
    ],
)
def test_a_folder_granted_for_reading_cannot_be_changed(granted: Host, code: str) -> None:
    before = granted.marks()
    granted.execute(granted.filled(code))
    assert granted.marks() == before


def test_a_folder_granted_for_writing_is_written_to(granted: Host) -> None:
    value(granted, "import os\nos.makedirs('«folder»/shared/out')\nopen('«folder»/shared/out/result.txt', 'w').write('42')")
    assert (granted.folder / "shared" / "out" / "result.txt").read_text() == "42"
    assert value(granted, "open('«folder»/shared/out/result.txt').read()") == "'42'"
    value(granted, "import shutil\nshutil.rmtree('«folder»/shared/out')")
    assert not list((granted.folder / "shared").iterdir())


def test_what_lies_beside_a_granted_folder_stays_out_of_reach(granted: Host) -> None:
    for code in (
        "open('«secret»').read()",
        "open('«folder»/given/../home/secret.txt').read()",
        "import os\nos.listdir('«home»')",
    ):
        assert granted.execute(granted.filled(code)).status == "error"


def test_a_link_planted_in_a_granted_folder_is_not_followed_by_the_next_sandbox(granted: Host) -> None:
    plant = (
        "import os\nfor name in ('way', 'f'): os.symlink('«home»' if name == 'way' else '«secret»', '«folder»/shared/' + name)"
    )
    value(granted, plant)
    pids = granted.sandbox_pids()
    init = granted.init_pid()
    os.kill(init, signal.SIGKILL)
    assert gone({init})
    for code in ("open('«folder»/shared/f').read()", "open('«folder»/shared/way/secret.txt').read()"):
        assert granted.execute(granted.filled(code)).status == "error"
    assert gone(pids)
    for name in ("way", "f"):
        (granted.folder / "shared" / name).unlink()


@pytest.mark.parametrize(
    ("read", "write", "said"),
    [
        (("/",), (), "cannot be granted"),
        (("/proc/self",), (), "cannot be granted"),
        ((), ("/dev/shm",), "cannot be granted"),
        (("nowhere",), (), "no such folder"),
        (("a/file",), (), "no such folder"),
        ((), (".",), "folder for temporary files lies in it"),
        (("a/b",), ("a",), "lie in one another"),
        ((), ("a", "a/b"), "lie in one another"),
        ((), (str(Path(outer.__file__).parent),), "lie in one another"),
        ((), (str(Path(outer.__file__).parents[2]),), "lie in one another"),
        ((), (str(Path(os.__file__).parent),), "lie in one another"),
        ((), (sys.prefix,), "lie in one another"),
    ],
)
def test_what_cannot_be_granted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: tuple[str, ...], write: tuple[str, ...], said: str
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "file").touch()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=said):
        Kernel.start(grants=outer.Grants(read, write))


@pytest.mark.skipif(os.getuid() != 0, reason="root's alone: code runs under another uid there")
def test_root_is_told_where_modes_hold_off_the_other_uid(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o700)
    (tmp_path / "open").mkdir()
    for grants, flag in (
        (outer.Grants((str(tmp_path / "closed"),)), "read"),
        (outer.Grants((), (str(tmp_path / "open"),)), "write"),
    ):
        with pytest.raises(UsageError, match=rf"--allow-{flag} .* another uid.*chmod o\+"):
            Kernel.start(grants=grants)


def test_a_link_is_granted_by_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "f").write_text("1")
    tmp_path.joinpath("link").symlink_to(tmp_path / "real")
    with Kernel.start(grants=outer.Grants((str(tmp_path / "link"),))) as kernel:
        assert kernel.grants.read == (str(tmp_path / "real"),)
        assert (
            last_execution(kernel.execute(f"open({str(tmp_path / 'real' / 'f')!r}).read()", parent=None, turn=None)).value
            == "'1'"
        )
