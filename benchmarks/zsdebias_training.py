"""Time an epoch of ZSDebias training on a shortened sample of the release's size, and the parts of a step.

Prints a table and writes it as JSON. The data are random: the work does not depend on the values. The full
data are 87,000 to 150,000 rows; an epoch's time grows with the rows, so the time of a whole training is also
given for `--full-rows` and the epochs of the default.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from debiasing_methods.training.hyperparameters import ZSDebiasTrainingConfig
from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    import torch

OUTPUT = Path(__file__).resolve().parent / "output" / "zsdebias_training.json"
EPOCHS = ZSDebiasTrainingConfig().epochs


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    times = measure(args)
    per_row = times["epoch"] / args.rows
    times["whole training"] = (
        per_row * args.full_rows * EPOCHS + times["bias targets"] * args.full_rows / args.rows
    )
    facts = {
        "machine": {
            "cpus": os.cpu_count(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
        "device": args.device,
        "torch": torch.__version__,
        "sizes": {name: getattr(args, name) for name in ("rows", "width", "sentences", "full_rows")},
        "seconds": times,
    }
    for name, seconds in times.items():
        print(
            f"{name:58}{1000 * seconds:12,.1f} ms" if seconds < 60 else f"{name:58}{seconds / 3600:12,.2f} h"
        )
    write_json(args.output, facts)
    print(f"written: {args.output}")
    return 0


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Time bias targets, an epoch, a step and its parts: seconds, of the parts the least of the repeats."""
    import torch

    from debiasing_methods.training.cka import alignments, centred_kernel, squared_distances
    from debiasing_methods.training.zsdebias import ZSDebiasTraining, bias_targets, loss_terms

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(args.rows, args.width, generator=generator).to(args.device)
    corpus = torch.randn(args.sentences, args.width, generator=generator).to(args.device)
    started = time.perf_counter()
    targets = bias_targets(images, corpus)
    _wait(args.device)
    times = {"bias targets": time.perf_counter() - started}
    training = ZSDebiasTraining(images, targets, ZSDebiasTrainingConfig())
    times["epoch"] = _least(training.take_epoch, args.device, repeats=1, warm_up=args.device != "cpu")
    x, b = images[: training.batch_size], targets[: training.batch_size]
    halves = [half.clone().requires_grad_() for half in x.chunk(2, dim=1)]
    order = torch.randperm(len(x), device=x.device)

    def backward_of(evaluate: Callable[[], torch.Tensor]) -> Callable[[], None]:
        return lambda: evaluate().backward()

    model = training.model.train()
    parts: dict[str, Callable[[], Any]] = {
        "loss of a batch, forward": lambda: loss_terms(model, x, b),
        "loss of a batch, forward and backward": backward_of(lambda: loss_terms(model, x, b).total(0.01)),
        "  its matrix products alone": products(len(x), args.width, args.device),
        "  encoder and three decodings, forward and backward": backward_of(
            lambda: model.decode_shuffled(*model.moments(x)[0].chunk(2, dim=1), order, swapped=True).sum()
        ),
        "  three kernels and two alignments, forward and backward": backward_of(
            lambda: alignments([*halves, b], [(1, 2), (0, 1)]).sum()
        ),
        "    kernel of a half, forward": lambda: centred_kernel(halves[0].detach()),
        "    squared distances of a half, forward": lambda: squared_distances(halves[0].detach()),
        "  draws: latents, dropout": lambda: [torch.rand_like(x) for _ in range(4)] + [torch.randn_like(x)],
    }
    for name, part in parts.items():
        times[name] = _least(part, args.device, repeats=args.repeats)
    return times


def products(n: int, d: int, device: str) -> Callable[[], None]:
    """Make a task: the matrix products that a step cannot do without, of n rows of width d.

    Per layer one forward, one for the weights' gradient and one for the input's (not for the first layer), of
    d² or 2d² weights; a kernel has one of its width forward and, for the two halves, one backward.
    """
    import torch

    rows, wide, square = (torch.randn(shape, device=device) for shape in ((n, d), (d, 2 * d), (d, d)))
    moments, weights, half = torch.randn(n, 2 * d, device=device), torch.randn(n, n, device=device), d // 2

    def task() -> None:
        for _ in range(
            2 + 3 * 2 + 3 * 3
        ):  # encoder's first layer; decoder: two products for three, then three
            torch.mm(rows, square)
        for product in ((rows, wide), (moments, wide.T), (rows.T, moments)):
            torch.mm(*product)
        for width in (half, half, d):
            torch.mm(rows[:, :width], rows[:, :width].T)
        for _ in range(2):
            torch.mm(weights, rows[:, :half])

    return task


def _least(part: Callable[[], Any], device: str, *, repeats: int, warm_up: bool = True) -> float:
    if warm_up:
        part()
    seconds = []
    for _ in range(repeats):
        _wait(device)
        started = time.perf_counter()
        part()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds)  # what else the machine does only adds


def _wait(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--rows", type=int, default=60_000, metavar="N", help="image embeddings (default: %(default)s)")
    add("--width", type=int, default=512, metavar="N", help="their width (default: %(default)s)")
    add("--sentences", type=int, default=1500, metavar="N", help="bias corpus (default: %(default)s)")
    text = "rows that the time of a whole training is given for (default: %(default)s)"
    add("--full-rows", type=int, default=87_000, metavar="N", help=text)
    add("--repeats", type=int, default=5, metavar="N", help="of each part (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="torch threads (default: torch's own choice)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(run_main(main))
