"""Draw the disentanglement scores from the experiments' JSON files.

One panel a backbone, bars a bias attribute. CLIP stands beside CLIP + SAE, with the spread as error bar;
``--published`` puts the paper's figures beside ours. Series differ in lightness and hatching, so that the
figure reads in print and with any colour vision.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bias_evaluation.display.figures import save_both
from disentanglement_study.score import Score, score_means
from safe_io.checkout import ROOT
from safe_io.command_line import ArgumentParser
from safe_io.documents import Section, read_yaml, unknown
from safe_io.errors import InputError, run_main
from safe_io.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OUTPUT_DIR = ROOT / "study_output" / "disentanglement"
PUBLISHED = Path(__file__).resolve().parent / "published.yml"
NAME = "disentanglement_score_plot"
_FIRST = ("ViT-B-16", "ViT-L-14@336px")


@dataclass(frozen=True)
class Bar:
    """One score: of a backbone, a bias attribute and a feature ('clip' or 'sae'), ours or the paper's."""

    backbone: str
    bias: str
    feature: str
    published: bool
    score: Score


# (feature, published) → label, fill and hatching, in the order of the bars: CLIP light, SAE dark, and the
# paper hatched.
_SERIES: dict[tuple[str, bool], dict[str, Any]] = {
    ("clip", False): {"label": "CLIP", "facecolor": "#9CC9E8"},
    ("clip", True): {"label": "CLIP, published", "facecolor": "white", "hatch": "////"},
    ("sae", False): {"label": "CLIP + SAE", "facecolor": "#3D7EB8"},
    ("sae", True): {"label": "CLIP + SAE, published", "facecolor": "#A6A6A6", "hatch": "...."},
}


def read_bars(folder: Path) -> list[Bar]:
    """Read the results of a folder.

    Raises
    ------
    InputError
        There is none, or a file is not a result of the study.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(
            f"no results in {folder}; run disentanglement_study/disentanglement_experiment.py first"
        )
    return sorted(map(_read_bar, paths), key=lambda bar: _place(bar.backbone))


def _place(backbone: str) -> int:
    """Place of a backbone among the panels: those of the paper's figure first."""
    return _FIRST.index(backbone) if backbone in _FIRST else len(_FIRST)


def _read_bar(path: Path) -> Bar:
    record = read_json(path, "result of the disentanglement study")
    try:
        score = Score(**record["score"])
        return Bar(record["backbone"], record["bias"], record["feature"], False, score)
    except (KeyError, TypeError):
        raise InputError(f"{path} is not a result of the disentanglement study; move it away") from None


def published_bars() -> list[Bar]:
    """Score the paper's accuracies."""
    bars = []
    for entry in read_yaml(PUBLISHED, "published figures"):
        section = Section(entry, str(PUBLISHED))
        names = [section.take(key, str) for key in ("backbone", "bias", "feature")]
        chance = 1 / section.take("values", int)
        score = score_means(*section.take("direct", list), *section.take("leak", list), chance)
        bars.append(Bar(*names, True, score))
    return bars


