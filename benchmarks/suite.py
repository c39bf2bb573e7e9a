"""Time the paper's whole suite of 512 results at its size, method by method.

Images, labels, folds, text embeddings and trained weights are random, of the paper's sizes (see
`suite_world.py`); text counts as encoded, as in any run but the first. The suite runs in a process of its
own through `main_eval.main`, as `run_eval.sh` runs it. Seconds are those of the results themselves; opening
a dataset's embeddings, text and weights stands in a row of its own. GFLOP are the multiplications and
additions that the method's formulas leave to be done (docs/performance.md), so GFLOP/s says how near a
method comes to the machine's matrix product.

    python -m benchmarks.suite --sample             one dataset and backbone
    python -m benchmarks.suite --sample --methods cfd spd leace sfid clip-clip
    python -m benchmarks.suite                      everything; needs 7 GB of disk
    python -m benchmarks.suite --device cuda
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import main_eval
from benchmarks.paper_sizes import SIZES
from bias_evaluation.grid.plan import ResultKey, Selection
from safe_io.errors import InputError, run_main
from safe_io.files import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

    from bias_evaluation.suite.workspace import Workspace

OUTPUT = Path(__file__).resolve().parent / "output" / "suite.json"
SAMPLE = ("fairface", "ViT-B-16")
# Seconds of one FairFace result (ViT-B/16) by the published implementation on two cores, text encoding free.
PUBLISHED_SECONDS = {
    "vanilla": 23, "orth-proj": 34, "orth-cali": 47, "sem-i": 28, "sem-b": 82, "sem-bi": 97, "prism-mini": 97,
    "prism": 78, "zsdebias": 420, "bendvlm": 150, "bendsem-bi": 175, "roboshot": 610,
}  # fmt: skip


# --- the process that is measured -------------------------------------------------------------------------


def memory_mib(name: str) -> float:
    """Read one of the process's memory figures (Linux); NaN elsewhere."""
    path = Path("/proc/self/status")
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE) if path.is_file() else None
    return int(found[1]) / 1024 if found else float("nan")


@contextmanager
def measured(row: dict[str, Any], device: str) -> Iterator[None]:
    """Fill a row with the seconds of a block and the process's highest resident memory in it."""
    import torch

    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # starts the peak anew
    started = time.perf_counter()
    yield
    if device == "cuda":
        torch.cuda.synchronize()
    row["seconds"] = time.perf_counter() - started
    row["peak MiB"] = memory_mib("VmHWM")


def run_suite(argv: Sequence[str], started: float, device: str) -> dict[str, Any]:
    """Run `main_eval.main`, timing each call that computes results, checks inputs or opens a dataset."""
    import torch

    from benchmarks.suite_flop import gflop
    from bias_evaluation.suite import evaluate
    from bias_evaluation.suite.workspace import Workspace

    rows: list[dict[str, Any]] = []
    first: dict[str, float] = {}
    compute = evaluate.evaluate

    def timed_evaluate(workspace: Workspace, keys: Sequence[ResultKey]) -> list[Any]:
        key, n = keys[0], len(workspace.inputs.data.metadata)
        row = {"dataset": key.dataset, "backbone": key.backbone.name, "method": key.method.name}
        row["images"] = n
        if device == "cpu":  # else the matrix lies on the GPU
            row["matrix MiB"] = n * workspace.backbone.dim * 4 / 2**20
        with measured(row, device):
            results = list(compute(workspace, keys))
        row |= {"results": len(results), "gflop": gflop(workspace, keys)}
        first.setdefault("first result", time.time() - started)
        rows.append(row)
        return results

    def timed(name: str, call: Callable[[Workspace, Any], None]) -> Callable[[Workspace, Any], None]:
        def task(workspace: Workspace, keys: Any) -> None:
            row: dict[str, Any] = {"dataset": workspace.config.dataset, "backbone": workspace.backbone.name}
            row |= {"method": name, "results": 0, "gflop": 0.0}
            with measured(row, device):
                call(workspace, keys)
            rows.append(row)

        return task

    evaluate.evaluate = timed_evaluate
    Workspace.check, Workspace.load = timed("(checking)", Workspace.check), timed("(opening)", Workspace.load)
    main_eval.main(argv)
    return {"rows": rows, "seconds": time.time() - started, "threads": torch.get_num_threads()} | first


# --- the report -------------------------------------------------------------------------------------------


def product_rate(threads: int, device: str, repeats: int = 5) -> float:
    """GFLOP/s of the machine's tall float32 product, (97,698 × 512) · (512 × 512): the best of some."""
    import torch

    torch.set_num_threads(threads)
    a, b = torch.randn(97_698, 512, device=device), torch.randn(512, 512, device=device)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        c = a @ b
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
        del c
    return 2 * 97_698 * 512 * 512 / best / 1e9


