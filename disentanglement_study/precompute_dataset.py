"""Embed the sentences of the disentanglement study: every template with every bias value and every subject.

Raw text embeddings go to ``data/disentanglement/CLIP_<backbone>_<digest>.npz`` (arrays `prompts` and
`embeddings`), one file a backbone and checkpoint. SAE latents are not kept: the experiment computes them from
the embeddings in seconds, where a file of them would take gigabytes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from disentanglement_study.sentences import add_common_options, distinct, open_store
from safe_io.command_line import ArgumentParser
from safe_io.errors import run_main

_ENCODED_TOGETHER = 8192  # sentences that are encoded before they are kept on disk


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--backbones": "--backbone"},
        description="Embed the sentences of the disentanglement study, of every bias attribute in the "
        "config. What is there already is kept.",
        epilog="Example: precompute_dataset.py --backbone ViT-B-16 --device cuda",
    )
    add_common_options(parser)
    parser.add_argument("--backbone", nargs="+", metavar="B", help="only these (default: all of the config)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.prompts.study_config import load_study_config

    config = load_study_config(args.config)
    sentences = distinct([config.probe_sentences(bias).sentences for bias in config.biases])
    data_root = args.data_root or config.root / "data"
    for backbone in [config.backbone(name) for name in args.backbone or config.backbones]:
        store = open_store(backbone, data_root, device=args.device)
        missing = store.missing(sentences)
        for start in range(0, len(missing), _ENCODED_TOGETHER):
            store.ensure(missing[start : start + _ENCODED_TOGETHER])
        print(f"{backbone.name}: {len(sentences)} sentences, {len(missing)} of them new: {store.path}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
