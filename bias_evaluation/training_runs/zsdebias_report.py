"""The losses of a ZSDebias training run, as a CSV and as a plot."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bias_evaluation.display.figures import save_figure
from bias_evaluation.display.palette import BLUE, GRAY, VERMILION
from safe_io.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def write_losses(path: str | os.PathLike[str], history: Sequence[Mapping[str, float]]) -> None:
    """Write one row an epoch, with every figure at full precision, atomically.

    Parameters
    ----------
    path : path-like
    history : sequence of mapping
        `ZSDebiasTraining.history`: epoch, learning_rate, beta; then loss and its unweighted terms of the
        training batches (``train_…``) and the validation batches (``val_…``).
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    write_text(path, text.getvalue())


def plot_losses(
    path: str | os.PathLike[str], history: Sequence[Mapping[str, float]], *, best_epoch: int, title: str
) -> None:
    """Plot the loss, and the two alignments that it moves, over the epochs; PNG, written atomically.

    Parameters
    ----------
    path : path-like
        Ends in ``.png``.
    history : sequence of mapping
        As for `write_losses`.
    best_epoch : int
        The epoch whose model is kept.
    title : str
        Name of the model.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)  # a figure of its own: nothing of the caller's plots is touched
    losses, alignments = figure.subplots(1, 2)
    _draw(losses, history, {"training": "train_loss", "validation": "val_loss"})
    if all(record[name] > 0 for record in history for name in ("train_loss", "val_loss")):
        losses.set_yscale("log")
    losses.set_ylabel("loss")
    labels = {"z_s and bias target": "val_bias_alignment", "z_i and z_s": "val_half_alignment"}
    _draw(alignments, history, labels)
    alignments.set_ylabel("kernel CKA, validation")
    for axes in (losses, alignments):
        axes.axvline(best_epoch, color=GRAY, linestyle=":", label=f"kept: epoch {best_epoch}")
        axes.set_xlabel("epoch")
        axes.legend()
    figure.suptitle(title)
    save_figure(figure, Path(path), dpi=120)


def _draw(axes: Axes, history: Sequence[Mapping[str, float]], columns: Mapping[str, str]) -> None:
    epochs = [record["epoch"] for record in history]
    styles = ((BLUE, "-"), (VERMILION, "--"))  # dashes tell the lines apart without color
    for (label, column), (color, line) in zip(columns.items(), styles, strict=True):
        marker = "o" if len(history) == 1 else None  # a line of one point would not show
        values = [record[column] for record in history]
        axes.plot(epochs, values, color=color, linestyle=line, marker=marker, label=label)
