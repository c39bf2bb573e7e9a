"""Training runs of ZSDebias on disk: data and configuration → weights, losses and a report.

Beside the weights are ``<stem>.losses.csv``, ``<stem>.losses.png`` and ``<stem>.report.json`` (what the
weights were made from, and how training went). `run` describes what is kept, resumed and refused. All files
are the same to the last bit for the same data and configuration (on the CPU, with the same versions and
number of threads), whether or not the run was cut off in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from bias_evaluation.training_runs.checkpoint import Checkpoint
from bias_evaluation.training_runs.run import TrainingRun, beside, run_resumably, sha256_tensor
from bias_evaluation.training_runs.zsdebias_report import plot_losses, write_losses
from debiasing_methods.training.hyperparameters import ZSDebiasTrainingConfig
from debiasing_methods.training.zsdebias import NEAREST_SENTENCES, Best, ZSDebiasTraining, bias_targets
from safe_io.errors import InputError, as_input_error
from safe_io.files import save_weights
from safe_io.provenance import build_versions

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
            "images": {"shape": list(images.shape), "sha256": sha256_tensor(images)},
            "corpus": {"shape": list(corpus.shape), "sha256": sha256_tensor(corpus)},
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
    run = TrainingRun(
        Path(output), {"config": asdict(config), "data": data.facts}, elsewhere="another output folder"
    )

    def train(
        training: ZSDebiasTraining, checkpoint: Checkpoint
    ) -> tuple[dict[str, Any], Callable[[], None]]:
        best = _train(training, checkpoint, run.weights.stem, progress)
        return _findings(training, best), lambda: _write(run.weights, training, best, data.facts)

    with as_input_error(""):
        return run_resumably(
            run,
            lambda: _start(data, config),
            train,
            lambda training: f"epoch {training.epoch}",
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
        )


def _start(data: TrainingData, config: ZSDebiasTrainingConfig) -> ZSDebiasTraining:
    """Begin a training; says so if its batches are smaller than asked for."""
    training = ZSDebiasTraining(data.images, data.targets, config)
    if training.batch_size < config.batch_size:
        print(
            f"note: {training.batch_size} training rows are fewer than a batch of {config.batch_size}: an "
            f"epoch is one batch of all of them"
        )
    return training


def _findings(training: ZSDebiasTraining, best: Best) -> dict[str, Any]:
    """Say how training went, for the report."""
    return {
        "versions": build_versions("torch", "numpy"),
        "rows": {"training": len(training.training_rows), "validation": len(training.validation_rows)},
        "epochs_run": training.epoch,
        "best": training.history[best.epoch - 1],
    }


def _write(weights: Path, training: ZSDebiasTraining, best: Best, facts: Mapping[str, Any]) -> None:
    """Write weights and losses."""
    nested = weights.suffix != ".safetensors"
    save_weights(weights, release_form(best, training.config, facts, nested=nested))
    write_losses(beside(weights, "losses.csv"), training.history)
    plot_losses(beside(weights, "losses.png"), training.history, best_epoch=best.epoch, title=weights.stem)


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
