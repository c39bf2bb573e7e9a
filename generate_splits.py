"""Draw the folds of a dataset: `train_indices.npy` and `val_indices.npy` beside its metadata."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from safe_io.arrays import save_array
from safe_io.command_line import ArgumentParser
from safe_io.errors import run_main


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        description="Draw seeded folds of a dataset (half reference, half evaluation) as in the paper.",
        epilog="Writes train_indices.npy and val_indices.npy, uint32 (folds, rows), into the dataset folder.",
    )
    parser.add_argument("--dataset-path", type=Path, required=True, help="dataset folder")
    parser.add_argument("--k-folds", type=int, default=10, help="number of folds (default: 10)")
    parser.add_argument(
        "--fold-val-proportion",
        type=float,
        default=0.5,
        help="share of evaluation rows in each fold (default: 0.5)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES, make_folds
    from bias_evaluation.datasets.metadata import METADATA, read_metadata

    rows = len(read_metadata(args.dataset_path / METADATA))
    train, val = make_folds(rows, args.k_folds, args.fold_val_proportion)
    save_array(args.dataset_path / TRAIN_INDICES, train)
    save_array(args.dataset_path / VAL_INDICES, val)
    print(f"{len(train)} folds of {train.shape[1]} reference and {val.shape[1]} evaluation rows")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
