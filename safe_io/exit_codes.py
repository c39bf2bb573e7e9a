"""How commands end: exit codes, and the line of an interrupted one."""

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
INTERRUPTED = "interrupted: finished parts are kept; run the same command again to continue"
