"""Time `precompute_embeddings.py`, from start to exit, against the model's forward pass alone.

Nothing is downloaded: the JPEG files are made here (smooth random pictures with noise, in the sizes of CelebA
and FairFace, in turn), and the model has random weights, on which the work does not depend. The command
is run as a user runs it, in a process of its own; its time includes imports, building the model, the digest
of its checkpoint, and writing the result. The forward pass alone works on tensors that are there, in batches
of the same size, before and after each run of the command, so that both meet the same machine. What the
command needs to start and end is measured on a folder of one batch.

    python -m benchmarks.embedding
    python -m benchmarks.embedding --model RN50 --workers 0 1 2
    python -m benchmarks.embedding --device cuda --precision fp16 --images 20000 --batch-size 256
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image
from tqdm import tqdm

from bias_evaluation.embedding.engines import usable_cores
from bias_evaluation.grid.configs import PRECISIONS, Backbone, get_backbone
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from bias_evaluation.embedding.encoder import Encoder

OUTPUT = Path(__file__).resolve().parent / "output" / "embedding.json"
SIZES = ((178, 218), (224, 224), (448, 448))  # width and height: CelebA, FairFace, FairFace doubled
TARGET_RATIO = 0.85
FOLDER_DATASET = "lfw"  # its metadata builder takes any folder of folders of images


# --- what is embedded -------------------------------------------------------------------------------------


def random_jpeg(size: tuple[int, int], random: np.random.Generator) -> bytes:
    """Draw a smooth picture with some noise; as a file it is about as large as a photograph."""
    width, height = size
    coarse = random.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.float32)
    noisy = smooth + random.normal(0, 6, (height, width, 1))
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def make_dataset(folder: Path, n: int, random: np.random.Generator) -> Path:
    """Write n JPEG files, their sizes in turn."""
    images = folder / "images" / "person"
    images.mkdir(parents=True)
    for i in range(n):
        (images / f"{i:06d}.jpg").write_bytes(random_jpeg(SIZES[i % len(SIZES)], random))
    return folder


def make_backbone(name: str, folder: Path) -> tuple[Backbone, Path]:
    """Write a checkpoint with random weights, and a backbone file that names it."""
    import open_clip
    import torch

    shipped = get_backbone(name, ROOT / "config" / "backbones.yml")
    if shipped.open_clip.endswith(".json"):
        raise InputError(f"--backbone {name}: choose a backbone that open_clip knows by name")
    logging.disable(logging.WARNING)  # open_clip warns that the weights are random
    torch.manual_seed(0)
    model = open_clip.create_model(shipped.open_clip, force_quick_gelu=shipped.quick_gelu)
    torch.save(model.state_dict(), folder / "random.pt")
    entry = {k: v for k, v in asdict(shipped).items() if k in ("open_clip", "dim", "quick_gelu")}
    path = folder / "config" / "backbones.yml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump({shipped.name: {**entry, "checkpoint": "random.pt"}}))
    return get_backbone(shipped.name, path), path


# --- what is timed ----------------------------------------------------------------------------------------


def seconds_of(task: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


def run_command(
    args: argparse.Namespace, model: str, backbones: Path, dataset: Path, workers: int | None
) -> None:
    """Embed a folder as a user does; embeddings and metadata of an earlier run are made anew."""
    command = [sys.executable, str(ROOT / "precompute_embeddings.py"), "--backbone", model]
    command += ["--dataset-name", FOLDER_DATASET, "--dataset-path", str(dataset), "--overwrite"]
    command += ["--batch-size", str(args.batch_size), "--device", args.device, "--precision", args.precision]
    command += ["--backbones-file", str(backbones), "--rebuild-metadata"]
    command += [] if workers is None else ["--workers", str(workers)]
    environment = os.environ | ({"OMP_NUM_THREADS": str(args.threads)} if args.threads else {})
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    if finished.returncode:
        raise InputError(f"precompute_embeddings.py failed: {finished.stderr[-2000:]}")


def forward_pass(encoder: Encoder, n: int, batch_size: int) -> Callable[[], None]:
    """Make a task: encode n images in batches, from one random tensor on the model's device."""
    import torch

    shape = encoder.preprocess(Image.new("RGB", SIZES[0])).shape
    images = torch.randn(min(n, batch_size), *shape).to(encoder.device)

    def task() -> None:
        for start in range(0, n, batch_size):
            encoder.encode_images(images[: n - start])

    return task


def decode_milliseconds(encoder: Encoder, repeats: int = 40) -> dict[str, float]:
    """Processor time to decode and preprocess one file of each size, with one thread as in a worker."""
    import torch

    threads, result = torch.get_num_threads(), {}
    torch.set_num_threads(1)
    for size in SIZES:
        content = random_jpeg(size, np.random.default_rng(0))
        started = time.process_time()
        for _ in range(repeats):
            encoder.preprocess(Image.open(io.BytesIO(content)).convert("RGB"))
        result[f"{size[0]} x {size[1]}"] = (time.process_time() - started) / repeats * 1e3
    torch.set_num_threads(threads)
    return result


