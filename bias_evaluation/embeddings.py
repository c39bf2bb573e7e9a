"""Image embeddings of a whole dataset: decoded in worker processes, written in shards, joined at the end.

A killed run leaves finished shards behind and goes on from them. The final `.npy` appears only when every
row is there.
"""

from __future__ import annotations

import math
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from bias_evaluation.datasets import embeddings_name
from bias_evaluation.encoder import Encoder, encoder_digest
from bias_evaluation.metadata import METADATA, write_metadata
from bias_evaluation.results import versions
from debiasing_methods.errors import InputError
from debiasing_methods.files import atomic_path, read_json, sha256_json, write_json

SHARD_ROWS = 4096
_UNREADABLE = "unreadable.json"

Loaded = tuple[int, Tensor | None, str]  # row, preprocessed image or None, what went wrong


class ImageRows(Dataset[Loaded]):
    """Preprocessed images by row; an unreadable one is reported, not raised, so that all are found.

    Parameters
    ----------
    folder : pathlib.Path
        Dataset folder.
    paths : sequence of str
        Image paths relative to it, row by row.
    rows : sequence of int
        Rows to load.
    preprocess : callable
        PIL image → tensor.
    """

    def __init__(
        self, folder: Path, paths: Sequence[str], rows: Sequence[int], preprocess: Callable[..., Tensor]
    ) -> None:
        self.folder, self.paths, self.rows, self.preprocess = folder, paths, rows, preprocess

    def __len__(self) -> int:
        """Count the rows to load."""
        return len(self.rows)

    def __getitem__(self, position: int) -> Loaded:
        """Load one image."""
        from PIL import Image

        row = self.rows[position]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about odd EXIF data would break the progress bar
                with Image.open(self.folder / self.paths[row]) as image:
                    return row, self.preprocess(image.convert("RGB")), ""
        except Exception as error:  # decoders raise many kinds for damaged images
            return row, None, f"{type(error).__name__}: {error}"


def _collate(items: list[Loaded]) -> tuple[list[int], Tensor | None, list[tuple[int, str]]]:
    good = [(row, image) for row, image, _ in items if image is not None]
    bad = [(row, why) for row, image, why in items if image is None]
    return [row for row, _ in good], torch.stack([i for _, i in good]) if good else None, bad


