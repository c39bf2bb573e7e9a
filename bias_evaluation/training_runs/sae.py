"""A training run of the SAE on disk: it goes on where it was cut off, and says what it made.

The files of a run: the weights, ``<stem>.report.json`` beside them (how well they reconstruct, and what they
were made from), and while it runs ``<output>.checkpoint``. Weights and report are the same to the last bit
for the same data and configuration (on the CPU, with the same versions and number of threads), whether or not
the run was cut off in between.

What is there already is replaced only where that is asked for: a finished run with the same digest (of data
and configuration) is kept, an unfinished one goes on, and one with another digest is an error.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bias_evaluation.training_runs.checkpoint import Checkpoint
from bias_evaluation.training_runs.sae_report import reconstruction_quality
from bias_evaluation.weights.read import save_sae
from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.training.sae import SaeTraining, SaeTrainingConfig
from safe_io.arrays import check_matrix, check_rows
from safe_io.errors import InputError, as_input_error
from safe_io.files import (
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from safe_io.locks import exclusive


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
    with exclusive(output), as_input_error(""):
        return _run(
            embeddings,
            Path(output),
            config,
            holdout=holdout,
            device=device,
            overwrite=overwrite,
            checkpoint_seconds=checkpoint_seconds,
            progress=progress,
        )


def _recorded(config: SaeTrainingConfig) -> dict[str, Any]:
    """Return the configuration for the record; without l1 = 0, so that runs without it keep their digests."""
    values = {**asdict(config), "levels": list(config.all_levels)}
    return values if config.l1 else {name: v for name, v in values.items() if name != "l1"}


def _run(
    embeddings: Tensor,
    output: Path,
    config: SaeTrainingConfig,
    *,
    holdout: float,
    device: str,
    overwrite: bool,
    checkpoint_seconds: float,
    progress: bool,
) -> dict[str, Any]:
    """Do the work of `run_training`, alone at its output."""
    training_rows, held_out_rows = _split(len(embeddings), holdout, config.seed)
    facts = {
        "config": _recorded(config),
        "level_weights": list(config.level_weights),
        "holdout": holdout,
        "data": {"shape": list(embeddings.shape), "sha256": _sha256_tensor(embeddings)},
    }
    digest = sha256_json(facts)
    checkpoint = Checkpoint(output, digest, checkpoint_seconds)
    state = checkpoint.load(overwrite=overwrite)
    # A checkpoint of this run says that its output may be replaced: it was asked for when the run began.
    if (done := _finished(output, digest, overwrite or state is not None)) is not None:
        print(f"kept {output}: trained before with this data and configuration (--overwrite trains anew)")
        return done

    training = SaeTraining(embeddings[training_rows], config, device=device)
    if state is not None:
        checkpoint.restore(training.load_state_dict, state)
        print(f"{checkpoint.path}: going on after step {training.step} of {training.total_steps}")
    sae = _train(training, checkpoint, progress)
    report = {
        "digest": digest,
        **facts,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        **_quality(sae.to(device), embeddings.to(device), training_rows, held_out_rows, config, progress),
    }
    checkpoint.save(training.state_dict())  # a kill between the two files must not leave weights that block
    save_sae(output, sae)
    report["weights_sha256"] = sha256_file(output)
    write_json(report_path(output), report)
    checkpoint.remove()
    return report


def report_path(output: str | os.PathLike[str]) -> Path:
    """Return where the report of weights lies: ``<stem>.report.json`` beside them."""
    output = Path(output)
    return output.with_name(f"{output.stem}.report.json")


def _split(n: int, holdout: float, seed: int) -> tuple[Tensor, Tensor]:
    """Rows to train on and rows held out, each ascending."""
    if not 0 <= holdout < 1:
        raise InputError(f"holdout must be at least 0 and below 1, got {holdout}")
    held_out = round(holdout * n)
    if held_out == n:
        raise InputError(f"a holdout of {holdout} leaves none of {n} rows to train on")
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    return order[held_out:].sort().values, order[:held_out].sort().values


def _sha256_tensor(x: Tensor) -> str:
    return hashlib.sha256(np.ascontiguousarray(x.cpu().numpy())).hexdigest()


def _finished(output: Path, digest: str, may_replace: bool) -> dict[str, Any] | None:
    """Return the report of finished weights of this very run; None where there is a run to do."""
    if not output.exists() or may_replace:
        return None
    beside = report_path(output)
    report = read_json(beside, "report of an SAE") if beside.is_file() else {}
    if report.get("digest") != digest or report.get("weights_sha256") != sha256_file(output):
        raise InputError(
            f"{output} exists and was not made from this data and configuration; choose another --output, or "
            f"replace it with --overwrite"
        )
    return report


def _train(training: SaeTraining, checkpoint: Checkpoint, progress: bool) -> SparseAutoencoder:
    """Take the steps that are left, with a progress bar and checkpoints."""
    with tqdm(
        total=training.total_steps,
        initial=training.step,
        desc="training SAE",
        unit="step",
        disable=not progress,
    ) as bar:

        def after_step(training: SaeTraining, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update()
            checkpoint.save_when_due(training.state_dict)

        return training.run(after_step)


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
