"""Images a second of `precompute_embeddings.py` with `--engine local` against `--engine ray` on this machine.

Pictures and weights are random and made here, as in benchmarks/embedding.py. Each command runs as a user runs
it, in a process of its own, on few images and on many: the difference of the two gives the rate once started,
what is left of the small run is the start (imports, the model; with Ray also Ray and its workers). Both use
the same number of cores; torch has one thread (or --threads) a model, so Ray holds one model a core and the
local engine one in all, beside its decoding workers.

    python -m benchmarks.engines
    python -m benchmarks.engines --model RN50 --images 400
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.embedding import FOLDER_DATASET, ROOT, load_average, make_backbone, make_dataset
from bias_evaluation.embedding.engines import ENGINES, usable_cores
from safe_io.errors import InputError, run_main
from safe_io.files import write_json

OUTPUT = Path(__file__).resolve().parent / "output" / "engines.json"


def seconds_of_command(
    args: argparse.Namespace, engine: str, threads: int, backbones: Path, folder: Path
) -> float:
    """Wall-clock seconds of one run of the command."""
    command = [sys.executable, str(ROOT / "precompute_embeddings.py"), "--backbone", args.backbone]
    command += ["--dataset-name", FOLDER_DATASET, "--dataset-path", str(folder), "--overwrite"]
    command += ["--batch-size", str(args.batch_size), "--backbones-file", str(backbones), "--engine", engine]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    started = time.perf_counter()
    environment["OMP_NUM_THREADS"] = str(threads)
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise InputError(f"precompute_embeddings.py --engine {engine} failed: {finished.stderr[-2000:]}")
    return time.perf_counter() - started


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Run each engine with each number of threads, on few images and on all; one row each."""
    from bias_evaluation.datasets.folder import embeddings_name

    random = np.random.default_rng(0)
    backbone, backbones = make_backbone(args.backbone, folder)
    few = 2 * args.batch_size
    sizes = {n: make_dataset(folder / str(n), n, random) for n in (few, args.images)}
    rows, expected = [], {}
    runs = [(engine, threads) for threads in args.threads for engine in ENGINES]
    for engine, threads in tqdm(runs, desc="measuring", unit="row"):
        load = load_average()
        seconds = {n: seconds_of_command(args, engine, threads, backbones, sizes[n]) for n in sizes}
        rate = (args.images - few) / (seconds[args.images] - seconds[few])
        embeddings = np.load(sizes[args.images] / embeddings_name(backbone.name))
        first = expected.setdefault(threads, embeddings)
        rows.append(
            {
                "engine": engine,
                "threads a model": threads,
                "seconds": {str(n): value for n, value in seconds.items()},
                "images per second, whole command": args.images / seconds[args.images],
                "images per second, once started": rate,
                "start seconds": seconds[few] - few / rate,
                "same bits as local": bool(np.array_equal(embeddings, first)),
                "load": [load, load_average()],
            }
        )
    return rows


def format_rows(rows: Sequence[dict[str, Any]]) -> str:
    """Render the rows as a table."""
    lines = [f"{'engine':>7}{'threads':>9}{'command/s':>11}{'started/s':>11}{'start s':>9}  same bits  load"]
    for row in rows:
        lines.append(
            f"{row['engine']:>7}{row['threads a model']:>9}{row['images per second, whole command']:>11.2f}"
            f"{row['images per second, once started']:>11.2f}{row['start seconds']:>9.1f}  "
            f"{'yes' if row['same bits as local'] else 'no':9}  {row['load'][0]} to {row['load'][1]}"
        )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Time precompute_embeddings.py with --engine local and --engine ray.",
        epilog="Nothing is downloaded: pictures and weights are random. Minutes on a CPU.",
    )
    add = parser.add_argument
    add("--backbone", default="ViT-B-16", metavar="NAME", help="backbone (default: ViT-B-16)")
    add("--images", type=int, default=160, metavar="N", help="JPEG files (default: 160)")
    add("--batch-size", type=int, default=8, metavar="N", help="(default: 8)")
    text = "threads of torch a model, one pair of runs each (default: 1 and the cores)"
    add("--threads", type=int, nargs="+", default=sorted({1, usable_cores()}), metavar="N", help=text)
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="results as JSON (default: output/)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)
    if args.batch_size < 1 or args.images <= 2 * args.batch_size or min(args.threads) < 1:
        raise InputError("--images must be more than two batches, and numbers at least 1")
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(args, Path(temporary))
    run = {
        "model": args.backbone,
        "images": args.images,
        "batch_size": args.batch_size,
        "cores": usable_cores(),
    }
    write_json(args.output, {"run": run, "rows": rows})
    print(f"{format_rows(rows)}\nwritten: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
