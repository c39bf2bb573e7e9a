"""A training run on disk: what is kept, what is resumed, what is refused, and the report of it.

``<stem>.report.json`` is beside the weights: the facts they were made from, a digest of those, and what the
training found. Weights that exist are kept if their report has the digest of this run. Those of another run
are an error unless they may be overwritten. An unfinished run leaves a checkpoint; the same run resumes it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor
from tqdm import tqdm

from bias_evaluation.training_runs.checkpoint import Checkpoint
from safe_io.errors import InputError
from safe_io.files import read_json, sha256_file, sha256_json, write_json
from safe_io.locks import exclusive


class Resumable(Protocol):
    """A training whose state can be kept and restored."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs, beside data and configuration."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""


Training = TypeVar("Training", bound=Resumable)


def beside(weights: str | os.PathLike[str], ending: str) -> Path:
    """Return the name of a file beside weights: ``<stem>.<ending>``."""
    weights = Path(weights)
    return weights.with_name(f"{weights.stem}.{ending}")


def report_path(weights: str | os.PathLike[str]) -> Path:
    """Return the name of the report of weights: ``<stem>.report.json``."""
    return beside(weights, "report.json")


def sha256_tensor(x: Tensor) -> str:
    """Return the SHA-256 of a tensor's numbers, row by row, as hex."""
    return hashlib.sha256(np.ascontiguousarray(x.cpu().numpy())).hexdigest()


@dataclass(frozen=True)
class TrainingRun:
    """One run: the weights that it makes, and what it makes them from.

    Attributes
    ----------
    weights : pathlib.Path
    facts : mapping
        All that the weights depend on, as plain values.
    made_from, elsewhere : str
        For error lines: what the facts are, and what to choose so that the weights get another name.
    report_first : bool
        Whether the report is written before the weights. Weights that do not fit a report of this run are
        then from before a kill in between, and are made again. Otherwise they were changed, and are refused.
    """

    weights: Path
    facts: Mapping[str, Any]
    made_from: str = "this data and configuration"
    elsewhere: str = "another --output"
    report_first: bool = False

    @cached_property
    def digest(self) -> str:
        """Digest of the facts."""
        return sha256_json(self.facts)

    def finished(self, *, overwrite: bool) -> dict[str, Any] | None:
        """Return the report of weights that this very run has made; None if they are to be made.

        Raises
        ------
        InputError
            The weights are of another run and may not be overwritten.
        """
        if overwrite or not self.weights.exists():
            return None
        path = report_path(self.weights)
        report = read_json(path, "report of a training") if path.is_file() else {}
        same = isinstance(report, dict) and report.get("digest") == self.digest
        if same and report.get("weights_sha256") == sha256_file(self.weights):
            return report
        if same and self.report_first:
            return None
        raise InputError(
            f"{self.weights} exists and was not made from {self.made_from}; choose {self.elsewhere}, or "
            f"replace it with --overwrite"
        )

    def write_report(self, found: Mapping[str, Any], weights: Path | None = None) -> dict[str, Any]:
        """Write the report, and return it.

        Parameters
        ----------
        found : mapping
            What the training found, as plain values.
        weights : pathlib.Path, optional
            Where the weights are until they get their name.
        """
        sha256 = sha256_file(weights or self.weights)
        report = {"digest": self.digest, **self.facts, **found, "weights_sha256": sha256}
        write_json(report_path(self.weights), report)
        return report


def take_steps(training: Any, total: int, checkpoint: Checkpoint, progress: bool) -> Any:
    """Take the steps that are left, with a progress bar and checkpoints; give what the training gives.

    Parameters
    ----------
    training : SaeTraining or BatchTopKTraining
        With `step`, `state_dict` and ``run(after_step)``.
    total : int
        Its steps in all.
    checkpoint : Checkpoint
    progress : bool
        Whether to show the bar.
    """
    with tqdm(
        total=total, initial=training.step, desc="training SAE", unit="step", disable=not progress
    ) as bar:

        def after_step(training: Any, loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
            bar.update()
            checkpoint.save_when_due(training.state_dict)

        return training.run(after_step)


def run_resumably(
    run: TrainingRun,
    start: Callable[[], Training],
    train: Callable[[Training, Checkpoint], tuple[Mapping[str, Any], Callable[[], None]]],
    position: Callable[[Training], str],
    *,
    overwrite: bool,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """Train and write all files, from the beginning or from where an earlier run was cut off.

    Parameters
    ----------
    run : TrainingRun
    start : callable
        Makes the training at its first step.
    train : callable
        Takes the remaining steps and keeps the checkpoint. Returns what the training found, for the report,
        and a function that writes the weights and whatever else is beside them.
    position : callable
        Says where a training is, as "step 3 of 12".
    overwrite : bool
        Whether weights or a checkpoint of another run may be replaced; finished weights of this very run are
        then made again.
    checkpoint_seconds : float
        Least time between two checkpoints; 0 writes every one.

    Returns
    -------
    dict
        The report, as written.

    Raises
    ------
    InputError
        Files of another run are in the way, or another process is making the same weights.
    """
    with exclusive(run.weights):
        checkpoint = Checkpoint(run.weights, run.digest, checkpoint_seconds)
        state = checkpoint.load(overwrite=overwrite)
        # A checkpoint of this run says that the weights may be replaced: that was asked for when it began.
        if (done := run.finished(overwrite=overwrite or state is not None)) is not None:
            print(f"kept {run.weights}: trained before with {run.made_from} (--overwrite trains again)")
            return done
        training = start()
        if state is not None:
            checkpoint.restore(training.load_state_dict, state)
            print(f"{checkpoint.path}: going on after {position(training)}")
        found, write = train(training, checkpoint)
        checkpoint.save(training.state_dict())  # a kill between two files then leaves a run that is resumed
        write()
        report = run.write_report(found)
        checkpoint.remove()
        return report
