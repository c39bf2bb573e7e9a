"""Safe unpacking of a zip file that somebody else made.

Everything is judged from the archive's directory before a byte is written: one bad member refuses the whole
archive. Members are written flat, under their last name, into a folder of our own making.
"""

from __future__ import annotations

import errno
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from tqdm import tqdm

from safe_io.errors import InputError
from safe_io.files import errors_named

_CHUNK_BYTES = 1 << 20
_SMALL_BYTES = 1 << 20  # below this a high ratio harms nobody
_ENCRYPTED = 0x1 | 0x40 | 0x2000  # flag bits: encrypted, strongly encrypted, encrypted directory
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class ArchiveError(InputError):
    """An archive that is damaged or not acceptable; a new copy, or another archive, is needed."""


@dataclass(frozen=True)
class Limits:
    """Bounds on what an archive may unpack to.

    Attributes
    ----------
    total_bytes : int
        All members together. The largest published archive (PRISM) has about 2 GiB.
    ratio : int
        Unpacked over packed size, of all and of each large member. Weights hardly compress.
    files : int
        Number of members. The largest published archive has 972.
    """

    total_bytes: int = 8 << 30
    ratio: int = 100
    files: int = 10_000


def unpack(
    archive: Path,
    folder: Path,
    wanted: Callable[[str], bool],
    *,
    limits: Limits | None = None,
    progress: bool = True,
) -> tuple[list[Path], list[str]]:
    """Unpack the wanted members of a zip file.

    Parameters
    ----------
    archive : pathlib.Path
        The zip file.
    folder : pathlib.Path
        An empty folder to write into.
    wanted : callable
        Last name of a member → whether to unpack it.
    limits : Limits, optional
        Bounds, over all members.
    progress : bool
        Show a progress bar.

    Returns
    -------
    files : list of pathlib.Path
        The files, directly in `folder`; complete, their checksums right, and on disk.
    left_out : list of str
        Names of members that are not wanted.

    Raises
    ------
    ArchiveError
        The archive is damaged or truncated; a member is encrypted, a link or another special file, has a
        name that leaves the folder or occurs twice, or is compressed in an unusual way; a bound is exceeded.
    """
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{archive} is not a complete zip archive (truncated?): {error}") from None
    with opened as source:
        members = _check(source.infolist(), archive, archive.stat().st_size, limits or Limits())
        chosen = {_last(info): info for info in members if wanted(_last(info))}
        left_out = [info.filename for info in members if _last(info) not in chosen]
        if len(chosen) + len(left_out) < len(members):
            raise ArchiveError(f"{archive} holds two files of one name in different folders")
        total = sum(info.file_size for info in chosen.values())
        with tqdm(
            total=total, unit="B", unit_scale=True, desc=f"unpacking {archive.name}", disable=not progress
        ) as bar:
            for name, info in chosen.items():
                _write(source, info, folder / name, archive, bar)
    return [folder / name for name in chosen], left_out


def _last(info: zipfile.ZipInfo) -> str:
    return PurePosixPath(info.filename).name


def _check(infos: list[zipfile.ZipInfo], archive: Path, packed: int, limits: Limits) -> list[zipfile.ZipInfo]:
    """Judge all members; return those that are files."""
    if infos and min(info.header_offset for info in infos) > 0:
        # A stored member that is itself a zip file, as torch's weights are, has an end of its own, which is
        # taken for the archive's where that is missing.
        raise ArchiveError(f"{archive} is not a complete zip archive (truncated, or not from its first byte)")
    if len(infos) > limits.files:
        raise ArchiveError(f"{archive} has {len(infos)} members; at most {limits.files} are allowed")
    seen: set[str] = set()
    for info in infos:
        _check_name(info, archive)
        if (key := info.filename.casefold()) in seen:
            raise ArchiveError(f"{archive}: the name {info.filename!r} occurs twice")
        seen.add(key)
        _check_kind(info, archive)
        _check_ratio(info.file_size, info.compress_size, f"{archive}: {info.filename!r}", limits)
    total = sum(info.file_size for info in infos)
    if total > limits.total_bytes:
        raise ArchiveError(
            f"{archive} would unpack to {total} bytes; at most {limits.total_bytes} are allowed"
        )
    _check_ratio(total, packed, str(archive), limits)
    return [info for info in infos if not info.is_dir()]


def _check_name(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse names that leave the folder, as a POSIX or as a Windows path, or that a terminal would obey."""
    name = info.orig_filename  # as it stands in the archive; `filename` is cut at a null character
    windows, posix = PureWindowsPath(name), PurePosixPath(name)
    if windows.anchor or posix.is_absolute() or ".." in windows.parts:
        raise ArchiveError(f"{archive}: the name {name!r} leads out of the folder that is unpacked into")
    if not name.isprintable() or not posix.name:
        raise ArchiveError(f"{archive}: the name {name!r} holds control characters, or nothing")


def _check_kind(info: zipfile.ZipInfo, archive: Path) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "a link" if kind == stat.S_IFLNK else "a special file"
        raise ArchiveError(f"{archive}: {info.filename!r} is {what}; only files are allowed")
    if info.flag_bits & _ENCRYPTED:
        raise ArchiveError(f"{archive}: {info.filename!r} is encrypted")
    if info.compress_type not in _METHODS:
        raise ArchiveError(
            f"{archive}: {info.filename!r} is compressed by method {info.compress_type}; only stored and "
            f"deflated files are allowed"
        )


def _check_ratio(unpacked: int, packed: int, what: str, limits: Limits) -> None:
    if unpacked > max(_SMALL_BYTES, limits.ratio * packed):
        raise ArchiveError(
            f"{what} would unpack from {packed} to {unpacked} bytes, more than {limits.ratio} times as much"
        )


def _write(source: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, archive: Path, bar: tqdm) -> None:
    written = 0
    with errors_named(path), path.open("xb") as file:
        for chunk in _chunks(source, info, archive):
            file.write(chunk)
            written += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())  # it is renamed into place later: the name must not overtake the data
    if written != info.file_size:
        raise ArchiveError(f"{archive}: {info.filename!r} is cut: {written} of {info.file_size} bytes")


def _chunks(source: zipfile.ZipFile, info: zipfile.ZipInfo, archive: Path) -> Iterator[bytes]:
    """Read a member; at its end the checksum is compared."""
    try:
        with source.open(info) as member:
            while chunk := member.read(_CHUNK_BYTES):
                yield chunk
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ArchiveError(f"{archive}: {info.filename!r} is damaged: {error}") from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # EINVAL: the directory points outside the file
            raise
        raise ArchiveError(f"{archive}: {info.filename!r} is damaged: {error.strerror}") from None
