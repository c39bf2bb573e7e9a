"""Remembered digests: taken from memory while a file is the same, never after it has changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import numpy as np
import pytest

from safe_io import digests
from safe_io.digests import remembered_sha256

_TICK = 0.02  # longer than that of the file system's clock


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a file that counts as large and as changed long ago."""
    monkeypatch.setattr(digests, "_LEAST_BYTES", 8)
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", -1)
    path = tmp_path / "embeddings.npy"
    path.write_bytes(b"first content")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """List the files that are read whole, in order."""
    seen: list[Path] = []
    compute = digests.sha256_file
    monkeypatch.setattr(digests, "sha256_file", lambda path: seen.append(path) or compute(path))
    return seen


def _memory(path: Path) -> Path:
    return path.with_name(f".{path.name}.sha256")


def test_an_unchanged_file_is_read_once(file: Path, reads: list[Path]) -> None:
    expected = _digest(file)
    assert [remembered_sha256(file) for _ in range(3)] == [expected] * 3
    assert reads == [file]
    assert json.loads(_memory(file).read_text())["sha256"] == expected


def _same_size(path: Path) -> None:
    path.write_bytes(b"other content")


def _same_size_in_place(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.write(b"F")


def _same_size_and_time(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"other content")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


def _replaced_by_a_twin(path: Path) -> None:
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(b"other content")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


def _through_a_memory_map(path: Path) -> None:
    mapped = np.memmap(path, np.uint8, "r+")
    mapped[0] = ord("F")
    mapped.flush()


@pytest.mark.parametrize(
    "change",
    [_same_size, _same_size_in_place, _same_size_and_time, _replaced_by_a_twin, _through_a_memory_map],
)
def test_a_changed_file_never_passes(file: Path, change) -> None:
    assert remembered_sha256(file) == _digest(file)
    assert _memory(file).is_file()
    time.sleep(_TICK)
    change(file)
    assert remembered_sha256(file) == _digest(file)
    assert remembered_sha256(file) == _digest(file)


def test_writes_through_a_map_that_stays_open_are_seen(file: Path) -> None:
    """Pages that are still to be stored when the digest is computed take another write."""
    mapped = np.memmap(file, np.uint8, "r+")
    for value in range(10):
        mapped[0] = value
        time.sleep(_TICK)
        assert remembered_sha256(file) == _digest(file)


def test_a_file_that_was_just_written_is_not_remembered(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_SETTLED_SECONDS", 60)
    for value in range(50):  # as fast as it goes: several writes within one tick of the clock
        file.write_bytes(b"%13d" % value)
        assert remembered_sha256(file) == _digest(file)
    assert not _memory(file).exists()


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = digests.sha256_file

    def slow(path: Path) -> str:
        digest = compute(path)
        _same_size(path)
        return digest

    monkeypatch.setattr(digests, "sha256_file", slow)
    remembered_sha256(file)
    assert not _memory(file).exists()


def test_a_link_is_remembered_by_its_target(file: Path, reads: list[Path]) -> None:
    link, other = file.with_name("link"), file.with_name("other")
    other.write_bytes(b"other content")
    link.symlink_to(file)
    assert remembered_sha256(link) == _digest(file)
    link.unlink()
    link.symlink_to(other)
    assert remembered_sha256(link) == _digest(other)
    assert reads == [file, other]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b'{"sha256": "00", "file": 1}', b"[" * 100_000, b'{"file": {}}']
)
def test_a_damaged_memory_is_not_believed(file: Path, content: bytes) -> None:
    _memory(file).write_bytes(content)
    assert remembered_sha256(file) == _digest(file)
    assert json.loads(_memory(file).read_text())["sha256"] == _digest(file)


def test_a_copied_memory_is_not_believed(file: Path) -> None:
    remembered_sha256(file)
    copy = file.parent / "copy" / file.name
    copy.parent.mkdir()
    copy.write_bytes(b"other content")
    os.utime(copy, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    _memory(copy).write_bytes(_memory(file).read_bytes())
    assert remembered_sha256(copy) == _digest(copy)


def test_a_memory_that_cannot_be_written_is_no_error(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(digests, "write_text", refuse)
    assert remembered_sha256(file) == _digest(file)


def test_small_files_are_simply_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_LEAST_BYTES", 1 << 24)
    assert remembered_sha256(file) == _digest(file)
    assert not _memory(file).exists()


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        remembered_sha256(tmp_path / "none")
