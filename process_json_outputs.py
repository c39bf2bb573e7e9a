"""Gather result files into one table: `all_results.feather` and `all_results.csv`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from safe_io.errors import run_main
from safe_io.files import atomic_path


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Gather result files into one table, a row for each metric of each result, and write it "
        "as all_results.feather and all_results.csv. Reads the published result files as well as those of "
        "main_eval.py. Name and content of every file must agree; two files for one result, or one setting "
        "run with two values of K, are errors; results made from different inputs give a warning.",
        epilog="Example: python process_json_outputs.py --input-dir main_eval_output/demo --output-dir out",
    )
    parser.add_argument(
        "--input-dir",
        type=Path,
        default=Path("main_eval_output"),
        metavar="DIR",
        help="folder whose *.json files are read; its sub-folders are other runs and are left out "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the two files go; made where missing (default: the current folder)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.results.aggregation import collect_results

    table, warnings = collect_results(args.input_dir)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    feather, csv = args.output_dir / "all_results.feather", args.output_dir / "all_results.csv"
    with atomic_path(feather) as temporary:
        table.to_feather(temporary)
    with atomic_path(csv) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")
    print(f"{table['file'].nunique()} result files, {len(table)} records -> {feather}, {csv}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
