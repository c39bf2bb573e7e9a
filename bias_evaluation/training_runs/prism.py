"""Training runs of PRISM maps on disk: names of the weights, what is kept, what is trained, what is written.

The files of a map: the weights, and ``<stem>.report.json`` beside them (what they were made from, and their
losses); ``losses.csv`` in the folder has a line for every map in it. Weights are the same to the last bit for
the same sentences, embeddings and options (on the CPU, with the same versions and number of threads), whether
or not a run was cut off.

Maps of one shape are trained together, in batches small enough for the processor's caches, and each of
torch's threads trains a batch of its own. A batch is written when it is done: a run that was cut off has lost
those under way. A map that is there with the same digest (of sentences, embeddings and options) is kept;
another file of its name is an error unless it may be overwritten.
"""

from __future__ import annotations

import csv
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from bias_evaluation.prompts.prism_texts import PrismTextSet, fill_scene
from bias_evaluation.training_runs.run import TrainingRun, sha256_tensor
from bias_evaluation.weights import FORMATS
from bias_evaluation.weights.find import prism_weight_name
from bias_evaluation.weights.read import PRISM_MAP
from debiasing_methods.linalg import unit
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from debiasing_methods.training.prism import overall_loss, train_maps
from debiasing_methods.training.prism_sampling import SAMPLERS, PrismSamples, TextSetSizes
from safe_io.errors import InputError
from safe_io.files import atomic_path, dump_weights, read_json, sha256_json, write_text
from safe_io.locks import exclusive
from safe_io.provenance import build_versions

T, R = TypeVar("T"), TypeVar("R")
LOSSES = "losses.csv"
_BATCH_BYTES = 1 << 26  # tensors of a batch of maps; a single map of width 1024 needs half of it


@dataclass(frozen=True)
class PrismSetting:
    """A text set as plain data, and how its maps are trained.

    Attributes
    ----------
    task, setting : str
        As in file names.
    sizes : TextSetSizes
    sentences : tuple of str
        All ``sizes.sentences`` sentences, in the order that `prism_sampling` numbers them.
    training : PrismHyperparameters
    """

    task: str
    setting: str
    sizes: TextSetSizes
    sentences: tuple[str, ...]
    training: PrismHyperparameters

    def __post_init__(self) -> None:
        """Raise `ValueError` where sentences and sizes do not go together."""
        if len(self.sentences) != self.sizes.sentences:
            raise ValueError(f"{self.setting}: {len(self.sentences)} sentences for {self.sizes}")


def training_setting(
    task: str, name: str, text_set: PrismTextSet, training: PrismHyperparameters
) -> PrismSetting:
    """Write a text set down as the training takes it: sizes, and all sentences in the sampling's order."""
    targets = [text_set.target_class_descriptions[c] for c in text_set.target_classes]
    biases = [text_set.bias_class_descriptions[c] for c in text_set.bias_classes]
    scenes = text_set.scene_descriptions
    parts = itertools.product(scenes, itertools.chain(*targets), itertools.chain(*biases))
    return PrismSetting(
        task=task,
        setting=name,
        sizes=TextSetSizes(len(scenes), tuple(map(len, targets)), tuple(map(len, biases))),
        sentences=tuple(fill_scene(scene, target, bias, text_set) for scene, target, bias in parts),
        training=training,
    )


@dataclass(frozen=True)
class Output:
    """Where maps go.

    Attributes
    ----------
    folder : pathlib.Path
    backbone : str
        Name in weight files.
    file_format : str
        'pth' (the release's) or 'safetensors'.
    overwrite : bool
        Whether files of other runs may be replaced; maps that are done are then trained anew.
    """

    folder: Path
    backbone: str
    file_format: str = FORMATS[0]
    overwrite: bool = False


