"""Images per second of the image towers in float32 and bfloat16, and how far their embeddings agree.

Weights and images are random. The cosine therefore says how much the arithmetic changes an embedding of an
untrained tower; trained weights may differ. Both precisions encode the same images with the same weights, in
turn. The last line is the smallest ratio of the rates over the backbones.

    python -m benchmarks.image_precision
    python -m benchmarks.image_precision --images 4 --backbone ViT-B-16
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_evaluation.grid.configs import PRECISIONS, Backbone, load_backbones
from safe_io.checkout import ROOT
from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

OUTPUT = Path(__file__).resolve().parent / "output" / "image_precision.json"
BACKBONES = ("ViT-B-16", "ViT-L-14@336px", "RN50", "RN101")


def build_tower(backbone: Backbone, precision: str = "fp32") -> nn.Module:
    """Build a backbone with random weights, as `Encoder` builds it."""
    import open_clip
    import torch

    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    torch.manual_seed(0)
    model = open_clip.create_model(
        backbone.open_clip, precision=precision, force_quick_gelu=backbone.quick_gelu
    )
    return model.eval().to(memory_format=torch.channels_last)


def random_images(model: nn.Module, n: int) -> Tensor:
    """Draw n images ``(n, 3, H, W)`` of the size that a model takes."""
    import torch

    size = model.visual.image_size
    side = size if isinstance(size, int) else size[0]
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))
    return images.to(memory_format=torch.channels_last)


def encode(model: nn.Module, images: Tensor, precision: str = "fp32") -> tuple[Tensor, float]:
    """Encode a batch: embeddings ``(n, d)``, float32, and images per second."""
    import torch

    with torch.inference_mode():
        images = images.to(getattr(torch, PRECISIONS[precision]))
        started = time.perf_counter()
        embeddings = model.encode_image(images).float()
        return embeddings, len(images) / (time.perf_counter() - started)


def measure(backbone: Backbone, n: int, rounds: int) -> dict[str, float]:
    """Rates of both precisions, the best of some rounds, and the smallest cosine of an image."""
    import torch

    towers = {precision: build_tower(backbone, precision) for precision in ("fp32", "bf16")}
    images, rates, embeddings = random_images(towers["fp32"], n), {}, {}
    for _ in range(1 + rounds):  # the first warms up
        for precision, tower in towers.items():
            embeddings[precision], rate = encode(tower, images, precision)
            rates[precision] = max(rate, rates.get(precision, 0.0))
    cosines = torch.cosine_similarity(embeddings["fp32"], embeddings["bf16"])
    return {**rates, "ratio": rates["bf16"] / rates["fp32"], "smallest cosine": float(cosines.min())}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    from benchmarks.machine import describe_machine

    known = load_backbones(ROOT / "config" / "backbones.yml")
    rows: dict[str, dict[str, Any]] = {}
    print(f"{'backbone':16}{'fp32/s':>10}{'bf16/s':>10}{'ratio':>10}{'smallest cosine':>18}")
    for name in args.backbone:
        row = rows[name] = measure(known[name], args.images, args.rounds)
        rates = "".join(f"{row[key]:10.2f}" for key in ("fp32", "bf16", "ratio"))
        print(f"{name:16}{rates}{row['smallest cosine']:18.5f}")
    write_json(args.output, {"machine": describe_machine(), "images": args.images, "rows": rows})
    print(f"written: {args.output}\nratio: {min(row['ratio'] for row in rows.values()):.2f}")
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--backbone", nargs="+", choices=BACKBONES, default=BACKBONES, metavar="B", help="default: all four")
    add("--images", type=int, default=16, metavar="N", help="in a batch (default: %(default)s)")
    add("--rounds", type=int, default=2, metavar="N", help="of both precisions (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
