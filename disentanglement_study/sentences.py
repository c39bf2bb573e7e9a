"""Where the embeddings of the study's sentences lie, and what the two commands share on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bias_evaluation.grid.configs import Backbone
from safe_io.checkout import ROOT

if TYPE_CHECKING:
    from bias_evaluation.embedding.text_store import TextStore

CONFIG = ROOT / "config" / "studies" / "people.yml"
FOLDER = (
    "disentanglement"  # under the data root; apart from text_embeddings/, which other commands read whole
)


def open_store(
    backbone: Backbone, data_root: Path, *, device: str = "cpu", given: Path | None = None
) -> TextStore:
    """Open the kept text embeddings of a backbone; `given` is a file that supplies them instead."""
    from bias_evaluation.embedding.text_store import TextStore

    return TextStore(backbone, data_root / FOLDER, device=device, given=given)


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which world of sentences, and where its embeddings lie."""
    parser.add_argument(
        "--config",
        type=Path,
        default=CONFIG,
        metavar="FILE",
        help="sentences of the study (default: config/studies/people.yml)",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="embeddings lie in DIR/disentanglement/ (default: data/ in the project of the config)",
    )


def distinct(lists: Sequence[Sequence[str]]) -> list[str]:
    """All sentences of some lists, each once, in order."""
    return list(dict.fromkeys(sentence for sentences in lists for sentence in sentences))
