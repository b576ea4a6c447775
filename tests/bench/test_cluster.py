"""The same command on two nodes, one of which is lost in the middle: the same result set, nothing lost, nothing counted twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from codegen_chat.bench.samples import NAME, Samples
from tests.bench.conftest import OWN

COMMAND = [sys.executable, "-m", "codegen_chat.cli", "bench", "mtpb", str(OWN), "--json", "-n", "2"]


@pytest.mark.skipif(not os.environ.get("EVERY_LEG"), reason="a minute: EVERY_LEG=1 runs it, as CI does")
def test_a_node_is_lost(tmp_path: Path, home: Path) -> None:
    environment = {**os.environ, "HOME": str(home)}
    here = Path(__file__).with_name("cluster.py")
    with subprocess.Popen([sys.executable, here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdin is not None
        assert cluster.stdout is not None
        address = cluster.stdout.readline().strip()
        command = [*COMMAND, "--ray", address, "-o", str(tmp_path / "ray")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as run:
            assert run.stdout is not None
            run.stdout.readline()  # some is done, more is not
            cluster.stdin.write("\n")
            cluster.stdin.flush()
            lines = run.stdout.readlines()
        assert run.returncode == 0
        cluster.stdin.close()
    assert json.loads(lines[-1])["samples"] == 72
    subprocess.run([*COMMAND, "-o", str(tmp_path / "here")], check=True, capture_output=True, env=environment)
    found, wanted = ([replace(sample, seconds=0) for sample in Samples.read(tmp_path / name)] for name in ("ray", "here"))
    assert found == wanted
    assert len((tmp_path / "ray" / NAME).read_text().splitlines()) == 1 + 72


def test_no_cluster(tmp_path: Path) -> None:
    run = subprocess.run([*COMMAND, "--ray", "127.0.0.1:1"], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 2
    assert "no Ray cluster at 127.0.0.1:1" in run.stderr