class Shards:
    """Finished parts of an embedding file, in a folder beside it.

    Parameters
    ----------
    target : pathlib.Path
        The final ``.npy``.
    identity : dict
        What decides the embeddings; shards of another identity are not used.
    n, dim : int
        Rows and width of the final matrix.
    """

    def __init__(self, target: Path, identity: dict[str, object], n: int, dim: int) -> None:
        self.target, self.n, self.dim = target, n, dim
        self.folder = target.with_name(f".{target.stem}.parts")
        manifest = self.folder / "manifest.json"
        digest = sha256_json(identity)
        if manifest.is_file() and read_json(manifest, "manifest of partial embeddings") != digest:
            shutil.rmtree(self.folder)  # another model, precision or image list: these parts are of no use
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, digest)

    def path(self, start: int) -> Path:
        """File of the shard that begins with a row."""
        return self.folder / f"{start:09d}.npy"

    def todo(self) -> list[range]:
        """Row ranges of the shards that are not there yet."""
        ranges = [range(s, min(s + SHARD_ROWS, self.n)) for s in range(0, self.n, SHARD_ROWS)]
        return [r for r in ranges if not self.path(r.start).is_file()]

    def write(self, rows: range, embeddings: np.ndarray) -> None:
        """Keep one finished shard."""
        with atomic_path(self.path(rows.start)) as temporary, temporary.open("wb") as file:
            np.save(file, embeddings, allow_pickle=False)

    def join(self, keep: np.ndarray, dtype: np.dtype) -> None:
        """Write the rows to keep into the final file, atomically, and remove the shards."""
        with atomic_path(self.target) as temporary:
            shape = (int(keep.sum()), self.dim)
            matrix = np.lib.format.open_memmap(temporary, mode="w+", dtype=dtype, shape=shape)
            position = 0
            for start in range(0, self.n, SHARD_ROWS):
                part = np.load(self.path(start), allow_pickle=False)
                part = part[keep[start : start + len(part)]]
                matrix[position : position + len(part)] = part
                position += len(part)
            matrix.flush()
            del matrix
        self.discard()

    def forget(self, rows: Iterable[int]) -> None:
        """Remove the shards that hold some rows, so that they are made again."""
        for row in rows:
            self.path(row - row % SHARD_ROWS).unlink(missing_ok=True)
        (self.folder / _UNREADABLE).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the shards."""
        shutil.rmtree(self.folder, ignore_errors=True)


def embed_dataset(
    encoder: Encoder,
    folder: Path,
    metadata: pd.DataFrame,
    *,
    batch_size: int,
    workers: int,
    precision: str = "fp32",
    skip_unreadable: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Embed every image of a dataset.

    Parameters
    ----------
    encoder : Encoder
    folder : pathlib.Path
        Dataset folder; the embeddings are written into it.
    metadata : pandas.DataFrame
        One row an image, `file_path` relative to the folder.
    batch_size : int
        Images a forward pass.
    workers : int
        Processes that decode images; 0 decodes in this one.
    precision : str
        'fp32' stores float32, the others float16.
    skip_unreadable : bool
        Drop unreadable images from metadata and embeddings alike, instead of an error.
    overwrite : bool
        Replace embeddings that are there; without it the same ones are kept.
    progress : bool
        Show a progress bar.

    Returns
    -------
    pathlib.Path
        ``CLIP_<backbone>_embeddings.npy``, ``(N, d)``, raw.

    Raises
    ------
    InputError
        Images are unreadable: all are found, nothing is written in their place. Or other embeddings are
        there already.
    """
    target = folder / embeddings_name(encoder.backbone.name)
    if "file_path" not in metadata.columns:
        raise InputError(
            f"{folder / METADATA} lacks the column 'file_path'; --rebuild-metadata makes it anew"
        )
    if metadata.empty:
        raise InputError(f"{folder / METADATA} has no rows; --rebuild-metadata makes it anew")
    paths = metadata["file_path"].astype(str).tolist()
    identity = {"model": encoder_digest(encoder.backbone), "precision": precision, "images": paths}
    if _is_done(target, identity, overwrite):
        return target
    shards = Shards(target, identity, len(paths), encoder.backbone.dim)
    shards.forget(row for row, _ in _known_unreadable(shards))  # they may have been mended since
    bad: list[tuple[int, str]] = []
    todo = shards.todo()
    with tqdm(
        total=len(paths),
        initial=len(paths) - sum(map(len, todo)),
        unit="image",
        desc=target.name,
        disable=not progress,
    ) as bar:
        for rows in todo:
            embeddings, unreadable = _embed_rows(encoder, folder, paths, rows, batch_size, workers, bar)
            bad += unreadable
            write_json(shards.folder / _UNREADABLE, bad)  # before the shard, so that none is forgotten
            shards.write(rows, embeddings)
    keep = np.ones(len(paths), bool)
    if bad := sorted(dict(bad).items()):
        _report_unreadable(bad, paths, folder, skip_unreadable, shards)
        keep[[row for row, _ in bad]] = False
        _drop_rows(target, metadata, keep, bad, paths)
    shards.join(keep, np.dtype(np.float32 if precision == "fp32" else np.float16))
    identity["images"] = [path for path, kept in zip(paths, keep, strict=True) if kept]
    write_json(manifest_path(target), {"digest": sha256_json(identity), "precision": precision, **versions()})
    return target


def manifest_path(target: Path) -> Path:
    """File beside an embedding file that says what it was made from."""
    return target.with_suffix(".manifest.json")


