"""A product in a process of its own: reads requests as JSON lines, answers each with an execution. Standard library and sandbox only.

It holds what a real product might hold when a sandbox starts: a token in its environment and an inheritable open file.
"""

from __future__ import annotations

import json
import os
import platform
import struct
import sys
from dataclasses import asdict
from pathlib import Path

from codegen_chat.errors import SandboxUnavailable
from codegen_chat.sandbox import walls
from codegen_chat.sandbox.kernel import Kernel
from codegen_chat.sandbox.outer import Grants
from codegen_chat.turn import Limits, last_execution


def block(what: list[str]) -> None:
    """Take from this process and its children what a container or a kernel may lack, by a filter as containers have one."""
    if not what:
        return
    column = {"x86_64": 0, "aarch64": 1}[platform.machine()]
    clone, unshare, clone3, landlock = (56, 220)[column], (272, 97)[column], 435, 444
    code = [_instruction(0x20, 0)]
    if "namespaces" in what:
        code += [_instruction(0x15, unshare, 0, 1), _instruction(0x06, 0x50001)]
        code += [_instruction(0x15, clone3, 0, 1), _instruction(0x06, 0x50026)]
        code += [_instruction(0x15, clone, 0, 4), _instruction(0x20, 16), _instruction(0x54, 0x7E020000)]
        code += [_instruction(0x15, 0, 1, 0), _instruction(0x06, 0x50001), _instruction(0x20, 0)]
    if "landlock" in what:
        code += [_instruction(0x15, landlock, 0, 1), _instruction(0x06, 0x50026)]
    walls.no_new_privileges()
    walls.seccomp(b"".join([*code, _instruction(0x06, 0x7FFF0000)]))


def _instruction(code: int, k: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, jump_true, jump_false, k)


def main() -> None:
    settings = json.loads(sys.argv[1])
    leak = os.open(settings["secret"], os.O_RDONLY)
    os.set_inheritable(leak, True)
    block(settings["blocked"])
    grants = Grants(tuple(settings["read"]), tuple(settings["write"]))
    try:
        kernel = Kernel.start(Limits(**settings["limits"]), grants=grants, without=settings["without"])
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
            print(json.dumps({**asdict(execution), "parked": len(kernel._parked)}), flush=True)
            if request["save"]:
                kernel.save_files([*execution.files, *request["asks"]], Path(request["save"]))
                print(json.dumps({}), flush=True)


if __name__ == "__main__":
    main()
