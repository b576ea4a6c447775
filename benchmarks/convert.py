"""How much memory a conversion takes: each in a process of its own, its peak read from the kernel.

    python benchmarks/convert.py [--folder /tmp] [--sizes 350M 2B 6B 16B] [--to int8 int4 transformers]

Checkpoints are what the hub holds: one pytorch_model.bin in fp16, with the names, shapes and masks of the published ones, whole.
Those of 350M and 2B are full of noise; those of 6B and 16B are one hole, for 32 GB of zeros then take no room, and a conversion
reads them as it reads any other. The peak must stay within 1.5 GB above the largest tensor; what the process has before it
converts anything is told too. Figures go to benchmarks/convert.json.
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

WRITER = """
import sys
from pathlib import Path
from codegen_chat.lm.config import PUBLISHED
from tests import synthetic
folder, size = Path(sys.argv[1]), sys.argv[2]
synthetic.write(folder, PUBLISHED[size], filled=size in {"350M", "2B"})
"""

CHILD = """
import json, resource, sys, time
from pathlib import Path
from codegen_chat.lm.convert import convert
source, target, to = sys.argv[1:]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
for _ in convert(Path(source), Path(target), to):
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {"before": before * 1024, "peak": used.ru_maxrss * 1024}
print(json.dumps(figures | {"seconds": time.perf_counter() - began, "cpu": used.ru_utime + used.ru_stime}))
"""

ROOT = Path(__file__).parents[1]
CEILING = 1.5e9


def measure(folder: Path, size: str, to: str) -> dict[str, float | str]:
    """Convert the checkpoint in `folder` and return what it took, in bytes and seconds."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, folder / "in", folder / "out", to], check=True, capture_output=True, text=True
    )
    written = (folder / "out" / "model.safetensors").stat().st_size
    shutil.rmtree(folder / "out")
    largest = 2 * max(math.prod(shape) for shape in shapes(PUBLISHED[size]).values())
    return {"model": size, "to": to, "largest": largest, **json.loads(done.stdout), "written": written}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--sizes", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--to", nargs="+", default=["int8", "int4"])
    asked = parser.parse_args()
    page = Path(__file__).with_name("convert.json")
    print("| model | to | largest tensor, MB | before, MB | peak, MB | above the largest, MB | written, GB | s | CPU s |")
    print("|---|---|---|---|---|---|---|---|---|")
    for size in asked.sizes:
        with tempfile.TemporaryDirectory(dir=asked.folder) as name:
            subprocess.run([sys.executable, "-c", WRITER, Path(name, "in"), size], check=True, cwd=ROOT)
            for to in asked.to:
                row = measure(Path(name), size, to)
                largest, before, peak, written, seconds, cpu = (
                    float(row[key]) for key in ("largest", "before", "peak", "written", "seconds", "cpu")
                )
                sizes = " | ".join(f"{amount / 1e6:.0f}" for amount in (largest, before, peak, peak - largest))
                print(f"| {size} | {to} | {sizes} | {written / 1e9:.2f} | {seconds:.0f} | {cpu:.0f} |", flush=True)
                assert peak < largest + CEILING
                kept = json.loads(page.read_text(encoding="utf-8")) if page.exists() else []
                rows = [each for each in kept if (each["model"], each["to"]) != (size, to)]
                page.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
