"""Figures of fairness: `python -m reproduce_tables.figures`.

Fairness against utility: one figure per dataset and backbone, one panel per setting. Skew of every query: one
figure per retrieval setting and backbone, a grid of methods × queries (results that record each query; the
published ones do not).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bias_evaluation.display.figures import save_both
from bias_evaluation.grid.configs import register_own_methods
from reproduce_tables.selection import add_selection_options, select_results
from safe_io.errors import InputError, run_main


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    from bias_evaluation.grid.configs import SEEDS

    parser = argparse.ArgumentParser(
        prog="python -m reproduce_tables.figures",
        description="Draw fairness against utility for every dataset and backbone in the results, "
        "fairness_<dataset>_<backbone>.png and .pdf, one panel a setting; and the skew of every query, "
        "skew_<dataset>_<setting>_<backbone>.png and .pdf. An @ in a name becomes a hyphen.",
    )
    parser.add_argument(
        "--results", type=Path, default=Path("all_results.feather"), metavar="FILE",
        help="what process_json_outputs.py wrote (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--output-dir", type=Path, default=Path(), metavar="DIR", help="where the figures go (default: here)"
    )
    add_selection_options(parser)
    parser.add_argument(
        "--methods-file",
        type=Path,
        metavar="FILE",
        help="method file that names classes of your own (default: the project's config/methods.yml)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        type=int,
        default=list(SEEDS),
        metavar="N",
        help="seeds to take means over (default: 0 1 2, those of the paper's tables)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.display.result_table import query_skews, read_results, seed_means, seed_notes
    from bias_evaluation.display.suite_figures import draw_figure, draw_grid
    from bias_evaluation.results.aggregation import setting_name

    register_own_methods(args.methods_file)
    results = select_results(read_results(args.results), args.methods, args.backbone, args.settings)
    rows = seed_means(results, args.seeds)
    if rows.empty:
        raise InputError(f"{args.results} holds no results; run main_eval.py and process_json_outputs.py")
    for (dataset, backbone), part in rows.groupby(["dataset", "backbone"], sort=False):
        figure = draw_figure(part, f"{dataset}, {backbone}: fairness against utility (bars: 95 % intervals)")
        stem = f"fairness_{dataset}_{backbone}".replace("@", "-")
        save_both(figure, args.output_dir / stem)
    skews = query_skews(results, args.seeds)
    for (dataset, backbone, setting), part in skews.groupby(["dataset", "backbone", "setting"], sort=False):
        name = setting_name("retrieval", setting)
        figure = draw_grid(
            part, f"{dataset}, {backbone}: MaxSkew of each query, {setting.replace('|', ', ')}"
        )
        save_both(figure, args.output_dir / f"skew_{dataset}_{name}_{backbone}".replace("@", "-"))
    if results["seed"].notna().any():
        print(f"methods that are trained with seeds: means over seeds {', '.join(map(str, args.seeds))}")
    for note in seed_notes(results, args.seeds):
        print(f"note: {note}; --seeds chooses others", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
