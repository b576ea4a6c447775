"""`python -m codegen_chat.cli` is the command `codegen-chat`."""

from codegen_chat.cli import main

main()
