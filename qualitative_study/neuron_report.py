"""Say what exactly SEM turned down.

The latents with the highest S_bias, the prompts that activate them most, and each query's weights.
For a task setting of a dataset config (its queries, bias prompts and diverse prompts) and any backbone.
Latents are ordered by S_bias; where it is equal, as it often is at 1, by how much the debiased embeddings
move through the latent: ``mean over queries of |w − 1|·|h − m₀|·‖its decoder column‖``.

Symbols: h latents of a query, m₀ their lower median over the diverse prompts, w SEM's weight (below 1 the
latent is turned down towards m₀), see `debiasing_methods.sem`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from bias_evaluation.display.figures import save_both
from bias_evaluation.grid.configs import DatasetConfig, load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions
from qualitative_study.options import add_text_options
from safe_io.checkout import ROOT
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.files import write_text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor

    from bias_evaluation.prompts.sentences import SettingPrompts
    from bias_evaluation.suite.workspace import Workspace
    from debiasing_methods.sem import Modulation, SparseEmbeddingModulation

OUTPUT_DIR = ROOT / "study_output" / "neurons"
VARIANTS = ("sem-b", "sem-bi")
_DRAWN = 40  # characters of a prompt, and latents, that the figure shows


@dataclass(frozen=True, eq=False)
class Report:
    """What SEM does in one task setting (Q queries, k chosen latents, C bias classes).

    Attributes
    ----------
    latents : pandas.DataFrame
        One row a chosen latent, in order: latent, s_bias, bias_class (the one it answers to most), neutral
        (m₀), mean_weight, movement, and for each of the prompts that activate it most prompt_i and
        activation_i.
    weights : pandas.DataFrame
        One row a query and chosen latent: query, latent, s_concept, s_bias, weight, before (h), neutral (m₀)
        and after, ``w·h + (1 − w)·m₀``.
    """

    latents: pd.DataFrame
    weights: pd.DataFrame


def order_latents(
    method: SparseEmbeddingModulation, modulation: Modulation, top: int
) -> tuple[Tensor, Tensor]:
    """Choose the latents to report.

    Returns
    -------
    chosen : LongTensor of shape (k,)
        The first `top` by S_bias (its mean over the queries), then by movement, then by index.
    movement : Tensor of shape (s,)
        How far the embeddings move through each latent, on their own scale, mean over the queries.
    """
    import torch

    change = (modulation.debiased - modulation.latents).abs().mean(0)
    movement = change * torch.linalg.vector_norm(method.sae.decoder_weight, dim=0)
    bias = modulation.bias.mean(0)
    order = np.lexsort((-movement.cpu().numpy(), -bias.cpu().numpy()))  # the last key is the first to count
    return torch.from_numpy(order[:top].copy()).to(bias.device), movement


def make_report(workspace: Workspace, key: ResultKey, *, top: int, prompts_shown: int) -> Report:
    """Say what SEM does to the latents with the highest S_bias.

    Parameters
    ----------
    workspace : Workspace
    key : ResultKey
        The setting, backbone and SEM variant.
    top : int
        Number of latents.
    prompts_shown : int
        Number of prompts that are named for each latent.
    """
    import pandas as pd

    from debiasing_methods.sem import SparseEmbeddingModulation, class_scores

    setting = workspace.inputs.prompts(key.setting)
    workspace.inputs.ensure_text([key])
    method = workspace.methods.get(key)
    assert isinstance(method, SparseEmbeddingModulation)
    groups = [
        workspace.inputs.embedder.group(group, key.method.name, method.needs) for group in setting.groups
    ]
    modulation = method.modulate(groups)
    chosen, movement = order_latents(method, modulation, top)
    scores = class_scores(method.diverse, [method.sae.encode(p) for p in groups[0].bias_prompts])
    names = list(setting.groups[0].for_method(key.method.name, method.needs).bias_prompts)
    sentences = setting.sentences(key.method.name, method.needs)
    activations = method.sae.encode(workspace.inputs.embedder.matrix(tuple(sentences)))[:, chosen]
    latents = pd.DataFrame(
        {
            "latent": chosen.tolist(),
            "s_bias": modulation.bias.mean(0)[chosen].tolist(),
            "bias_class": [names[c] for c in scores[:, chosen].argmax(0).tolist()],
            "neutral": method.neutral[chosen].tolist(),
            "mean_weight": modulation.weights[:, chosen].mean(0).tolist(),
            "movement": movement[chosen].tolist(),
        }
    )
    return Report(
        latents.join(_most_active(activations, sentences, prompts_shown)),
        _tabulate_weights(method, modulation, chosen, query_names(setting)),
    )


def query_names(setting: SettingPrompts) -> list[str]:
    """Name the queries in order: by their class, or by their sentence where classes are asked together."""
    return [
        group.name.replace("_", " ") if len(group.queries) == 1 else query
        for group in setting.groups
        for query in group.queries
    ]


def _most_active(activations: Tensor, sentences: Sequence[str], shown: int) -> pd.DataFrame:
    """For each latent ``(n, k)`` the prompts that activate it most; fewer where it is 0 in the others."""
    import pandas as pd

    values, rows = activations.topk(min(shown, len(sentences)), dim=0)
    columns: dict[str, list[object]] = {}
    for i, (row, value) in enumerate(zip(rows.tolist(), values.tolist(), strict=True), start=1):
        pairs = list(zip(row, value, strict=True))
        columns[f"prompt_{i}"] = [sentences[r] if v > 0 else "" for r, v in pairs]
        columns[f"activation_{i}"] = [v for _, v in pairs]
    return pd.DataFrame(columns)


def _tabulate_weights(
    method: SparseEmbeddingModulation, modulation: Modulation, chosen: Tensor, queries: Sequence[str]
) -> pd.DataFrame:
    import pandas as pd

    parts = {
        "s_concept": modulation.concept,
        "s_bias": modulation.bias,
        "weight": modulation.weights,
        "before": modulation.latents,
        "neutral": method.neutral.expand_as(modulation.latents),
        "after": modulation.debiased,
    }
    columns = {name: part[:, chosen].flatten().tolist() for name, part in parts.items()}
    index = {"query": np.repeat(queries, len(chosen)), "latent": np.tile(chosen.tolist(), len(queries))}
    return pd.DataFrame({**index, **columns})


def draw_figure(report: Report, title: str) -> Figure:
    """Draw the weight of every chosen latent and query.

    Parameters
    ----------
    report : Report
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Rows are the first 40 latents, with bias class and the prompt that activates them most; darker is
        turned down further. Cells say the weight; a dot where the latent is what it is in neutral prompts, so
        that no weight matters.
    """
    from matplotlib.figure import Figure

    queries = list(dict.fromkeys(report.weights["query"]))
    latents = report.latents[:_DRAWN]
    weights, before, neutral = (
        report.weights[column].to_numpy().reshape(len(queries), -1).T[:_DRAWN]
        for column in ("weight", "before", "neutral")
    )
    idle = before == neutral
    figure = Figure(figsize=(5.2 + 0.42 * len(queries), 2.2 + 0.27 * len(latents)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(np.ma.array(weights, mask=idle), cmap="cividis", vmin=0, vmax=2, aspect="auto")
    for (i, j), weight in np.ndenumerate(weights):
        color = "black" if idle[i, j] or weight > 1 else "white"
        axes.text(
            j, i, "·" if idle[i, j] else f"{weight:.2f}", ha="center", va="center", fontsize=7, color=color
        )
    axes.set_xticks(range(len(queries)), [_short(q) for q in queries], rotation=45, ha="right")
    labels = [
        f"{_short(row.prompt_1)}   {row.bias_class}   {row.s_bias:.2f}   #{row.latent}"
        for row in latents.itertuples()
    ]
    axes.set_yticks(range(len(latents)), labels, fontsize=8)
    axes.set_title(f"{title}\nrows: most activating prompt, bias class, S_bias, latent", fontsize=10)
    bar = figure.colorbar(image, ax=axes, pad=0.01, extend="max")
    bar.set_label("weight w (below 1: turned down)")
    return figure


def _short(text: str) -> str:
    return text if len(text) <= _DRAWN else text[: _DRAWN - 1] + "…"


def describe(report: Report) -> str:
    """Count what was turned down."""
    bias, weights = report.latents["s_bias"], report.weights
    active = weights[weights["before"] != weights["neutral"]]
    down = active["weight"][active["weight"] < 1]
    average = f", by a weight of {down.mean():.2f} on average" if len(down) else ""
    return (
        f"{len(bias)} latents with S_bias from {bias.max():.3f} to {bias.min():.3f}. They differ from "
        f"neutral prompts in {len(active)} of {len(weights)} cases (query, latent); in {len(down)} of "
        f"these SEM turns them down{average}"
    )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="What exactly did SEM turn down? For a bias attribute: the SAE latents with the "
        "highest S_bias, the prompts that activate each most, and the weight that every query gives them.",
        epilog="Writes neurons_<dataset>_<setting>_<backbone>_<method>.png and .pdf, …_latents.csv and "
        "…_weights.csv. Example: neuron_report.py --config config/fairface.yml --setting "
        "stereotype_gender --backbone ViT-B-16",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="dataset config, e.g. config/fairface.yml")
    add("--setting", required=True, metavar="S", help="task setting: its queries and its bias attribute")
    add("--backbone", required=True, metavar="B", help="a backbone of the config")
    add("--method", choices=VARIANTS, default="sem-b", help="SEM variant (default: %(default)s)")
    add("--top", type=int, default=20, metavar="K", help="number of latents (default: %(default)s)")
    add(
        "--prompts-shown", type=int, default=5, metavar="N", help="prompts named for each latent (default: 5)"
    )
    add("--prompts", metavar="NAME", help="prompt set (default: the config's)")
    add_text_options(parser)
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--output-dir", type=Path, default=OUTPUT_DIR, metavar="DIR", help="default: study_output/neurons/")
    return parser


def find_key(config: DatasetConfig, setting: str, backbone: str, method: str) -> ResultKey:
    """Find a result of a config by names; `InputError` for one that it does not have."""
    if setting not in config.settings:
        raise unknown("setting", setting, list(config.settings), str(config.path))
    found = [b for b in config.backbones.values() if backbone in (b.name, b.stem, b.openai_name)]
    if not found:
        raise unknown("backbone", backbone, list(config.backbones), str(config.path))
    if method not in config.methods:
        raise unknown("method", method, list(config.methods), str(config.path.parent / "methods.yml"))
    return ResultKey(config.dataset, config.settings[setting], found[0], config.methods[method], None)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.suite.workspace import Workspace
    from debiasing_methods.registry import METHODS

    for option in ("top", "prompts_shown"):
        if getattr(args, option) < 1:
            raise InputError(f"--{option.replace('_', '-')} must be at least 1, got {getattr(args, option)}")
    config = load_dataset_config(args.config)
    key = find_key(config, args.setting, args.backbone, args.method)
    options = RunOptions(
        data_root=args.data_root or config.root / "data",
        output_dir=args.output_dir,
        prompts=args.prompts or config.prompts,
        retrieval_k=config.retrieval_k,
        text_embeddings=args.text_embeddings,
        device=args.device,
    )
    workspace = Workspace(config, key.backbone, options)
    workspace.inputs.prompts(key.setting).check_for(args.method, METHODS[args.method].needs)
    report = make_report(workspace, key, top=args.top, prompts_shown=args.prompts_shown)
    stem = args.output_dir / f"neurons_{config.dataset}_{args.setting}_{key.backbone.stem}_{args.method}"
    for name, table in (("latents", report.latents), ("weights", report.weights)):
        text = table.to_csv(index=False, float_format="%.6g")
        write_text(stem.with_name(f"{stem.name}_{name}.csv"), text)
    title = f"{key.backbone.name}, {key.setting.bias_attribute}: weights of {args.method} for {args.setting}"
    save_both(draw_figure(report, title), stem)
    print(f"{describe(report)}\nwritten: {stem}_latents.csv, _weights.csv")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
