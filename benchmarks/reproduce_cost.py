"""Hours that each stage of the paper's reproduction takes on this machine, from rates measured here.

Every stage runs for some seconds on random data of the paper's shapes. Its rate is then extended to the
paper's amount of work. The table says what was measured, and by which rule it was extended. Not counted:
downloads, decoding of image files (which worker processes do at the same time), reading and writing.

    python -m benchmarks.reproduce_cost
    python -m benchmarks.reproduce_cost --stages text prism suite
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from benchmarks import prism_training, suite, text_encoding
from benchmarks.disentanglement import Case, make_latents
from benchmarks.image_precision import build_tower, encode, random_images
from benchmarks.paper_sizes import SIZES
from bias_evaluation.grid.configs import Backbone, DatasetConfig, load_dataset_config
from bias_evaluation.grid.plan import Selection, plan
from debiasing_methods.training.hyperparameters import SaeTrainingConfig, ZSDebiasTrainingConfig
from disentanglement_study.probes import ProbeSettings, cross_validate
from safe_io.checkout import ROOT
from safe_io.errors import run_main
from safe_io.files import write_json

if TYPE_CHECKING:
    from torch import Tensor

OUTPUT = Path(__file__).resolve().parent / "output" / "reproduce_cost.json"
CONFIG = ROOT / "config"
SEEDS = 3
# Image rows that ZSDebias trains on (LFW, UTKFace, FACET; ImageNet-100, COCO's animals). UTKFace is embedded
# for the evaluation too.
ZSDEBIAS_ROWS = {"human": 87_000, "animal": 150_000}
IMAGES = sum(SIZES.values()) + sum(ZSDEBIAS_ROWS.values()) - SIZES["utkface"]
# How a result's time grows with the embedding width: its square where images meet (d × d) matrices, else 1.
WIDTH_POWER = {"prism": 2, "zsdebias": 2}
SUITE_SCALE = 0.2  # share of FairFace's images that the suite is measured on


@dataclass(frozen=True)
class Row:
    """A rate, and what it means at the paper's size.

    Attributes
    ----------
    stage, backbone : str
    measured : str
        What ran.
    rate : float
        Units per second.
    amount : float
        Units at the paper's size.
    rule : str
        How the rate was extended.
    optional : bool
        Whether the stage is an alternative to another, or not needed, and so not part of the sum.
    """

    stage: str
    backbone: str
    measured: str
    rate: float
    amount: float
    rule: str
    optional: bool = False

    @property
    def hours(self) -> float:
        """Hours at the paper's size."""
        return self.amount / self.rate / 3600


