"""Means and ranges over several trainings of the same model: what one training cannot tell.

Usage::

    python -m demo.training_table --results main_eval_output/demo/all_results.feather --output-dir DIR
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from safe_io.errors import InputError, run_main
from safe_io.files import write_text

if TYPE_CHECKING:
    import pandas as pd

# Column of the table → (setting in result records, up to its first "|", and metric).
COLUMNS = {
    "Blond: Acc. ↑": ("blond_gender", "Acc."),
    "WG ↑": ("blond_gender", "WG Acc."),
    "Hair: KL ↓": ("query=haircolor", "kl"),
    "Prec. ↑": ("query=haircolor", "precision"),
    "Roles: KL ↓": ("query=role", "kl"),
    "Roles: Prec. ↑": ("query=role", "precision"),
    "Traits: KL ↓": ("query=trait", "kl"),
    "Hobbies (skin): KL ↓": ("query=hobby", "kl"),
}


def summarize(results: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, least, and greatest value over backbones, after the mean over seeds of a method.

    Parameters
    ----------
    results : pandas.DataFrame
        ``all_results.feather``: columns backbone, method, setting, metric, mean.

    Returns
    -------
    pandas.DataFrame
        One row per method (in the paper's order) and column of `COLUMNS`: method, column, mean, low, high,
        trainings.
    """
    import pandas as pd

    from debiasing_methods.registry import METHODS

    values = results.assign(part=results["setting"].str.split("|").str[0])
    each = values.groupby(["method", "part", "metric", "backbone"])["mean"].mean().sort_index()
    rows = []
    for method in (name for name in METHODS if name in set(results["method"])):
        for column, (part, metric) in COLUMNS.items():
            if (method, part, metric) not in each.index.droplevel("backbone"):
                raise InputError(
                    f"the results have no {metric} of {method} for '{part}'; run the evaluation again"
                )
            found = each[method, part, metric]
            rows.append((method, column, found.mean(), found.min(), found.max(), len(found)))
    return pd.DataFrame(rows, columns=["method", "column", "mean", "low", "high", "trainings"])


def to_markdown(summary: pd.DataFrame) -> str:
    """Write the table: mean and, in parentheses, the range."""
    from debiasing_methods.registry import METHODS

    lines = [f"| method | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for method, rows in summary.groupby("method", sort=False):
        cells = [f"{r.mean:.3f} ({_short(r.low)}–{_short(r.high)})" for r in rows.itertuples(index=False)]
        lines.append(f"| {METHODS[method].display_name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.training_table",
        description="Mean and range of each method over the trainings (backbones) of a result table: "
        "table_trainings.md and .csv.",
    )
    parser.add_argument("--results", type=Path, required=True, metavar="FILE", help="all_results.feather")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    import pandas as pd

    try:
        results = pd.read_feather(args.results)
    except FileNotFoundError:
        raise InputError(f"{args.results} not found; make it with process_json_outputs.py") from None
    summary = summarize(results)
    text = to_markdown(summary)
    write_text(args.output_dir / "table_trainings.md", text)
    write_text(args.output_dir / "table_trainings.csv", summary.to_csv(index=False, float_format="%.6g"))
    print(f"{text}\nwritten: {args.output_dir}/table_trainings.md, .csv (mean and range)")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
