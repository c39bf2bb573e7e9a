"""Time and memory of one retrieval result against the number of images and of queries.

Random embeddings (float16) are written to a file and evaluated from there, each size in a process of its
own: scores of every fold's evaluation images, the K best of each query, KL and MaxSkew. Memory is what the
process has for itself: pages of the embedding file do not count, for the system can take them back. The file
of 10 million rows of 512 needs 10 GB of disk; `--max-rows` asks for less.

    python -m benchmarks.growth
    python -m benchmarks.growth --max-rows 1000000 --figure docs/images/growth.png
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from safe_io.arrays import load_array
from safe_io.errors import InputError, run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    import pandas as pd

    from debiasing_methods.base import DebiasingMethod

OUTPUT = Path(__file__).resolve().parent / "output" / "growth.json"
DIM, FOLDS, K, CLASSES = 512, 2, 500, 7
ROWS = (10_000, 100_000, 1_000_000, 10_000_000)
QUERIES = (1, 5, 25, 100, 400)
_BLOCK = 65_536  # rows that are drawn; longer files repeat them


def write_embeddings(path: Path, rows: int) -> None:
    """Write a file of random rows."""
    block = np.random.default_rng(0).standard_normal((_BLOCK, DIM), np.float32).astype(np.float16)
    header = {"descr": block.dtype.str, "fortran_order": False, "shape": (rows, DIM)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, _BLOCK):
            file.write(block[: rows - start].tobytes())


def own_mib() -> float:
    """Memory of this process without pages of files (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Look at the memory every 20 ms; gives a list whose last entry is the highest, in MiB."""
    peak, stop = [own_mib()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak.append(max(peak[-1], own_mib()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def evaluate(path: Path, method: DebiasingMethod, n_queries: int) -> dict[str, float]:
    """Evaluate one result from a file; seconds and MiB beyond what the imports took."""
    import torch

    from bias_evaluation.datasets.folder import make_folds
    from bias_evaluation.datasets.stored_images import StoredImages
    from bias_evaluation.scoring.fold_scores import fold_scores
    from bias_evaluation.scoring.retrieval import evaluate_retrieval
    from debiasing_methods.base import QueryGroup

    generator = torch.Generator().manual_seed(0)
    spurious = torch.randn(CLASSES, DIM, generator=generator)
    queries = torch.randn(n_queries, 1, DIM, generator=generator)
    groups = [QueryGroup(query, name=str(i), spurious=spurious) for i, query in enumerate(queries)]
    embeddings = load_array(path, "embeddings", "this benchmark")
    before, bias = own_mib(), np.arange(len(embeddings)) % CLASSES
    _, val = make_folds(len(embeddings), FOLDS)
    with peak_memory() as peak:
        started = time.perf_counter()
        images = StoredImages(embeddings, path)
        opened = time.perf_counter()
        scores = fold_scores(method, groups, images, val.astype(np.int64), lambda: None)
        evaluate_retrieval(scores, val, bias, tuple(range(CLASSES)), K)
        finished = time.perf_counter()
    return {"open s": opened - started, "result s": finished - opened, "MiB": peak[-1] - before}


def measure(path: Path, method: str, n_queries: int) -> dict[str, Any]:
    """Evaluate in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.growth", "--child", str(path), method, str(n_queries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"the measured process failed: {done.stderr[-500:]}")
    row: dict[str, Any] = json.loads(done.stdout)
    return row


def measure_all(folder: Path, max_rows: int) -> list[dict[str, Any]]:
    """Measure every number of rows with 25 queries, and every number of queries with 100,000 rows."""
    sizes = [rows for rows in ROWS if rows <= max_rows]
    work = [(rows, name, 25) for rows in sizes for name in ("vanilla", "prism-mini")]
    work += [(100_000, "vanilla", n) for n in QUERIES if n != 25 and max_rows >= 100_000]
    measured, path, there = [], folder / "embeddings.npy", 0
    for rows, name, n_queries in tqdm(sorted(work), desc="measuring", unit="run"):
        if rows != there:
            write_embeddings(path, rows)
            there = rows
        measured.append({"rows": rows, "method": name, "queries": n_queries} | measure(path, name, n_queries))
    return measured


def draw(table: pd.DataFrame, path: Path) -> None:
    """Draw seconds and memory against rows, and seconds against queries."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    of_rows = table[table.queries == 25]
    for (name, part), mark in zip(of_rows.groupby("method"), ("o-", "s--"), strict=True):
        left.plot(part.rows, part["result s"], mark, label=name)
        middle.plot(part.rows, part.MiB, mark, label=name)
    file_mib = of_rows.drop_duplicates("rows")
    middle.plot(file_mib.rows, file_mib.rows * DIM * 2 / 2**20, ":", color="0.4", label="embedding file")
    of_queries = table[(table.method == "vanilla") & (table.rows == 100_000)].sort_values("queries")
    right.plot(of_queries.queries, of_queries["result s"], "o-", label="vanilla")
    for axes, x, y in (
        (left, "images (25 queries)", "seconds a result"),
        (middle, "images (25 queries)", "memory, MiB"),
        (right, "queries (100,000 images)", "seconds a result"),
    ):
        axes.set(xscale="log", yscale="log", xlabel=x, ylabel=y)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    parser = argparse.ArgumentParser(description="Time and memory against the number of images and queries.")
    add = parser.add_argument
    add("--max-rows", type=int, default=ROWS[-1], metavar="N", help="largest number of images")
    add("--figure", type=Path, default=OUTPUT.with_suffix(".png"), metavar="FILE", help="where the plot goes")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="measurements as JSON")
    add("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    import pandas as pd
    import torch

    from debiasing_methods.base import Vanilla
    from debiasing_methods.projections import PrismMini

    if args.child:
        path, name, n_queries = args.child
        print(
            json.dumps(
                evaluate(Path(path), {"vanilla": Vanilla, "prism-mini": PrismMini}[name](), int(n_queries))
            )
        )
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = measure_all(Path(folder), args.max_rows)
    table = pd.DataFrame(rows)
    machine = {"cores": os.cpu_count(), "torch": torch.__version__, "load": round(os.getloadavg()[0], 1)}
    write_json(args.output, {"machine": machine, "rows": rows})
    draw(table, args.figure)
    print(
        f"{table.to_string(index=False, float_format='{:.2f}'.format)}\nwritten: {args.output}, {args.figure}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
