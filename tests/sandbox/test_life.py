"""Beginnings and ends: refusals, losses, and nothing left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox import limits, outer, walls
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.sandbox.probe import probe
from codegen_chat.turn import last_execution
from tests.sandbox.host import Host, Leg, gone, legs

VALUE = "x = 41\nx + 1"


@pytest.fixture(params=[leg for leg in legs(every="EVERY_LEG" in os.environ) if leg.tier != "A-"], ids=lambda leg: leg.name)
def own(request: pytest.FixtureRequest) -> Iterator[Host]:
    """A machine of the test's own: the product is killed in it."""
    leg: Leg = request.param
    with Host(leg) as machine:
        yield machine


def test_kill_9_of_the_product_leaves_no_process_and_no_file(own: Host) -> None:
    first = own.execute("import os\nif os.fork() == 0:\n    import time; time.sleep(60)\nprint(os.getcwd(), end='')", turn="1")
    assert first.status == "ok"
    pids = own.sandbox_pids()
    assert len(pids) >= 3
    mounts = Path("/proc/self/mountinfo").read_text()
    own.product.kill()
    assert gone(pids)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not Path(first.stdout).parent.exists()  # a folder of the host's in tier B alone


def test_kill_9_of_the_product_in_the_middle_of_a_turn(own: Host) -> None:
    assert own.product.stdin is not None
    own.product.stdin.write('{"code": "while True: pass", "parent": null, "turn": null, "timeout": 60}\n')
    own.product.stdin.flush()
    pids = own.sandbox_pids()
    own.product.kill()
    assert gone(pids | own.sandbox_pids())


def test_kill_9_of_init_costs_a_replay_and_leaves_nobody(own: Host) -> None:
    assert own.execute("x = 41", turn="1").status == "ok"
    pids = own.sandbox_pids()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # the first takes others along
            os.kill(pid, signal.SIGKILL)
    assert gone(pids)
    execution = own.execute("x + 1", parent="1")
    assert (execution.status, execution.value) == ("ok", "42")
    assert "rebuilt" in execution.note


def test_init_killed_alone_takes_everything_along(own: Host) -> None:
    assert own.execute("x = 41", turn="1").status == "ok"
    pids = own.sandbox_pids()
    init = own.init_pid()
    os.kill(init, signal.SIGKILL)
    assert gone({init})
    assert own.execute("x + 1", parent="1").value == "42"
    assert gone(pids)


def test_close_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # in the other one sandboxes of others come and go
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with Kernel.start() as kernel:
            assert last_execution(kernel.execute(VALUE, parent=None, turn="1")).value == "42"
    assert not list(tmp_path.iterdir())
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


TURNS = 200 if "EVERY_LEG" in os.environ else 60


def test_many_turns_hold_few_processes_descriptors_and_memory(own: Host) -> None:
    used = []
    for n in range(TURNS):
        code = f"x = {n}\nopen('f{n % 3}', 'w').write('x' * 1000)"
        assert own.execute(code, parent=str(n - 1) if n else None, turn=str(n)).status == "ok"
        if n % 20 == 19:
            init = own.init_pid()
            used.append((resident(init), len(own.sandbox_pids()), len(list(Path(f"/proc/{own.product.pid}/fd").iterdir()))))
    assert used[-1][0] - used[0][0] < 2 << 20
    assert max(count for _, count, _ in used) <= limits.PARKED + 5
    assert max(count for _, _, count in used) < 20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_without_any_wall_it_refuses_in_one_line() -> None:
    with pytest.raises(SandboxUnavailable, match=r"neither bubblewrap .* nor Landlock") as refusal:
        Kernel.start(without=("bwrap", "landlock"))
    assert "\n" not in str(refusal.value)


