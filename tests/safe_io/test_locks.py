"""Locks end with the process that took them, and leftovers without a lock are removed."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from safe_io.files import atomic_path
from safe_io.locks import claim, remove_abandoned


def test_a_forked_worker_does_not_keep_the_locks_of_a_parent_that_is_killed(tmp_path: Path) -> None:
    path, readable = tmp_path / "file", os.pipe()
    parent = os.fork()
    if parent == 0:
        with claim(path), atomic_path(tmp_path / "written"):
            worker = os.fork()
            if worker:
                os.write(readable[1], worker.to_bytes(4))
            time.sleep(60)
            os._exit(1)
    worker = int.from_bytes(os.read(readable[0], 4))
    try:
        remove_abandoned(tmp_path)  # both are locked
        assert len(list(tmp_path.iterdir())) == 2
        with claim(path) as ours:
            assert not ours
        os.kill(parent, signal.SIGKILL)
        os.waitpid(parent, 0)
        with claim(path) as ours:
            assert ours
        remove_abandoned(tmp_path)
        assert list(tmp_path.iterdir()) == []
    finally:
        os.kill(worker, signal.SIGKILL)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_without_locks_everything_works_and_nothing_is_taken_for_abandoned(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fails)
    with claim(tmp_path / "new" / "file") as ours, atomic_path(tmp_path / "new" / "file") as temporary:
        assert ours
        remove_abandoned(tmp_path / "new")
        temporary.write_text("whole")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
