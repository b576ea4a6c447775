"""`codegen-chat` as a process of torchrun, of which the second is killed once, as soon as there is a state to go on from."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from codegen_chat.cli import main


def doom(state: Path) -> None:
    """Wait for the state, then die as a process dies that nobody asked."""
    while not state.is_file():
        time.sleep(0.001)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder = Path(sys.argv[sys.argv.index("-o") + 1])
    if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and "--doomed" in sys.argv:
        threading.Thread(target=doom, args=(folder / "state.pt",), daemon=True).start()
    if "--doomed" in sys.argv:
        sys.argv.remove("--doomed")
        (folder / f"started-{os.environ['RANK']}-{os.environ['TORCHELASTIC_RESTART_COUNT']}").touch()
    main()
