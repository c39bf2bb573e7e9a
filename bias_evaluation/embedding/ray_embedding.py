"""Batches of image embeddings from Ray Data: tasks decode, actors hold the model.

A batch is a row of the data set that flows through Ray, so the model meets the very batches of a local run,
and with the same number of threads gives the same bits. Ray gives a lost worker's batch to another. Folders,
tar files and checkpoints must be where every worker sees them under the same path.
"""

from __future__ import annotations

import logging
import os
import pickle
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bias_evaluation.datasets.image_loading import ImageRows, read_batch
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.embedding.engines import RETRIES, lost_worker_errors, ray_session, resources_of_a_worker
from bias_evaluation.embedding.identity import encoder_digest
from bias_evaluation.embedding.image_embeddings import Embedded, Stream, encode_batch
from bias_evaluation.grid.configs import Backbone
from safe_io.errors import InputError

_RESTARTS = 20  # of an actor that was lost


def ray_stream(backbone: Backbone, *, device: str, precision: str) -> Stream:
    """Compute batches on Ray.

    Parameters
    ----------
    backbone : Backbone
        Its weights must be there on every worker, and be the same.
    device : str
        'cpu' or 'cuda'; an actor takes as many cores as torch has threads here, or a GPU.
    precision : str
        'fp32', 'fp16' or 'bf16'.

    Returns
    -------
    callable
        A `image_embeddings.Stream`. It raises `InputError` where a worker has no weights or other
        ones, or an embedding is not finite.
    """

    def stream(images: ImageRows, batches: Sequence[range], dtype: np.dtype) -> Iterator[Embedded]:
        if not batches:
            return
        with ray_session() as ray:
            make = {"backbone": backbone, "device": device, "precision": precision, "dtype": dtype}
            make |= {"digest": encoder_digest(backbone), "folder": str(Path.cwd()), "threads": _threads()}
            flow = _flow(ray, [(images.select(rows), rows) for rows in batches], make)
            try:
                for row in flow.iter_rows():
                    done = pickle.loads(row["done"])  # our own workers' words
                    if isinstance(done, str):
                        raise InputError(f"{done}; finished shards are kept")
                    yield done
            except lost_worker_errors(ray):
                raise InputError(
                    "workers were lost again and again, most often for lack of memory; run the command again "
                    "with a smaller --batch-size: finished shards are kept"
                ) from None

    return stream


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _flow(ray: Any, work: Sequence[tuple[ImageRows, range]], make: dict[str, Any]) -> Any:
    """Lay out the data set: work → decoded batch → embeddings; nothing runs until it is iterated over."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    resources = resources_of_a_worker(ray, make["device"])
    total = ray.cluster_resources()
    if make["device"] == "cuda":
        resources["num_cpus"], reading = 0, {"num_cpus": 1}
        workers = int(total["GPU"])
    else:  # decoding is a few per cent of the model's work there, and must not wait for a core of its own
        workers = max(1, int(total["CPU"]) // resources["num_cpus"])
        reading = {"num_cpus": 0, "concurrency": workers}
    # A batch that ends each worker that takes it must not be tried for ever, nor a model that does not fit.
    retries = {"max_task_retries": RETRIES, "max_restarts": _RESTARTS}
    rows = [{"work": ray.cloudpickle.dumps(each)} for each in work]
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map(_read, max_retries=RETRIES, **reading)
        .map(_Model, fn_constructor_kwargs=make, concurrency=min(workers, len(rows)), **resources, **retries)
    )


def _read(row: dict[str, bytes]) -> dict[str, bytes]:
    """Decode a batch, with one thread as the local workers do."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    images, rows = pickle.loads(row["work"])
    batch = read_batch(images, rows)
    torch.set_num_threads(threads)
    names = {number: images.name(number) for number in batch.rows}
    return {"batch": pickle.dumps((batch, names))}


class _Model:
    """The model in a worker. What the user can mend comes back as a line, not as a failing actor."""

    def __init__(
        self,
        backbone: Backbone,
        device: str,
        precision: str,
        dtype: np.dtype,
        digest: str,
        folder: str,
        threads: int,
    ) -> None:
        import torch

        os.chdir(folder)
        torch.set_num_threads(threads)
        self._dtype, self._error = dtype, ""
        try:
            if encoder_digest(backbone) != digest:
                raise InputError(
                    f"the weights of backbone '{backbone.name}' are others than where this began"
                )
            self._encoder = Encoder(backbone, device=device, precision=precision)
        except InputError as error:
            self._error = f"worker on {platform.node()}: {error}"

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        if self._error:
            return {"done": pickle.dumps(self._error)}
        batch, names = pickle.loads(row["batch"])
        try:
            done: Embedded | str = encode_batch(self._encoder, batch, names.__getitem__, self._dtype)
        except InputError as error:
            done = str(error)
        return {"done": pickle.dumps(done)}