def test_who_has_typed_so_runs_code_where_no_wall_holds() -> None:
    with Kernel.start(without=("bwrap", "landlock"), unsafe=True) as kernel:
        assert kernel.tier == "unsafe"
        assert last_execution(kernel.execute(VALUE, parent=None, turn="1")).value == "42"
        assert last_execution(kernel.execute("x", parent="1", turn=None)).value == "41"
        endless = kernel.execute("while True: pass", parent=None, turn=None, timeout=0.3)
        assert last_execution(endless).status == "timeout"


def test_where_a_wall_holds_the_word_changes_nothing() -> None:
    with Kernel.start(unsafe=True) as kernel:
        assert kernel.tier in {"A", "A-", "B"}


def test_a_wall_that_does_not_hold_is_not_passed_over_by_the_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="Linux"):
        Kernel.start(unsafe=True)


def test_without_seccomp_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walls, "seccomp_known", lambda: False)
    with pytest.raises(SandboxUnavailable, match="seccomp"):
        Kernel.start()


def test_on_another_system_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxUnavailable, match="Linux"):
        Kernel.start()


def test_root_without_bubblewrap_and_with_a_python_of_its_own_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(outer, "_readable_by_all", lambda path: False)
    with pytest.raises(SandboxUnavailable, match=r"only root can read .*apt install bubblewrap"):
        Kernel.start(without=("bwrap",))


def test_a_wall_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = outer.plan

    def leaky(*arguments: object, **settings: object) -> outer.Start:
        start = real(*arguments, **settings)  # type: ignore[arg-type]
        assert isinstance(start.plan["forbidden"], list)
        start.plan["forbidden"].append(os.__file__)  # which can be read, and must be for Python to run
        return start

    monkeypatch.setattr(outer, "plan", leaky)
    with pytest.raises(SandboxUnavailable, match=r"the walls do not hold here: .* can be read"):
        Kernel.start()


def test_an_init_that_dies_at_its_start_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outer, "_python", lambda: [sys.executable, "-c", "raise OSError('no way')"])
    with pytest.raises(SandboxUnavailable, match=r"did not start .*"):
        Kernel.start()


def test_probe_says_what_holds() -> None:
    layers = {layer.name: layer for layer in probe()}
    assert layers["self-test"].holds
    assert layers["seccomp"].holds
    assert layers["landlock"].holds == (walls.landlock_version() >= 3)
    assert layers["limits"].holds
    assert ("another uid" in layers) == (os.getuid() == 0)
    assert all(layer.detail for layer in layers.values())


@pytest.mark.parametrize(
    ("lacks", "way"),
    [("not installed", "apt install bubblewrap"), ("setting up uid map: Permission denied", "user namespaces")],
)
def test_probe_says_how_to_get_what_is_lacking(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacks: str, way: str) -> None:
    bwrap = tmp_path / "bwrap"
    if lacks != outer.NOT_INSTALLED:
        bwrap.write_text(f"#!/bin/sh\necho '{lacks}' >&2\nexit 1\n")
        bwrap.chmod(0o755)
    monkeypatch.setattr(outer, "BWRAP", str(bwrap))
    monkeypatch.setattr(walls, "landlock_version", lambda: 1)
    layers = {layer.name: layer for layer in probe()}
    assert [layers[name].holds for name in ("namespaces", "landlock", "self-test")] == [False] * 3
    assert lacks in layers["namespaces"].detail
    assert way in layers["namespaces"].detail
    assert "Linux 6.2" in layers["landlock"].detail
    assert lacks in layers["self-test"].detail


def test_a_kernel_started_in_a_thread_outlives_it() -> None:
    code = (
        "import threading\nfrom codegen_chat.sandbox.kernel import Kernel\nfrom codegen_chat.turn import last_execution\n"
        "box = []\nt = threading.Thread(target=lambda: box.append(Kernel.start()))\nt.start(); t.join()\n"
        "print(last_execution(box[0].execute('40 + 2', parent=None, turn=None)).value)\nbox[0].close()"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(outer.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert (done.stdout, done.stderr) == ("42\n", "")
