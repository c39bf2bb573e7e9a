"""What a command does before its packages are imported, and after it has ended.

Between the start of Python and `safe_io.errors.run_main` an interrupt or a missing package would print a
traceback; after it an interrupt would too, while Python shuts down. Only the standard library is imported.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType, TracebackType

from safe_io.checkout import ROOT
from safe_io.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, INTERRUPTED


def guard_start() -> None:
    """End with one line, from here to the end of the process, where Python would print a traceback.

    Called by scripts alone, before their other imports; `run_main` handles everything in between.
    """
    sys.excepthook = _end


def guard_end() -> None:
    """End at once, with one line, if the process is interrupted while Python shuts down."""
    if sys.excepthook is _end:
        signal.signal(signal.SIGINT, _leave)


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        _leave()
    if isinstance(error, ModuleNotFoundError) and not _is_ours(error.name or ""):
        environment = ROOT / ".venv" / "bin" / "activate"
        advice = f"run `source {environment}`" if environment.is_file() else "run `bash setup_env.sh`"
        _exit(
            f"error: {sys.executable} has no package '{error.name}': {advice}, then the command again",
            EXIT_BAD_INPUT,
        )
    sys.__excepthook__(kind, error, traceback)


def _is_ours(module: str) -> bool:
    return (ROOT / module.split(".")[0]).exists() or (ROOT / f"{module}.py").exists()


def _leave(_signal: int = 0, _frame: FrameType | None = None) -> None:
    _exit(INTERRUPTED, EXIT_INTERRUPTED)


def _exit(line: str, code: int) -> None:
    """Print a line and end, without what Python still does at its end (it could be interrupted again)."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    except (OSError, ValueError):
        pass
    os._exit(code)