@dataclass(frozen=True, eq=False)
class _Map:
    """One map to train: a setting and a seed."""

    setting: PrismSetting
    seed: int
    sampling: str

    @cached_property
    def samples(self) -> PrismSamples:
        return SAMPLERS[self.sampling](self.setting.sizes, self.setting.training.num_samples, self.seed)

    def sentences(self) -> list[str]:
        """Distinct sentences that the samples use."""
        numbers = torch.cat([self.samples.positives, self.samples.negatives], dim=1).unique().tolist()
        return list(dict.fromkeys(self.setting.sentences[k] for k in numbers))

    def shape(self) -> tuple[Any, ...]:
        """Tell what maps must have in common to be trained together."""
        sizes = self.setting.sizes
        return len(sizes.targets), len(sizes.biases), self.setting.training


class _Sentences:
    """Embeddings of all sentences of a run: each distinct sentence has one row."""

    def __init__(self, sentences: Sequence[str], embed: Callable[[Sequence[str]], Tensor]) -> None:
        self._rows = {sentence: row for row, sentence in enumerate(sentences)}
        self._raw = embed(sentences).to(torch.float32)
        self.embeddings = unit(self._raw)

    def rows(self, one: _Map) -> tuple[Tensor, Tensor]:
        """Rows of a map's positives (n, P) and negatives (n, Q)."""
        number = torch.tensor([self._rows.get(sentence, -1) for sentence in one.setting.sentences])
        return number[one.samples.positives], number[one.samples.negatives]

    def sha256(self, sentences: Sequence[str]) -> str:
        """Digest of some sentences' embeddings."""
        return sha256_tensor(self._raw[[self._rows[sentence] for sentence in sentences]])


