"""Image embeddings of a whole dataset: computed batch by batch, written in shards, joined at the end.

A killed run leaves finished shards behind and goes on from them. The final `.npy` appears only when every
row is there. Who computes the batches is exchangeable (`Stream`): this process with its decoding workers, or
Ray (`ray_embedding.py`); the jobs of an array each write some of the shards (`part`), and one joins them.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from bias_evaluation.datasets.folder import (
    RELEASE,
    embeddings_name,
    head_path,
    images_digest,
    manifest_path,
    read_manifest,
    residuals_name,
)
from bias_evaluation.datasets.image_loading import (
    Batch,
    ImageRows,
    dead_workers_as_input_errors,
    read_batches,
)
from bias_evaluation.datasets.metadata import METADATA, SKIPPED, read_metadata, write_metadata
from bias_evaluation.datasets.rgb import Reading, Remarks
from bias_evaluation.datasets.tar_images import TarRows, in_tars
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.engines import Part
from bias_evaluation.embedding.identity import image_digest, model_facts
from bias_evaluation.embedding.residuals import write_head
from bias_evaluation.embedding.shards import Shards, Unreadable, joined_path, parts_folder
from bias_evaluation.grid.configs import Backbone
from debiasing_methods.encoder_head import EncoderHead
from safe_io.arrays import check_rows, float_rows
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_json, write_json
from safe_io.locks import exclusive, remove_abandoned
from safe_io.provenance import versions

SHARD_ROWS = 4096
_NAMES = {"embeddings": embeddings_name, "residuals": residuals_name}
# Always the same columns in the same places; the rate stays images a second where a model is slower than one.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


class Embedded(NamedTuple):
    """A batch, computed.

    Attributes
    ----------
    rows : list of int
        Rows of the readable images.
    embeddings : ndarray of shape (n, d)
        Theirs, raw, in the stored dtype.
    unreadable : list of tuple of int and str
        Row and reason of each image that cannot be read.
    remarks : Remarks
        How many of the readable images hold what CLIP's preprocessing ignores.
    """

    rows: list[int]
    embeddings: np.ndarray
    unreadable: Unreadable
    remarks: Remarks = Remarks()


# Images, the rows of each batch and the stored dtype → the batches, computed, in whatever order.
Stream = Callable[[ImageRows, Sequence[range], np.dtype], Iterator[Embedded]]


def embed_dataset(
    encoder: Encoder,
    folder: Path,
    metadata: pd.DataFrame,
    *,
    batch_size: int,
    workers: int,
    precision: str = "fp32",
    reading: Reading | None = None,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    stream: Stream | None = None,
    part: Part | None = None,
    residuals: bool = False,
    into: Path | None = None,
) -> Path:
    """Embed every image of a dataset, or a part of them.

    Parameters
    ----------
    encoder : Encoder
    folder : pathlib.Path
        Dataset folder; the embeddings are written into it.
    metadata : pandas.DataFrame
        One row an image, `file_path` relative to the folder; or images in tar files, as
        `bias_evaluation.datasets.webdataset` lists them.
    batch_size : int
        Images a forward pass. A batch never reaches beyond its shard, so that a run that goes on computes
        the batches that it would have computed undisturbed.
    workers : int
        Processes that decode images; 0 decodes in this one.
    precision : str
        'fp32' stores float32, the others float16.
    reading : Reading, optional
        How pictures are read; as CLIP's preprocessing by default.
    skip_unreadable : bool
        Drop unreadable images from metadata and embeddings alike, instead of an error.
    overwrite : bool
        Replace embeddings that are there; without it the same ones are kept.
    progress : bool
        Show a progress bar.
    stream : callable, optional
        Computes the batches in place of this process, which then uses the encoder's preprocessing alone.
    part : Part, optional
        Write the shards of this part alone, and join nothing: `join_dataset` does when all are there.
    residuals : bool
        Store what the last block gives at the pooled token, and the layers after it beside them. In this
        process, without parts.
    into : pathlib.Path, optional
        Folder that is written into; the dataset folder by default.

    Returns
    -------
    pathlib.Path
        ``CLIP_<backbone>_embeddings.npy``, ``(N, d)``, raw; with `residuals`
        ``CLIP_<backbone>_residuals.npy``, ``(N, w)``; with `part` the folder of the shards.

    Raises
    ------
    InputError
        Images are unreadable: all are found, nothing is written in their place. Or other embeddings are
        there already, an embedding is not finite, a decoding process was ended from outside, or another
        process is making the same file.
    """
    kind = {"residuals": residuals, "into": into}
    if not overwrite and (
        done := find_embeddings(encoder.backbone, folder, metadata, precision, reading, **kind)
    ):
        return done
    head = encoder.image_head if residuals else None
    run = _Run(encoder.backbone, folder, metadata, precision, reading, head, into)
    with nullcontext() if part else exclusive(run.target):  # parts are written by many
        if part is None and run.finish_killed():
            return run.target
        shards = run.shards(shared=part is not None)
        mine = shards.all() if part is None else part.select(shards.all())
        shards.forget_unreadable(mine)
        todo = sorted(set(shards.todo()) & set(mine), key=lambda rows: rows.start)
        images, n = run.images(encoder.preprocess), sum(map(len, mine))
        stream = stream or local_stream(encoder, workers, residuals=residuals)
        with dead_workers_as_input_errors():
            _embed_shards(stream, images, shards, todo, n, batch_size, run.target.name, progress)
        return run.finish(shards, skip_unreadable) if part is None else shards.folder


def join_dataset(
    backbone: Backbone,
    folder: Path,
    metadata: pd.DataFrame,
    *,
    precision: str = "fp32",
    reading: Reading | None = None,
    skip_unreadable: bool = False,
    overwrite: bool = False,
) -> Path:
    """Check the shards that parts have written, and join them; parameters as for `embed_dataset`.

    Raises
    ------
    InputError
        A shard is missing, damaged, doubled, or of another run (all are kept), or images are unreadable.
    """
    if not overwrite and (done := find_embeddings(backbone, folder, metadata, precision, reading)):
        return done
    run = _Run(backbone, folder, metadata, precision, reading)
    with exclusive(run.target):
        return run.target if run.finish_killed() else run.finish(run.shards(shared=True), skip_unreadable)


class _Run:
    """What the embeddings of a dataset are made from, and how shards become the final file."""

    def __init__(
        self,
        backbone: Backbone,
        folder: Path,
        metadata: pd.DataFrame,
        precision: str,
        reading: Reading | None,
        head: EncoderHead | None = None,
        into: Path | None = None,
    ) -> None:
        self._backbone, self._folder, self._metadata, self._precision = backbone, folder, metadata, precision
        self._reading = reading or Reading()
        self._paths = _image_paths(folder, metadata)
        self._head = head
        of = "embeddings" if head is None else "residuals"
        self._identity = _identity(backbone, precision, self._paths, self._reading, of)
        self.target = (into or folder) / _NAMES[of](backbone.name)

    def shards(self, *, shared: bool) -> Shards:
        """Open the folder of shards."""
        dtype = np.dtype(np.float32 if self._precision == "fp32" else np.float16)
        dim = self._backbone.dim if self._head is None else self._head.width
        shape = {"n": len(self._paths), "dim": dim, "shard_rows": SHARD_ROWS}
        return Shards(self.target, self._identity, dtype=dtype, shared=shared, **shape)

    def images(self, preprocess: Callable) -> ImageRows:
        """Open the images, files of the folder or members of tar files."""
        if in_tars(self._metadata):
            return TarRows(self._folder, self._metadata, preprocess, self._reading)
        return ImageRows(self._folder, self._paths, preprocess, self._reading)

    def finish(self, shards: Shards, skip_unreadable: bool) -> Path:
        """Check the shards, join the rows that are to be kept, and put the file in its place."""
        paths, folder, target = self._paths, self._folder, self.target
        keep = np.ones(len(paths), bool)
        if bad := shards.check():
            _report_unreadable(bad, paths, folder, skip_unreadable, shards)
            keep[[row for row, _ in bad]] = False
            _check_no_others(target)
        joined = shards.join(keep)
        kept = [path for path, kept in zip(paths, keep, strict=True) if kept]
        digest = sha256_json({**self._identity, "images": kept})
        for path in (manifest_path(target), target):  # so that none ever stands beside one of another run
            path.unlink(missing_ok=True)
        facts = {"digest": digest, "images": images_digest(self._metadata[keep])}
        facts["model"] = model_facts(self._backbone)
        facts["reading"] = self._reading._asdict()
        if self._head is not None:
            write_head(head_path(target), self._head)
        write_json(manifest_path(target), {**facts, "precision": self._precision, **versions()})
        if bad:
            _drop_rows(target.parent, self._metadata, keep, bad)
        joined.replace(target)
        shards.discard()
        return target

    def finish_killed(self) -> bool:
        """Put joined embeddings in place whose run was killed just before the last step.

        The manifest is written between the joined file and those rows, and neither stands beside an older
        target.
        """
        joined, digest = joined_path(self.target), sha256_json(self._identity)
        if self.target.exists() or not joined.is_file() or read_manifest(self.target).get("digest") != digest:
            return False
        joined.replace(self.target)
        shutil.rmtree(parts_folder(self.target))
        return True


def find_embeddings(
    backbone: Backbone,
    folder: Path,
    metadata: pd.DataFrame,
    precision: str = "fp32",
    reading: Reading | None = None,
    *,
    residuals: bool = False,
    into: Path | None = None,
) -> Path | None:
    """Look for a dataset's embeddings, which need the backbone's checkpoint but not the model itself.

    Parameters
    ----------
    backbone : Backbone
    folder : pathlib.Path
        Dataset folder.
    metadata : pandas.DataFrame
        One row an image.
    precision : str
        'fp32', 'fp16' or 'bf16'.
    reading : Reading, optional
        How pictures are read; as CLIP's preprocessing by default.
    residuals : bool
        Look for the residuals instead.
    into : pathlib.Path, optional
        Folder of the file; the dataset folder by default.

    Returns
    -------
    pathlib.Path or None
        The file, if it was made from this backbone, precision and image list, or imported for this image
        list; None if there is no file.

    Raises
    ------
    InputError
        The file was made from something else, or does not say from what.
    """
    paths = _image_paths(folder, metadata)
    of = "residuals" if residuals else "embeddings"
    target = (into or folder) / _NAMES[of](backbone.name)
    if not target.is_file():
        return None
    manifest = read_manifest(target)
    imported = manifest.get("source") == RELEASE and manifest.get("images") == images_digest(metadata)
    if not imported and manifest.get("digest") != sha256_json(
        _identity(backbone, precision, paths, reading or Reading(), of)
    ):
        _check_current(folder, metadata)
        raise InputError(
            f"{target} exists and was not made from this model, precision and image list (or lacks its "
            f"manifest); pass --overwrite to replace it"
        )
    shutil.rmtree(parts_folder(target), ignore_errors=True)  # of a run that was killed as it finished
    remove_abandoned(target.parent)
    return target


def _check_current(folder: Path, metadata: pd.DataFrame) -> None:
    """Raise if another run has meanwhile left out unreadable images, and with them rows of the metadata."""
    path = folder / METADATA
    if path.is_file() and set(read_metadata(path).get("file_path", ())) < set(metadata["file_path"]):
        raise InputError(f"another run has changed {path} since this one read it; run the command again")


def _image_paths(folder: Path, metadata: pd.DataFrame) -> list[str]:
    """Image paths of the metadata, relative to the dataset folder."""
    if "file_path" not in metadata.columns:
        raise InputError(
            f"{folder / METADATA} lacks the column 'file_path'; --rebuild-metadata makes it anew"
        )
    if metadata.empty:
        raise InputError(f"{folder / METADATA} has no rows; --rebuild-metadata makes it anew")
    return metadata["file_path"].astype(str).tolist()


def _identity(
    backbone: Backbone, precision: str, paths: list[str], reading: Reading, of: str
) -> dict[str, object]:
    """Collect what decides the embeddings, or the residuals."""
    special = {"reading": reading._asdict()} if any(reading) else {}
    special |= {"of": of} if of != "embeddings" else {}
    return {"model": image_digest(backbone), "precision": precision, "images": paths, **special}


# --- computing --------------------------------------------------------------------------------------------


def local_stream(encoder: Encoder, workers: int, *, residuals: bool = False) -> Stream:
    """Compute batches here, in order, with one loader for all of them."""

    def stream(images: ImageRows, batches: Sequence[range], dtype: np.dtype) -> Iterator[Embedded]:
        with closing(read_batches(images, batches, workers=workers, device=encoder.device)) as loader:
            for batch in loader:
                yield encode_batch(encoder, batch, images.name, dtype, residuals=residuals)

    return stream


def _embed_shards(
    stream: Stream,
    images: ImageRows,
    shards: Shards,
    todo: Sequence[range],
    n: int,
    batch_size: int,
    name: str,
    progress: bool,
) -> None:
    """Compute the shards that are to do, of n rows in all, and write each as soon as its rows are there."""
    batches = [rows[i : i + batch_size] for rows in todo for i in range(0, len(rows), batch_size)]
    of_start = {rows.start: rows for rows in todo}
    open_shards: dict[range, list[Embedded]] = {}
    bar = tqdm(
        total=n,
        initial=n - sum(map(len, todo)),
        unit=" images",
        desc=name,
        bar_format=_BAR,
        disable=not progress,
    )
    remarks = Remarks()
    with bar, closing(stream(images, batches, shards.dtype)) as computed:
        for batch in computed:
            remarks = remarks.plus(batch.remarks)
            first = batch.rows[0] if batch.rows else batch.unreadable[0][0]
            rows = of_start[first - first % shards.shard_rows]
            own = open_shards.setdefault(rows, [])
            own.append(batch)
            bar.update(len(batch.rows) + len(batch.unreadable))
            if len(own) == math.ceil(len(rows) / batch_size):
                _write_shard(shards, rows, open_shards.pop(rows))
    _say_remarks(remarks, images.reading)


def _say_remarks(remarks: Remarks, reading: Reading) -> None:
    """Count, in one line, the images of this run that show something else than viewers show."""
    said = []
    if remarks.turned and not reading.upright:
        said.append(f"{remarks.turned} are not turned as their EXIF data says (--upright turns them)")
    if remarks.transparent and not reading.on_white:
        said.append(f"of {remarks.transparent} colors below transparency show (--on-white covers them)")
    if said:
        print(f"note: as CLIP's preprocessing reads images, {' and '.join(said)}", file=sys.stderr)


def _write_shard(shards: Shards, rows: range, batches: Sequence[Embedded]) -> None:
    """Put a shard together; the rows of unreadable images are zero."""
    embeddings = np.zeros((len(rows), shards.dim), shards.dtype)
    for batch in batches:
        embeddings[[row - rows.start for row in batch.rows]] = batch.embeddings
    shards.write(rows, embeddings, sorted(entry for batch in batches for entry in batch.unreadable))


def encode_batch(
    encoder: Encoder, batch: Batch, name: Callable[[int], str], dtype: np.dtype, *, residuals: bool = False
) -> Embedded:
    """Embed a batch as it is stored, after a check that each row is finite and not zero.

    Raises
    ------
    InputError
        A row is not; the line names the image.
    """
    if batch.images is None:
        return Embedded([], np.empty((0, encoder.backbone.dim), dtype), batch.unreadable)
    stored = encoder.encode_images(batch.images, **({"residuals": True} if residuals else {})).numpy()
    with np.errstate(over="ignore"):  # an overflow is found below
        stored = stored.astype(dtype, copy=False)
    check_rows(
        float_rows(stored),
        f"embeddings of backbone '{encoder.backbone.name}'",
        name=lambda i: name(batch.rows[i]),
        advice="check the backbone's weights, or pass --precision fp32",
    )
    return Embedded(batch.rows, stored, batch.unreadable, batch.remarks)


# --- unreadable images ------------------------------------------------------------------------------------


def _report_unreadable(
    bad: Unreadable, paths: Sequence[str], folder: Path, skip: bool, shards: Shards
) -> None:
    """Print every unreadable image; unless they are to be skipped, end here."""
    for row, why in bad:
        print(f"unreadable: {folder / paths[row]} ({why})", file=sys.stderr)
    if skip and len(bad) == len(paths):
        raise InputError(f"none of the {len(paths)} images in {folder} is readable")
    if not skip:
        shards.forget(row for row, _ in bad)  # the next run looks at mended images again, and only at them
        raise InputError(
            f"{len(bad)} of {len(paths)} images in {folder} are unreadable (listed above), the first: "
            f"{paths[bad[0][0]]}; mend them, or pass --skip-unreadable to leave their rows out"
        )


def _check_no_others(target: Path) -> None:
    """Raise where other embeddings stand beside metadata that is about to lose rows."""
    others = sorted(p.name for p in target.parent.glob("CLIP_*_embeddings.npy") if p != target)
    if others:
        raise InputError(
            f"{target.parent} has embeddings made with all rows ({others[0]}); leaving rows out of the "
            f"metadata would misalign them; move them away first"
        )


def _skipped_before(path: Path, present: set[str]) -> list[dict[str, str]]:
    """Images that earlier runs have left out, but for those that are in the metadata (again)."""
    if not path.is_file():
        return []
    record = read_json(path, "list of skipped images")
    try:
        return [entry for entry in record if entry["file_path"] not in present]
    except (TypeError, KeyError):
        raise InputError(f"{path} is not a list of skipped images; move it away") from None


def _drop_rows(folder: Path, metadata: pd.DataFrame, keep: np.ndarray, bad: Unreadable) -> None:
    """Leave the unreadable rows out of the metadata, and record which they were."""
    paths = metadata["file_path"].astype(str).tolist()
    record = [{"file_path": paths[row], "reason": why} for row, why in bad]
    write_json(folder / SKIPPED, [*_skipped_before(folder / SKIPPED, set(paths)), *record])
    write_metadata(folder / METADATA, metadata[keep].reset_index(drop=True))
