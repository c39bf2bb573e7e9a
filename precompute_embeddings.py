"""Embed every image of a dataset with one backbone, into `CLIP_<backbone>_embeddings.npy`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from bias_evaluation.datasets.rgb import Reading
from bias_evaluation.embedding.engines import add_engine_options, check_engine_options, usable_cores
from bias_evaluation.grid.configs import DATASETS, PRECISIONS, Backbone, get_backbone
from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main

if TYPE_CHECKING:
    import pandas as pd

    from bias_evaluation.embedding.encoder import Encoder
    from bias_evaluation.embedding.image_embeddings import Stream

_BACKBONES = CONFIG / "backbones.yml"


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--model_id": "--backbone"},
        description="Embed every image of a dataset with one backbone.",
        epilog="A killed run continues where it was. Embeddings are raw (not normalised), one row an image, "
        "float32 after --precision fp32 and float16 after the others.",
    )
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="NAME",
        help="backbone: a name of the backbone file, such as ViT-B-16; or, without an entry, "
        "MODEL:TAG of open_clip, hf-hub:ORG/NAME or local-dir:FOLDER",
    )
    parser.add_argument(
        "--dataset-name",
        required=True,
        metavar="NAME",
        help=f"which dataset the folder holds: {', '.join(DATASETS)}; or another, with metadata.feather",
    )
    parser.add_argument("--dataset-path", required=True, type=Path, help="dataset folder")
    parser.add_argument(
        "--webdataset",
        metavar="PATTERN",
        help="take the images from tar files as img2dataset writes them, e.g. 'DIR/{00000..00009}.tar'; "
        "metadata (keys, captions, Parquet columns) and embeddings go to the dataset folder",
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default: 64)")
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
    parser.add_argument(
        "--upright",
        action="store_true",
        help="turn images as their EXIF data says; CLIP's own preprocessing, the default, does not",
    )
    parser.add_argument(
        "--on-white",
        action="store_true",
        help="lay transparent images on white; by default the colors below their transparency show",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings that are there")
    parser.add_argument(
        "--residuals",
        action="store_true",
        help="also store what the last block gives for each image, before the projection, and the layers "
        "after it: for --uncertainty and debiaslens-t, -i, -it (ViTs; docs/uncertainty.md). Takes a second "
        "pass over the images",
    )
    group = parser.add_argument_group("more than one process (docs/scale.md)")
    add_engine_options(group)
    group.add_argument(
        "--metadata-only", action="store_true", help="make metadata.feather, once before --shard"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.datasets.folder import read_manifest
    from bias_evaluation.datasets.metadata import METADATA
    from bias_evaluation.embedding.encoder import check_device
    from bias_evaluation.embedding.identity import existing_checkpoint
    from bias_evaluation.embedding.image_embeddings import embed_dataset, find_embeddings, join_dataset

    workers = usable_cores() if args.workers is None else args.workers
    if args.batch_size < 1 or workers < 0:
        raise InputError("--batch-size must be at least 1 and --workers at least 0")
    part = check_engine_options(args)
    _check_residuals(args)
    backbone = get_backbone(args.backbone, args.backbones_file)
    check_device(args.device)
    existing_checkpoint(backbone)  # before the metadata, which is written
    if part and (args.rebuild_metadata or not (args.dataset_path / METADATA).is_file()):
        raise InputError(
            f"--shard needs {args.dataset_path / METADATA}, the same for all: run the command once with "
            f"--metadata-only in place of --shard"
        )
    reading = Reading(upright=args.upright, on_white=args.on_white)
    metadata = read_or_build_metadata(args)
    if args.metadata_only:
        print(f"{len(metadata)} images: {args.dataset_path / METADATA}")
        return 0
    if not args.overwrite and (
        kept := find_embeddings(backbone, args.dataset_path, metadata, args.precision, reading)
    ):
        source = read_manifest(kept).get("source")
        made = f"imported from {source}" if source else "made from the same model, precision and images"
        print(f"kept {kept}: {made}")
        return store_residuals(args, backbone, metadata, reading) if args.residuals else 0
    options = {
        "precision": args.precision,
        "reading": reading,
        "skip_unreadable": args.skip_unreadable,
        "overwrite": args.overwrite,
    }
    if args.join:
        print(f"wrote {join_dataset(backbone, args.dataset_path, metadata, **options)}")
        return 0
    if args.precision == "fp16" and args.device == "cpu":
        print("warning: fp16 is slow on most CPUs; see --precision in --help", file=sys.stderr)
    encoder, stream = load_encoder(args, backbone)
    target = embed_dataset(
        encoder,
        args.dataset_path,
        metadata,
        batch_size=args.batch_size,
        workers=workers,
        stream=stream,
        part=part,
        **options,
    )
    print(f"wrote {target}" if part is None else f"wrote part {part} into {target}; --join puts all together")
    if args.residuals:
        metadata = read_or_build_metadata(args)  # without the rows that were skipped
        return store_residuals(args, backbone, metadata, reading, encoder)
    return 0


def _check_residuals(args: argparse.Namespace) -> None:
    """Raise if residuals are asked for in a way that they cannot be made."""
    if args.residuals and (args.shard or args.join or args.engine != "local"):
        raise InputError("--residuals runs in one process: leave out --shard, --join and --engine ray")
    if args.residuals and args.precision != "fp32":
        raise InputError("--residuals needs --precision fp32: embeddings are made from them again")


def store_residuals(
    args: argparse.Namespace,
    backbone: Backbone,
    metadata: pd.DataFrame,
    reading: Reading,
    encoder: Encoder | None = None,
) -> int:
    """Store the residuals beside the embeddings; returns the exit code."""
    from bias_evaluation.datasets.folder import head_path
    from bias_evaluation.embedding.encoder import Encoder
    from bias_evaluation.embedding.image_embeddings import embed_dataset, find_embeddings

    found = None
    if not args.overwrite:
        found = find_embeddings(backbone, args.dataset_path, metadata, "fp32", reading, residuals=True)
    if found:
        print(f"kept {found}: made from the same model and images")
        return 0
    target = embed_dataset(
        encoder or Encoder(backbone, device=args.device),
        args.dataset_path,
        metadata,
        batch_size=args.batch_size,
        workers=usable_cores() if args.workers is None else args.workers,
        reading=reading,
        overwrite=args.overwrite,
        residuals=True,
    )
    print(f"wrote {target} and {head_path(target).name}")
    return 0


def read_or_build_metadata(args: argparse.Namespace) -> pd.DataFrame:
    """Read the metadata of the folder, or make it from label files or tar files."""
    from bias_evaluation.datasets.metadata import build_metadata
    from bias_evaluation.datasets.webdataset import build_tar_metadata

    if args.webdataset is None:
        return build_metadata(args.dataset_name, args.dataset_path, rebuild=args.rebuild_metadata)
    return build_tar_metadata(args.webdataset, args.dataset_path, rebuild=args.rebuild_metadata)


def load_encoder(args: argparse.Namespace, backbone: Backbone) -> tuple[Encoder, Stream | None]:
    """Load the model, and choose who computes: on Ray this process needs its preprocessing alone."""
    from bias_evaluation.embedding.encoder import Encoder

    if args.engine == "local":
        return Encoder(backbone, device=args.device, precision=args.precision), None
    from bias_evaluation.embedding.ray_embedding import ray_stream

    return Encoder(backbone), ray_stream(backbone, device=args.device, precision=args.precision)


if __name__ == "__main__":
    sys.exit(run_main(main))
