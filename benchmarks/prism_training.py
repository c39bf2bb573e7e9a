"""Time the training of PRISM maps at paper size, and say how long all 972 of them would take.

The text sets are the project's own, for the settings of the paper's dataset configs; sentence embeddings are
random, since the work does not depend on their values. Settings are of a few kinds, which decide the work of
a map: number of samples, of target classes and of bias classes. For every backbone and kind some maps are
trained and written exactly as `prism_training.py` does it, to a temporary folder.

How the sample is extended to all maps: for every backbone and kind, the measured seconds a map (everything
included: random choices, embeddings looked up, digests, training, files) times the number of maps of that
kind; these are added up, and so is the time of reading the text sets. What is left out: reading the sentence
embeddings from their file. `--all` trains all maps and so tests the extension; it writes 2 GB to the
temporary folder.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from bias_evaluation.grid.configs import Backbone, DatasetConfig, load_dataset_config
from bias_evaluation.prompts.prism_settings import (
    TRAINING,
    hyperparameters,
    load_prism_training,
)
from bias_evaluation.prompts.prism_texts import load_text_sets
from debiasing_methods.prism_training import needed_text_sets
from safe_io.checkout import ROOT
from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

    from bias_evaluation.training_runs.prism import PrismSetting

CONFIG = ROOT / "config"
OUTPUT = Path(__file__).resolve().parent / "output" / "prism_training.json"
DATASETS = ("celeba", "fairface", "utkface", "waterbirds")
SEEDS = (0, 1, 2)
TARGET_SECONDS = 600
Kind = tuple[int, int, int]  # samples, target classes, bias classes


def read_settings(configs: Sequence[DatasetConfig]) -> list[PrismSetting]:
    """Read the text sets of the configs' settings."""
    from bias_evaluation.training_runs.prism import training_setting

    sets, training = load_text_sets(CONFIG / "prism" / "default"), load_prism_training(CONFIG / TRAINING)
    return [
        training_setting(task, name, sets[task, name], hyperparameters(training, name, CONFIG / TRAINING))
        for task, name in needed_text_sets(configs, "default")
    ]


def by_kind(settings: Sequence[PrismSetting]) -> dict[Kind, list[PrismSetting]]:
    """Group settings by what decides the work of a map."""
    kinds: dict[Kind, list[PrismSetting]] = {}
    for one in settings:
        kind = one.training.num_samples, len(one.sizes.targets), len(one.sizes.biases)
        kinds.setdefault(kind, []).append(one)
    return kinds


def seconds_of(settings: Sequence[PrismSetting], backbone: Backbone) -> float:
    """Train and write the maps of some settings, all seeds; returns how long it took."""
    import torch

    from bias_evaluation.training_runs.prism import Output, run_training

    generator = torch.Generator().manual_seed(0)

    def embed(sentences: Sequence[str]) -> Tensor:
        return torch.randn(len(sentences), backbone.dim, generator=generator)

    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run_training(settings, embed, Output(Path(folder), backbone.name), seeds=SEEDS)
        return time.perf_counter() - started


def measure_sample(
    kinds: dict[Kind, list[PrismSetting]], backbones: Sequence[Backbone], size: int
) -> list[dict[str, Any]]:
    """Time some maps of every backbone and kind; one row each."""
    rows = []
    seconds_of(next(iter(kinds.values()))[:1], backbones[0])  # warm up
    with tqdm(total=len(backbones) * len(kinds), desc="measuring", unit="kind") as bar:
        for backbone in backbones:
            for kind, settings in kinds.items():
                seconds, sample = seconds_of(settings[:size], backbone), len(settings[:size]) * len(SEEDS)
                names = ("samples", "target classes", "bias classes")
                rows.append(
                    {"backbone": backbone.name, "width": backbone.dim, **dict(zip(names, kind, strict=True))}
                    | {"measured maps": sample, "seconds a map": seconds / sample}
                    | {"all maps": len(settings) * len(SEEDS)}
                    | {"seconds of all": seconds / sample * len(settings) * len(SEEDS)}
                )
                bar.update()
    return rows


def format_results(results: dict[str, Any]) -> str:
    """Render the results as a small table."""
    rows = results["rows"]
    lines = [", ".join(f"{name} {value}" for name, value in results["machine"].items())]
    lines.append("  ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        lines.append("  ".join(f"{v:>14.3f}" if isinstance(v, float) else f"{v:>14}" for v in row.values()))
    maps, measured = (sum(row[name] for row in rows) for name in ("all maps", "measured maps"))
    total = results["seconds"]["all maps, extended"]
    lines.append(f"reading the text sets: {results['seconds']['reading the text sets']:.1f} s")
    verdict = "met" if total <= TARGET_SECONDS else "missed"
    lines.append(f"{measured} maps measured; all {maps}, extended: {total:.0f} s (target 600 s: {verdict})")
    if "all maps, measured" in results["seconds"]:
        lines.append(f"all {maps}, measured: {results['seconds']['all maps, measured']:.0f} s")
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description="Time the training of PRISM maps at paper size.")
    add = parser.add_argument
    text = "settings of each kind that are trained, with three seeds each (default: 2)"
    add("--settings", type=int, default=2, metavar="N", help=text)
    add(
        "--all",
        action="store_true",
        help="train all maps as well (minutes, and 2 GB in the temporary folder)",
    )
    add("--threads", type=int, metavar="N", help="threads of torch (default: torch's)")
    text = "results as JSON (default: benchmarks/output/prism_training.json)"
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help=text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    if args.threads:
        torch.set_num_threads(args.threads)
    configs = [load_dataset_config(CONFIG / f"{name}.yml") for name in DATASETS]
    backbones = list(dict.fromkeys(b for config in configs for b in config.backbones.values()))
    started = time.perf_counter()
    settings = read_settings(configs)
    seconds = {"reading the text sets": time.perf_counter() - started}
    rows = measure_sample(by_kind(settings), backbones, args.settings)
    seconds["all maps, extended"] = seconds["reading the text sets"] + sum(r["seconds of all"] for r in rows)
    if args.all:
        seconds["all maps, measured"] = seconds["reading the text sets"] + sum(
            seconds_of(settings, backbone) for backbone in tqdm(backbones, desc="all maps", unit="backbone")
        )
    results = {
        "machine": {
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "architecture": platform.machine(),
            "torch": torch.__version__,
        },
        "seconds": seconds,
        "rows": rows,
    }
    write_json(args.output, results)
    print(f"{format_results(results)}\nwritten: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
