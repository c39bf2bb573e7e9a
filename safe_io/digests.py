"""Digests of large input files, remembered beside them and computed again when the file may have changed.

What is remembered of ``name`` is in ``.name.sha256``: the digest, and the size, times, inode and device that
the file had. A digest is only taken from there if all of these are still the same. Writing to a file changes
its time of change (ctime), which no program can set back. Two cases remain, and are closed here:

- two writes within one tick of the file system's clock, one before and one after the reading: a digest is
  only remembered if the file was last changed a while before it was read;
- pages of a memory-mapped file that are written again before the system has stored them: they are stored
  first, so that the next write to them counts as one.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from safe_io.files import sha256_file, write_text

# A smaller file is read in the time that it takes to look after its digest.
_LEAST_BYTES = 1 << 24
# Coarsest clock of a file system in use (FAT: 2 s), with room for another machine's clock.
_SETTLED_SECONDS = 5


def remembered_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as hex, without reading a large file that has not changed.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    str
        That of `sha256_file`.

    Notes
    -----
    A folder that cannot be written to is no error: nothing is remembered there.
    """
    path = Path(path).resolve()  # a link's target is what changes
    if path.stat().st_size < _LEAST_BYTES:
        return sha256_file(path)
    memory = path.with_name(f".{path.name}.sha256")
    known = _read(memory)
    if known is not None and known["file"] == _identity(path):
        return known["sha256"]
    stored, before = _store_pages(path), _identity(path)
    settled = time.time_ns() - max(before["mtime_ns"], before["ctime_ns"]) > _SETTLED_SECONDS * 10**9
    digest = sha256_file(path)
    if stored and settled and _identity(path) == before:
        with suppress(OSError):
            write_text(memory, json.dumps({"sha256": digest, "file": before}) + "\n")
    return digest


def _identity(path: Path) -> dict[str, int]:
    """Collect what changes when a file does."""
    found = path.stat()
    return {
        "size": found.st_size,
        "mtime_ns": found.st_mtime_ns,
        "ctime_ns": found.st_ctime_ns,
        "inode": found.st_ino,
        "device": found.st_dev,
    }


def _read(memory: Path) -> dict[str, Any] | None:
    """Read what is remembered; None where there is nothing, or nothing of use."""
    try:
        known = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    digest = known.get("sha256") if isinstance(known, dict) and known.keys() == {"sha256", "file"} else None
    return known if isinstance(digest, str) and len(digest) == 64 else None


def _store_pages(path: Path) -> bool:
    """Have the system store pages that were written through a memory map; False where it cannot."""
    try:
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError:
        return False
    return True
