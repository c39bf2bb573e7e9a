"""The whole pipeline on ColoredDigits, from pixels to a table: `python -m demo` (or `bash run_demo.sh`).

Each step is one of the project's ordinary commands; the demo prints it, so that it can be run alone. A step
whose result is there keeps it, so a second run takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import os
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

BACKBONE = "tiny-RN"
DATASET = "colored_digits"


@dataclass(frozen=True)
class Size:
    """How large the demo is; tests run the same steps at a reduced size.

    Attributes
    ----------
    handwritings : int or None
        How many digits to draw; None for all.
    clip_steps, sae_epochs, zsdebias_epochs : int
        Training steps of the tiny CLIP, epochs of the SAE and, at most, of ZSDebias.
    n_latents : int
        Latents of the SAE.
    retrieval_k : int or None
        K of retrieval; None for the config's.
    """

    handwritings: int | None = None
    clip_steps: int = 700
    sae_epochs: int = 25
    n_latents: int = 512
    zsdebias_epochs: int = 150
    retrieval_k: int | None = None


@dataclass(frozen=True)
class Step:
    """One command of the pipeline: what it is for, the module that holds its `main`, and its arguments."""

    title: str
    module: str
    arguments: tuple[object, ...]

    @property
    def command(self) -> str:
        """How a user calls it: by path, or as a module where it is one."""
        if self.module.startswith("reproduce_tables"):
            return f"-m {self.module.removesuffix('.__main__')}"
        return f"{self.module.replace('.', '/')}.py"

    def run(self) -> None:
        """Print and run the command; raises what it raises."""
        arguments = [str(a) for a in self.arguments]
        print(f"\n== {self.title}\n$ python {self.command} {shlex.join(arguments)}", flush=True)
        started = time.monotonic()
        # Imported when its turn comes: all steps share one process, and with it one import of torch.
        if code := importlib.import_module(self.module).main(arguments):
            raise InputError(f"'{self.title}' ended with exit code {code}; run its command alone to see why")
        print(f"   ({time.monotonic() - started:.1f} s)", flush=True)


def steps(root: Path, size: Size) -> list[Step]:
    """List the steps of the demo under a project root.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds `config/` and `demo/`; data and results go below it.
    size : Size

    Returns
    -------
    list of Step
    """
    data, results = root / "data" / "ColoredDigits", root / "main_eval_output" / "demo"
    config, backbones = (root / "config" / name for name in ("colored_digits.yml", "backbones.yml"))
    embed = ("--model_id", BACKBONE, "--dataset_name", DATASET, "--batch_size", 256)
    embed += ("--backbones-file", backbones)
    limit = () if size.handwritings is None else ("--limit", size.handwritings)
    k = () if size.retrieval_k is None else ("--retrieval-k", size.retrieval_k)
    sae = root / "debiasing_methods" / "sae_weights" / "default" / f"MSAE_{BACKBONE}.pth"
    table = results / "all_results.feather"
    return [
        Step("Draw the images", "demo.colored_digits", ("--output_dir", data, *limit)),
        Step(
            "Train the tiny CLIP", "demo.tiny_clip",
            ("--data_dir", data, "--output", data / "tiny_clip.pt", "--steps", size.clip_steps),
        ),
        Step(
            "Embed the evaluation images", "precompute_embeddings",
            (*embed, "--dataset_path", data),
        ),
        Step("Draw the folds", "generate_splits", ("--dataset_path", data)),
        Step(
            "Train the sparse autoencoder", "debiasing_methods.sae_training",
            ("--prompts", data / "texts.txt", "--backbone", BACKBONE, "--backbones-file", backbones,
             "--output", sae, *_sae_options(size)),
        ),
        Step("Train PRISM", "debiasing_methods.prism_training", ("--config", config)),
        Step(
            "Embed other images, for ZSDebias", "precompute_embeddings",
            (*embed, "--dataset_path", data / "validation"),
        ),
        Step(
            "Train ZSDebias", "debiasing_methods.zsdebias_training",
            ("--dataset_paths", data / "validation", "--bias_attribute", "color", "--clip_model", BACKBONE,
             "--seeds", 0, 1, 2, "--epochs", size.zsdebias_epochs, "--bs", 256, "--lr", 1e-3,
             "--backbones-file", backbones),
        ),
        Step(
            "Evaluate", "main_eval",
            ("--config", config, "--output-dir", results, *k),
        ),
        Step(
            "Gather the results", "process_json_outputs",
            ("--input-dir", results, "--output-dir", results),
        ),
        Step(
            "The table", "reproduce_tables.__main__",
            ("demo", "--description", root / "demo" / "table.yml", "--results", table,
             "--output-dir", results),
        ),
        Step(
            "The figure", "reproduce_tables.figures",
            ("--results", table, "--output-dir", results),
        ),
    ]  # fmt: skip


def study_steps(root: Path) -> list[Step]:
    """List the steps of the two studies and the neuron report; they follow those of `steps`."""
    config, results = root / "config" / "studies" / f"{DATASET}.yml", root / "study_output" / "demo"
    world, output = ("--config", config), ("--output-dir", results)
    experiment = "disentanglement_study.disentanglement_experiment"
    one = (
        *world,
        "--clip_model",
        BACKBONE,
        "--bias_attr",
        "color",
        "--output-dir",
        results / "disentanglement",
    )
    return [
        Step("Embed the sentences of the studies", "disentanglement_study.precompute_dataset", world),
        Step("Disentanglement of CLIP", experiment, (*one, "--latent", "clip")),
        Step("Disentanglement of CLIP + SAE", experiment, (*one, "--latent", "sae")),
        Step(
            "The figure of disentanglement", "disentanglement_study.generate_disentanglement_plot",
            ("--results", results / "disentanglement", "--output-dir", results),
        ),
        Step("The figure of the sentences", "qualitative_study.pca", (*world, *output)),
        Step(
            "Content preservation, bias neutralisation", "qualitative_study.compute_cp_and_bn",
            (*world, *output),
        ),
        Step(
            "What SEM turned down", "qualitative_study.neuron_report",
            ("--config", root / "config" / f"{DATASET}.yml", "--setting", "stereotype_color",
             "--backbone", BACKBONE, *output),
        ),
    ]  # fmt: skip


def _sae_options(size: Size) -> tuple[object, ...]:
    """Options chosen on the validation part of ColoredDigits, where they matter little."""
    levels = ("--levels", 8, 16, 32)
    fit = ("--epochs", size.sae_epochs, "--lr", 1e-3, "--batch_size", 512)
    return ("--n_latents", size.n_latents, *levels, *fit)


def remove_results(root: Path) -> None:
    """Remove everything that the demo made, so that it starts over."""
    shutil.rmtree(root / "data" / "ColoredDigits", ignore_errors=True)
    for folder in ("main_eval_output", "study_output"):
        shutil.rmtree(root / folder / "demo", ignore_errors=True)
    for pattern in ("data/*/CLIP_tiny-RN_*", "debiasing_methods/*_weights/default/*tiny-RN*"):
        for path in root.glob(pattern):
            path.unlink()


def run_demo(root: Path, size: Size, *, studies: bool = False) -> None:
    """Run all steps under a project root, on request with those of the studies; what is there is kept."""
    started = time.monotonic()
    for step in [*steps(root, size), *(study_steps(root) if studies else ())]:
        step.run()
    seconds = time.monotonic() - started
    folders = [root / name / "demo" for name in ("main_eval_output", *(["study_output"] if studies else []))]
    print(f"\nThe demo took {seconds:.0f} s; results: {', '.join(map(str, folders))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bash run_demo.sh",
        description="Run the whole pipeline on ColoredDigits: draw images, train a tiny CLIP and the "
        "methods' weights, embed, evaluate, and print the table. Finished steps are kept.",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="remove what an earlier run made, and start over"
    )
    parser.add_argument(
        "--studies", action="store_true",
        help="then run the studies too: disentanglement, PCA of the sentences, and what SEM turned down",
    )  # fmt: skip
    args = parser.parse_args(argv)
    # At this size one thread is as fast as many, and the table does not depend on the number of cores. torch
    # reads this when it is imported, in the first step that needs it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = ROOT
    root = Path() if root == Path.cwd() else root  # short paths in the commands that are printed
    if args.fresh:
        remove_results(root)
    run_demo(root, Size(), studies=args.studies)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