def draw_figure(bars: Sequence[Bar]) -> Figure:
    """Draw all bars, one panel a backbone, one legend for all.

    Parameters
    ----------
    bars : sequence of Bar

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    backbones = list(dict.fromkeys(bar.backbone for bar in bars))
    biases = list(dict.fromkeys(bar.bias for bar in bars))
    series = [key for key in _SERIES if any((bar.feature, bar.published) == key for bar in bars)]
    columns = min(2, len(backbones))
    rows = -(-len(backbones) // columns)
    width = max(4.2, columns * (1.2 + 0.4 * len(series) * len(biases)))
    figure = Figure(figsize=(width, 0.8 + 3.0 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, backbone in zip(panels.flat, backbones, strict=False):
        own = {(b.bias, b.feature, b.published): b.score for b in bars if b.backbone == backbone}
        _draw_panel(axes, own, biases, series)
        axes.set_title(backbone, fontsize=11)
    for axes in panels.flat[len(backbones) :]:
        axes.set_visible(False)
    panels[0, 0].set_ylim(*_limits([bar.score for bar in bars]))
    for axes in panels[:, 0]:
        axes.set_ylabel("D (1 is disentangled)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def _limits(scores: Sequence[Score]) -> tuple[float, float]:
    """Limits of the axis of D, with room for the numbers over the bars."""
    ends = [(s.value - s.spread, s.value + s.spread) for s in scores if s.value is not None]
    lowest = min((low for low, _ in ends), default=0.0)
    return (lowest - 0.03 if lowest < 0 else 0.0), max([1.0, *(high for _, high in ends)]) + 0.1


def _draw_panel(
    axes: Axes,
    scores: dict[tuple[str, str, bool], Score],
    biases: Sequence[str],
    series: Sequence[tuple[str, bool]],
) -> None:
    width = 0.8 / len(series)
    for position, key in enumerate(series):
        centers = [i + (position - (len(series) - 1) / 2) * width for i in range(len(biases))]
        found = [scores.get((bias, *key)) for bias in biases]
        heights = [0.0 if s is None or s.value is None else s.value for s in found]
        axes.bar(centers, heights, 0.92 * width, edgecolor="black", linewidth=0.8, **_SERIES[key])
        for x, score in zip(centers, found, strict=True):
            _label_bar(axes, x, score, published=key[1])
    axes.set_xticks(range(len(biases)), biases)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _label_bar(axes: Axes, x: float, score: Score | None, *, published: bool) -> None:
    """Draw a bar's spread and value; where there is no bar, say why. The paper has two backbones only."""
    if score is not None and score.value is not None:
        axes.errorbar(x, score.value, score.spread, color="black", capsize=3, linewidth=1)
        top = max(score.value + score.spread, 0) + 0.02
        axes.text(x, top, f"{score.value:.2f}", ha="center", va="bottom", fontsize=8)
    elif not published:
        text = "no result" if score is None else "undefined"
        axes.text(x, 0.02, text, rotation=90, ha="center", va="bottom", fontsize=8)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--backbones": "--backbone"},
        description=f"Draw {NAME}.png and .pdf from the JSON files of "
        "disentanglement_experiment.py: disentanglement scores, one panel a backbone, CLIP beside CLIP + "
        "SAE.",
        epilog="With --published and no results, the paper's figures alone are drawn.",
    )
    add = parser.add_argument
    add(
        "--results",
        type=Path,
        default=OUTPUT_DIR,
        metavar="DIR",
        help="folder of the JSON files (default: study_output/disentanglement/)",
    )
    add(
        "--backbone",
        nargs="+",
        metavar="B",
        help="only these, in this order (default: all that have results)",
    )
    add(
        "--published",
        action="store_true",
        help="put the paper's figures (ViT-B-16, ViT-L-14@336px) beside ours",
    )
    add(
        "--output-dir",
        type=Path,
        metavar="DIR",
        help="where the figure goes (default: the folder of the results)",
    )
    return parser


def select(bars: Sequence[Bar], backbones: Sequence[str] | None) -> list[Bar]:
    """Keep the bars of some backbones, in their order."""
    if backbones is None:
        return list(bars)
    there = list(dict.fromkeys(bar.backbone for bar in bars))
    for name in backbones:
        if name not in there:
            raise unknown("backbone", name, there, "--backbone")
    return [bar for name in backbones for bar in bars if bar.backbone == name]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)
    paper = published_bars() if args.published else []
    alone = args.published and not any(args.results.glob("*.json"))
    ours = [] if alone else read_bars(args.results)
    beside = [bar for bar in paper if alone or bar.backbone in {own.backbone for own in ours}]
    bars = select([*ours, *beside], args.backbone)
    save_both(draw_figure(bars), (args.output_dir or args.results) / NAME)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