def load_average() -> float | None:
    """Load of the last minute: more than two with the defaults says that others used the cores as well."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def measure(
    args: argparse.Namespace, encoder: Encoder, command: Callable[[str, int | None], None]
) -> list[dict[str, Any]]:
    """Run the command once for each number of workers; one row each."""
    forward = forward_pass(encoder, args.images, args.batch_size)
    rows = []
    with tqdm(total=3 * len(args.workers) + 1, desc="measuring", unit="run") as bar:

        def timed(task: Callable[[], object]) -> float:
            seconds = seconds_of(task)
            bar.update()
            return seconds

        before = timed(forward)
        for workers in args.workers:
            load = load_average()
            start = timed(lambda w=workers: command("small", w))
            whole = timed(lambda w=workers: command("whole", w))
            after = timed(forward)
            rows.append(
                summarise(args, before, start, whole, after)
                | {"workers": "default" if workers is None else workers, "load": [load, load_average()]}
            )
            before = after
    return rows


def summarise(
    args: argparse.Namespace, before: float, start: float, whole: float, after: float
) -> dict[str, Any]:
    """Rates in images per second, and the command's as a share of the forward pass's."""
    n, few = args.images, min(args.images, args.batch_size)
    alone = 2 * n / (before + after)
    return {
        "seconds": {"forward before": before, "command": whole, "forward after": after, "one batch": start},
        "images per second": {"forward alone": alone, "command": n / whole},
        "ratio": n / whole / alone,
        # The slope between a run of one batch and a run of all: imports and loading cancel out.
        "ratio once started": (n - few) / (whole - start) / alone if n > few and whole > start else None,
    }


# --- report -----------------------------------------------------------------------------------------------


def format_results(results: dict[str, Any]) -> str:
    """Render the results as a small table."""
    lines = [", ".join(f"{k} {v}" for k, v in results[part].items()) for part in ("machine", "run")]
    costs = ", ".join(f"{size}: {ms:.1f}" for size, ms in results["decode ms"].items())
    lines.append(f"processor time to decode and preprocess one image, ms: {costs}")
    lines.append(
        f"{'workers':>8}{'forward/s':>11}{'command/s':>11}{'ratio':>7}{'started':>9}{'start s':>9}  "
        f"target {TARGET_RATIO}, load"
    )
    for row in results["rows"]:
        rate, started = row["images per second"], row["ratio once started"]
        lines.append(
            f"{row['workers']:>8}{rate['forward alone']:>11.2f}{rate['command']:>11.2f}{row['ratio']:>7.3f}"
            f"{'' if started is None else f'{started:.3f}':>9}{row['seconds']['one batch']:>9.1f}"
            f"  {'met' if row['ratio'] >= TARGET_RATIO else 'missed'}, {row['load'][0]} to {row['load'][1]}"
        )
    lines.append(
        "ratio: whole command / forward alone; started: the same without what a run of one batch takes, "
        "which is 'start s'"
    )
    return "\n".join(lines)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Time precompute_embeddings.py against the model's forward pass alone.",
        epilog="Nothing is downloaded: pictures and weights are random. Minutes on a CPU.",
    )
    add = parser.add_argument
    add("--backbone", default="ViT-B-16", metavar="NAME", help="backbone (default: ViT-B-16)")
    add("--images", type=int, default=500, metavar="N", help="JPEG files (default: 500)")
    add("--batch-size", type=int, default=64, metavar="N", help="(default: 64)")
    text = "numbers of decoding processes, one run each (default: the command's own)"
    add("--workers", type=int, nargs="+", default=[None], metavar="N", help=text)
    add("--threads", type=int, metavar="N", help="threads of torch, in both (default: torch's)")
    add("--precision", choices=list(PRECISIONS), default="fp32", help="of the model (default: fp32)")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where the model runs (default: cpu)")
    text = "results as JSON (default: benchmarks/output/embedding.json)"
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help=text)
    return parser


def describe_machine(args: argparse.Namespace) -> dict[str, Any]:
    """Collect what the figures depend on."""
    import torch

    facts = {"cores": usable_cores(), "threads": torch.get_num_threads()}
    facts |= {"architecture": platform.machine(), "instructions": torch.backends.cpu.get_cpu_capability()}
    if args.device == "cuda":
        facts["GPU"] = torch.cuda.get_device_name()
    return {**facts, "python": platform.python_version(), "torch": torch.__version__}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    from bias_evaluation.embedding.encoder import Encoder

    if min(args.images, args.batch_size) < 1:
        raise InputError("--images and --batch-size must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        backbone, backbones = make_backbone(args.backbone, folder)
        whole = make_dataset(folder / "whole", args.images, random)
        small = make_dataset(folder / "small", min(args.images, args.batch_size), random)
        datasets = {"whole": whole, "small": small}
        encoder = Encoder(backbone, device=args.device, precision=args.precision)
        forward_pass(encoder, args.batch_size, args.batch_size)()  # warm up
        costs = decode_milliseconds(encoder)
        rows = measure(
            args, encoder, lambda part, w: run_command(args, backbone.name, backbones, datasets[part], w)
        )
    run = {k: getattr(args, k) for k in ("model", "images", "batch_size", "precision", "device")}
    results = {"machine": describe_machine(args), "run": run, "decode ms": costs, "rows": rows}
    write_json(args.output, results)
    print(f"{format_results(results)}\nwritten: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
