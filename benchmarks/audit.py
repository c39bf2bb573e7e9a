"""Time and memory of the audit on memory-mapped embeddings, at several sizes.

A seeded float16 file is written (10 million rows of 512 are 10 GB) and audited in a process of its own: three
methods, 25 queries, K = 10, 50, 100. Its memory should not grow with the rows, but for the group of each (one
byte and a few copies). The file is deleted in the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from fair_search.audit_settings import AuditSettings
from safe_io.errors import InputError, run_main
from safe_io.files import write_json
from safe_io.matrix_files import read_matrix

OUTPUT = Path(__file__).resolve().parent / "output" / "audit.json"
QUERIES, CLASSES, CHUNK = 25, 4, 16_384
_SPARE = 2**30  # bytes of disk left alone


def write_embeddings(path: Path, rows: int, dim: int) -> None:
    """Write seeded embeddings whose first coordinate says the group, chunk by chunk."""
    needed = rows * dim * 2 + _SPARE
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise InputError(
            f"{path.parent} has {free / 1e9:.1f} GB free, {needed / 1e9:.1f} GB are needed; fewer --rows"
        )
    header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": (rows, dim)}
    random = np.random.default_rng(0)
    codes = group_codes(rows)
    with path.open("wb") as file:  # not a memory map: a child process inherits the peak memory of its parent
        np.lib.format.write_array_header_1_0(file, header)
        for start in tqdm(range(0, rows, CHUNK), desc=f"writing {rows} rows", unit="chunk"):
            part = random.standard_normal((min(CHUNK, rows - start), dim), dtype=np.float32)
            part[:, 0] += codes[start : start + CHUNK]
            file.write(part.astype(np.float16).tobytes())


def group_codes(rows: int) -> np.ndarray:
    """Draw the group of each row, int8."""
    return np.random.default_rng(1).integers(CLASSES, size=rows, dtype=np.int8)


def run_audit(path: Path, draws: int) -> dict[str, Any]:
    """Audit the file; rows, seconds and peak memory of this process."""
    import torch

    from benchmarks.sem_scoring import peak_mib
    from debiasing_methods.base import QueryGroup, Vanilla
    from debiasing_methods.projections import OrthProj, PrismMini
    from fair_search.audit import AuditedMethod, audit
    from fair_search.groups import Groups

    embeddings = read_matrix(path, "image embeddings")  # as the command does
    rows, dim = embeddings.shape
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(QUERIES, dim, generator=generator)
    spurious = torch.randn(CLASSES, dim, generator=generator) + 5 * torch.eye(dim)[0]
    groups = [
        QueryGroup(query[None], name=f"query {i}", spurious=spurious) for i, query in enumerate(queries)
    ]
    audited = {method.name: AuditedMethod(method, groups) for method in (Vanilla(), OrthProj(), PrismMini())}
    start = time.perf_counter()
    with tqdm(total=rows, unit="row", unit_scale=True, desc="searching") as bar:
        found = audit(
            embeddings,
            Groups("group", tuple(map(str, range(CLASSES))), group_codes(rows)),
            audited,
            [group.name for group in groups],
            AuditSettings(draws=draws),
            progress=bar.update,
        )
    seconds = time.perf_counter() - start
    means = found.table[(found.table["scope"] == "mean") & (found.table["k"] == 100)]
    skews = means[means["metric"] == "max_skew"].set_index("method")["value"]
    return {
        "rows": rows,
        "dim": dim,
        "seconds": round(seconds, 1),
        "peak_mib": round(peak_mib()),
        "max_skew": {name: round(float(value), 3) for name, value in skews.items()},
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add(
        "--rows",
        type=int,
        nargs="+",
        default=[100_000, 1_000_000, 10_000_000],
        help="sizes (default: %(default)s)",
    )
    add("--dim", type=int, default=512, help="width (default: %(default)s)")
    add("--draws", type=int, default=1000, help="bootstrap draws (default: %(default)s)")
    add(
        "--folder",
        type=Path,
        default=OUTPUT.parent,
        help="where the files are written (default: %(default)s)",
    )
    add("--audit-only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    import torch

    if args.audit_only:
        print(json.dumps(run_audit(args.audit_only, args.draws)))
        return 0
    args.folder.mkdir(parents=True, exist_ok=True)
    results = []
    for rows in args.rows:
        path = args.folder / f"audit_{rows}.npy"
        try:
            write_embeddings(path, rows, args.dim)
            command = [
                sys.executable,
                "-m",
                "benchmarks.audit",
                "--audit-only",
                str(path),
                "--draws",
                str(args.draws),
            ]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        finally:
            path.unlink(missing_ok=True)
        results.append(json.loads(answer))
        print(answer.strip())
    write_json(
        OUTPUT, {"machine": platform.machine(), "threads": torch.get_num_threads(), "results": results}
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
