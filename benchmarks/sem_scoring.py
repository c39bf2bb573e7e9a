"""Time SEM's percentile scores against the comparison tensor that defines them, on the release's sizes.

Symbols: s latents; A (n, s) latents of the n diverse prompts; v one of the queries' latents (Q, s); B_c
latents of bias class c's prompts, m_c their lower median; F(v)_j = #{i : A_ij < v_j} / n.

Both ways score the same latents: F of the queries, and S_bias once for all of them. The naive way writes the
definition down as a (rows × n × s) tensor, in each of two forms: its entries are counted, or averaged as
floats (which is faster and takes four times the memory). The fast way is `debiasing_methods.sem`, with the
sort of A that a method does once, when it is made, counted in full. Its memory is measured in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    Scores = tuple[Tensor, Tensor]  # F of the queries (Q, s), S_bias (s,)
    Share = Callable[[Tensor, Tensor], Tensor]  # prompts' latents (n, s), rows (r, s) -> F (r, s)

OUTPUT = Path(__file__).resolve().parent / "output" / "sem_scoring.json"
TARGET_RATIO, TARGET_MIB = 10, 1024


@dataclass(frozen=True, eq=False)
class Latents:
    """What is scored: latents of the diverse prompts, of the queries, and of each bias class's prompts."""

    diverse: Tensor
    queries: Tensor
    bias: tuple[Tensor, ...]


def random_latents(sizes: argparse.Namespace) -> Latents:
    """Encode random embeddings with a random SAE (the work does not depend on the values)."""
    import torch

    from debiasing_methods.sae import SparseAutoencoder

    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    s, d = sizes.latents, sizes.width
    sae = SparseAutoencoder(draw(s, d) / d**0.5, draw(s) - 1, draw(d, s), draw(d))
    bias = sae.encode(draw(sizes.bias_prompts, d)).tensor_split(sizes.bias_classes)
    return Latents(sae.encode(draw(sizes.diverse, d)), sae.encode(draw(sizes.queries, d)), bias)


def fast_scores(latents: Latents) -> Scores:
    """Score as the methods do."""
    from debiasing_methods.sem import Percentiles, bias_scores

    diverse = Percentiles(latents.diverse)
    return diverse.score(latents.queries), bias_scores(diverse, latents.bias)


def counted(prompts: Tensor, rows: Tensor) -> Tensor:
    """F as a count over the (r, n, s) comparison tensor."""
    return (prompts[None] < rows[:, None]).sum(dim=1) / len(prompts)


def averaged(prompts: Tensor, rows: Tensor) -> Tensor:
    """F as a mean over the (r, n, s) comparison tensor."""
    return (prompts[None] < rows[:, None]).float().mean(dim=1)


def naive_scores(latents: Latents, share: Share) -> Scores:
    """Write the definition down: S_bias = max(0, max over c of min(g_c, r_c))."""
    import torch

    specific = []
    for c, own in enumerate(latents.bias):
        median = own.median(dim=0).values[None]
        others = torch.cat([prompts for k, prompts in enumerate(latents.bias) if k != c])
        specific.append(torch.minimum(share(latents.diverse, median), share(others, median))[0])
    return share(latents.diverse, latents.queries), torch.stack(specific).amax(dim=0).clamp(min=0)


