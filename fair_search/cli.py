"""Options that the commands on search systems share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fair_search.config_files import config_folder
from safe_io.documents import read_yaml
from safe_io.errors import InputError

if TYPE_CHECKING:
    from fair_search.backbones import BackboneLike


def add_backbone_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which model the embeddings are of."""
    group = parser.add_argument_group("the model")
    group.add_argument(
        "--backbone",
        metavar="NAME",
        help="a name of config/backbones.yml, such as ViT-B-16; MODEL:TAG of open_clip, hf-hub:ORG/NAME or "
        "local-dir:FOLDER; or, with --pretrained or --checkpoint, a model of open_clip or a model config "
        "(.json)",
    )
    weights = group.add_mutually_exclusive_group()
    weights.add_argument("--pretrained", metavar="TAG", help="pretrained tag of open_clip")
    weights.add_argument("--checkpoint", type=Path, metavar="FILE", help="local checkpoint of the model")
    group.add_argument(
        "--text-embeddings",
        type=Path,
        metavar="NPZ",
        help="take embeddings of texts from this file (arrays 'prompts' and 'embeddings', raw) and load no "
        "model",
    )
    group.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)"
    )


def chosen_backbone(args: argparse.Namespace) -> BackboneLike | None:
    """Return the backbone that the options name, for `load_debiaser`; None where they name none.

    Raises
    ------
    InputError
        Weights are given without a model.
    """
    weights = args.checkpoint or args.pretrained
    if weights is None:
        return args.backbone
    if args.backbone is None:
        raise InputError("--pretrained and --checkpoint need the model that they are of: give --backbone")
    return (args.backbone, weights)


def add_method_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what a method needs beside the queries."""
    group = parser.add_argument_group("the method")
    group.add_argument(
        "--bias",
        metavar="NAME|FILE",
        help="what to debias against: gender, race, age, or a bias file of your own (docs/own_dataset.md)",
    )
    group.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="trained weights: the sparse autoencoder (sem-…), the map (prism), the model (zsdebias)",
    )
    group.add_argument(
        "--option",
        nargs="+",
        metavar="KEY=VALUE",
        default=[],
        help="options of the method, such as lam=100 (default: those of config/methods.yml)",
    )
    group.add_argument("--seed", type=int, default=0, help="seed of zsdebias's noise (default: 0)")


def method_help() -> str:
    """List the methods for a help text."""
    return ", ".join(read_yaml(config_folder() / "methods.yml", "method file"))
