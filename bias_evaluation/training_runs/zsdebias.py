"""A training run of ZSDebias on disk: it goes on where it was cut off, and says what it made.

The files of a run: the weights, and beside them ``<stem>.losses.csv``, ``<stem>.losses.png`` and
``<stem>.report.json`` (what the weights were made from, and how training went); while it runs
``<output>.checkpoint``. They are the same to the last bit for the same data and configuration (on the CPU,
with the same versions and number of threads), whether or not the run was cut off in between.

What is there already is replaced only where that is asked for: a finished run with the same digest (of data
and configuration) is kept, an unfinished one goes on, and one with another digest is an error.
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bias_evaluation.training_runs.checkpoint import Checkpoint
from bias_evaluation.training_runs.zsdebias_report import plot_losses, write_losses
from debiasing_methods.training.zsdebias import (
    NEAREST_SENTENCES,
    Best,
    ZSDebiasTraining,
    ZSDebiasTrainingConfig,
    bias_targets,
)
from safe_io.errors import InputError, as_input_error
from safe_io.files import read_json, save_weights, sha256_file, sha256_json, write_json
from safe_io.locks import exclusive

_ROUNDING = 1e-6  # of unit vectors in float32


class TrainingData:
    """What all seeds train on: held once, on the device, with its bias targets.

    Parameters
    ----------
    images : Tensor of shape (n, d), float32
        Embeddings as stored.
    corpus : Tensor of shape (C, d), float32
        Embeddings of the bias corpus.
    facts : mapping
        What the data are, as plain values, for reports: names of datasets, backbone, bias attribute, ….
    device : str
        Where to train.

    Raises
    ------
    InputError
        The corpus has too few sentences.
    """

    def __init__(
        self, images: Tensor, corpus: Tensor, facts: Mapping[str, Any], *, device: str = "cpu"
    ) -> None:
        if len(corpus) < NEAREST_SENTENCES:
            raise InputError(
                f"the bias corpus has {len(corpus)} sentences; at least {NEAREST_SENTENCES} are needed"
            )
        self.facts = {
            **facts,
            "images": {"shape": list(images.shape), "sha256": _sha256_tensor(images)},
            "corpus": {"shape": list(corpus.shape), "sha256": _sha256_tensor(corpus)},
        }
        self.images, self._corpus = images.to(device), corpus.to(device)

    @cached_property
    def targets(self) -> Tensor:
        """Bias targets ``(n, d)``, computed once; `InputError` where all are the same."""
        targets = bias_targets(self.images, self._corpus)
        if torch.allclose(targets, targets[0], rtol=0, atol=_ROUNDING):
            raise InputError(
                "the same sentences of the bias corpus are nearest to every image, so that they say nothing "
                "of what an image shows; give a larger corpus"
            )
        return targets


def run_training(
    data: TrainingData,
    output: str | os.PathLike[str],
    config: ZSDebiasTrainingConfig,
    *,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: bool = False,
) -> dict[str, Any]:
    """Train one model and write weights, losses and report; go on where an earlier run was cut off.

    Parameters
    ----------
    data : TrainingData
    output : path-like
        Weights; ``.pth`` (the release's format) or ``.safetensors`` (the same tensors, flat).
    config : ZSDebiasTrainingConfig
    overwrite : bool
        Whether weights or a checkpoint of another run at `output` may be replaced; finished weights of this
        very run are then made again.
    checkpoint_seconds : float
        Least time between two checkpoints, which are written at the ends of epochs; 0 writes every one.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    dict
        The report, as written.

    Raises
    ------
    InputError
        There are too few rows, training diverged, files of another run are in the way, or another process
        is making this very output.
    """
    with exclusive(output), as_input_error(""):
        return _run(
            data,
            Path(output),
            config,
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
        )


def _run(
    data: TrainingData,
    output: Path,
    config: ZSDebiasTrainingConfig,
    *,
    overwrite: bool,
    checkpoint_seconds: float,
    progress: bool,
) -> dict[str, Any]:
    """Do the work of `run_training`, alone at its output."""
    facts = {"config": asdict(config), "data": data.facts}
    digest = sha256_json(facts)
    checkpoint = Checkpoint(output, digest, checkpoint_seconds)
    state = checkpoint.load(overwrite=overwrite)
    # A checkpoint of this run says that its output may be replaced: it was asked for when the run began.
    if (done := _finished(output, digest, overwrite or state is not None)) is not None:
        print(f"kept {output}: trained before with this data and configuration (--overwrite trains anew)")
        return done

    training = ZSDebiasTraining(data.images, data.targets, config)
    if training.batch_size < config.batch_size:
        print(
            f"note: {training.batch_size} training rows are fewer than a batch of {config.batch_size}: an "
            f"epoch is one batch of all of them"
        )
    if state is not None:
        checkpoint.restore(training.load_state_dict, state)
        print(f"{checkpoint.path}: going on after epoch {training.epoch}")
    best = _train(training, checkpoint, output.stem, progress)
    checkpoint.save(training.state_dict())  # a kill between two of the files then leaves a run that goes on
    save_weights(output, release_form(best, config, data.facts, nested=output.suffix != ".safetensors"))
    write_losses(beside(output, "losses.csv"), training.history)
    plot_losses(beside(output, "losses.png"), training.history, best_epoch=best.epoch, title=output.stem)
    report = {
        "digest": digest,
        **facts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "rows": {"training": len(training.training_rows), "validation": len(training.validation_rows)},
        "epochs_run": training.epoch,
        "best": training.history[best.epoch - 1],
        "weights_sha256": sha256_file(output),
    }
    write_json(beside(output, "report.json"), report)
    checkpoint.remove()
    return report


def beside(output: str | os.PathLike[str], ending: str) -> Path:
    """Return the name of a file that lies beside weights: ``<stem>.<ending>``."""
    output = Path(output)
    return output.with_name(f"{output.stem}.{ending}")


def release_form(
    best: Best, config: ZSDebiasTrainingConfig, facts: Mapping[str, Any], *, nested: bool
) -> dict[str, Any]:
    """Arrange a model as the release does: state dicts of encoder and decoder, and facts of the training.

    Parameters
    ----------
    best : Best
    config : ZSDebiasTrainingConfig
    facts : mapping
        Plain values for `args`, beside the published names of the options.
    nested : bool
        Whether the format holds more than tensors; if not, the tensors alone are returned, flat.

    Returns
    -------
    dict
    """
    if not nested:
        return dict(best.weights)
    options = asdict(config)
    args = {
        **facts,
        "hidden_num": 2,
        "normalize_embeddings": False,
        "top_k": NEAREST_SENTENCES,
        "bs": options.pop("batch_size"),
        **options,
    }
    parts = {
        part: {name: tensor for name, tensor in best.weights.items() if name.startswith(f"{part}.")}
        for part in ("encoder", "decoder")
    }
    return {**parts, "args": args, "epoch": best.epoch, "val_loss": best.val_loss}


def _sha256_tensor(x: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(x.cpu().numpy())).hexdigest()


def _finished(output: Path, digest: str, may_replace: bool) -> dict[str, Any] | None:
    """Return the report of finished weights of this very run; None where there is a run to do."""
    if not output.exists() or may_replace:
        return None
    path = beside(output, "report.json")
    report = read_json(path, "report of a ZSDebias model") if path.is_file() else {}
    if report.get("digest") != digest or report.get("weights_sha256") != sha256_file(output):
        raise InputError(
            f"{output} exists and was not made from this data and configuration; choose another output "
            f"folder, or replace it with --overwrite"
        )
    return report


def _train(training: ZSDebiasTraining, checkpoint: Checkpoint, name: str, progress: bool) -> Best:
    """Take the epochs that are left, with a progress bar and checkpoints."""
    with tqdm(
        total=training.config.epochs, initial=training.epoch, desc=name, unit="epoch", disable=not progress
    ) as bar:

        def after_epoch(training: ZSDebiasTraining) -> None:
            record = training.history[-1]
            bar.set_postfix(
                train=f"{record['train_loss']:.5g}",
                val=f"{record['val_loss']:.5g}",
                best=training.best.epoch,
                refresh=False,
            )
            bar.update()
            checkpoint.save_when_due(training.state_dict)

        best = training.run(after_epoch)
    if training.epoch < training.config.epochs and progress:
        print(f"stopped after epoch {training.epoch}: no better validation loss since epoch {best.epoch}")
    return best
