"""Train ZSDebias models on image embeddings and a bias corpus; runs by path.

Writes the weights in the release's form, and beside them the losses (CSV and plot) and a report; see
`bias_evaluation.training_runs.zsdebias` for the files, `debiasing_methods.training.zsdebias` for training.
Dataset folders are used whole, without folds: UTKFace both trains and evaluates the published models.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from safe_io.start import guard_start

    guard_start()


from debiasing_methods.training.hyperparameters import SHUFFLE_ORDERS, ZSDebiasTrainingConfig
from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main

if TYPE_CHECKING:
    from torch import Tensor

    from bias_evaluation.grid.configs import Backbone
    from bias_evaluation.training_runs.zsdebias import TrainingData

DEFAULTS = ZSDebiasTrainingConfig()
_BACKBONES = CONFIG / "backbones.yml"


def main(argv: Sequence[str] | None = None) -> int:
    """Train the models that the command line names; return the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    from bias_evaluation.training_runs.run import beside
    from bias_evaluation.training_runs.zsdebias import run_training

    configs = [_config(args, seed) for seed in args.seeds or [args.seed]]
    if not args.checkpoint_seconds >= 0:
        raise InputError(f"--checkpoint-seconds must be at least 0, got {args.checkpoint_seconds}")
    from bias_evaluation.embedding.engines import check_engine_options

    part = check_engine_options(args)
    configs = list(dict.fromkeys(configs))
    if args.engine == "ray":
        return _train_on_ray(sys.argv[1:] if argv is None else argv, args.device, configs)
    configs = configs if part is None else part.select(configs)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    from bias_evaluation.grid.configs import get_backbone, project_root

    backbone = get_backbone(args.backbone, args.backbones_file)
    root = project_root(args.backbones_file)
    folder = args.output_dir or root / "debiasing_methods" / "zsdebias_weights" / args.prompts
    outputs = {
        config: folder / f"{backbone.name}_{args.bias_attribute}_zsdebias_{config.seed}.{args.format}"
        for config in configs
    }
    if args.join and (missing := [output for output in outputs.values() if not output.is_file()]):
        raise InputError(
            f"{len(missing)} of {len(outputs)} models are not there, the first: {missing[0]}; run the parts "
            f"that have them again (models that are there are kept)"
        )
    data = _data(args, backbone, root)
    for config, output in outputs.items():
        report = run_training(
            data,
            output,
            config,
            overwrite=args.overwrite and not args.join,
            checkpoint_seconds=args.checkpoint_seconds,
            progress=True,
        )
        best, rows = report["best"], report["rows"]
        print(
            f"{output}\n  trained on {rows['training']} rows for {report['epochs_run']} epochs; kept epoch "
            f"{best['epoch']}: loss {best['train_loss']:.6g}, on {rows['validation']} validation rows "
            f"{best['val_loss']:.6g}\n  losses: {beside(output, 'losses.csv')}, .png"
        )
    return 0


def _train_on_ray(argv: Sequence[str], device: str, configs: Sequence[ZSDebiasTrainingConfig]) -> int:
    """Train as Ray tasks, one for each seed, and print what they print."""
    from bias_evaluation.embedding.engines import Call, run_calls

    parts = [(f"{k}/{len(configs)}", f"seed {config.seed}") for k, config in enumerate(configs)]
    calls = [
        Call("debiasing_methods.zsdebias_training", [*argv, "--engine", "local", "--shard", part], name)
        for part, name in parts
    ]
    print("".join(run_calls(calls, device=device, what="training")), end="")
    return 0


def _config(args: argparse.Namespace, seed: int) -> ZSDebiasTrainingConfig:
    """Make the configuration of one seed from the options that are named like its fields."""
    values = {field.name: getattr(args, field.name) for field in fields(ZSDebiasTrainingConfig)}
    try:
        return ZSDebiasTrainingConfig(**values | {"seed": seed})
    except ValueError as error:
        raise InputError(str(error)) from None


def _data(args: argparse.Namespace, backbone: Backbone, root: Path) -> TrainingData:
    """Read the image embeddings and embed the corpus; the corpus is checked first, since that is quick."""
    from bias_evaluation.embedding.text_store import TextStore
    from bias_evaluation.prompts.bias_corpora import load_corpus
    from bias_evaluation.training_runs.zsdebias import TrainingData

    corpus = args.corpus or root / "config" / "zsdebias" / "default.yml"
    sentences = load_corpus(corpus, args.bias_attribute)
    images = _read_images(args.dataset_paths, backbone)
    cache = (args.data_root or root / "data") / "text_embeddings"
    text = TextStore(backbone, cache, device=args.device, given=args.text_embeddings)
    facts = {
        "dataset_paths": [path.resolve().name for path in args.dataset_paths],
        "bias_attribute": args.bias_attribute,
        "clip_model": backbone.openai_name,
    }
    return TrainingData(images, text.embed(sentences), facts, device=args.device)


