"""Draw every version's sentences in the plane of their two principal components, by bias value.

One panel a version, each with a PCA of its own, on shared axes: the further the bias values lie apart, the
more of the embeddings' spread is the bias. Values differ in marker and lightness as well as colour.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from bias_evaluation.display.figures import save_both
from bias_evaluation.display.palette import BLACK, BLUE, GREEN, PURPLE, SKY_BLUE, VERMILION, YELLOW
from qualitative_study.options import build_parser
from safe_io.errors import run_main
from safe_io.files import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from qualitative_study.versions import VersionMaker

SEED = 42
# A light color and a dark one first. The neutral sentences are crosses.
_COLORS = (YELLOW, BLUE, BLACK, GREEN, VERMILION, SKY_BLUE, PURPLE)
_MARKERS = ("o", "s", "^", "D", "v", "P", "*")
_NEUTRAL = ("#707070", "x")


@dataclass(frozen=True, eq=False)
class Plane:
    """A version in the plane of its two principal components.

    Attributes
    ----------
    points : numpy.ndarray of shape (B + 1, P, 2)
        The neutral sentences last.
    explained : float
        Share of the variance that the plane holds.
    """

    points: np.ndarray
    explained: float


def project(version: Tensor) -> Plane:
    """Project the sentences ``(B + 1, P, d)`` of a version on their two principal components."""
    from sklearn.decomposition import PCA

    rows = version.reshape(-1, version.shape[-1]).double().numpy()
    pca = PCA(n_components=2, random_state=SEED)
    points = pca.fit_transform(rows).reshape(*version.shape[:2], 2)
    return Plane(points, float(pca.explained_variance_ratio_.sum()))


def draw_figure(planes: Mapping[str, Plane], values: Sequence[str]) -> Figure:
    """Draw one panel a version.

    Parameters
    ----------
    planes : mapping
        Version → its plane.
    values : sequence of str
        Bias values, in the order of the planes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    from qualitative_study.versions import display_name

    figure = Figure(figsize=(3.0 * len(planes) + 0.5, 4.2), layout="constrained")
    panels = figure.subplots(1, len(planes), sharex=True, sharey=True, squeeze=False)[0]
    styles = [*_styles(values), _NEUTRAL]
    reach = 1.08 * max(float(np.abs(plane.points).max()) for plane in planes.values())
    for axes, (name, plane) in zip(panels, planes.items(), strict=True):
        series = zip(plane.points, [*values, "neutral"], styles, strict=True)
        for i, (points, label, (color, marker)) in enumerate(series):
            # later series are smaller: where embeddings coincide, those below still show
            line = {"linewidths": 1.0} if marker == "x" else {"linewidths": 0.5, "edgecolors": "black"}
            axes.scatter(*points.T, s=max(14, 56 - 26 * i), c=color, marker=marker, label=label, **line)
        axes.set_title(f"{display_name(name)}\n({plane.explained:.0%} of variance)", fontsize=10)
        axes.set_xlabel("1st component")
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        axes.locator_params(nbins=5)
        axes.grid(alpha=0.25)
        axes.set_axisbelow(True)
    panels[0].set_ylabel("2nd component")
    handles, labels = panels[0].get_legend_handles_labels()
    columns = min(len(labels), 3 * len(planes))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)
    return figure


def _styles(values: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and marker of each bias value; a value that is itself a colour is drawn in it."""
    from matplotlib.colors import is_color_like

    own = all(map(is_color_like, values))
    # after each round of colours the markers move on by one: 49 pairs before one comes again
    pairs = (
        (color, _MARKERS[(i + turn) % len(_MARKERS)]) for turn in count() for i, color in enumerate(_COLORS)
    )
    return [(value if own else color, marker) for value, (color, marker) in zip(values, pairs, strict=False)]


def tabulate(planes: Mapping[str, Plane], values: Sequence[str], subjects: Sequence[str]) -> pd.DataFrame:
    """List every point: columns version, value, subject, x, y."""
    import pandas as pd

    rows = [
        (name, value, subject, *plane.points[b, p])
        for name, plane in planes.items()
        for b, value in enumerate([*values, "neutral"])
        for p, subject in enumerate(subjects)
    ]
    return pd.DataFrame(rows, columns=["version", "value", "subject", "x", "y"])


def file_stem(maker: VersionMaker) -> str:
    """Name the files: ``pca_<subject>_<bias attribute>``, and the backbone where it is not the config's."""
    parts = ["pca", maker.config.subject, maker.bias_attribute]
    if maker.backbone != maker.config.backbone(maker.study.backbone):
        parts.append(maker.backbone.stem)
    return "_".join(re.sub(r"[^\w@.-]+", "-", part) for part in parts)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(
        "Draw sentences that differ in a bias value in the plane of their two principal components, one "
        "panel a debiased version.",
        "Writes pca_<subject>_<bias attribute>.png and .pdf, and the points as .csv; _<backbone> follows "
        "where it is not the config's. Example: pca.py --versions vanilla orth-proj sem-b-neutral",
    )
    args = parser.parse_args(argv)

    from qualitative_study.versions import open_maker

    maker = open_maker(args)
    planes = {name: project(version) for name, version in maker.make(args.versions).items()}
    stem = args.output_dir / file_stem(maker)
    table = tabulate(planes, maker.study.biases, maker.config.subjects)
    write_text(stem.with_name(f"{stem.name}.csv"), table.to_csv(index=False, float_format="%.6f"))
    save_both(draw_figure(planes, maker.study.biases), stem)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
