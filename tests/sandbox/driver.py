"""A product in a process of its own: reads requests as JSON lines, answers each with an execution. Standard library and sandbox only.

It holds what a real product might hold when a sandbox starts: a token in its environment and an inheritable open file.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.turn import Limits, last_execution


def main() -> None:
    settings = json.loads(sys.argv[1])
    leak = os.open(settings["secret"], os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        kernel = Kernel.start(Limits(**settings["limits"]), without=settings["without"])
    except SandboxUnavailable as error:
        print(json.dumps({"refused": str(error)}), flush=True)
        return
    print(json.dumps({"tier": kernel.tier}), flush=True)
    with kernel:
        for line in sys.stdin:
            request = json.loads(line)
            execution = last_execution(
                kernel.execute(request["code"], parent=request["parent"], turn=request["turn"], timeout=request["timeout"])
            )
            print(json.dumps(asdict(execution)), flush=True)


if __name__ == "__main__":
    main()