def best_seconds(tasks: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Run all tasks in turn, several times, and keep the best time of each."""
    best = dict.fromkeys(tasks, float("inf"))
    for _ in range(repeats):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


def time_all(latents: Latents, repeats: int) -> dict[str, float]:
    """Seconds of both naive forms, of the fast way, and of its parts."""
    from debiasing_methods.sem import Percentiles, bias_scores

    diverse = Percentiles(latents.diverse)
    return best_seconds(
        {
            "naive, counted": lambda: naive_scores(latents, counted),
            "naive, averaged": lambda: naive_scores(latents, averaged),
            "fast, all": lambda: fast_scores(latents),
            "fast: sort of the diverse prompts": lambda: Percentiles(latents.diverse),
            "fast: F of the queries": lambda: diverse.score(latents.queries),
            "fast: S_bias": lambda: bias_scores(diverse, latents.bias),
        },
        repeats,
    )


def largest_difference(latents: Latents) -> float:
    """Largest difference between the scores of the fast way and of either naive form."""
    fast = fast_scores(latents)
    pairs = [
        pair for share in (counted, averaged) for pair in zip(fast, naive_scores(latents, share), strict=True)
    ]
    return max((a - b).abs().max().item() for a, b in pairs)


def peak_mib() -> float:
    """Peak resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure_memory(argv: Sequence[str]) -> dict[str, float]:
    """Run the fast way alone, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sem_scoring", *argv, "--memory-only"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of_fast_scores(sizes: argparse.Namespace) -> dict[str, float]:
    """Peak memory before and after the scoring (interpreter, libraries, SAE and latents included)."""
    latents = random_latents(sizes)
    before = peak_mib()
    fast_scores(latents)
    return {"before": before, "peak": peak_mib()}


def format_results(results: dict[str, Any]) -> str:
    """Render the results as a small table."""
    seconds, memory = results["seconds"], results["memory_mib"]
    lines = [", ".join(f"{name} {value}" for name, value in results["sizes"].items())]
    lines.append(", ".join(f"{name} {value}" for name, value in results["machine"].items()))
    lines += [f"  {name:<36}{value * 1e3:10.1f} ms" for name, value in seconds.items()]
    for name, ratio in results["ratio"].items():
        verdict = "met" if ratio >= TARGET_RATIO else "missed"
        lines.append(f"{name} / fast: {ratio:.1f} times (target {TARGET_RATIO}: {verdict})")
    verdict = "met" if memory["peak"] < TARGET_MIB else "missed"
    lines.append(
        f"peak memory of the fast way: {memory['peak']:.0f} MiB, of which {memory['before']:.0f} before the "
        f"scoring (target {TARGET_MIB}: {verdict})"
    )
    lines.append(f"largest difference between the scores: {results['largest_difference']:.1e}")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Time SEM's percentile scores against the comparison tensor that defines them.",
        epilog="The defaults are the release's sizes; about half a minute and 2 GiB of memory.",
    )
    for name, default, text in (
        ("latents", 16384, "latents s of the SAE"),
        ("width", 512, "embedding dimension d"),
        ("queries", 25, "rows that are scored"),
        ("diverse", 328, "diverse prompts n"),
        ("bias-prompts", 140, "bias prompts of all classes together"),
        ("bias-classes", 7, "bias classes"),
        ("repeats", 7, "runs, of which the best counts"),
        ("threads", 1, "threads of torch; one says how much work it is, not how many cores do it"),
    ):
        parser.add_argument(
            f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FILE",
        help="results as JSON (default: benchmarks/output/sem_scoring.json)",
    )
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 if both ways disagree, whatever the times are."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)

    import torch

    torch.set_num_threads(args.threads)
    if args.memory_only:
        print(json.dumps(memory_of_fast_scores(args)))
        return 0
    memory = measure_memory(argv)  # first: a child process inherits its parent's peak
    latents = random_latents(args)
    seconds = time_all(latents, args.repeats)
    naive = [name for name in seconds if name.startswith("naive")]
    results = {
        "sizes": {k: v for k, v in vars(args).items() if k not in ("threads", "output", "memory_only")},
        "machine": {
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "architecture": platform.machine(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "seconds": seconds,
        "ratio": {name: seconds[name] / seconds["fast, all"] for name in naive},
        "memory_mib": memory,
        "largest_difference": largest_difference(latents),
    }
    write_json(args.output, results)
    print(f"{format_results(results)}\nwrote {args.output}")
    return 0 if results["largest_difference"] < 1e-6 else 1


if __name__ == "__main__":
    sys.exit(run_main(main))