def _read_images(folders: Sequence[Path], backbone: Backbone) -> Tensor:
    """Read the embeddings of all folders, one after the other: ``(n, d)``, as stored, float32."""
    import torch

    from bias_evaluation.datasets.folder import check_embeddings, check_images, embeddings_name
    from bias_evaluation.datasets.metadata import METADATA, read_metadata
    from bias_evaluation.embedding.identity import check_made_by
    from safe_io.arrays import finite_rows, load_array

    if len({folder.resolve() for folder in folders}) < len(folders):
        raise InputError("--dataset-paths names a folder twice; each is to be given once")
    parts = []
    for folder in folders:
        metadata = read_metadata(folder / METADATA)
        path = folder / embeddings_name(backbone.name)
        embeddings = load_array(path, "embeddings", "precompute_embeddings.py")
        check_embeddings(embeddings, path, len(metadata), backbone.dim)
        check_images(path, metadata)
        check_made_by(path, backbone)
        parts.append(finite_rows(embeddings, path))
    return torch.cat(parts)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--clip_model": "--backbone"},
        description="Train ZSDebias: an autoencoder of image embeddings, half of whose latents take up what "
        "a bias corpus says. Writes the weights, and beside them the losses as CSV and plot; goes on where "
        "it was cut off, and keeps what is there and was trained the same way.",
        epilog="example: python debiasing_methods/zsdebias_training.py --dataset-paths data/LFW data/UTKFace "
        "data/FACET --bias-attribute human --backbone ViT-B-16 --seeds 0 1 2",
    )
    _add_data(parser.add_argument_group("training data"))
    _add_training(parser.add_argument_group("training (published values are the defaults)"))
    _add_files(parser.add_argument_group("files"))
    from bias_evaluation.embedding.engines import add_engine_options

    add_engine_options(parser.add_argument_group("more than one process: parts are seeds (docs/scale.md)"))
    return parser


def _add_data(group: argparse._ArgumentGroup) -> None:
    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    text = "dataset folders with metadata and image embeddings, used whole and together"
    group.add_argument("--dataset-paths", nargs="+", required=True, help=text, **folder)
    text = "which corpus of the corpus file: human, animal, or another that it has"
    group.add_argument("--bias-attribute", required=True, metavar="NAME", help=text)
    text = "backbone of the embeddings, by its name here or OpenAI's; or MODEL:TAG, hf-hub:…, local-dir:…"
    group.add_argument("--backbone", required=True, metavar="NAME", help=text)
    text = "bias corpora (default: config/zsdebias/default.yml)"
    group.add_argument("--corpus", type=Path, metavar="FILE", help=text)
    text = "npz that supplies the corpus embeddings: 'prompts' and 'embeddings' (no model is loaded)"
    group.add_argument("--text-embeddings", type=Path, metavar="FILE", help=text)


def _add_training(group: argparse._ArgumentGroup) -> None:
    _number(group, "--epochs", "epochs", int, "most epochs, and length of the learning rate's schedule")
    _number(group, "--patience", "patience", int, "stop after so many epochs without a lower validation loss")
    _number(group, "--bs", "batch_size", int, "rows a batch; at most the training rows, 70 %% of all")
    _number(group, "--lr", "lr", float, "learning rate; 1e-3 suits some thousand rows")
    _number(group, "--weight-decay", "weight_decay", float, "weight decay")
    text = (
        "order of the latents' halves where one is shuffled: as in the published training, or as everywhere "
        "else (default: %(default)s)"
    )
    group.add_argument("--shuffle-order", choices=SHUFFLE_ORDERS, default=DEFAULTS.shuffle_order, help=text)
    either = group.add_mutually_exclusive_group()
    _number(either, "--seed", "seed", int, "of starting values, split and all draws")
    text = "train one model for each of these seeds"
    either.add_argument("--seeds", type=int, nargs="+", metavar="K", help=text)
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")


def _number(group: argparse._ActionsContainer, name: str, field: str, kind: type, text: str) -> None:
    """Add the option of a numeric field of the configuration."""
    settings: dict[str, Any] = {"type": kind, "default": getattr(DEFAULTS, field), "dest": field}
    metavar = "N" if kind is int else "X"
    group.add_argument(name, metavar=metavar, help=f"{text} (default: %(default)s)", **settings)


def _add_files(group: argparse._ArgumentGroup) -> None:
    from bias_evaluation.weights import FORMATS

    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    text = "prompt set that the models go with in evaluations (default: %(default)s)"
    group.add_argument("--prompts", default="default", metavar="NAME", help=text)
    text = "where the models go (default: debiasing_methods/zsdebias_weights/<prompts>/)"
    group.add_argument("--output-dir", help=text, **folder)
    text = "file format: pth, the release's, or safetensors (default: %(default)s)"
    group.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=text)
    text = "replace weights or a checkpoint of another run, or train finished weights anew"
    group.add_argument("--overwrite", action="store_true", help=text)
    text = "least time between two checkpoints (default: %(default)s)"
    group.add_argument("--checkpoint-seconds", type=float, default=30.0, metavar="X", help=text)
    text = "backbone file (default: config/backbones.yml); the folder above its own is the project's"
    group.add_argument("--backbones-file", type=Path, default=_BACKBONES, metavar="FILE", help=text)
    text = "DIR/text_embeddings keeps what is encoded (default: data/ of the project)"
    group.add_argument("--data-root", help=text, **folder)


if __name__ == "__main__":
    sys.exit(run_main(main))
