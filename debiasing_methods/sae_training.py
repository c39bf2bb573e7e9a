"""Train a Matryoshka SAE on an embeddings file or on a list of prompts; runs by path.

Writes the weights (``--output``) and a report of how well they reconstruct; see
`bias_evaluation.training_runs.sae` for the files, `debiasing_methods.training.sae` for the training.
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


from debiasing_methods.training.hyperparameters import WEIGHTINGS, SaeTrainingConfig
from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = {"pth": ".pth", "safetensors": ".safetensors"}
DEFAULTS = SaeTrainingConfig()
_BACKBONES = CONFIG / "backbones.yml"


def main(argv: Sequence[str] | None = None) -> int:
    """Train an SAE as the command line says; return the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    from bias_evaluation.training_runs.inputs import read_embeddings
    from bias_evaluation.training_runs.run import report_path
    from bias_evaluation.training_runs.sae import run_training
    from bias_evaluation.training_runs.sae_report import format_report

    output = _output(args.output, args.format)
    _check_kind(args)
    config = _config(args) if args.batch_topk is None else None
    if not args.checkpoint_seconds >= 0:
        raise InputError(f"--checkpoint-seconds must be at least 0, got {args.checkpoint_seconds}")
    if args.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: this machine has no usable CUDA device; use --device cpu")
    rows = _encode_prompts(args) if args.embeddings is None else read_embeddings(args.embeddings)
    if config is None:
        return _train_batch_topk(args, rows, output)
    report = run_training(
        rows,
        output,
        config,
        **_run_options(args),
    )
    print(format_report(report))
    print(f"weights: {output}\nreport:  {report_path(output)}")
    return 0


def _run_options(args: argparse.Namespace) -> dict[str, Any]:
    """Options of a run that both kinds of training have."""
    names = ("holdout", "device", "overwrite", "checkpoint_seconds")
    return {name: getattr(args, name) for name in names} | {"progress": True}


def _check_kind(args: argparse.Namespace) -> None:
    """Raise where options of one kind of training are given for the other."""
    of_sem = ("levels", "epochs", "decay_fraction", "eps", "grad_clip", "l1")
    for name in of_sem if args.batch_topk is not None else ():
        if getattr(args, name) is not None:
            raise InputError(f"--{name.replace('_', '-')} is not for --batch-topk, which trains in --steps")
    for name in ("steps", "warmup") if args.batch_topk is None else ():
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for --batch-topk alone; the SEM methods' training has --epochs")


def _train_batch_topk(args: argparse.Namespace, rows: Tensor, output: Path) -> int:
    """Train DeBiasLens's autoencoder; what is not given has the paper's values."""
    from bias_evaluation.training_runs.batch_topk import format_batch_topk, run_batch_topk
    from bias_evaluation.training_runs.run import report_path
    from debiasing_methods.training.batch_topk import BatchTopKConfig

    names = ("n_latents", "steps", "batch_size", "lr", "warmup", "seed")
    values = {name: value for name in names if (value := getattr(args, name)) is not None}
    try:
        config = BatchTopKConfig(k=args.batch_topk, **values)
    except ValueError as error:
        raise InputError(str(error)) from None
    report = run_batch_topk(
        rows,
        output,
        config,
        **_run_options(args),
    )
    print(format_batch_topk(report))
    print(f"weights: {output}\nreport:  {report_path(output)}")
    return 0


def _encode_prompts(args: argparse.Namespace) -> Tensor:
    """Encode ``--prompts`` with ``--backbone``: raw text embeddings (P, d)."""
    from bias_evaluation.training_runs.inputs import read_prompts

    if args.backbone is None:
        raise InputError("--prompts needs --backbone, the name of the model that encodes them")
    prompts = read_prompts(args.prompts)
    from bias_evaluation.embedding.text_store import TextStore
    from bias_evaluation.grid.configs import get_backbone, project_root

    backbone = get_backbone(args.backbone, args.backbones_file)
    data_root = args.data_root or project_root(args.backbones_file) / "data"
    return TextStore(backbone, data_root / "text_embeddings", device=args.device).embed(prompts)


def _output(path: Path, file_format: str | None) -> Path:
    suffixes = [FORMATS[file_format]] if file_format else list(FORMATS.values())
    if path.suffix not in suffixes:
        of_format = f" for --format {file_format}" if file_format else ""
        raise InputError(f"--output {path}: the name must end in {' or '.join(suffixes)}{of_format}")
    if path.is_dir():
        raise InputError(f"--output {path} is a folder; give the name of a file")
    return path