def _is_done(target: Path, identity: dict[str, object], overwrite: bool) -> bool:
    """Whether the final file is there and was made from the same model, precision and images."""
    if not target.is_file() or overwrite:
        return False
    manifest = manifest_path(target)
    if manifest.is_file() and read_json(manifest, "manifest").get("digest") == sha256_json(identity):
        return True
    raise InputError(
        f"{target} exists and was not made from this model, precision and image list (or lacks its "
        f"manifest); pass --overwrite to replace it"
    )


def _known_unreadable(shards: Shards) -> list[tuple[int, str]]:
    path = shards.folder / _UNREADABLE
    return [(row, why) for row, why in read_json(path, "list of unreadable images")] if path.is_file() else []


def _embed_rows(
    encoder: Encoder,
    folder: Path,
    paths: Sequence[str],
    rows: range,
    batch_size: int,
    workers: int,
    bar: tqdm,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """Embed one shard; rows of unreadable images stay zero and are listed."""
    embeddings = np.zeros((len(rows), encoder.backbone.dim), np.float32)
    unreadable: list[tuple[int, str]] = []
    for good, images, bad in _batches(encoder, folder, paths, rows, batch_size, workers):
        if images is not None:
            encoded = encoder.encode_images(images)
            norms = torch.linalg.vector_norm(encoded, dim=1)
            for row, norm in zip(good, norms.tolist(), strict=True):
                if not 0 < norm < math.inf:
                    raise InputError(
                        f"the embedding of {folder / paths[row]} is NaN, infinite or all zero; check the "
                        f"backbone's weights, or pass --precision fp32"
                    )
            embeddings[[row - rows.start for row in good]] = encoded.numpy()
        unreadable += bad
        bar.update(len(good) + len(bad))
    return embeddings, unreadable


def _batches(
    encoder: Encoder, folder: Path, paths: Sequence[str], rows: range, batch_size: int, workers: int
) -> Iterator[tuple[list[int], Tensor | None, list[tuple[int, str]]]]:
    dataset = ImageRows(folder, paths, rows, encoder.preprocess)
    return iter(
        DataLoader(
            dataset,
            batch_size=batch_size,
            num_workers=min(workers, -(-len(rows) // batch_size)),
            collate_fn=_collate,
            pin_memory=encoder.device == "cuda",
        )
    )


def _report_unreadable(
    bad: list[tuple[int, str]], paths: Sequence[str], folder: Path, skip: bool, shards: Shards
) -> None:
    """Print every unreadable image; unless they are to be skipped, end here."""
    for row, why in bad:
        tqdm.write(f"unreadable: {folder / paths[row]} ({why})", file=sys.stderr)
    if skip and len(bad) == len(paths):
        raise InputError(f"none of the {len(paths)} images in {folder} is readable")
    if not skip:
        shards.forget(row for row, _ in bad)  # the next run looks at mended images again, and only at them
        raise InputError(
            f"{len(bad)} of {len(paths)} images in {folder} are unreadable (listed above), the first: "
            f"{paths[bad[0][0]]}; mend them, or pass --skip-unreadable to leave their rows out"
        )


def _drop_rows(
    target: Path, metadata: pd.DataFrame, keep: np.ndarray, bad: list[tuple[int, str]], paths: Sequence[str]
) -> None:
    """Leave the unreadable rows out of the metadata, and record which they were."""
    folder = target.parent
    others = sorted(p.name for p in folder.glob("CLIP_*_embeddings.npy") if p != target)
    if others:
        raise InputError(
            f"{folder} has embeddings made with all rows ({others[0]}); leaving rows out of the metadata "
            f"would misalign them; move them away first"
        )
    record = [{"file_path": paths[row], "reason": why} for row, why in bad]
    write_json(folder / "skipped_images.json", record)
    write_metadata(folder / METADATA, metadata[keep].reset_index(drop=True))
