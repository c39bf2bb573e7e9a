"""Estimate how sure a backbone is of its embeddings, from image–text pairs (BayesVLM)."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from bias_evaluation.embedding.engines import usable_cores
from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main

_EVIDENCES = ("published", "laplace")  # as in debiasing_methods.uncertainty, which takes its time to import


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        description="Estimate how sure a backbone is of its embeddings, from image–text pairs: curvature of "
        "the last projection of both towers, and the prior precision with the highest evidence "
        "(docs/uncertainty.md). main_eval.py --uncertainty and audit_bias.py --uncertainty read the file.",
        epilog="A killed run continues where it was: encoded pairs are kept beside the output.",
    )
    add = parser.add_argument
    add("--backbone", required=True, metavar="NAME", help="backbone, e.g. ViT-B-16; a ViT")
    add(
        "--pairs",
        type=Path,
        required=True,
        metavar="DIR|FILE",
        help="captions.csv with the columns file_path and caption, a folder that holds one, or a folder of "
        "images with a .txt file of the same name beside each",
    )
    add("--n-pairs", type=int, default=10_000, metavar="N", help="pairs to draw (default: %(default)s)")
    add(
        "--class-batch",
        type=int,
        metavar="M",
        help="pairs that are contrasted with each other (default: 32768, or all if they are fewer)",
    )
    add("--tau", type=float, default=10.0, help="pseudo-count τ (default: %(default)s)")
    add(
        "--evidence",
        choices=_EVIDENCES,
        default=_EVIDENCES[0],
        help="what the prior precision maximizes (default: %(default)s, as the published code has it)",
    )
    add("--seed", type=int, default=0, help="of the draw (default: %(default)s)")
    add("--batch-size", type=int, default=64, metavar="N", help="images of a forward pass (default: 64)")
    add("--workers", type=int, metavar="N", help="decoding processes, 0 to decode in this one")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs (default: cpu)")
    add(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="the file goes to its folder uncertainty/ (default: data/ beside config/)",
    )
    add("--output", type=Path, metavar="FILE", help="the file, elsewhere")
    add("--backbones-file", type=Path, default=CONFIG / "backbones.yml", help="backbone file")
    add("--skip-unreadable", action="store_true", help="leave out pairs whose image cannot be read")
    add("--overwrite", action="store_true", help="replace a file that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.embedding.encoder import Encoder, check_device
    from bias_evaluation.embedding.identity import existing_checkpoint
    from bias_evaluation.grid.configs import get_backbone, project_root
    from bias_evaluation.uncertainty.estimation import Estimation, estimate
    from bias_evaluation.uncertainty.factors import factors_path, read_factors, write_factors
    from bias_evaluation.uncertainty.pairs import read_pairs
    from safe_io.locks import exclusive

    _check(args)
    backbone = get_backbone(args.backbone, args.backbones_file)
    check_device(args.device)
    existing_checkpoint(backbone)
    data_root = args.data_root or project_root(args.backbones_file) / "data"
    target = args.output or factors_path(data_root, backbone)
    if target.is_file() and not args.overwrite:
        read_factors(target).check_made_for(backbone, target)
        print(f"kept {target}: made for the same model; --overwrite makes it again")
        return 0
    folder, pairs = read_pairs(args.pairs)
    options = Estimation(
        args.n_pairs,
        args.class_batch,
        args.seed,
        args.tau,
        args.evidence,
        args.batch_size,
        usable_cores() if args.workers is None else args.workers,
        args.skip_unreadable,
    )
    with exclusive(target):
        encoder = Encoder(backbone, device=args.device)
        factors = estimate(encoder, folder, pairs, target.parent, options)
        write_factors(target, factors)
    precisions = f"{factors.image.precision:.1f} (image), {factors.text.precision:.1f} (text)"
    print(f"wrote {target}: {factors.facts['pairs']} pairs, prior precision {precisions}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise `InputError` where a number is out of its range."""
    for name in ("n_pairs", "class_batch", "batch_size"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    for name in ("seed", "workers"):
        value = getattr(args, name)
        if value is not None and value < 0:
            raise InputError(f"--{name} must be at least 0, got {value}")
    if not (args.tau > 0 and math.isfinite(args.tau)):
        raise InputError(f"--tau must be above 0, got {args.tau}")


if __name__ == "__main__":
    sys.exit(run_main(main))
