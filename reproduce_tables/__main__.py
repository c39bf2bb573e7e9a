"""Command line: `python -m reproduce_tables N`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from bias_evaluation.grid.configs import register_own_methods
from reproduce_tables import TABLES_FILE
from reproduce_tables.selection import add_selection_options, is_selection, select_columns
from safe_io.command_line import program
from safe_io.errors import run_main
from safe_io.files import write_text


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog=program("python -m reproduce_tables"),
        description="Print a table of the paper, made from your results or the published ones, and write it "
        "as table_N.csv, table_N.md and table_N.tex. Cells of methods that are trained with seeds are means "
        "over the seeds; the best of each group of methods is bold. A cell whose result is missing is empty, "
        "and a line on stderr names the missing file. With --methods, --backbone or --settings the files are "
        "called table_N_selection; with results of another K than the table's, table_N_K<number>.",
        epilog="Example: python process_json_outputs.py && python -m reproduce_tables 2 --compare-published",
    )
    parser.add_argument(
        "table",
        metavar="N",
        help="table of the paper: 2, 3, 9, 13, 14 or 15; `extended`, with all methods; or one of FILE",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("all_results.feather"),
        metavar="FILE",
        help="what process_json_outputs.py wrote, .feather or .csv (default: %(default)s)",
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where the files go; made where missing (default: the current folder)",
    )
    published = parser.add_mutually_exclusive_group()
    published.add_argument(
        "--published",
        action="store_true",
        help="make the published table itself, which needs no results",
    )
    published.add_argument(
        "--compare-published",
        action="store_true",
        help="print the published value and the difference beside each cell, and write "
        "table_N_comparison.csv too",
    )
    parser.add_argument(
        "--description",
        type=Path,
        default=TABLES_FILE,
        metavar="FILE",
        help="YAML file that describes other tables; published figures are sought in published/ beside it "
        "(default: the paper's tables)",
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="K",
        help="seeds to take means over (default: what the description says; 0 1 2 in the paper)",
    )
    add_selection_options(parser)
    parser.add_argument(
        "--methods-file",
        type=Path,
        metavar="FILE",
        help="method file that names classes of your own (default: the project's config/methods.yml)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.display.result_table import read_results
    from reproduce_tables.engine import fill, load_description
    from reproduce_tables.render import (
        as_csv,
        as_grid,
        as_latex,
        as_markdown,
        as_text,
        compare,
        other_k,
        read_published,
        summary,
    )

    register_own_methods(args.methods_file)
    description = load_description(args.description, args.table, args.seeds)
    description = select_columns(description, args.methods, args.backbone, args.settings)
    stem = f"table_{args.table}"
    figures = args.description.parent / "published" / f"{stem}.csv"
    notes: list[str] = []
    if args.published:
        grid = read_published(figures, description)
    else:
        table = fill(description, read_results(args.results))
        grid, notes = as_grid(table), table.notes
        stem += other_k(table)
    shown = grid
    stem += ("_selection" if is_selection(args) else "") + ("_published" if args.published else "")
    outputs = {
        f"{stem}.csv": as_csv(grid),
        f"{stem}.md": as_markdown(grid),
        f"{stem}.tex": as_latex(grid, label=f"tab:{stem}"),
    }
    if args.compare_published:
        shown = compare(grid, read_published(figures, description))
        outputs[f"{stem}_comparison.csv"] = as_csv(shown)
    for name, text in outputs.items():
        write_text(args.output_dir / name, text)
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(as_text(shown, shutil.get_terminal_size((120, 24)).columns, bold=bold))
    if args.compare_published:
        print(summary(shown))
    print("written: " + ", ".join(str(args.output_dir / name) for name in outputs))
    for note in notes:
        print(note, file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
