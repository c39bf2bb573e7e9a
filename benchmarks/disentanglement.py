"""Time the probes of the disentanglement study on SAE latents.

The latents are synthetic: sentences are sums of random vectors for template, bias value and subject, of their
pairs, and of noise, and an SAE with random weights makes about one in twenty of their latents positive. The
work of an iteration does not depend on the values; the number of iterations does, and real latents may need
more, so it is printed, and `--tol` makes it larger.

``--case middle`` has 20 templates × 2 × 50 = 2,000 sentences and 4,096 latents. ``--case large`` is the
study's largest: 20 × 7 × 100 = 14,000 sentences and 16,384 latents.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from disentanglement_study.probes import ProbeSettings, cross_validate
from safe_io.errors import run_main
from safe_io.files import write_json

OUTPUT = Path(__file__).resolve().parent / "output" / "disentanglement.json"
_ROWS = 1024  # sentences whose latents are made together
_THRESHOLD = 1.64  # of a latent, in standard deviations: about 5 % of a normal distribution lie above


@dataclass(frozen=True)
class Case:
    """Sizes: templates, bias values, subjects, embedding dimension, latents."""

    templates: int
    biases: int
    subjects: int
    dim: int
    latents: int


CASES = {
    "small": Case(10, 3, 10, 64, 1024),
    "middle": Case(20, 2, 50, 512, 4096),
    "large": Case(20, 7, 100, 512, 16384),
}


def make_latents(case: Case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make latents (n, s), float32, with subject codes and bias codes (n,)."""
    rng = np.random.default_rng(seed)
    t, b, p = case.templates, case.biases, case.subjects

    def part(scale: float, *shape: int) -> np.ndarray:
        return (scale * rng.standard_normal((*shape, case.dim))).astype(np.float32)

    x = part(1.0, t, 1, 1) + part(0.6, 1, b, 1) + part(1.0, 1, 1, p)
    x = x + part(0.3, t, b, 1) + part(0.4, t, 1, p) + part(0.3, 1, b, p) + part(0.3, t, b, p)
    x = x.reshape(-1, case.dim)
    x -= x.mean(axis=0)
    encoder = rng.standard_normal((case.dim, case.latents)).astype(np.float32)
    threshold = _THRESHOLD * np.linalg.norm(encoder, axis=0) * x.std()
    latents = np.empty((len(x), case.latents), dtype=np.float32)
    for start in range(0, len(x), _ROWS):
        latents[start : start + _ROWS] = np.maximum(x[start : start + _ROWS] @ encoder - threshold, 0)
    biases, subjects = (codes.ravel() for codes in np.indices((t, b, p))[1:])
    return latents, subjects, biases


def run(latents: np.ndarray, subjects: np.ndarray, biases: np.ndarray, tol: float) -> dict[str, Any]:
    """Run all folds as the experiment does."""
    started, processor, folds = time.perf_counter(), time.process_time(), []
    for result in cross_validate(latents, subjects, biases, ProbeSettings(tol=tol)):
        folds.append(result)
        print(
            f"  fold {len(folds)}: {time.perf_counter() - started:.1f} s, iterations {result.iterations}",
            flush=True,
        )
    return {
        "seconds": time.perf_counter() - started,
        "processor_seconds": time.process_time() - processor,
        "iterations": [fold.iterations for fold in folds],
        "accuracies": [(fold.subject, fold.direct, fold.leak) for fold in folds],
    }


def measure(name: str, tol: float) -> dict[str, Any]:
    """Measure one case."""
    from benchmarks.sem_scoring import peak_mib

    case = CASES[name]
    started = time.perf_counter()
    latents, subjects, biases = make_latents(case)
    facts: dict[str, Any] = {
        "sizes": vars(case),
        "sentences": len(latents),
        "tol": tol,
        "active_share": float(np.count_nonzero(latents) / latents.size),
        "seconds_making_latents": time.perf_counter() - started,
    }
    print(f"{name}: {latents.shape[0]} × {latents.shape[1]}, {facts['active_share']:.1%} positive")
    facts |= run(latents, subjects, biases, tol)
    facts["peak_gib"] = peak_mib() / 1024
    return facts


def show(facts: dict[str, Any]) -> None:
    """Print what was measured."""
    print(
        f"{facts['seconds']:.1f} s ({facts['processor_seconds']:.1f} s of processor), peak "
        f"{facts['peak_gib']:.2f} GiB"
    )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The number of cores is set from outside, e.g. OMP_NUM_THREADS=2.",
    )
    add = parser.add_argument
    add("--case", choices=list(CASES), default="middle", help="default: %(default)s")
    add("--tol", type=float, default=ProbeSettings.tol, help="stopping tolerance (default: %(default)s)")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    args = build_parser().parse_args(argv)
    facts = measure(args.case, args.tol)
    facts["machine"] = {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS", "not set"),
        "load": os.getloadavg(),
    }
    write_json(args.output, facts)
    show(facts)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
