"""Evaluate debiasing methods: one JSON a result, for every setting, backbone and method of a config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from bias_evaluation.configs import DatasetConfig, load_dataset_config
from bias_evaluation.results import ResultKey, write_records
from bias_evaluation.suite import RunOptions, Selection, State, Workspace, evaluate, plan
from debiasing_methods.errors import InputError, run_main

Planned = list[tuple[ResultKey, State]]


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Evaluate debiasing methods on one dataset: one JSON a result.",
        epilog="Without selectors everything in the config is evaluated. Results that are there and were "
        "made from the same inputs are kept.",
    )
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="dataset config, e.g. config/celeba.yml",
    )
    add("--settings", nargs="+", metavar="S", help="only these task settings")
    add("--backbones", nargs="+", metavar="B", help="only these backbones")
    add("--methods", nargs="+", metavar="M", help="only these methods, by result name (sem-bi, orth-proj, …)")
    add(
        "--seeds",
        nargs="+",
        type=int,
        metavar="K",
        help="only these seeds of seeded methods (prism, zsdebias)",
    )
    add(
        "--prompts", metavar="NAME", help="prompt set (default: the config's): default, official, or your own"
    )
    add("--data-root", type=Path, metavar="DIR", help="folder of the dataset folders (default: data/)")
    add("--output-dir", type=Path, metavar="DIR", help="folder of the results (default: main_eval_output/)")
    add(
        "--text-embeddings",
        type=Path,
        metavar="FILE",
        help="npz that supplies text embeddings (no model is loaded)",
    )
    add("--retrieval-k", type=int, metavar="K", help="number of retrieved images (default: the config's)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    add("--dry-run", action="store_true", help="print the grid with each result's state, and stop")
    add("--overwrite", action="store_true", help="compute anew what is there, also if made from other inputs")
    add(
        "--skip-missing",
        action="store_true",
        help="leave out results that lack something, instead of stopping",
    )
    return parser


def run_options(args: argparse.Namespace, config: DatasetConfig) -> RunOptions:
    """Fill what the command line leaves out from the config."""
    k = config.retrieval_k if args.retrieval_k is None else args.retrieval_k
    if k < 1:
        raise InputError(f"--retrieval-k must be at least 1, got {k}")
    return RunOptions(
        data_root=args.data_root or config.root / "data",
        output_dir=args.output_dir or config.root / "main_eval_output",
        prompts=args.prompts or config.prompts,
        retrieval_k=k,
        text_embeddings=args.text_embeddings,
        device=args.device,
    )


def print_grid(planned: Planned) -> None:
    """Print one line a result: its name and its state."""
    width = max(len(key.stem) for key, _ in planned)
    for key, state in planned:
        print(f"{key.stem:{width}}  {state}")
    kinds = [state.kind for _, state in planned]
    print(f"{len(planned)} results: " + ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)))


def select_work(planned: Planned, *, overwrite: bool, skip_missing: bool) -> Planned:
    """Choose what to compute; raise where something is missing or was made from other inputs."""
    lacking = [(key, state) for key, state in planned if state.kind == "lacks"]
    if lacking and not skip_missing:
        for detail in dict.fromkeys(state.detail for _, state in lacking):
            print(f"missing: {detail}", file=sys.stderr)
        raise InputError(
            f"{len(lacking)} of {len(planned)} results lack something (listed above), the first: "
            f"{lacking[0][0].stem}; provide it, or pass --skip-missing to compute the rest"
        )
    stale = [(key, state) for key, state in planned if state.kind == "stale"]
    if stale and not overwrite:
        key, state = stale[0]
        raise InputError(
            f"{len(stale)} result(s) are there but {state.detail}, the first: {key.stem}.json; "
            f"pass --overwrite to replace them, or another --output-dir"
        )
    kinds = ("to do", "stale", "done") if overwrite else ("to do",)
    return [(key, state) for key, state in planned if state.kind in kinds]


def run(workspaces: dict[str, Workspace], work: Planned) -> None:
    """Compute and write results, backbone by backbone."""
    with tqdm(total=len(work), unit="result", desc="evaluating") as bar:
        for name, part in groupby(work, key=lambda item: item[0].backbone.name):
            workspace, items = workspaces.pop(name), list(part)  # popped: its arrays go when it is done
            workspace.ensure_text([key for key, _ in items])
            for key, state in items:
                bar.set_postfix_str(f"{key.setting.name} {key.method.name}")
                write_records(key.path(workspace.options.output_dir), evaluate(workspace, key, state.digests))
                bar.update()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    config = load_dataset_config(args.config)
    options = run_options(args, config)
    keys = plan(config, Selection(args.settings, args.backbones, args.methods, args.seeds))
    workspaces = {b.name: Workspace(config, b, options) for b in dict.fromkeys(key.backbone for key in keys)}
    planned = [(key, workspaces[key.backbone.name].state(key)) for key in keys]
    if args.dry_run:
        print_grid(planned)
        return 0
    work = select_work(planned, overwrite=args.overwrite, skip_missing=args.skip_missing)
    if work:
        run(workspaces, work)
    print(f"{len(work)} of {len(planned)} results computed, in {options.output_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
