"""Finished parts of an embedding file, which a run that goes on finds again.

Symbols: N images, d embedding dimension.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bias_evaluation.datasets import save_array
from debiasing_methods.files import atomic_path, read_json, sha256_json, write_json

_UNREADABLE = "unreadable.json"


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
    ) -> None:
        self.n, self.dim, self.dtype, self.shard_rows = n, dim, dtype, shard_rows
        self.folder, self._joined = parts_folder(target), joined_path(target)
        manifest = self.folder / "manifest.json"
        digest = sha256_json({**identity, "shard_rows": shard_rows})
        known = read_json(manifest, "manifest of partial embeddings") if manifest.is_file() else None
        if known != digest and self.folder.exists():
            self.discard()  # another model, precision or image list: these parts are of no use
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, digest)

    def _path(self, start: int) -> Path:
        """File of the shard that begins with a row."""
        return self.folder / f"{start:09d}.npy"

    def todo(self) -> list[range]:
        """Row ranges of the shards that are not there yet, in order."""
        starts = range(0, self.n, self.shard_rows)
        return [range(s, min(s + self.shard_rows, self.n)) for s in starts if not self._path(s).is_file()]

    def write(self, rows: range, embeddings: np.ndarray, unreadable: list[tuple[int, str]]) -> None:
        """Keep one finished shard.

        Parameters
        ----------
        rows : range
            One of `todo`.
        embeddings : ndarray of shape (rows, d)
        unreadable : list of tuple of int and str
            Row and reason of every unreadable image of this run so far. It is on disk before the shard is,
            so that none is forgotten.
        """
        write_json(self.folder / _UNREADABLE, unreadable)
        save_array(self._path(rows.start), embeddings)

    def forget_unreadable(self) -> None:
        """Remove the shards with images that could not be read: these may have been mended since."""
        path = self.folder / _UNREADABLE
        if path.is_file():
            self.forget(row for row, _ in read_json(path, "list of unreadable images"))

    def forget(self, rows: Iterable[int]) -> None:
        """Remove the shards that hold some rows, so that they are made again."""
        for row in rows:
            self._path(row - row % self.shard_rows).unlink(missing_ok=True)
        (self.folder / _UNREADABLE).unlink(missing_ok=True)

    def join(self, keep: np.ndarray) -> Path:
        """Write the rows to keep, ``(N,)`` bool, into one file among the shards, and return its path."""
        path = self._joined
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, self.dim), self.dtype))
        header["shape"] = (int(keep.sum()), self.dim)
        # Written, not memory-mapped: a disk that fills up under a map ends the process by a signal.
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, self.n, self.shard_rows):
                part = np.load(self._path(start), allow_pickle=False)
                file.write(part[keep[start : start + len(part)]].tobytes())
        return path

    def discard(self) -> None:
        """Remove the folder of shards."""
        shutil.rmtree(self.folder)


def joined_path(target: Path) -> Path:
    """File of all rows, among the parts, that is about to become an embedding file."""
    return parts_folder(target) / "joined.npy"


def parts_folder(target: Path) -> Path:
    """Folder of the parts of an embedding file."""
    return target.with_name(f".{target.stem}.parts")
