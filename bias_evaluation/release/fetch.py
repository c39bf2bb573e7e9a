"""The release's weight archives, from an address or a local file into `debiasing_methods/<kind>_weights/`.

An archive is downloaded, unpacked and checked in a hidden folder beside its target; only then are the files
moved into place. Whatever goes wrong, that folder goes too, except for a part of a download that a later run
can go on with.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from bias_evaluation.grid.configs import Backbone
from bias_evaluation.release.archive import ArchiveError, Limits, unpack
from bias_evaluation.release.download import fetch, is_address
from bias_evaluation.release.files import check_weight_file
from bias_evaluation.weights.kinds import WeightKind
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_file, write_json
from safe_io.locks import claim

_WORK = ".download"
_MANIFEST = ".release.json"  # what was installed from where, so that a second run has nothing to do


@dataclass(frozen=True)
class Installed:
    """What became of one archive.

    Attributes
    ----------
    new, same : int
        Files put into place; files that were there already, byte for byte.
    left_out : tuple of str
        Members of the archive that are no weights of this kind.
    """

    new: int
    same: int
    left_out: tuple[str, ...] = ()


def install_archive(
    kind: WeightKind,
    address: str,
    root: Path,
    *,
    sha256: str | None = None,
    overwrite: bool = False,
    backbones: Sequence[Backbone] = (),
    timeout: float = 30.0,
    limits: Limits | None = None,
    progress: bool = True,
) -> Installed:
    """Bring the weights of one archive into place.

    Parameters
    ----------
    kind : WeightKind
    address : str
        ``http(s)://`` address, or the path of a local archive (which is only read).
    root : pathlib.Path
        Project root.
    sha256 : str, optional
        Expected SHA-256 of the archive, as hex.
    overwrite : bool
        Fetch again what is there, and replace files that differ.
    backbones : sequence of Backbone
        Known backbones: weights that state one of them in their name must have its width.
    timeout : float
        Seconds to wait for the server.
    limits : Limits, optional
        Bounds on the archive.
    progress : bool
        Show progress bars.

    Returns
    -------
    Installed

    Raises
    ------
    InputError
        The archive cannot be had, is not the expected one, or is not acceptable; a file in it is not usable;
        or a file that is there differs and `overwrite` is false. Nothing has been put into place then.
    """
    limits = limits or Limits()
    folder = root / kind.folder
    with _exclusive(root):
        work = folder / _WORK
        before = _installed_before(folder, address, sha256)
        if before and not overwrite:
            _clear(work)  # of a run that was killed as it finished
            _remove_if_empty(work)
            return Installed(0, before)
        _clear(work, keep=kind.archive)
        work.mkdir(parents=True, exist_ok=True)
        try:
            archive = _get(kind, address, work, timeout, limits, progress)
            digest = _check_digest(archive, sha256, address)
            files, left_out = _unpack_and_check(kind, archive, work / "unpacked", backbones, limits, progress)
            digests = {path.name: sha256_file(path) for path in files}
            new = _place(files, folder, overwrite)
            write_json(folder / _MANIFEST, {"address": address, "sha256": digest, "files": digests})
            _clear(work)
        except ArchiveError:  # another copy is needed: this one helps nobody
            _clear(work)
            raise
        finally:
            _clear(work, keep=kind.archive)
            _remove_if_empty(work, folder)
    return Installed(new, len(files) - new, tuple(left_out))


@contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Let no second run work in the same project; the lock goes with the process, however it ends."""
    if not root.is_dir():
        raise InputError(f"project folder not found: {root}")
    with claim(root / "download_release") as ours:
        if not ours:
            raise InputError(f"another download_release.py is at work in {root}; wait for it")
        yield


def _installed_before(folder: Path, address: str, sha256: str | None) -> int:
    """Count the files of an earlier run with the same archive, if all are there and unchanged, else 0."""
    try:
        manifest = read_json(folder / _MANIFEST, "manifest")
        same = manifest["address"] == address and sha256 in (None, manifest["sha256"])
        files = manifest["files"]
        if same and all(sha256_file(folder / name) == digest for name, digest in files.items()):
            return len(files)
    except (InputError, OSError, KeyError, TypeError, AttributeError):
        pass  # no manifest, or not ours: fetch
    return 0


def _clear(work: Path, keep: str | None = None) -> None:
    """Remove what an ended or killed run has left in the hidden folder, but not the download named `keep`."""
    for path in work.glob("*"):
        if keep and path.name.startswith(keep):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _remove_if_empty(*folders: Path) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _get(kind: WeightKind, address: str, work: Path, timeout: float, limits: Limits, progress: bool) -> Path:
    """Return the archive's path: the local file, or the download."""
    if not is_address(address):
        path = Path(address).expanduser()
        if not path.is_file():
            raise InputError(f"'{address}' is neither an http(s):// address nor a local file")
        return path
    archive = work / kind.archive
    fetch(address, archive, max_bytes=limits.total_bytes, timeout=timeout, progress=progress)
    return archive


def _check_digest(archive: Path, expected: str | None, address: str) -> str:
    digest = sha256_file(archive)
    if expected is not None and digest != expected.lower():
        raise ArchiveError(
            f"{address} has the SHA-256 {digest}, but {expected.lower()} is expected; it is not used"
        )
    return digest


def _unpack_and_check(
    kind: WeightKind,
    archive: Path,
    folder: Path,
    backbones: Sequence[Backbone],
    limits: Limits,
    progress: bool,
) -> tuple[list[Path], list[str]]:
    folder.mkdir()

    def wanted(name: str) -> bool:
        return not name.startswith(".") and kind.pattern.fullmatch(name) is not None

    files, left_out = unpack(archive, folder, wanted, limits=limits, progress=progress)
    if not files:
        raise ArchiveError(
            f"{archive} holds no {kind.name} weights; it has: {', '.join(left_out[:5]) or 'nothing'}"
        )
    for path in tqdm(files, desc="checking", unit="file", disable=not progress):
        try:
            check_weight_file(kind, path, kind.backbone(path.name, backbones))
        except InputError as error:
            raise ArchiveError(f"{archive} is not used, since a file in it is not usable: {error}") from None
    return files, left_out


def _place(files: Sequence[Path], folder: Path, overwrite: bool) -> int:
    """Move files into a folder; return how many were not there already, byte for byte."""
    moves = [path for path in files if not _same(path, folder / path.name)]
    differing = [path.name for path in moves if (folder / path.name).exists()]
    if differing and not overwrite:
        raise InputError(
            f"{folder} has {len(differing)} file(s) that differ from the archive's, the first: "
            f"{differing[0]}; nothing was changed; move them away, or pass --overwrite to replace them"
        )
    for path in moves:
        path.replace(folder / path.name)
    return len(moves)


def _same(first: Path, second: Path) -> bool:
    return second.is_file() and filecmp.cmp(first, second, shallow=False)
