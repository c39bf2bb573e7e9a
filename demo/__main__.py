"""The whole pipeline on Portraits, from drawn people to a table: `python -m demo` (or `bash run_demo.sh`).

Each step is one of the project's ordinary commands; the demo prints it, so that it can be run alone. A step
whose result exists keeps it, so a second run takes seconds.
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

BACKBONES = ("tiny-RN", "tiny-RN-1", "tiny-RN-2")  # trainings of the same model, with the seeds 0, 1, and 2
DATASET = "portraits"
FOLDER = "Portraits"


@dataclass(frozen=True)
class Size:
    """How large the demo is; tests run the same steps at a reduced size.

    Attributes
    ----------
    limit : int or None
        Most pictures and texts of each part; None for all.
    clip_steps, sae_epochs, zsdebias_epochs : int
        Training steps of the tiny CLIP, epochs of the SAE and, at most, of ZSDebias.
    n_latents : int
        Latents of the SAE.
    retrieval_k : int or None
        K of retrieval; None for the config's.
    """

    limit: int | None = None
    clip_steps: int = 1150
    sae_epochs: int = 20
    n_latents: int = 1024
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
        """How a user calls it: by path, or as a module."""
        if self.module.startswith(("reproduce_tables", "demo", "bias_evaluation")):
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


def steps(root: Path, size: Size, trainings: int = 1) -> list[Step]:
    """List the steps of the demo under a project root.

    Parameters
    ----------
    root : pathlib.Path
        Folder that holds `config/` and `demo/`; data and results go below it.
    size : Size
    trainings : int
        How many of `BACKBONES` to train and evaluate.

    Returns
    -------
    list of Step
    """
    data, limit = root / "data" / FOLDER, () if size.limit is None else ("--limit", size.limit)
    models = BACKBONES[:trainings]
    return [
        Step("Draw the people", "demo.portraits.__main__", ("--output-dir", data, *limit)),
        *(step for seed, name in enumerate(models) for step in _model_steps(root, size, name, seed)),
        *_evaluation_steps(root, size, models),
    ]


def _model_steps(root: Path, size: Size, backbone: str, seed: int) -> list[Step]:
    """List what one model needs: its training, embeddings, and the weights of the methods."""
    data, backbones = root / "data" / FOLDER, root / "config" / "backbones.yml"
    embed = ("--backbone", backbone, "--dataset-name", DATASET, "--batch-size", 256)
    embed += ("--backbones-file", backbones, "--dataset-path")
    sae = root / "debiasing_methods" / "sae_weights" / "default" / f"MSAE_{backbone}.pth"
    return [
        Step(
            f"Train the tiny CLIP {backbone}", "demo.tiny_clip",
            ("--data-dir", data, "--steps", size.clip_steps, "--seed", seed),
        ),
        Step("Embed the evaluation pictures", "precompute_embeddings", (*embed, data)),
        *([Step("Draw the folds", "generate_splits", ("--dataset-path", data))] if seed == 0 else []),
        Step(
            "Train the sparse autoencoder", "debiasing_methods.sae_training",
            ("--prompts", data / "texts.txt", "--backbone", backbone, "--backbones-file", backbones,
             "--output", sae, *_sae_options(size)),
        ),
        Step(
            "Train PRISM", "debiasing_methods.prism_training",
            ("--config", root / "config" / f"{DATASET}.yml", "--backbone", backbone),
        ),
        Step("Embed other pictures, for ZSDebias", "precompute_embeddings", (*embed, data / "validation")),
        Step(
            "Train ZSDebias", "debiasing_methods.zsdebias_training",
            ("--dataset-paths", data / "validation", "--bias-attribute", "portrait", "--backbone", backbone,
             "--seeds", 0, 1, 2, "--epochs", size.zsdebias_epochs, "--bs", 256, "--lr", 1e-3,
             "--backbones-file", backbones),
        ),
    ]  # fmt: skip


def _sae_options(size: Size) -> tuple[object, ...]:
    """Options chosen by the rule in docs/demo.md: cosine, no dead latents, few positive latents."""
    levels = ("--levels", 8, 16, 32)
    fit = ("--epochs", size.sae_epochs, "--lr", 1e-3, "--batch-size", 512, "--l1", 0.002)
    return ("--n-latents", size.n_latents, *levels, *fit)


def _evaluation_steps(root: Path, size: Size, models: Sequence[str]) -> list[Step]:
    """List evaluation, table, figures, and contact sheet."""
    results, config = root / "main_eval_output" / "demo", root / "config" / f"{DATASET}.yml"
    table = results / "all_results.feather"
    k = () if size.retrieval_k is None else ("--retrieval-k", size.retrieval_k)
    over_trainings = Step(
        "Means and ranges over the trainings", "demo.training_table",
        ("--results", table, "--output-dir", results),
    )  # fmt: skip
    return [
        Step("Evaluate", "main_eval",
             ("--config", config, "--backbone", *models, "--output-dir", results, *k)),
        Step("Gather the results", "process_json_outputs",
             ("--input-dir", results, "--output-dir", results)),
        Step("The table", "reproduce_tables.__main__",
             ("demo", "--description", root / "demo" / "table.yml", "--results", table,
              "--output-dir", results)),
        *([over_trainings] if len(models) > 1 else []),
        Step("The figures", "reproduce_tables.figures", ("--results", table, "--output-dir", results)),
        Step("The contact sheet", "demo.contact_sheet", ("--config", config, "--output-dir", results)),
    ]  # fmt: skip


def study_steps(root: Path) -> list[Step]:
    """List the steps of the two studies and the neuron report; they follow those of `steps`."""
    config, results = root / "config" / "studies" / f"{DATASET}.yml", root / "study_output" / "demo"
    world, output = ("--config", config), ("--output-dir", results)
    experiment, probes = "disentanglement_study.disentanglement_experiment", results / "disentanglement"
    roles = (
        "--config",
        root / "config" / f"{DATASET}.yml",
        "--setting",
        "role_gender",
        "--backbone",
        BACKBONES[0],
    )
    attributes = [(bias, latent) for bias in ("gender", "skin") for latent in ("clip", "sae")]
    return [
        Step("Embed the sentences of the studies", "disentanglement_study.precompute_dataset",
             (*world, "--backbone", BACKBONES[0])),
        *(Step(f"Disentanglement of {bias} in {'CLIP' if latent == 'clip' else 'CLIP + SAE'}", experiment,
               (*world, "--backbone", BACKBONES[0], "--bias-attr", bias, "--latent", latent,
                "--output-dir", probes))
          for bias, latent in attributes),
        Step("The figure of disentanglement", "disentanglement_study.generate_disentanglement_plot",
             ("--results", probes, "--output-dir", results)),
        Step("The figure of the sentences", "qualitative_study.pca", (*world, *output)),
        Step("Content preservation, bias neutralization", "qualitative_study.compute_cp_and_bn",
             (*world, *output)),
        Step("The neurons of gender", "qualitative_study.neuron_report", (*roles, *output)),
        Step("What probes read from the pictures", "bias_evaluation.suite.leakage_table",
             ("--config", root / "config" / f"{DATASET}.yml", "--settings", "role_gender", "hobby_skin",
              "--backbones", BACKBONES[0], *output)),
        Step("What SEM turns down and up", "qualitative_study.sem_ablation", (*roles, *output)),
    ]  # fmt: skip


def remove_results(root: Path) -> None:
    """Remove everything that the demo made, so that it starts over."""
    shutil.rmtree(root / "data" / FOLDER, ignore_errors=True)
    for folder in ("main_eval_output", "study_output"):
        shutil.rmtree(root / folder / "demo", ignore_errors=True)
    for path in root.glob("debiasing_methods/*_weights/default/*tiny-RN*"):
        path.unlink()


def run_demo(root: Path, size: Size, *, trainings: int = 1, studies: bool = False) -> None:
    """Run all steps under a project root, on request with those of the studies; finished ones are kept."""
    started = time.monotonic()
    for step in [*steps(root, size, trainings), *(study_steps(root) if studies else ())]:
        step.run()
    seconds = time.monotonic() - started
    folders = [root / name / "demo" for name in ("main_eval_output", *(["study_output"] if studies else []))]
    print(f"\nThe demo took {seconds:.0f} s; results: {', '.join(map(str, folders))}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="bash run_demo.sh",
        description="Run the whole pipeline on Portraits: draw people, train a tiny CLIP and the methods' "
        "weights, embed, evaluate, and print the table. Finished steps are kept.",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="remove what an earlier run made, and start over"
    )
    parser.add_argument(
        "--trainings", type=int, choices=(1, 3), default=1,
        help="train and evaluate the model once (the default) or with three seeds: means and ranges",
    )  # fmt: skip
    parser.add_argument(
        "--studies", action="store_true",
        help="then run the studies too: disentanglement, PCA, and what SEM turned down and up",
    )  # fmt: skip
    args = parser.parse_args(argv)
    # At this size one thread is as fast as many, and the table does not depend on the number of cores. torch
    # reads this when it is imported, in the first step that needs it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    root = ROOT
    root = Path() if root == Path.cwd() else root  # short paths in the commands that are printed
    if args.fresh:
        remove_results(root)
    run_demo(root, Size(), trainings=args.trainings, studies=args.studies)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
