"""Options that the commands of the qualitative study share."""

from __future__ import annotations

import argparse
from pathlib import Path

from safe_io.checkout import ROOT

OUTPUT_DIR = ROOT / "study_output" / "qualitative"
NEUTRAL_CONCEPT = "sem-b-neutral"
DEFAULT_VERSIONS = ("vanilla", "orth-proj", "sem-b", NEUTRAL_CONCEPT)


def add_text_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where text embeddings come from."""
    add = parser.add_argument
    add(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="folder of text_embeddings/ (default: data/ in the project of the config)",
    )
    add(
        "--text-embeddings",
        type=Path,
        metavar="FILE",
        help="take all text embeddings from this .npz file, with the arrays prompts and embeddings",
    )


def build_parser(description: str, epilog: str) -> argparse.ArgumentParser:
    """Describe the command line that the figure and the table share."""
    parser = argparse.ArgumentParser(description=description, epilog=epilog)
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        default=ROOT / "config" / "studies" / "people.yml",
        metavar="FILE",
        help="sentences of the study (default: config/studies/people.yml)",
    )
    add("--backbone", metavar="B", help="a backbone of the config (default: the one that it names)")
    add(
        "--versions",
        nargs="+",
        default=list(DEFAULT_VERSIONS),
        metavar="V",
        help=f"versions to compare: vanilla, text methods that need at most an SAE, and {NEUTRAL_CONCEPT} "
        f"(default: {' '.join(DEFAULT_VERSIONS)})",
    )
    add(
        "--prompts",
        default="default",
        metavar="NAME",
        help="prompt set of the bias prompts and diverse prompts; its SAE is looked for first (default: "
        "%(default)s)",
    )
    add("--sae", type=Path, metavar="FILE", help="SAE weights (default: where SEM looks for the backbone's)")
    add_text_options(parser)
    add(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where text is encoded (default: %(default)s)",
    )
    add(
        "--output-dir",
        type=Path,
        default=OUTPUT_DIR,
        metavar="DIR",
        help="default: study_output/qualitative/",
    )
    return parser
