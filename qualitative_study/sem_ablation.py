"""What SEM turns down and what it turns up: bands of S_bias, lengths, and ablations of the weight.

For one retrieval setting of a dataset config. Three questions:

- Where is the bias signal of the queries, before and after? By band of S_bias.
- How long are the queries, measured from the SAE's pre-bias, before and after? Turning content up dilutes the
  bias.
- What does each part of the weight ``w = (1 + S_concept − S_bias)²`` do? With parts of it removed, fairness
  and precision as in the tables.

Symbols: Q queries, s latents, C bias classes, d embedding dimension; h latents of a query, m₀ their lower
median over the diverse prompts, w SEM's weight, see `debiasing_methods.sem`.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from bias_evaluation.display.figures import save_both
from bias_evaluation.display.palette import BLUE, GRAY, ORANGE
from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions
from qualitative_study.neuron_report import VARIANTS, find_key
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main
from safe_io.files import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from bias_evaluation.suite.workspace import Workspace
    from debiasing_methods.base import DebiasingMethod, QueryGroup
    from debiasing_methods.sem import Modulation, SparseEmbeddingModulation

    Weight = Callable[[Tensor, Tensor], Tensor]

OUTPUT_DIR = ROOT / "study_output" / "ablation"
BANDS = {"S_bias < 0.5": (-1.0, 0.5), "0.5 to 0.9": (0.5, 0.9), "at least 0.9": (0.9, 2.0)}


def _full(concept: Tensor, bias: Tensor) -> Tensor:
    return (1 + concept - bias) ** 2


ABLATIONS: Mapping[str, Weight] = {
    "w = 1 (the SAE alone)": lambda concept, bias: concept.new_ones(concept.shape),
    "SEM": _full,
    "only down: min(w, 1)": lambda concept, bias: _full(concept, bias).clamp(max=1),
    "only up: max(w, 1)": lambda concept, bias: _full(concept, bias).clamp(min=1),
    "S_bias = 0": lambda concept, bias: _full(concept, bias.new_zeros(bias.shape)),
    "S_concept = 0": lambda concept, bias: _full(concept.new_zeros(concept.shape), bias),
}


def class_means(images: Tensor, classes: Tensor) -> Tensor:
    """Mean unit image of each bias class, minus the mean over the classes.

    Parameters
    ----------
    images : Tensor of shape (N, d)
        Unit rows.
    classes : LongTensor of shape (N,)
        Bias class of each.

    Returns
    -------
    Tensor of shape (C, d)
    """
    import torch

    means = torch.stack([images[classes == c].mean(0) for c in range(int(classes.max()) + 1)])
    return means - means.mean(0)


def bias_signal(latents: Tensor, neutral: Tensor, response: Tensor, mask: Tensor) -> Tensor:
    """How far some latents of each query, beyond the neutral ones, pull the scores of the classes apart.

    Parameters
    ----------
    latents : Tensor of shape (Q, s)
    neutral : Tensor of shape (s,)
        m₀.
    response : Tensor of shape (C, s)
        What a unit of each latent adds to the score of each class: class means times decoder.
    mask : Tensor of bool, shape (Q, s)
        The latents that count.

    Returns
    -------
    Tensor of shape (Q,)
        Greatest minus least contribution over the classes.
    """
    contributions = ((latents - neutral) * mask) @ response.T
    return contributions.amax(1) - contributions.amin(1)


def tabulate_bands(modulation: Modulation, neutral: Tensor, response: Tensor) -> pd.DataFrame:
    """Describe what happens to the latents of each band of S_bias; means over the queries.

    Returns
    -------
    pandas.DataFrame
        One row per band: band, latents (in it), active (above 0 in a query), s_concept and weight (of the
        active ones), signal_before, signal_after (see `bias_signal`).
    """
    import pandas as pd

    rows = []
    for band, (low, high) in BANDS.items():
        mask = (modulation.bias >= low) & (modulation.bias < high)
        active = mask & (modulation.latents > 0)
        before, after = (
            bias_signal(latents, neutral, response, mask).mean().item()
            for latents in (modulation.latents, modulation.debiased)
        )
        rows.append(
            {
                "band": band,
                "latents": mask.sum(1).double().mean().item(),
                "active": active.sum(1).double().mean().item(),
                "s_concept": modulation.concept[active].mean().item(),
                "weight": modulation.weights[active].mean().item(),
                "signal_before": before,
                "signal_after": after,
            }
        )
    return pd.DataFrame(rows)


def tabulate_lengths(
    method: SparseEmbeddingModulation, modulation: Modulation, response: Tensor
) -> pd.DataFrame:
    """Compare queries before and after: length, bias signal, and their ratio; means over the queries.

    Returns
    -------
    pandas.DataFrame
        Rows before and after: length (of the decoded query minus the pre-bias), signal (of all latents, see
        `bias_signal`), and signal per length.
    """
    import pandas as pd
    import torch

    everything = torch.ones_like(modulation.latents, dtype=torch.bool)
    rows = []
    for name, latents in (("before", modulation.latents), ("after", modulation.debiased)):
        length = torch.linalg.vector_norm(method.sae.decode(latents) - method.sae.pre_bias, dim=1)
        signal = bias_signal(latents, method.neutral, response, everything)
        ratio = (signal / length).mean().item()
        rows.append((name, length.mean().item(), signal.mean().item(), ratio))
    return pd.DataFrame(rows, columns=["queries", "length", "signal", "signal_per_length"])


def run_ablations(
    workspace: Workspace, key: ResultKey, method: SparseEmbeddingModulation, groups: Sequence[QueryGroup]
) -> pd.DataFrame:
    """Measure fairness and precision with parts of the weight removed.

    Returns
    -------
    pandas.DataFrame
        One row per weight, "base" (undebiased) first: weight, kl, max_skew and, with labels, precision; means
        over folds and queries as in the tables.
    """
    import pandas as pd

    base = ResultKey(key.dataset, key.setting, key.backbone, workspace.config.methods["vanilla"], None)
    vanilla = workspace.methods.get(base)
    rows = [{"weight": "base", **_measure(workspace, key, vanilla, groups)}]
    for name, weight in ABLATIONS.items():
        changed = copy.copy(method)
        changed._weight = weight
        rows.append({"weight": name, **_measure(workspace, key, changed, groups)})
    return pd.DataFrame(rows)


def _measure(
    workspace: Workspace, key: ResultKey, method: DebiasingMethod, groups: Sequence[QueryGroup]
) -> dict[str, float]:
    from bias_evaluation.scoring.fold_scores import fold_scores
    from bias_evaluation.scoring.retrieval import evaluate_retrieval

    inputs, setting = workspace.inputs, key.setting
    scores = fold_scores(method, groups, inputs.images, inputs.data.val, _no_reference)
    names = [group.name for group in groups]
    records = evaluate_retrieval(
        scores,
        inputs.data.val,
        inputs.codes(setting.bias),
        setting.bias.values,
        workspace.options.retrieval_k,
        inputs.relevant(setting, names),
    )
    return {metric: float(values.mean()) for metric, values in records.items()}


def _no_reference() -> None:
    raise AssertionError("no SEM variant reads reference images")


def draw_figure(bands: pd.DataFrame, ablations: pd.DataFrame, title: str) -> Figure:
    """Draw where the bias signal is, how bands are weighed, and what each part of the weight does."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained")
    signal, weight, effect = figure.subplots(1, 3)
    places = np.arange(len(bands))
    signal.bar(places - 0.2, bands["signal_before"], 0.4, color=GRAY, label="before")
    signal.bar(places + 0.2, bands["signal_after"], 0.4, color=BLUE, label="after")
    signal.set_title("bias signal of the queries", fontsize=10)
    signal.legend(frameon=False)
    weight.bar(places, bands["weight"], 0.5, color=ORANGE)
    weight.axhline(1, color="black", linewidth=0.8, linestyle="--")
    weight.set_title("mean weight of active latents (1: unchanged)", fontsize=10)
    for axes in (signal, weight):
        axes.set_xticks(places, bands["band"])
    heights = ablations["kl"].to_numpy()
    effect.barh(np.arange(len(heights))[::-1], heights, color=[GRAY, GRAY] + [BLUE] * (len(heights) - 2))
    labels = ablations["weight"]
    if "precision" in ablations:
        labels = [f"{w}   (precision {p:.3f})" for w, p in zip(labels, ablations["precision"], strict=True)]
    effect.set_yticks(np.arange(len(heights))[::-1], labels, fontsize=8)
    effect.set_title("KL with parts of the weight removed", fontsize=10)
    figure.suptitle(title, fontsize=11)
    return figure


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="What SEM turns down and what it turns up: the bias signal by band of S_bias, lengths "
        "before and after, and fairness and precision with parts of the weight removed.",
        epilog="Writes ablation_<dataset>_<setting>_<backbone>_<method>.png and .pdf, …_bands.csv, "
        "…_lengths.csv and …_weights.csv. Needs image embeddings. Example: sem_ablation.py --config "
        "config/fairface.yml --setting stereotype_gender --backbone ViT-B-16",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="dataset config, e.g. config/fairface.yml")
    add("--setting", required=True, metavar="S", help="retrieval setting")
    add("--backbone", required=True, metavar="B", help="a backbone of the config")
    add("--method", choices=VARIANTS, default="sem-b", help="SEM variant (default: %(default)s)")
    add("--retrieval-k", type=int, metavar="K", help="number of retrieved images (default: the config's)")
    add("--prompts", metavar="NAME", help="prompt set (default: the config's)")
    add("--data-root", type=Path, metavar="DIR", help="folder of the dataset folders (default: data/)")
    add("--output-dir", type=Path, default=OUTPUT_DIR, metavar="DIR", help="default: study_output/ablation/")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)
    if args.retrieval_k is not None and args.retrieval_k < 1:
        raise InputError(f"--retrieval-k must be at least 1, got {args.retrieval_k}")

    import torch

    from bias_evaluation.suite.workspace import Workspace
    from debiasing_methods.sem import SparseEmbeddingModulation

    config = load_dataset_config(args.config)
    key = find_key(config, args.setting, args.backbone, args.method)
    if key.setting.task != "retrieval":
        raise InputError(f"--setting {args.setting} is no retrieval setting; ablations measure retrieval")
    if "vanilla" not in config.methods:
        raise InputError(
            f"{config.path.parent / 'methods.yml'} lacks 'vanilla', which ablations compare with"
        )
    options = RunOptions(
        data_root=args.data_root or config.root / "data",
        output_dir=args.output_dir,
        prompts=args.prompts or config.prompts,
        retrieval_k=config.retrieval_k if args.retrieval_k is None else args.retrieval_k,
    )
    workspace = Workspace(config, key.backbone, options)
    workspace.check([key])
    workspace.load([key])
    method = workspace.methods.get(key)
    assert isinstance(method, SparseEmbeddingModulation)
    groups = [
        workspace.inputs.embedder.group(group, key.method.name, method.needs)
        for group in workspace.inputs.prompts(key.setting).groups
    ]
    modulation = method.modulate(groups)
    stored = workspace.inputs.images
    images = stored.take(slice(0, len(stored)), normalize=True)
    codes = torch.from_numpy(workspace.inputs.codes(key.setting.bias))
    response = class_means(images, codes) @ method.sae.decoder_weight
    bands = tabulate_bands(modulation, method.neutral, response)
    lengths = tabulate_lengths(method, modulation, response)
    ablations = run_ablations(workspace, key, method, groups)
    stem = args.output_dir / f"ablation_{config.dataset}_{args.setting}_{key.backbone.stem}_{args.method}"
    for name, table in (("bands", bands), ("lengths", lengths), ("weights", ablations)):
        write_text(stem.with_name(f"{stem.name}_{name}.csv"), table.to_csv(index=False, float_format="%.6g"))
        print(table.round(3).to_string(index=False), end="\n\n")
    save_both(draw_figure(bands, ablations, f"{key.backbone.name}: {args.method} in {args.setting}"), stem)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