def _config(args: argparse.Namespace) -> SaeTrainingConfig:
    """Make the configuration from the options that are named like its fields."""
    given = {field.name: getattr(args, field.name) for field in fields(SaeTrainingConfig)}
    values = {name: value for name, value in given.items() if value is not None}
    values["levels"] = None if args.levels is None else tuple(args.levels)
    try:
        return SaeTrainingConfig(**values)
    except ValueError as error:
        raise InputError(str(error)) from None


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        description="Train a Matryoshka sparse autoencoder on text embeddings, for the SEM methods. Writes "
        "the weights, and beside them a report of how well they reconstruct; goes on where it was cut off.",
        epilog="example: python debiasing_methods/sae_training.py --embeddings text_embeddings.npz "
        "--n-latents 2048 --lr 1e-3 --output sae.pth",
    )
    _add_source(parser.add_argument_group("training data (one of the two)"))
    _add_files(parser.add_argument_group("files"))
    _add_model(parser.add_argument_group("model"))
    _add_training(parser.add_argument_group("training"))
    _add_batch_topk(parser.add_argument_group("DeBiasLens's autoencoder, on residuals, instead of SEM's"))
    return parser


def _add_source(group: argparse._ArgumentGroup) -> None:
    file: dict[str, Any] = {"type": Path, "metavar": "FILE"}
    either = group.add_mutually_exclusive_group(required=True)
    text = ".npy matrix (rows, width) of raw embeddings, or .npz with arrays 'prompts' and 'embeddings'"
    either.add_argument("--embeddings", help=text, **file)
    text = "prompts to encode: one a line, or a list in a .json, .yml or .yaml file"
    either.add_argument("--prompts", help=text, **file)
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="with --prompts: the backbone that encodes them; also MODEL:TAG, hf-hub:… or local-dir:…",
    )
    text = "with --prompts: backbone file (default: config/backbones.yml)"
    group.add_argument("--backbones-file", default=_BACKBONES, help=text, **file)
    text = "with --prompts: DIR/text_embeddings keeps what is encoded (default: data/ beside config/)"
    group.add_argument("--data-root", type=Path, metavar="DIR", help=text)


def _add_files(group: argparse._ArgumentGroup) -> None:
    text = "weights to write (.pth, the release's format, or .safetensors)"
    group.add_argument("--output", type=Path, required=True, metavar="FILE", help=text)
    group.add_argument(
        "--format", choices=FORMATS, help="file format (default: as the name of --output ends)"
    )
    text = "replace weights or a checkpoint of another run, or train finished weights anew"
    group.add_argument("--overwrite", action="store_true", help=text)
    text = "time between two checkpoints (default: %(default)s)"
    group.add_argument("--checkpoint-seconds", type=float, default=30.0, metavar="X", help=text)


def _add_model(group: argparse._ArgumentGroup) -> None:
    _number(group, "n_latents", int, "number of latents")
    text = "ascending numbers of latents to reconstruct with (default: 64, doubled up to --n-latents)"
    group.add_argument("--levels", type=int, nargs="+", metavar="K", help=text)
    text = "do not append --n-latents to the levels (inference uses all latents, so they are best trained)"
    group.add_argument("--no-full-level", dest="full_level", action="store_false", help=text)
    text = "weights of the levels: L, …, 2, 1, or all 1 (default: %(default)s)"
    group.add_argument("--weighting", choices=WEIGHTINGS, default=DEFAULTS.weighting, help=text)


def _add_training(group: argparse._ArgumentGroup) -> None:
    _number(group, "lr", float, "learning rate; 1e-3 for some hundred to thousand rows")
    _number(group, "batch_size", int, "most rows a batch")
    _number(group, "epochs", int, "passes over the rows")
    _number(group, "decay_fraction", float, "share of the steps, at the end, in which the rate falls to 0")
    _number(group, "eps", float, "epsilon of AdamW")
    _number(group, "grad_clip", float, "bound on the gradient's norm")
    _number(group, "l1", float, "weight of an L1 penalty that makes the latents of inference sparse; 0: none")
    _number(group, "seed", int, "of starting values, order of the rows and held-out rows")
    text = "train on the rows as they are, not centred and scaled (the weights take raw rows either way)"
    group.add_argument("--no-standardize", dest="standardize", action="store_false", help=text)
    text = "share of the rows kept from training, for the report (default: %(default)s)"
    group.add_argument("--holdout", type=float, default=0.1, metavar="X", help=text)
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")


def _add_batch_topk(group: argparse._ArgumentGroup) -> None:
    text = "train with BatchTopK, K latents per row on average (the paper: 20); --embeddings are residuals"
    group.add_argument("--batch-topk", type=int, metavar="K", help=text)
    text = "steps (the paper's default: 110,000, with batches of 4,096, 8 latents per coordinate)"
    group.add_argument("--steps", type=int, metavar="N", help=text)
    group.add_argument(
        "--warmup", type=int, metavar="N", help="steps of the learning rate's rise (default: 1,000)"
    )


def _number(group: argparse._ArgumentGroup, field: str, kind: type, text: str) -> None:
    """Add the option of a numeric field of the configuration."""
    default = getattr(DEFAULTS, field)
    text = f"{text} (default: {default})"
    group.add_argument(
        f"--{field.replace('_', '-')}",
        type=kind,
        metavar="N" if kind is int else "X",
        help=text,
    )


if __name__ == "__main__":
    sys.exit(run_main(main))
