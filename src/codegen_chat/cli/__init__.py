"""The command line: flags to settings, sessions to the screen, errors to exit codes. Nothing is decided here.

Without arguments there is nothing to parse: the prompt (start.py) comes up without the commands and the parser.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

from codegen_chat.errors import INTERRUPTED, CodegenChatError


def main() -> None:
    """Run the command line; the exit code is its own, and a line on standard error says what went wrong."""
    if os.uname().machine == "x86_64":  # elsewhere torch multiplies with OpenBLAS too
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else importing numpy starts its threads, 0.1 s of CPU for nothing
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _run()
        sys.stdout.flush()
    except CodegenChatError as error:
        code = _failed(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except (OSError, SystemExit) as error:
        # A reader that went away (`| head`) is no error; typer and rich turn it into an exit of their own.
        if not isinstance(error, BrokenPipeError) and not isinstance(error.__context__, BrokenPipeError):
            if isinstance(error, SystemExit):
                raise
            code = _failed(str(error), CodegenChatError.exit_code)
        else:
            code = 0
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


def _run() -> int:
    if len(sys.argv) > 1 or "_CODEGEN_CHAT_COMPLETE" in os.environ:
        from codegen_chat.cli import commands

        return commands.call()
    from codegen_chat.cli import start

    return start.start()


def _failed(message: str, code: int) -> int:
    from codegen_chat.terminal.printing import visible

    with suppress(OSError):
        sys.stderr.write(f"codegen-chat: {visible(message)}\n")
    return code