def summarize(rows: list[dict[str, Any]], rate: float) -> pd.DataFrame:
    """One row a method: per result where it can be compared with the published times, and in all."""
    import pandas as pd

    from debiasing_methods.registry import METHODS

    table = pd.DataFrame(rows)
    sample = table[(table.dataset == SAMPLE[0]) & (table.backbone == SAMPLE[1])]
    sample = sample[sample.images == SIZES[SAMPLE[0]]]  # at another --scale, times cannot be compared
    lines = []
    for name in ("(checking)", "(opening)", *METHODS):
        mine, there = table[table.method == name], sample[sample.method == name]
        if mine.empty:
            continue
        line = {"method": name, "results": int(mine.results.sum()), "seconds": mine.seconds.sum()}
        line |= {"GFLOP": mine.gflop.sum(), "GFLOP/s": mine.gflop.sum() / mine.seconds.sum()}
        line["of rate"] = line["GFLOP/s"] / rate
        if "matrix MiB" in mine:
            line["MiB beyond matrix"] = (mine["peak MiB"] - mine["matrix MiB"]).max()
        if name in PUBLISHED_SECONDS and len(there):
            each = there.seconds.sum() / there.results.sum()
            line |= {"FairFace s": each, "published s": PUBLISHED_SECONDS[name]}
            line["times"] = PUBLISHED_SECONDS[name] / each
        lines.append(line)
    return pd.DataFrame(lines)


def format_results(results: dict[str, Any], table: pd.DataFrame) -> str:
    """Render the results for a terminal."""
    machine = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    text = table.to_string(index=False, float_format=lambda v: f"{v:,.2f}", na_rep="")
    total = f"{int(table.results.sum())} results in {results['seconds']:.0f} s, start included"
    return f"{machine}\n{text}\n{total}; first result after {results['first result']:.1f} s"


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description="Time the paper's suite of 512 results at its size.")
    add = parser.add_argument
    add("--sample", action="store_true", help=f"only {SAMPLE[0]} with {SAMPLE[1]}")
    text = "these methods (default: the paper's)"
    add("--methods", nargs="+", metavar="M", default=list(PUBLISHED_SECONDS), help=text)
    add("--backbone", nargs="+", metavar="B", help="only these backbones")
    add("--datasets", nargs="+", choices=tuple(SIZES), default=list(SIZES), help="only these datasets")
    add("--scale", type=float, default=1.0, metavar="X", help="share of the paper's images (default: 1)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    add("--threads", type=int, metavar="N", help="threads of torch (default: torch's)")
    add("--world", type=Path, metavar="DIR", help="keep the inputs here and find them again")
    text = "results as JSON (default: benchmarks/output/suite.json)"
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help=text)
    add("--child", nargs=2, help=argparse.SUPPRESS)
    return parser


def child(args: argparse.Namespace) -> None:
    """Run the suite in this process; `args.child` is the time of its start and the file to write."""
    from benchmarks.suite_world import config_paths

    selectors = [f"--device={args.device}", "--overwrite"]
    for name in ("methods", "backbone"):
        if getattr(args, name):
            selectors += [f"--{name}", *getattr(args, name)]
    configs = [str(path) for path in config_paths(args.world) if path.stem in args.datasets]
    results = run_suite(["--config", *configs, *selectors], float(args.child[0]), args.device)
    write_json(Path(args.child[1]), results)


def measure(args: argparse.Namespace, argv: Sequence[str], world: Path) -> dict[str, Any]:
    """Run the suite of a world in a process of its own."""
    from benchmarks.suite_world import make_world

    sizes = {name: max(2_000, round(n * args.scale)) for name, n in SIZES.items()}
    make_world(world, Selection(backbones=args.backbone, methods=args.methods), args.datasets, sizes)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        command = [
            sys.executable,
            "-m",
            "benchmarks.suite",
            *argv,
            "--world",
            str(world),
            "--child",
            str(time.time()),
            str(out),
        ]
        if args.sample:
            command += ["--datasets", *args.datasets, "--backbone", *args.backbone]
        environment = os.environ | ({"OMP_NUM_THREADS": str(args.threads)} if args.threads else {})
        shown = subprocess.run(command, env=environment, check=False)
        if shown.returncode:
            raise InputError("the suite failed (see above)")
        results: dict[str, Any] = read_json(out, "measured rows")
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    args = build_parser().parse_args(argv)

    import torch

    if args.sample:
        args.datasets, args.backbone = [SAMPLE[0]], [SAMPLE[1]]
    if args.child:
        child(args)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        results = measure(args, argv, args.world or Path(folder))
    rate = product_rate(results["threads"], args.device)
    results["machine"] = {
        "cores": os.cpu_count(), "threads": results.pop("threads"), "architecture": platform.machine(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "torch": torch.__version__, "GFLOP/s of a matrix product": round(rate),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    table = summarize(results["rows"], rate)
    results["table"] = [{k: v for k, v in row.items() if v == v} for row in table.to_dict("records")]
    write_json(args.output, results)
    print(f"{format_results(results, table)}\nwritten: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
