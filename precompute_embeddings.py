"""Embed every image of a dataset with one backbone, into `CLIP_<backbone>_embeddings.npy`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bias_evaluation.configs import DATASETS, get_backbone
from bias_evaluation.datasets import read_manifest
from bias_evaluation.embeddings import embed_dataset, find_embeddings
from bias_evaluation.encoder import PRECISIONS, Encoder, check_device, existing_checkpoint
from bias_evaluation.image_loading import usable_cores
from bias_evaluation.metadata import build_metadata
from debiasing_methods.errors import InputError, run_main

_BACKBONES = Path(__file__).resolve().parent / "config" / "backbones.yml"


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Embed every image of a dataset with one backbone.",
        epilog="A killed run continues where it was. Embeddings are raw (not normalised), one row an image, "
        "float32 after --precision fp32 and float16 after the others.",
    )
    parser.add_argument(
        "--model_id", "--model-id", required=True, metavar="NAME", help="backbone, e.g. ViT-B-16 or ViT-B/16"
    )
    parser.add_argument(
        "--dataset_name",
        "--dataset-name",
        required=True,
        metavar="NAME",
        help=f"which dataset the folder holds: {', '.join(DATASETS)}; or another, with metadata.feather",
    )
    parser.add_argument("--dataset_path", "--dataset-path", required=True, type=Path, help="dataset folder")
    parser.add_argument(
        "--batch_size", "--batch-size", type=int, default=64, help="images a forward pass (default: 64)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="decoding processes, 0 to decode in this one (default: one a core)",
    )
    parser.add_argument(
        "--precision",
        choices=list(PRECISIONS),
        default="fp32",
        help="of the model's weights and activations (default: fp32). fp16 is what the published code used, "
        "on a GPU. Most CPUs cannot compute in it and are many times slower than with fp32; newer ones can "
        "compute in bf16, and are faster",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs (default: cpu)"
    )
    parser.add_argument(
        "--backbones-file",
        type=Path,
        default=_BACKBONES,
        help="backbone file (default: config/backbones.yml)",
    )
    parser.add_argument(
        "--rebuild-metadata",
        action="store_true",
        help="make metadata.feather anew from the dataset's label files",
    )
    parser.add_argument(
        "--skip-unreadable", action="store_true", help="leave rows of unreadable images out, and record them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings that are there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    workers = usable_cores() if args.workers is None else args.workers
    if args.batch_size < 1 or workers < 0:
        raise InputError("--batch_size must be at least 1 and --workers at least 0")
    backbone = get_backbone(args.model_id, args.backbones_file)
    check_device(args.device)
    existing_checkpoint(backbone)  # before the metadata, which is written
    metadata = build_metadata(args.dataset_name, args.dataset_path, rebuild=args.rebuild_metadata)
    if not args.overwrite and (
        kept := find_embeddings(backbone, args.dataset_path, metadata, args.precision)
    ):
        source = read_manifest(kept).get("source")
        made = f"imported from {source}" if source else "made from the same model, precision and images"
        print(f"kept {kept}: {made}")
        return 0
    if args.precision == "fp16" and args.device == "cpu":
        print("warning: fp16 is slow on most CPUs; see --precision in --help", file=sys.stderr)
    target = embed_dataset(
        Encoder(backbone, device=args.device, precision=args.precision),
        args.dataset_path,
        metadata,
        batch_size=args.batch_size,
        workers=workers,
        precision=args.precision,
        skip_unreadable=args.skip_unreadable,
        overwrite=args.overwrite,
    )
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
