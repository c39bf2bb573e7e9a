"""Advisory locks on files: two runs do not do the same work, and leftovers of killed runs are recognized.

The locks are those of `filelock`: each belongs to its process and ends with it. So no lock outlives a kill,
and a forked worker does not inherit one. On file systems without locks (some network mounts) everything
works as if no other process were running.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from safe_io.errors import InputError

PARTIAL = ".partial-"
_CLAIM = ".making"
# Temporary files as `tempfile.mkstemp` names them, and claims.
_OURS = re.compile(rf"{re.escape(PARTIAL)}[a-z0-9_]{{8}}(\..*)?|\..+{re.escape(_CLAIM)}")
_SWEEP_SECONDS = 0.05  # for which a process that looks for abandoned claims may hold a lock, at most
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def hold(path: str | os.PathLike[str], seconds: float = -1) -> Iterator[bool | None]:
    """Hold the lock of a file, which is made if it is missing; releasing the lock does not remove the file.

    Parameters
    ----------
    path : path-like
        The file itself, locked for as long as the block lasts.
    seconds : float
        How long to wait for another process; below 0 without limit.

    Yields
    ------
    bool or None
        Whether the lock is ours; None if the file system has none.
    """
    from filelock import FileLock, Timeout

    poll = _SWEEP_SECONDS / 10
    lock = FileLock(path, seconds, thread_local=False, poll_interval=poll, fallback_to_soft=False)
    ours: bool | None = True
    try:
        lock.acquire()
    except Timeout:
        ours = False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        ours = None
    try:
        yield ours
    finally:
        lock.release()


@contextmanager
def claim(path: str | os.PathLike[str], *, wait: bool = False) -> Iterator[bool]:
    """Claim the making of a file for this process.

    Parameters
    ----------
    path : path-like
        What is to be made. ``.<name>.making`` is beside it meanwhile. Its folder is made if it is missing,
        and removed again if nothing has been put into it.
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
    with ExitStack() as stack:
        ours = _enter(stack, lock, -1 if wait else _SWEEP_SECONDS)
        try:
            yield ours
        finally:
            if ours:
                lock.unlink(missing_ok=True)  # before the lock ends: nobody then locks a name that is removed
            with suppress(OSError):  # a folder is not empty
                for folder in missing:
                    folder.rmdir()


def _enter(stack: ExitStack, lock: Path, seconds: float) -> bool:
    """Hold a lock until the stack ends; whether it is ours."""
    while True:
        with suppress(FileNotFoundError):  # another run, whose folder it was, has just removed it
            return stack.enter_context(hold(lock, seconds)) is not False


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
        with suppress(OSError), hold(folder / name, 0) as ours:  # gone meanwhile, or not ours
            if ours:
                (folder / name).unlink()