def run_training(
    settings: Sequence[PrismSetting],
    embed: Callable[[Sequence[str]], Tensor],
    output: Output,
    *,
    seeds: Sequence[int],
    sampling: str = "published",
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Train the maps of some settings and seeds for one backbone; those that are done are kept.

    Parameters
    ----------
    settings : sequence of PrismSetting
    embed : callable
        Sentences → raw embeddings (sentences, d); called once, with the distinct sentences of all maps.
    output : Output
    seeds : sequence of int
    sampling : str
        'published' or 'independent' (see `debiasing_methods.training.prism_sampling`).
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    list of dict
        Reports, setting by setting, seed by seed.

    Raises
    ------
    InputError
        A file of another run has the name of a map, a training diverged, or another process is training maps
        of this backbone for the same folder.
    """
    with exclusive(output.folder / f"prism_clip={output.backbone}"):
        maps = [_Map(setting, seed, sampling) for setting in settings for seed in dict.fromkeys(seeds)]
        return _run(maps, embed, output, progress)


def _run(
    maps: Sequence[_Map], embed: Callable[[Sequence[str]], Tensor], output: Output, progress: bool
) -> list[dict[str, Any]]:
    """Do the work of `run_training`, alone in its folder with maps of this backbone."""
    if not maps:
        return []
    used = {one: one.sentences() for one in maps}
    sentences = _Sentences(list(dict.fromkeys(s for own in used.values() for s in own)), embed)
    runs = {one: _run_of(one, output, own, sentences) for one, own in used.items()}
    reports = {one: run.finished(overwrite=output.overwrite) for one, run in runs.items()}
    with tqdm(total=len(maps), unit="map", desc=f"PRISM, {output.backbone}", disable=not progress) as bar:
        # Whole batches, though some of their maps may be done: the same maps are always trained together.
        batches = list(_batches(maps, sentences.embeddings.shape[1]))
        todo = [batch for batch in batches if any(reports[one] is None for one in batch)]
        bar.update(len(maps) - sum(map(len, todo)))
        for trained in _in_threads(lambda batch: _train(batch, sentences), todo):
            for one, w, losses in trained:
                if reports[one] is None:
                    reports[one] = _write(runs[one], w, losses)
                bar.update()
    write_losses(output.folder)
    return [reports[one] for one in maps]


def _run_of(one: _Map, output: Output, own: Sequence[str], sentences: _Sentences) -> TrainingRun:
    """Say where a map goes, and what it is made from."""
    setting, sizes = one.setting, one.setting.sizes
    name = prism_weight_name(
        output.backbone, setting.task, setting.setting, setting.training, one.seed, output.file_format
    )
    facts = {
        "backbone": output.backbone,
        "task": setting.task,
        "setting": setting.setting,
        "seed": one.seed,
        **asdict(setting.training),
        "sampling": one.sampling,
        "text_set": {
            "scenes": sizes.scenes,
            "targets": list(sizes.targets),
            "biases": list(sizes.biases),
        },
        "dim": sentences.embeddings.shape[1],
        "sentences": {"distinct": len(own), "sha256": sha256_json(own)},
        "embeddings_sha256": sentences.sha256(own),
    }
    made_from = "these sentences, embeddings and options"
    return TrainingRun(output.folder / name, facts, made_from, "another --output-dir", report_first=True)


def _batches(maps: Sequence[_Map], dim: int) -> Iterator[list[_Map]]:
    """Give maps of one shape, as many at a time as the memory for a batch holds."""
    shapes: dict[tuple[Any, ...], list[_Map]] = {}
    for one in maps:
        shapes.setdefault(one.shape(), []).append(one)
    for (n_targets, n_biases, training), alike in shapes.items():
        step = min(training.batch_size, training.num_samples) * (n_targets + n_biases) * dim
        state = dim * dim
        size = max(1, _BATCH_BYTES // (4 * (5 * state + 4 * step)))  # W, gradient, Adam's two; e, x, G, G·y
        yield from (alike[k : k + size] for k in range(0, len(alike), size))


def _in_threads(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Give the result of each item, in order, while as many threads as torch has work a little ahead.

    Meanwhile a call of torch uses one thread: several that share a call wait for each other at every step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[R]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


def _train(batch: Sequence[_Map], sentences: _Sentences) -> list[tuple[_Map, Tensor, dict[str, Any]]]:
    """Train a batch of maps; returns each with its losses."""
    dim, training = sentences.embeddings.shape[1], batch[0].setting.training
    starts = [one.samples.start(dim, training.epochs) for one in batch]
    rows = [sentences.rows(one) for one in batch]
    maps, steps = train_maps(
        torch.stack([w for w, _ in starts]),
        sentences.embeddings,
        torch.stack([positives for positives, _ in rows]),
        torch.stack([negatives for _, negatives in rows]),
        torch.stack([order for _, order in starts]),
        lr=training.lr,
        batch_size=training.batch_size,
        wd=training.wd,
    )
    trained = []
    for k, one in enumerate(batch):
        before, after = (overall_loss(w, sentences.embeddings, *rows[k]) for w in (starts[k][0], maps[k]))
        if not torch.isfinite(maps[k]).all():
            raise InputError(f"training diverged with lr {training.lr} ({one.setting.setting}); lower it")
        losses = {
            "loss_before": _parts(before),
            "loss_after": _parts(after),
            "batch_losses": [_parts(loss) for loss in steps[:, k]],
        }
        trained.append((one, maps[k], losses))
    return trained


def _parts(loss: Tensor) -> dict[str, float]:
    positive, negative = loss.tolist()
    return {"positive": positive, "negative": negative, "total": positive + negative}


def _write(run: TrainingRun, w: Tensor, losses: dict[str, Any]) -> dict[str, Any]:
    """Write the report, then give the weights their name."""
    with atomic_path(run.weights) as temporary:
        dump_weights(temporary, {PRISM_MAP: w.clone()})  # a clone: a slice would be saved with its batch
        return run.write_report({**losses, "versions": build_versions("torch")}, temporary)


def write_losses(folder: Path) -> None:
    """Write ``losses.csv``: one line for each report in a folder, in the order of their names."""
    training = [field.name for field in fields(PrismHyperparameters)]
    columns = ("backbone", "task", "setting", "seed", "sampling", *training)
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    parts = [(when, part) for when in ("before", "after") for part in ("positive", "negative", "total")]
    lines.writerow([*columns, *(f"{part}_{when}" for when, part in parts)])
    for path in sorted(folder.glob("prism_*.report.json")):
        report = read_json(path, "report of a PRISM map")
        try:
            losses = [report[f"loss_{when}"][part] for when, part in parts]
            lines.writerow([*(report[column] for column in columns), *losses])
        except (KeyError, TypeError):
            raise InputError(f"{path} is not the report of a PRISM map; remove it") from None
    write_text(folder / LOSSES, text.getvalue())
