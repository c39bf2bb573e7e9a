"""Time text encoding: padded to the context length against packed, on the text towers of four backbones.

The weights are random (the work does not depend on them) and the sentences are those of PRISM's text sets,
drawn at random. Both ways encode the same tokens on the same model, in turn, so that both meet the same
machine. The ratio of a backbone is the median over rounds, each of one call of both. The last line is the
smallest ratio of the backbones.

    python -m benchmarks.text_encoding
    python -m benchmarks.text_encoding --sentences 4096 --padded-sentences 64
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bias_evaluation.grid.configs import Backbone, load_backbones
from bias_evaluation.prompts.prism_texts import load_text_sets
from safe_io.checkout import ROOT
from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = Path(__file__).resolve().parent / "output" / "text_encoding.json"
BACKBONES = ("ViT-B-16", "ViT-L-14@336px", "RN50", "RN101")
TINY_VISION = {"layers": 1, "width": 64, "patch_size": 32, "image_size": 32}
PADDED_BATCH = 256


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    sentences = draw_sentences(args.sentences, args.seed)
    backbones = load_backbones(ROOT / "config" / "backbones.yml")
    rows = {name: measure(backbones[name], sentences, args) for name in args.backbone}
    print_table(rows)
    facts = {
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine()},
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sentences": len(sentences),
        "backbones": rows,
    }
    write_json(args.output, facts)
    print(f"written: {args.output}")
    print(f"ratio: {min(row['ratio'] for row in rows.values()):.2f}")
    return 0


def draw_sentences(n: int, seed: int) -> list[str]:
    """Draw n distinct sentences of PRISM's text sets."""
    sets = load_text_sets(ROOT / "config" / "prism" / "default").values()
    sentences = list(dict.fromkeys(itertools.chain.from_iterable(s.sentences() for s in sets)))
    rows = np.random.default_rng(seed).permutation(len(sentences))[:n]
    return [sentences[row] for row in rows]


def build_text_tower(backbone: Backbone) -> nn.Module:
    """Build a backbone's model with random weights and a tiny image tower."""
    import open_clip
    import torch
    from torch import nn

    config = open_clip.get_model_config(backbone.open_clip)
    torch.manual_seed(0)
    model = open_clip.CLIP(
        config["embed_dim"], TINY_VISION, config["text_cfg"], quick_gelu=backbone.quick_gelu
    )
    nn.init.normal_(model.positional_embedding, std=0.01)
    nn.init.normal_(model.token_embedding.weight, std=0.02)
    return model.eval()


def measure(backbone: Backbone, sentences: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    """Time both ways on one backbone: seconds per sentence, their ratio, and how far they differ."""
    import open_clip
    import torch

    from bias_evaluation.embedding.text_tower import encode_tokens

    with torch.inference_mode():
        model = build_text_tower(backbone).to(args.device)
        tokens = open_clip.get_tokenizer(backbone.open_clip)(list(sentences))
        few = tokens[: args.padded_sentences]
        rounds = []
        padded = encode_padded(model, few[:8], args.device)  # warm-up
        for _ in range(args.rounds):
            padded_seconds, padded = seconds_of(lambda: encode_padded(model, few, args.device))
            packed_seconds, packed = seconds_of(lambda: encode_tokens(model, tokens, args.device))
            rounds.append((padded_seconds / len(few), packed_seconds / len(tokens)))
        distance = (padded - packed[: len(few)]).norm(dim=1) / padded.norm(dim=1)
        return {
            "padded_s": statistics.median(padded for padded, _ in rounds),
            "packed_s": statistics.median(packed for _, packed in rounds),
            "ratio": statistics.median(padded / packed for padded, packed in rounds),
            "tokens_padded": tokens.shape[1],
            **count_tokens(model, tokens),
            "difference": float(distance.max()),
        }


def encode_padded(model: nn.Module, tokens: Tensor, device: str) -> Tensor:
    """Encode in batches of the whole context length: the way before packing."""
    import torch

    return torch.cat(
        [model.encode_text(part.to(device)).float().cpu() for part in tokens.split(PADDED_BATCH)]
    )


def count_tokens(model: nn.Module, tokens: Tensor) -> dict[str, float]:
    """Tokens per sentence: up to the pooled one, and what is left of them in packs."""
    from bias_evaluation.embedding.text_tower import causal_tower, packs

    ends = causal_tower(model).pooled_positions(tokens).tolist()
    sentences = [row[: end + 1] for row, end in zip(tokens.tolist(), ends, strict=True)]
    packed = sum(len(pack.tokens) for pack in packs(sentences))
    return {
        "tokens": sum(map(len, sentences)) / len(sentences),
        "tokens_packed": packed / len(sentences),
    }


def seconds_of(task: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Wall-clock seconds of one call, and its result (on the CPU, so that a GPU has finished)."""
    started = time.perf_counter()
    result = task()
    return time.perf_counter() - started, result


def print_table(rows: dict[str, dict[str, Any]]) -> None:
    """Print one line per backbone."""
    print(
        f"{'backbone':16}{'padded, ms':>12}{'packed, ms':>12}{'ratio':>8}"
        f"{'tokens: padded':>16}{'cut':>7}{'packed':>8}{'difference':>13}"
    )
    for name, row in rows.items():
        print(
            f"{name:16}{1000 * row['padded_s']:12.2f}{1000 * row['packed_s']:12.2f}{row['ratio']:8.2f}"
            f"{row['tokens_padded']:16}{row['tokens']:7.2f}{row['tokens_packed']:8.2f}{row['difference']:13.1e}"
        )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--backbone", nargs="+", choices=BACKBONES, default=BACKBONES, metavar="B", help="default: all four")
    add("--sentences", type=int, default=512, metavar="N", help="to encode packed (default: %(default)s)")
    text = "how many of them to encode padded as well, for time per sentence (default: %(default)s)"
    add("--padded-sentences", type=int, default=512, metavar="N", help=text)
    add("--rounds", type=int, default=2, metavar="N", help="of both ways (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the draw of sentences (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="torch threads (default: torch's own choice)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
