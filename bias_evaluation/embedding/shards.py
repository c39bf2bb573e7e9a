"""Finished parts of an embedding file, which a run that goes on, or the jobs of an array, find again.

A shard is two files: its rows, and beside them a report of the run it belongs to, which rows it has, the
digest of its bytes, and its unreadable images. The rows appear last, so they never stand without a report.

Symbols: N images, d embedding dimension.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from safe_io.arrays import array_bytes, load_array
from safe_io.errors import InputError
from safe_io.files import atomic_path, read_json, sha256_file, sha256_json, write_json

Unreadable = list[tuple[int, str]]  # row, reason


class Shards:
    """Parts of a matrix ``(N, d)`` in a folder beside the file that they will become.

    Parameters
    ----------
    target : pathlib.Path
        The final ``.npy``.
    identity : dict
        What decides the embeddings; shards of another identity are not used.
    n, dim : int
        Rows and width of the final matrix.
    dtype : numpy.dtype
        Of shards and final matrix.
    shard_rows : int
        Rows of a shard; the last one may have fewer.
    shared : bool
        Whether other processes may be writing shards of this run: those of another run are then an error.
        Without it they are removed.

    Raises
    ------
    InputError
        The folder is shared and holds shards of another run.
    """

    def __init__(
        self,
        target: Path,
        identity: dict[str, object],
        *,
        n: int,
        dim: int,
        dtype: np.dtype,
        shard_rows: int,
        shared: bool = False,
    ) -> None:
        self.n, self.dim, self.dtype, self.shard_rows = n, dim, dtype, shard_rows
        self.folder, self._joined = parts_folder(target), joined_path(target)
        self.run = sha256_json({**identity, "shard_rows": shard_rows})
        manifest = self.folder / "manifest.json"
        known = read_json(manifest, "manifest of partial embeddings") if manifest.is_file() else None
        # A folder without shards may have been made by another process of this run, just now.
        if known != self.run and (known is not None or _matrices(self.folder)):
            if shared:  # what to do with them is not for one of many jobs to decide
                raise InputError(
                    f"{self.folder} holds shards of another run (model, precision or image list differ); "
                    f"remove that folder, then run all shards again"
                )
            self.discard()
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, self.run)

    def _path(self, start: int) -> Path:
        """File of the shard that begins with a row; its report has the suffix ``.json``."""
        return self.folder / f"{start:09d}.npy"

    def all(self) -> list[range]:
        """Row ranges of all shards, in order."""
        starts = range(0, self.n, self.shard_rows)
        return [range(start, min(start + self.shard_rows, self.n)) for start in starts]

    def todo(self) -> list[range]:
        """Row ranges of the shards that are not there yet, in order."""
        return [rows for rows in self.all() if not self._path(rows.start).is_file()]

    def write(self, rows: range, embeddings: np.ndarray, unreadable: Unreadable) -> None:
        """Keep one finished shard.

        Parameters
        ----------
        rows : range
            One of `todo`.
        embeddings : ndarray of shape (rows, d)
        unreadable : list of tuple of int and str
            Row and reason of every unreadable image of the shard.
        """
        path = self._path(rows.start)
        with atomic_path(path) as temporary:
            temporary.write_bytes(array_bytes(embeddings))
            report = {"run": self.run, "rows": [rows.start, rows.stop], "sha256": sha256_file(temporary)}
            write_json(path.with_suffix(".json"), {**report, "unreadable": unreadable})

    def forget_unreadable(self, shards: Sequence[range]) -> None:
        """Remove those of some shards with unreadable images: these may have been mended since."""
        for rows in shards:
            if self._path(rows.start).is_file() and self._report(rows).get("unreadable"):
                self.forget([rows.start])

    def forget(self, rows: Iterable[int]) -> None:
        """Remove the shards that hold some rows, so that they are made again."""
        for row in rows:
            self._path(row - row % self.shard_rows).unlink(missing_ok=True)

    def _report(self, rows: range) -> dict[str, Any]:
        path = self._path(rows.start).with_suffix(".json")
        report = read_json(path, "report of a shard") if path.is_file() else None
        return report if isinstance(report, dict) else {}

    def check(self) -> Unreadable:
        """Check every shard, file by file.

        Returns
        -------
        list of tuple of int and str
            Row and reason of every unreadable image.

        Raises
        ------
        InputError
            A shard is missing, damaged, doubled, or of another run; all stay where they are.
        """
        expected = self.all()
        if missing := self.todo():
            raise InputError(
                f"{len(missing)} of {len(expected)} shards are missing in {self.folder}, the first: rows "
                f"{missing[0].start} to {missing[0].stop - 1}; run those parts again: finished ones are kept"
            )
        names = {self._path(rows.start).name for rows in expected} | {self._joined.name}
        if more := [name for name in _matrices(self.folder) if name not in names]:
            raise InputError(
                f"{self.folder / more[0]} is no shard of this run (doubled, or of another run); remove it, "
                f"then join again"
            )
        return [entry for rows in expected for entry in self._check(rows)]

    def _check(self, rows: range) -> Unreadable:
        path, report = self._path(rows.start), self._report(rows)
        if report.get("run") != self.run:
            what = "is of another run"
        elif report.get("rows") != [rows.start, rows.stop]:
            what = f"has a report of the rows {report.get('rows')}: a shard was doubled or renamed"
        elif report.get("sha256") != sha256_file(path):
            what = "is damaged, or is not the shard that its report speaks of"
        else:
            return [(row, why) for row, why in report["unreadable"]]
        raise InputError(f"{path} {what}; remove it, then run that part again: the other shards are kept")

    def join(self, keep: np.ndarray) -> Path:
        """Write the rows to keep, ``(N,)`` bool, into one file among the shards, and return its path.

        One shard is in memory at a time. `check` says first whether all are there.
        """
        path = self._joined
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, self.dim), self.dtype))
        header["shape"] = (int(keep.sum()), self.dim)
        # Written, not memory-mapped: a disk that fills up under a map ends the process by a signal.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for rows in self.all():
                part = load_array(self._path(rows.start), "shard", "the same run")
                file.write(part[keep[rows.start : rows.stop]].tobytes())
        return path

    def discard(self) -> None:
        """Remove the folder of shards."""
        shutil.rmtree(self.folder)


def joined_path(target: Path) -> Path:
    """File of all rows, among the parts, that is about to become an embedding file."""
    return parts_folder(target) / "joined.npy"


def _matrices(folder: Path) -> list[str]:
    """Names of the matrices in a folder, without those that are being written."""
    return sorted(path.name for path in folder.glob("*.npy") if not path.name.startswith("."))


def parts_folder(target: Path) -> Path:
    """Folder of the parts of an embedding file."""
    return target.with_name(f".{target.stem}.parts")
