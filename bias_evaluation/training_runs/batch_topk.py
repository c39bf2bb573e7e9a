"""Training runs of DeBiasLens's autoencoder on disk: residuals and configuration → weights and a report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bias_evaluation.training_runs.checkpoint import Checkpoint
from bias_evaluation.training_runs.run import TrainingRun, run_resumably, sha256_tensor, take_steps
from bias_evaluation.training_runs.sae import split_rows
from bias_evaluation.weights.read import save_sae
from debiasing_methods.chunks import ROWS
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.batch_topk import BatchTopKConfig, BatchTopKTraining
from safe_io.arrays import check_matrix, check_rows
from safe_io.errors import as_input_error
from safe_io.provenance import build_versions


def run_batch_topk(
    residuals: Tensor,
    output: str | os.PathLike[str],
    config: BatchTopKConfig,
    *,
    holdout: float = 0.1,
    device: str = "cpu",
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    progress: bool = False,
) -> dict[str, Any]:
    """Train an autoencoder and write weights and report; continue where an earlier run was cut off.

    Parameters
    ----------
    residuals : Tensor of shape (n, w), float32
    output, holdout, device, overwrite, checkpoint_seconds, progress
        As for `bias_evaluation.training_runs.sae.run_training`.
    config : BatchTopKConfig

    Returns
    -------
    dict
        The report, as written: `training` and `held_out` (rows, `variance_explained`, `cosine`, `l0`),
        `dead_latents` (never positive on the training rows) and `threshold`.

    Raises
    ------
    InputError
        As `run_training` does.
    """
    check_matrix(residuals, "the residuals")
    check_rows(residuals, "the residuals")
    train_rows, held_out_rows = split_rows(len(residuals), holdout, config.seed)
    facts = {
        "kind": "batch-topk",
        "config": asdict(config),
        "holdout": holdout,
        "data": {"shape": list(residuals.shape), "sha256": sha256_tensor(residuals)},
    }
    run = TrainingRun(Path(output), facts)

    def train(training: BatchTopKTraining, keep: Checkpoint) -> tuple[dict[str, Any], Callable[[], None]]:
        sae = take_steps(training, config.steps, keep, progress)
        quality, positive = measure(sae, residuals[train_rows])
        held_out = measure(sae, residuals[held_out_rows])[0] if len(held_out_rows) else None
        found = {
            "versions": build_versions("torch", "numpy"),
            "training": quality,
            "held_out": held_out,
            "n_latents": sae.n_latents,
            "dead_latents": int((positive == 0).sum()),
            "threshold": sae.threshold,
        }
        return found, lambda: save_sae(run.weights, sae)

    with as_input_error(""):
        return run_resumably(
            run,
            lambda: BatchTopKTraining(residuals[train_rows], config, device=device),
            train,
            lambda training: f"step {training.step} of {config.steps}",
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
        )


def measure(sae: SparseAutoencoder, rows: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Measure an autoencoder, with its threshold, on residuals ``(n, w)``.

    Returns
    -------
    quality : dict
        `rows`; `variance_explained`, ``1 − Σ‖v − v̂‖² / Σ‖v − mean‖²`` (None where all rows are the same);
        `cosine`, mean of cos(v, v̂); `l0`, mean number of positive latents.
    positive : Tensor of shape (s,), int64
        Number of rows in which each latent is positive.
    """
    error, cosine, positive = 0.0, 0.0, torch.zeros(sae.n_latents, dtype=torch.int64)
    for v in rows.split(ROWS):
        latents = sae.encode(v)
        made = sae.decode(latents)
        error += float((made - v).double().square().sum())
        cosine += float(torch.nn.functional.cosine_similarity(made, v, dim=1).double().sum())
        positive += (latents > 0).sum(0)
    wide, n = rows.double(), len(rows)
    variance = float((wide - wide.mean(0)).square().sum())
    explained = 1 - error / variance if variance > 0 else None
    l0 = float(positive.sum()) / n
    return {"rows": n, "variance_explained": explained, "cosine": cosine / n, "l0": l0}, positive


def format_batch_topk(report: dict[str, Any]) -> str:
    """Render a report of `run_batch_topk` as a few lines."""
    lines = []
    for name in ("training", "held_out"):
        if (part := report[name]) is not None:
            explained = part["variance_explained"]
            shown = "–" if explained is None else f"{explained:.4f}"
            lines.append(
                f"{name.replace('_', ' ')}: {part['rows']} rows, variance explained {shown}, cosine "
                f"{part['cosine']:.4f}, L0 {part['l0']:.1f}"
            )
    dead, s = report["dead_latents"], report["n_latents"]
    lines.append(f"dead latents (never positive on the training rows): {dead} of {s} ({dead / s:.1%})")
    lines.append(f"threshold: {report['threshold']:.6g}")
    return "\n".join(lines)