def seconds_of(task: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    task()
    return time.perf_counter() - started


@cache
def dataset_configs() -> list[DatasetConfig]:
    """Read the configs of the paper's datasets."""
    return [load_dataset_config(CONFIG / f"{name}.yml") for name in SIZES]


def paper_backbones() -> list[Backbone]:
    """List the backbones of the paper's datasets."""
    return list(dict.fromkeys(b for config in dataset_configs() for b in config.backbones.values()))


class _AskedError(Exception):
    """The training has said which sentences it needs."""


def prism_sentences() -> list[str]:
    """List the distinct sentences that the samples of all PRISM maps use."""
    from bias_evaluation.training_runs.prism import Output, run_training

    found: list[str] = []

    def embed(sentences: Sequence[str]) -> Tensor:
        found.extend(sentences)
        raise _AskedError

    with tempfile.TemporaryDirectory() as folder, suppress(_AskedError):
        output = Output(Path(folder), "any")
        run_training(
            prism_training.read_settings(dataset_configs()), embed, output, seeds=prism_training.SEEDS
        )
    return found


@cache
def paper_sentences() -> list[str]:
    """List the distinct sentences that a backbone has to encode: suite, PRISM, ZSDebias, study."""
    from bias_evaluation.prompts.bias_corpora import load_corpus
    from bias_evaluation.prompts.setting_prompts import load_setting_prompts
    from bias_evaluation.prompts.study_config import load_study_config
    from debiasing_methods.registry import PAPER, get_method

    found: list[str] = []
    for config in dataset_configs():
        for key in plan(config, Selection(methods=PAPER)):
            needs = get_method(key.method.name).needs
            prompts = load_setting_prompts(config, key.setting, config.prompts)
            found += prompts.sentences(key.method.name, needs)
    found += prism_sentences()
    found += chain.from_iterable(load_corpus(CONFIG / "zsdebias" / "default.yml", k) for k in ZSDEBIAS_ROWS)
    study = load_study_config(CONFIG / "studies" / "people.yml")
    found += chain.from_iterable(study.probe_sentences(bias).sentences for bias in study.biases)
    return list(dict.fromkeys(found))


# --- stages -----------------------------------------------------------------------------------------------


def image_rows(backbone: Backbone) -> Iterator[Row]:
    """Time the forward pass of the image tower, in both precisions."""
    for precision in ("fp32", "bf16"):
        tower = build_tower(backbone, precision)
        images = random_images(tower, 4)
        encode(tower, images, precision)  # warms up
        rate = max(encode(tower, images, precision)[1] for _ in range(2))
        stage = "image embeddings" if precision == "fp32" else "image embeddings, bf16"
        yield Row(stage, backbone.name, "batch of 4 images", rate, IMAGES, "images", precision != "fp32")


def text_rows(backbone: Backbone) -> Iterator[Row]:
    """Time the text tower on sentences of PRISM's sets."""
    import open_clip
    import torch

    from bias_evaluation.embedding.text_tower import encode_tokens

    model, drawn = text_encoding.build_text_tower(backbone), text_encoding.draw_sentences(512, seed=0)
    tokens = open_clip.get_tokenizer(backbone.open_clip)(drawn)
    with torch.inference_mode():
        encode_tokens(model, tokens[:32], "cpu")
        rate = len(drawn) / seconds_of(lambda: encode_tokens(model, tokens, "cpu"))
    yield Row(
        "text embeddings", backbone.name, f"{len(drawn)} sentences", rate, len(paper_sentences()), "sentences"
    )


def sae_rows(backbone: Backbone) -> Iterator[Row]:
    """Time a step of SAE training; the release has trained ones."""
    import torch

    from debiasing_methods.training.sae import SaeTraining

    config = SaeTrainingConfig(batch_size=1024)
    training = SaeTraining(torch.randn(config.batch_size, backbone.dim), config)
    training.take_step()
    rate = config.batch_size / seconds_of(training.take_step)
    amount = len(paper_sentences()) * config.epochs
    rule = f"rows × {config.epochs} epochs, on all those sentences"
    yield Row("SAE training", backbone.name, "step of 1,024 rows", rate, amount, rule, optional=True)


def prism_rows(backbone: Backbone) -> Iterator[Row]:
    """Time some PRISM maps of every kind."""
    kinds = prism_training.by_kind(prism_training.read_settings(dataset_configs()))
    rows = prism_training.measure_sample(kinds, [backbone], 1)
    maps, sample = (sum(row[name] for row in rows) for name in ("all maps", "measured maps"))
    seconds = sum(row["seconds of all"] for row in rows)
    yield Row("PRISM training", backbone.name, f"{sample} maps", maps / seconds, maps, "maps of each kind")


def zsdebias_rows(backbone: Backbone) -> Iterator[Row]:
    """Time an epoch of ZSDebias training on some rows."""
    import torch

    from debiasing_methods.training.zsdebias import ZSDebiasTraining, bias_targets

    config, n = ZSDebiasTrainingConfig(), 6_000
    images, corpus = torch.randn(n, backbone.dim), torch.randn(200, backbone.dim)
    training = ZSDebiasTraining(images, bias_targets(images, corpus), config)
    rate = n / seconds_of(training.take_epoch)
    amount = sum(ZSDEBIAS_ROWS.values()) * SEEDS * config.epochs
    rule = f"rows × {SEEDS} seeds × {config.epochs} epochs, the most that early stopping allows"
    yield Row("ZSDebias training", backbone.name, f"epoch of {n:,} rows", rate, amount, rule)


def suite_rows() -> Iterator[Row]:
    """Time the suite on a part of FairFace with ViT-B/16, and extend each method to all 512 results."""
    [sample] = [backbone for backbone in paper_backbones() if backbone.name == suite.SAMPLE[1]]
    argv = ["--sample", "--scale", str(SUITE_SCALE)]
    args = suite.build_parser().parse_args(argv)
    args.datasets, args.backbone = [suite.SAMPLE[0]], [suite.SAMPLE[1]]
    with tempfile.TemporaryDirectory() as folder:
        rows = suite.measure(args, argv, Path(folder))["rows"]
    seconds = sum(row["seconds"] for row in rows)
    settings = {config.path.stem: len(config.settings) for config in dataset_configs()}
    extended = 0.0
    for config in dataset_configs():
        name = config.path.stem
        share = (
            SIZES[name] / (SUITE_SCALE * SIZES[suite.SAMPLE[0]]) * settings[name] / settings[suite.SAMPLE[0]]
        )
        for backbone in config.backbones.values():
            width = backbone.dim / sample.dim
            extended += share * sum(
                row["seconds"] * width ** WIDTH_POWER.get(row["method"], 1) for row in rows
            )
    n = sum(row["results"] for row in rows)
    measured = f"{n} results on {SUITE_SCALE:.0%} of FairFace, {seconds:.0f} s"
    yield Row(
        "suite",
        "all",
        measured,
        512 / extended,
        512,
        "images × settings × width (its square: PRISM, ZSDebias)",
    )


def study_rows() -> Iterator[Row]:
    """Time a fold of the disentanglement study on gender; ethnicity has 3.5 times as many sentences."""
    from bias_evaluation.prompts.study_config import load_study_config

    study, settings = load_study_config(CONFIG / "studies" / "people.yml"), ProbeSettings()
    sizes = {bias: len(study.probe_sentences(bias).sentences) for bias in study.biases}
    least = min(sizes.values())
    latents = make_latents(Case(20, 2, least // 40, 512, 16_384))
    fold = seconds_of(lambda: next(cross_validate(*latents, settings)))
    folds = settings.folds * len(study.backbones) * sum((n / least) ** 2 for n in sizes.values())
    yield Row(
        "disentanglement study", "all", f"a fold, {least:,} sentences", 1 / fold, folds, "folds × sentences²"
    )


STAGES: dict[str, Callable[..., Iterator[Row]]] = {
    "images": image_rows,
    "text": text_rows,
    "sae": sae_rows,
    "prism": prism_rows,
    "zsdebias": zsdebias_rows,
    "suite": suite_rows,
    "study": study_rows,
}
WHOLE = ("suite", "study")  # stages that are measured once, not for each backbone


# --- the report -------------------------------------------------------------------------------------------


def measure(stages: Sequence[str]) -> list[Row]:
    """Measure some stages."""
    rows: list[Row] = []
    for stage in tqdm(stages, desc="measuring", unit="stage"):
        if stage in WHOLE:
            rows += STAGES[stage]()
        else:
            rows += chain.from_iterable(STAGES[stage](backbone) for backbone in paper_backbones())
    return sorted(rows, key=lambda row: row.optional)


def format_rows(rows: Sequence[Row]) -> str:
    """Render the rows as a table, with the sum of those that are needed."""
    lines = ["| stage | backbone | measured | per second | amount | hours | extended by |", "|---" * 7 + "|"]
    for row in rows:
        hours = f"({row.hours:.2f})" if row.optional else f"{row.hours:.2f}"
        amount = f"{row.amount:,.0f}"
        cells = (row.stage, row.backbone, row.measured, f"{row.rate:,.2f}", amount, hours, row.rule)
        lines.append(f"| {' | '.join(cells)} |")
    total = sum(row.hours for row in rows if not row.optional)
    return "\n".join([*lines, f"in all, without what is in parentheses: {total:.1f} hours"])


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--stages", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="S", help="default: all")
    add("--threads", type=int, metavar="N", help="torch threads (default: torch's own choice)")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="JSON to write (default: %(default)s)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    args = build_parser().parse_args(argv)

    import torch

    from benchmarks.machine import describe_machine

    if args.threads:
        torch.set_num_threads(args.threads)
    rows, machine = measure(args.stages), describe_machine()
    write_json(args.output, {"machine": machine, "rows": [asdict(r) | {"hours": r.hours} for r in rows]})
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(f"{format_rows(rows)}\nwritten: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
