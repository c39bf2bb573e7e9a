"""Lines on stderr that are no errors: warnings as single lines, and notes that are given once."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_noted: set[str] = set()


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Print each warning as one line on stderr, "warning: …", once."""
    seen: set[str] = set()

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        line = " ".join(str(message).split())
        if line not in seen:
            print(f"warning: {line}", file=sys.stderr)
        seen.add(line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield


def note_once(line: str) -> None:
    """Print "note: …" on stderr, once in this process: commands open the same file many times."""
    if line not in _noted:
        _noted.add(line)
        print(f"note: {line}", file=sys.stderr)


def forget_notes() -> None:
    """Give all notes again."""
    _noted.clear()
