"""Advisory locks on files: two runs do not do the same work, and what a killed one left is told from living.

A lock belongs to the process: it goes when the process ends, however it ends, so no lock outlives a kill.
Where the file system has no locks (some network mounts), everything works as if nobody else were there.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from safe_io.errors import InputError

PARTIAL = ".partial-"
_CLAIM = ".making"
# Temporary files as `tempfile.mkstemp` names them, and claims.
_OURS = re.compile(rf"{re.escape(PARTIAL)}[a-z0-9_]{{8}}(\..*)?|\..+{re.escape(_CLAIM)}")
_SWEEP_SECONDS = 0.05  # for which somebody who looks for abandoned claims may have a lock, at most


def try_lock(handle: int, *, wait: bool = False) -> bool | None:
    """Take the exclusive lock of an open file, to be closed with `close`.

    Parameters
    ----------
    handle : int
        File descriptor.
    wait : bool
        Wait for a lock that somebody else has.

    Returns
    -------
    bool or None
        Whether the lock is ours now; None where the file system has none.
    """
    _held().add(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def close(handle: int) -> None:
    """Close an open file, and with it let go of its lock."""
    held = _held()
    if handle in held:
        held.remove(handle)
        os.close(handle)


@cache
def _held() -> set[int]:
    """Open files whose locks this process has.

    A worker process that is forked meanwhile inherits them, and would keep the locks of a parent that is
    killed, for as long as it takes the worker to notice: it closes them as it starts.
    """
    held: set[int] = set()

    def forget() -> None:
        while held:
            os.close(held.pop())

    os.register_at_fork(after_in_child=forget)
    return held


def is_still(handle: int, path: Path) -> bool:
    """Whether a name still stands for an open file: it may have been removed before the lock was taken."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def claim(path: str | os.PathLike[str], *, wait: bool = False) -> Iterator[bool]:
    """Claim the making of a file for this process.

    Parameters
    ----------
    path : path-like
        What is to be made. ``.<name>.making`` stands beside it meanwhile; its folder is made where missing,
        and removed where nothing has been put into it.
    wait : bool
        Wait while another process has the claim.

    Yields
    ------
    bool
        Whether the claim is ours; False only without `wait`.
    """
    path = Path(path)
    lock = path.with_name(f".{path.name}{_CLAIM}")
    missing = [folder for folder in path.absolute().parents if not folder.exists()]  # the deepest first
    deadline = time.monotonic() + _SWEEP_SECONDS
    while True:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:  # another run, whose folder it was, has just removed it
            continue
        ours = try_lock(handle, wait=wait)
        if ours is False and time.monotonic() < deadline:
            close(handle)
            time.sleep(_SWEEP_SECONDS / 10)
            continue
        if ours is False or is_still(handle, lock):
            break
        close(handle)  # whoever had it has removed the file: its name is free for a new one
    try:
        yield ours is not False
    finally:
        if ours is not False:
            lock.unlink(missing_ok=True)  # before the lock goes, so that nobody locks a name that goes next
        close(handle)
        with suppress(OSError):  # there is something in it
            for folder in missing:
                folder.rmdir()


@contextmanager
def exclusive(path: str | os.PathLike[str]) -> Iterator[None]:
    """Claim the making of a file, or say in one line who has the claim.

    Raises
    ------
    InputError
        Another process is making the file.
    """
    with claim(path) as ours:
        if not ours:
            raise InputError(f"another run is making {path}; wait for it, or choose another place")
        yield


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files and claims that killed runs have left: those that nobody has locked."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in filter(_OURS.fullmatch, names):
        try:
            handle = os.open(folder / name, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:  # gone meanwhile, or not ours
            continue
        if try_lock(handle) and is_still(handle, folder / name):
            (folder / name).unlink()
        close(handle)
