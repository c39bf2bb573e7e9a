"""Training runs of the SAE on disk: data and configuration → weights and a report.

The report says how well the weights reconstruct, and what they were made from. `run` describes what is kept,
resumed and refused. Weights and report are the same to the last bit for the same data and configuration (on
the CPU, with the same versions and number of threads), whether or not the run was cut off in between.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.training_runs.checkpoint import Checkpoint
from bias_evaluation.training_runs.run import TrainingRun, run_resumably, sha256_tensor, take_steps
from bias_evaluation.training_runs.sae_report import reconstruction_quality
from bias_evaluation.weights.read import save_sae
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.hyperparameters import SaeTrainingConfig
from debiasing_methods.training.sae import SaeTraining
from safe_io.arrays import check_matrix, check_rows
from safe_io.errors import InputError, as_input_error
from safe_io.provenance import build_versions


def run_training(
    embeddings: Tensor,
    output: str | os.PathLike[str],
    config: SaeTrainingConfig,
    *,
    holdout: float = 0.1,
    device: str = "cpu",
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: bool = False,
) -> dict[str, Any]:
    """Train an SAE and write weights and report; go on where an earlier run was cut off.

    Parameters
    ----------
    embeddings : Tensor of shape (n, d), float32
        Raw embeddings.
    output : path-like
        Weights; ``.pth`` (the release's format) or ``.safetensors``.
    config : SaeTrainingConfig
    holdout : float
        Share of the rows that is kept from training, for the report alone; at least 0, below 1.
    device : str
        Where to train.
    overwrite : bool
        Whether weights or a checkpoint of another run at `output` may be replaced; finished weights of this
        very run are then made again.
    checkpoint_seconds : float
        Time between two checkpoints; 0 writes one after every step.
    progress : bool
        Whether to show progress bars.

    Returns
    -------
    dict
        The report, as written.

    Raises
    ------
    InputError
        The embeddings are unusable, `holdout` leaves no row to train on, training diverged, files of another
        run are in the way, or another process is making this very output.
    """
    check_matrix(embeddings, "the embeddings")
    check_rows(embeddings, "the embeddings")
    training_rows, held_out_rows = split_rows(len(embeddings), holdout, config.seed)
    facts = {
        "config": _recorded(config),
        "level_weights": list(config.level_weights),
        "holdout": holdout,
        "data": {"shape": list(embeddings.shape), "sha256": sha256_tensor(embeddings)},
    }
    run = TrainingRun(Path(output), facts)

    def train(training: SaeTraining, checkpoint: Checkpoint) -> tuple[dict[str, Any], Callable[[], None]]:
        sae = take_steps(training, training.total_steps, checkpoint, progress).to(device)
        quality = _quality(sae, embeddings.to(device), training_rows, held_out_rows, config, progress)
        return {"versions": build_versions("torch", "numpy"), **quality}, lambda: save_sae(run.weights, sae)

    with as_input_error(""):
        return run_resumably(
            run,
            lambda: SaeTraining(embeddings[training_rows], config, device=device),
            train,
            lambda training: f"step {training.step} of {training.total_steps}",
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
        )


def _recorded(config: SaeTrainingConfig) -> dict[str, Any]:
    """Return the configuration for the record; without l1 = 0, so that runs without it keep their digests."""
    values = {**asdict(config), "levels": list(config.all_levels)}
    return values if config.l1 else {name: v for name, v in values.items() if name != "l1"}


def split_rows(n: int, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, each ascending."""
    if not 0 <= holdout < 1:
        raise InputError(f"holdout must be at least 0 and below 1, got {holdout}")
    held_out = round(holdout * n)
    if held_out == n:
        raise InputError(f"a holdout of {holdout} leaves none of {n} rows to train on")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    return order[held_out:].sort().values, order[:held_out].sort().values


def _quality(
    sae: SparseAutoencoder,
    embeddings: Tensor,
    training_rows: Tensor,
    held_out_rows: Tensor,
    config: SaeTrainingConfig,
    progress: bool,
) -> dict[str, Any]:
    """Measure the weights on the rows they were trained on and on those held out."""
    levels = config.all_levels
    training, positive = reconstruction_quality(sae, embeddings[training_rows], levels, progress=progress)
    held_out = None
    if len(held_out_rows):
        held_out, _ = reconstruction_quality(sae, embeddings[held_out_rows], levels, progress=progress)
    return {"training": training, "held_out": held_out, "dead_latents": int((positive == 0).sum())}
