"""Image embeddings of a whole dataset: decoded in worker processes, written in shards, joined at the end.

A killed run leaves finished shards behind and goes on from them. The final `.npy` appears only when every
row is there.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from bias_evaluation.configs import Backbone
from bias_evaluation.datasets import RELEASE, embeddings_name, images_digest, manifest_path, read_manifest
from bias_evaluation.encoder import Encoder, encoder_digest
from bias_evaluation.image_loading import Batch, ImageRows, dead_workers_as_input_errors, read_batches
from bias_evaluation.metadata import METADATA, SKIPPED, write_metadata
from bias_evaluation.results import versions
from bias_evaluation.shards import Shards, joined_path, parts_folder
from debiasing_methods.errors import InputError
from debiasing_methods.files import read_json, sha256_json, write_json
from debiasing_methods.locks import exclusive, remove_abandoned

SHARD_ROWS = 4096
# Always the same columns in the same places; the rate stays images a second where a model is slower than one.
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"

Unreadable = list[tuple[int, str]]  # row, reason


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
        Images a forward pass. A batch never reaches beyond its shard, so that a run that goes on computes
        the batches that it would have computed undisturbed.
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
        there already, an embedding is not finite, a decoding process was ended from outside, or another
        process is making the same file.
    """
    with exclusive(folder / embeddings_name(encoder.backbone.name)):
        return _embed_dataset(
            encoder, folder, metadata, batch_size, workers, precision, skip_unreadable, overwrite, progress
        )


def _embed_dataset(
    encoder: Encoder,
    folder: Path,
    metadata: pd.DataFrame,
    batch_size: int,
    workers: int,
    precision: str,
    skip_unreadable: bool,
    overwrite: bool,
    progress: bool,
) -> Path:
    """Do the work of `embed_dataset`, alone at its file."""
    if not overwrite and (done := find_embeddings(encoder.backbone, folder, metadata, precision)):
        return done
    paths = _image_paths(folder, metadata)
    target = folder / embeddings_name(encoder.backbone.name)
    identity = _identity(encoder.backbone, precision, paths)
    if _finish_killed(target, sha256_json(identity)):
        return target
    dtype = np.dtype(np.float32 if precision == "fp32" else np.float16)
    shards = Shards(
        target, identity, n=len(paths), dim=encoder.backbone.dim, dtype=dtype, shard_rows=SHARD_ROWS
    )
    shards.forget_unreadable()
    images = ImageRows(folder, paths, encoder.preprocess)
    with dead_workers_as_input_errors():
        bad = _embed_shards(encoder, images, shards, batch_size, workers, progress)
    keep = np.ones(len(paths), bool)
    if bad := sorted(bad):
        _report_unreadable(bad, paths, folder, skip_unreadable, shards)
        keep[[row for row, _ in bad]] = False
        _check_no_others(target)
    joined = shards.join(keep)
    kept = [path for path, kept in zip(paths, keep, strict=True) if kept]
    digest = sha256_json({**identity, "images": kept})
    for path in (
        manifest_path(target),
        target,
    ):  # so that no manifest ever stands beside embeddings of another
        path.unlink(missing_ok=True)
    facts = {"digest": digest, "images": images_digest(metadata[keep]), "precision": precision}
    write_json(manifest_path(target), {**facts, **versions()})
    if bad:
        _drop_rows(folder, metadata, keep, bad)
    joined.replace(target)
    shards.discard()
    return target


def _finish_killed(target: Path, digest: str) -> bool:
    """Put joined embeddings in place whose run was killed just before, with rows left out of the metadata.

    The manifest is written between the joined file and those rows, and neither stands beside an older target.
    """
    joined = joined_path(target)
    if target.exists() or not joined.is_file() or read_manifest(target).get("digest") != digest:
        return False
    joined.replace(target)
    shutil.rmtree(parts_folder(target))
    return True


def find_embeddings(
    backbone: Backbone, folder: Path, metadata: pd.DataFrame, precision: str = "fp32"
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
    target = folder / embeddings_name(backbone.name)
    if not target.is_file():
        return None
    manifest = read_manifest(target)
    imported = manifest.get("source") == RELEASE and manifest.get("images") == images_digest(metadata)
    if not imported and manifest.get("digest") != sha256_json(_identity(backbone, precision, paths)):
        raise InputError(
            f"{target} exists and was not made from this model, precision and image list (or lacks its "
            f"manifest); pass --overwrite to replace it"
        )
    shutil.rmtree(parts_folder(target), ignore_errors=True)  # of a run that was killed as it finished
    remove_abandoned(folder)
    return target


def _image_paths(folder: Path, metadata: pd.DataFrame) -> list[str]:
    """Image paths of the metadata, relative to the dataset folder."""
    if "file_path" not in metadata.columns:
        raise InputError(
            f"{folder / METADATA} lacks the column 'file_path'; --rebuild-metadata makes it anew"
        )
    if metadata.empty:
        raise InputError(f"{folder / METADATA} has no rows; --rebuild-metadata makes it anew")
    return metadata["file_path"].astype(str).tolist()


def _identity(backbone: Backbone, precision: str, paths: list[str]) -> dict[str, object]:
    """Collect what decides the embeddings."""
    return {"model": encoder_digest(backbone), "precision": precision, "images": paths}


# --- computing --------------------------------------------------------------------------------------------


def _embed_shards(
    encoder: Encoder, images: ImageRows, shards: Shards, batch_size: int, workers: int, progress: bool
) -> Unreadable:
    """Embed the shards that are not there yet, with one loader for all of them; returns unreadable rows."""
    todo = shards.todo()
    batches = [rows[i : i + batch_size] for rows in todo for i in range(0, len(rows), batch_size)]
    loader = read_batches(images, batches, workers=workers, device=encoder.device)
    bar = tqdm(
        total=shards.n,
        initial=shards.n - sum(map(len, todo)),
        unit=" images",
        desc=embeddings_name(encoder.backbone.name),
        bar_format=_BAR,
        disable=not progress,
    )
    unreadable: Unreadable = []
    with bar, closing(loader):
        for rows in todo:
            own = islice(loader, math.ceil(len(rows) / batch_size))
            embeddings = np.zeros((len(rows), shards.dim), shards.dtype)
            for batch in own:
                if batch.images is not None:
                    places = [row - rows.start for row in batch.rows]
                    embeddings[places] = _encode(encoder, batch, images, shards.dtype)
                unreadable += batch.unreadable
                bar.update(len(batch.rows) + len(batch.unreadable))
            shards.write(rows, embeddings, unreadable)
    return unreadable


def _encode(encoder: Encoder, batch: Batch, images: ImageRows, dtype: np.dtype) -> np.ndarray:
    """Embeddings of a batch as they are stored, after a check that each is finite and not zero."""
    stored = encoder.encode_images(batch.images).numpy()
    with np.errstate(over="ignore"):  # an overflow is found below
        stored = stored.astype(dtype, copy=False)
    norms = np.linalg.norm(stored.astype(np.float32, copy=False), axis=1)
    for row, norm in zip(batch.rows, norms.tolist(), strict=True):
        if not 0 < norm < math.inf:
            raise InputError(
                f"the embedding of {images.folder / images.paths[row]} is NaN, infinite or all zero; check "
                f"the backbone's weights, or pass --precision fp32"
            )
    return stored


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
