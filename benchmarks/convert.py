"""How much memory a conversion takes: each in a process of its own, its peak read from the kernel.

    python benchmarks/convert.py [--folder /tmp] [--sizes 350M 2B 6B 16B] [--to int8]

Checkpoints have the names, shapes and dtypes of the published ones. 350M and 2B are whole pytorch_model.bin files of noise; 6B
and 16B are model.safetensors with a hole for weights, which needs no room. The peak must stay within 1.5 GB above the largest
tensor; what a process has before it converts anything is told too. Figures go to benchmarks/convert.json.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from codegen_chat.lm.config import PUBLISHED
from codegen_chat.lm.stored import shapes

CHILD = """
import resource, sys, time
from pathlib import Path
from codegen_chat.lm.convert import convert
source, target, to = sys.argv[1:]
if any(Path(source).glob("*.bin")):
    import torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
for _ in convert(Path(source), Path(target), to):
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
print(before * 1024, used.ru_maxrss * 1024, time.perf_counter() - began, used.ru_utime + used.ru_stime)
"""

WRITER = """
import sys
from pathlib import Path
from codegen_chat.lm.config import PUBLISHED
from tests import synthetic
folder, size = Path(sys.argv[1]), sys.argv[2]
if size in {"350M", "2B"}:
    synthetic.write(folder, PUBLISHED[size])
else:
    folder.mkdir()
    synthetic.hollow(folder, PUBLISHED[size])
"""


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sizes", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--to", default="int8")
    asked = parser.parse_args()
    found: list[dict[str, float | str]] = []
    print("| model | to | largest tensor, MB | before, MB | peak, MB | above the largest, MB | GB written | s | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in asked.sizes:
        folder = Path(tempfile.mkdtemp(dir=asked.folder))
        try:
            subprocess.run([sys.executable, "-c", WRITER, folder / "in", size], check=True, cwd=Path(__file__).parents[1])
            command = [sys.executable, "-c", CHILD, folder / "in", folder / "out", asked.to]
            told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            before, peak, seconds, cpu = map(float, told)
            largest = 2 * max(math.prod(shape) for shape in shapes(PUBLISHED[size]).values())
            written = (folder / "out" / "model.safetensors").stat().st_size
        finally:
            shutil.rmtree(folder)
        above = peak - largest
        cells = [f"{amount / 1e6:.0f}" for amount in (largest, before, peak, above)] + [
            f"{written / 1e9:.2f}",
            f"{seconds:.0f}",
            f"{cpu:.0f}",
        ]
        print(f"| {size} | {asked.to} | {' | '.join(cells)} |", flush=True)
        assert above < 1.5e9
        found.append(
            {"model": size, "to": asked.to, "largest": largest, "before": before, "peak": peak, "written": written, "cpu": cpu}
        )
    page = Path(__file__).with_name("convert.json")
    kept = json.loads(page.read_text(encoding="utf-8")) if page.exists() else []
    new = {(row["model"], row["to"]) for row in found}
    rows = [row for row in kept if (row["model"], row["to"]) not in new] + found
    page.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
