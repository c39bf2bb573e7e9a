"""Preprocessed images in batches, decoded by worker processes while the model is at work.

One loader serves a whole run, so that workers start once. They hand over pieces of a few images, and batches
are put together from them: all workers decode for the batch that is needed next, and what is under way is
about one batch, however many workers there are. A worker has one thread.
"""

from __future__ import annotations

import math
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bias_evaluation.datasets.rgb import Reading, Remarks, as_rgb
from safe_io.errors import InputError

# What torch says when a worker was ended, or found no room in /dev/shm for what it hands over.
_LACK_OF_MEMORY = (
    "DataLoader worker (pid",
    "shared memory",
    "</torch_",
    "shm_open",
)
PIECE = 8  # images a worker hands over at once: 5 MB at 224 x 224 pixels


class Batch(NamedTuple):
    """Some images in the order of their rows, and those that cannot be read.

    Attributes
    ----------
    rows : list of int
        Rows of the readable images.
    images : Tensor or None
        Those images, preprocessed, ``(n, 3, H, W)`` float32, on the device; None if there is none.
    unreadable : list of tuple of int and str
        Row and reason of each image that cannot be read.
    remarks : Remarks
        How many of the readable images hold what CLIP's preprocessing ignores.
    """

    rows: list[int]
    images: Tensor | None
    unreadable: list[tuple[int, str]]
    remarks: Remarks = Remarks()


class Loaded(NamedTuple):
    """An image, preprocessed, ``(3, H, W)``; or None, and what went wrong."""

    row: int
    image: Tensor | None
    why: str
    remarks: Remarks = Remarks()


class ImageRows(Dataset[Loaded]):
    """Preprocessed images by row; an unreadable one is reported, not raised, so that all are found.

    Parameters
    ----------
    folder : pathlib.Path
        Dataset folder.
    paths : sequence of str
        Image paths relative to it, row by row.
    preprocess : callable
        PIL image → tensor.
    reading : Reading, optional
        How pictures are read; as CLIP's preprocessing by default.
    """

    def __init__(
        self,
        folder: Path,
        paths: Sequence[str],
        preprocess: Callable[..., Tensor],
        reading: Reading | None = None,
    ) -> None:
        self.folder, self.preprocess, self.reading = folder, preprocess, reading or Reading()
        self.paths: Sequence[str] | Mapping[int, str] = paths

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.paths)

    def __getitem__(self, row: int) -> Loaded:
        """Load one image."""
        from PIL import Image

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings about odd EXIF data would break the progress bar
                with Image.open(self.source(row)) as image:
                    picture, remarks = as_rgb(image, self.reading)
                    return Loaded(row, self.preprocess(picture), "", remarks)
        except Exception as error:  # decoders raise many kinds for damaged images
            path = self.folder / self.paths[row]  # which is recorded, and may be moved
            return Loaded(row, None, f"{type(error).__name__}: {error}".replace(str(path), self.paths[row]))

    def source(self, row: int) -> Path | BinaryIO:
        """Give what Pillow reads an image from: its file, or its bytes."""
        return self.folder / self.paths[row]

    def select(self, rows: range) -> ImageRows:
        """Copy what some rows need, under the same row numbers, to send it to another process."""
        chosen = copy(self)
        chosen.folder = self.folder.resolve()
        chosen.paths = {row: self.paths[row] for row in rows}
        return chosen

    def name(self, row: int) -> str:
        """Name an image for messages."""
        return str(self.folder / self.paths[row])


def _collate(items: list[Loaded]) -> Batch:
    images = [item.image for item in items if item.image is not None]
    return Batch(
        [item.row for item in items if item.image is not None],
        torch.stack(images) if images else None,
        [(item.row, item.why) for item in items if item.image is None],
        _sum(item.remarks for item in items),
    )


def _sum(remarks: Iterable[Remarks]) -> Remarks:
    return reduce(Remarks.plus, remarks, Remarks())


def read_batch(dataset: ImageRows, rows: range) -> Batch:
    """Load one batch here, on the CPU."""
    return _collate([dataset[row] for row in rows])


def _join(pieces: Sequence[Batch], device: str) -> Batch:
    # Moved piece by piece: these are in pinned memory where the device is a GPU, their concatenation is not.
    images = [p.images.to(device, non_blocking=True) for p in pieces if p.images is not None]
    return Batch(
        [row for piece in pieces for row in piece.rows],
        torch.cat(images) if images else None,
        [entry for piece in pieces for entry in piece.unreadable],
        _sum(piece.remarks for piece in pieces),
    )


def read_batches(
    dataset: ImageRows, batches: Sequence[range], *, workers: int, device: str = "cpu"
) -> Iterator[Batch]:
    """Load batches in the order that is asked for, one after the other.

    Parameters
    ----------
    dataset : ImageRows
    batches : sequence of range
        The rows of each batch.
    workers : int
        Processes that decode; 0 decodes in this one.
    device : str
        Where the images are wanted: 'cpu' or 'cuda'.

    Yields
    ------
    Batch
        One for each of `batches`, also where no image of it is readable.
    """
    pieces = [batch[start : start + PIECE] for batch in batches for start in range(0, len(batch), PIECE)]
    workers = min(workers, len(pieces))
    largest = max(map(len, batches), default=0)
    loader = DataLoader(
        dataset,
        batch_sampler=pieces,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=device == "cuda",
        # While the model has a batch, the workers make the whole next one, and a piece each beyond it.
        prefetch_factor=math.ceil(largest / (PIECE * workers)) + 1 if workers else None,
        worker_init_fn=_ignore_interrupts,
    )
    loaded = iter(loader)
    for batch in batches:
        yield _join(list(islice(loaded, math.ceil(len(batch) / PIECE))), device)


def _ignore_interrupts(_worker: int) -> None:
    """Leave Ctrl-C to the main process, which ends the workers; each would print a traceback of its own.

    So would the thread that hands batches over, where the main process is interrupted in the middle of
    receiving one. Errors of the images themselves go to the main process another way.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = lambda *_: None


@contextmanager
def dead_workers_as_input_errors() -> Iterator[None]:
    """Turn the end of a worker (torch raises it wherever the main process is) into one clear line.

    Raises
    ------
    InputError
        A worker was ended from outside, most often because memory was short.
    """
    try:
        yield
    except RuntimeError as error:
        told = [line for line in str(error).splitlines() if any(sign in line for sign in _LACK_OF_MEMORY)]
        if not told:
            raise
        raise InputError(
            f"a decoding process ended ({told[-1].rstrip('.')}), most often for lack of "
            f"memory or of shared memory; run the command again with fewer --workers (0: none) or a smaller "
            f"--batch-size: finished parts are kept"
        ) from None
