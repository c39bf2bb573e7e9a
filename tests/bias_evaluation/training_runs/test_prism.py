"""PRISM training: the published maps come out; loss, sampling and files are what their definitions say."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.training_runs import prism as prism_run
from bias_evaluation.training_runs.prism import (
    Output,
    PrismSetting,
    run_training,
)
from bias_evaluation.training_runs.run import report_path
from bias_evaluation.weights.find import prism_weight_name
from bias_evaluation.weights.read import load_prism_map
from debiasing_methods import prism_training
from debiasing_methods.linalg import unit
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from debiasing_methods.training.prism import loss_and_gradient, overall_loss, prism_loss, train_maps
from debiasing_methods.training.prism_sampling import (
    SAMPLERS,
    PrismSamples,
    TextSetSizes,
    published_sampling,
)
from safe_io.checkout import ROOT
from safe_io.errors import InputError

GENDER = TextSetSizes(20, (5, 4), (1, 1))
RACE = TextSetSizes(20, (5, 4), (3, 1, 2, 1, 1, 1, 4))
SIZES = {"gender": GENDER, "race": RACE, "many targets": TextSetSizes(3, (2, 1, 4), (6, 5))}
GOLDEN = [
    ("retrieval", "celeba_black_hair_gender"),
    ("retrieval", "celeba_blond_hair_gender"),
    ("retrieval", "celeba_brown_hair_gender"),
    ("retrieval", "celeba_gray_hair_gender"),
    ("zs_classification", "celeba_blond_hair_gender"),
    ("zs_classification", "waterbirds"),
]


# the published maps


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, oracle_dir: Path) -> Path:
    """Config folder whose official text sets are the published ones."""
    config = tmp_path_factory.mktemp("project") / "config"
    (config / "prism").mkdir(parents=True)
    for name in ("backbones.yml", "prism_training.yml"):
        (config / name).write_bytes((ROOT / "config" / name).read_bytes())
    (config / "prism" / "official").symlink_to(oracle_dir / "official" / "prism_data")
    return config


@pytest.mark.parametrize(("task", "setting"), GOLDEN)
def test_published_maps_come_out(
    task: str, setting: str, project: Path, oracle_dir: Path, tmp_path: Path
) -> None:
    world = oracle_dir / "golden" / "world"
    arguments = ["--backbone", "ViT-B/16", "--task", task, "--setting", setting, "--seed", "0"]
    arguments += ["--prompts", "official", "--backbones-file", str(project / "backbones.yml")]
    arguments += ["--text-embeddings", str(world / "text_embeddings.npz"), "--output-dir", str(tmp_path)]
    assert prism_training.main(arguments) == 0
    [ours] = tmp_path.glob("*.pth")
    theirs = world / "debiasing_methods" / "prism_weights" / ours.name  # the very name, too
    differences = (load_prism_map(ours, dim=512) - load_prism_map(theirs, dim=512)).abs()
    assert (differences < 1e-4).double().mean() >= 0.999


# the sampling


def draw_one_by_one(sizes: TextSetSizes, n: int, seed: int) -> tuple[list[list[int]], list[list[int]]]:
    """Positives and negatives as the specification words them: single draws, seven times from the start."""

    def number(scene: int, target: tuple[int, int], bias: tuple[int, int]) -> int:
        t = sum(sizes.targets[: target[0]]) + target[1]
        b = sum(sizes.biases[: bias[0]]) + bias[1]
        return (scene * sum(sizes.targets) + t) * sum(sizes.biases) + b

    def pick(size: int) -> int:
        return int(torch.randint(0, size, (1,)))

    lists = []
    for size in (sizes.scenes, len(sizes.targets), len(sizes.biases)):
        torch.manual_seed(seed)
        lists.append(torch.randint(0, size, (n,)).tolist())
    scene, target, bias = lists
    torch.manual_seed(seed)
    of_target = [pick(sizes.targets[t]) for t in target]
    torch.manual_seed(seed)
    every_bias = [[pick(size) for size in sizes.biases] for _ in range(n)]
    torch.manual_seed(seed)
    of_bias = [pick(sizes.biases[b]) for b in bias]
    torch.manual_seed(seed)
    every_target = [[pick(size) for size in sizes.targets] for _ in range(n)]
    positives = [
        [number(scene[i], (target[i], of_target[i]), (b, k)) for b, k in enumerate(every_bias[i])]
        for i in range(n)
    ]
    negatives = [
        [number(scene[i], (t, k), (bias[i], of_bias[i])) for t, k in enumerate(every_target[i])]
        for i in range(n)
    ]
    return positives, negatives


@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_published_sampling_is_the_published_draws(name: str, seed: int) -> None:
    samples = published_sampling(SIZES[name], 37, seed)
    w, order = samples.start(8)
    with torch.random.fork_rng():
        positives, negatives = draw_one_by_one(SIZES[name], 37, seed)
        # the generator is now as the seventh list left it
        linear = torch.nn.Linear(8, 8, bias=False)
        for _ in range(3):
            order_seed = int(torch.empty((), dtype=torch.int64).random_())
    assert samples.positives.tolist() == positives
    assert samples.negatives.tolist() == negatives
    assert torch.equal(w, linear.weight)
    assert order.tolist() == [
        torch.randperm(37, generator=torch.Generator().manual_seed(order_seed)).tolist()
    ]


@pytest.mark.parametrize("sampling", SAMPLERS)
def test_sampling_leaves_the_global_generator_alone_and_repeats(sampling: str) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (SAMPLERS[sampling](RACE, 50, seed) for seed in (4, 4, 5))
    assert torch.equal(first.positives, second.positives)
    assert torch.equal(first.negatives, second.negatives)
    assert not torch.equal(first.negatives, other.negatives)
    for drawn, again, others in zip(first.start(6, 2), second.start(6, 2), other.start(6, 2), strict=True):
        assert torch.equal(drawn, again)
        assert not torch.equal(drawn, others)
    assert all(torch.equal(a, b) for a, b in zip(first.start(6, 2), first.start(6, 2), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)


def choices_of(samples: PrismSamples, sizes: TextSetSizes) -> tuple[Tensor, Tensor, Tensor]:
    """Scene, target class and bias class of each sample, read off its sentences."""

    def classes(numbers: Tensor, counts: Sequence[int]) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))[numbers]

    n_bias = sum(sizes.biases)
    scene = samples.positives[:, 0] // (n_bias * sum(sizes.targets))
    target = classes(samples.positives[:, 0] // n_bias % sum(sizes.targets), sizes.targets)
    return scene, target, classes(samples.negatives[:, 0] % n_bias, sizes.biases)


def test_published_choices_hang_together_and_independent_ones_do_not() -> None:
    scene, target, bias = choices_of(SAMPLERS["published"](GENDER, 400, 0), GENDER)
    assert torch.equal(target, bias)
    assert torch.equal(scene % 2, target)  # each target class meets half of the scenes
    scene, target, bias = choices_of(SAMPLERS["independent"](GENDER, 4000, 0), GENDER)
    pairs = torch.bincount(2 * target + bias, minlength=4)
    assert (pairs - 1000).abs().max() < 150  # 5 standard deviations are 137
    assert torch.unique(20 * target + scene).numel() == 40


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize("name", SIZES)
def test_positives_vary_the_bias_and_negatives_the_target_alone(sampling: str, name: str) -> None:
    sizes = SIZES[name]
    samples = SAMPLERS[sampling](sizes, 60, 3)
    n_target, n_bias = sum(sizes.targets), sum(sizes.biases)
    scene = samples.positives[:, :1] // (n_bias * n_target)
    for numbers in (samples.positives, samples.negatives):
        assert (numbers // (n_bias * n_target) == scene).all()
    target, bias = samples.positives // n_bias % n_target, samples.negatives % n_bias
    assert (target == target[:, :1]).all()
    assert (bias == bias[:, :1]).all()
    of_bias, of_target = (
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        for counts in (sizes.biases, sizes.targets)
    )
    assert (of_bias[samples.positives % n_bias] == torch.arange(len(sizes.biases))).all()
    assert (of_target[samples.negatives // n_bias % n_target] == torch.arange(len(sizes.targets))).all()


@pytest.mark.parametrize("sizes", [(0, (1, 1), (1, 1)), (3, (1,), (1, 1)), (3, (1, 1), (2, 0))])
def test_sizes_without_texts_are_refused(sizes: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="two or more classes"):
        TextSetSizes(*sizes)


# the loss and its gradient


def naive_loss(w: Tensor, samples: Tensor, n_positives: int) -> tuple[Tensor, Tensor]:
    """L_pos and L_neg of one map in loops; samples (b, s, d)."""

    def cos(a: Tensor, b: Tensor) -> Tensor:
        return a @ b / (a.norm() * b.norm())

    positive, negative = [], []
    for sentences in samples:
        mapped = [(w @ e) / (w @ e).norm() for e in sentences]
        mean = sum(mapped[:n_positives]) / n_positives
        positive += [1 - cos(p, mean / mean.norm()) for p in mapped[:n_positives]]
        pairs = itertools.combinations(mapped[n_positives:], 2)
        close = [torch.clamp(cos(a, b) - 0.6, min=0) for a, b in pairs]
        negative.append(sum(close) / len(close))
    return sum(positive) / len(positive), sum(negative) / len(negative)


@pytest.mark.parametrize(("n_positives", "n_negatives"), [(2, 2), (7, 2), (3, 4)])
def test_loss_and_gradient_are_those_of_the_naive_loops(n_positives: int, n_negatives: int) -> None:
    """L_pos + L_neg of PRISM (arXiv:2507.08979)."""
    generator = torch.Generator().manual_seed(n_positives)
    d, b, m = 9, 5, 3
    maps = torch.randn(m, d, d, generator=generator, dtype=torch.float64)
    # a common direction: without it hardly a pair of negatives is above the margin
    sentences = torch.randn(m, b, n_positives + n_negatives, d, generator=generator, dtype=torch.float64)
    sentences = unit(sentences + 2 * torch.randn(d, generator=generator, dtype=torch.float64))
    losses, gradient = loss_and_gradient(maps, sentences, n_positives)
    for k in range(m):
        w = maps[k].clone().requires_grad_()
        positive, negative = naive_loss(w, sentences[k], n_positives)
        (positive + negative).backward()
        assert 0 < negative < 0.4
        assert losses[k].tolist() == pytest.approx([positive.item(), negative.item()], abs=1e-12)
        assert torch.allclose(gradient[k], w.grad, rtol=0, atol=1e-12)


def test_loss_of_perfect_maps_is_zero_and_of_collapsed_ones_the_margin() -> None:
    mapped = torch.eye(4)[[0, 0, 1, 2]].expand(3, 4, 4)  # positives coincide, negatives are orthogonal
    assert prism_loss(mapped, 2).tolist() == pytest.approx([0, 0], abs=1e-7)
    assert prism_loss(torch.eye(4)[[0, 0, 0, 0]].expand(3, 4, 4), 2).tolist() == pytest.approx([0, 0.4])


def test_overall_loss_is_the_loss_of_all_samples() -> None:
    embeddings, samples = random_embeddings(GENDER), published_sampling(GENDER, 30, 1)
    w, _ = samples.start(embeddings.shape[1])
    rows = torch.cat([samples.positives, samples.negatives], 1)
    expected = prism_loss(unit(embeddings[rows] @ w.T), 2)
    found = overall_loss(w, embeddings, samples.positives, samples.negatives)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-6)


# the training


def random_embeddings(sizes: TextSetSizes, d: int = 64, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(99)
    drift = torch.randn(d, generator=generator, dtype=torch.float64)
    return unit(torch.randn(sizes.sentences, d, generator=generator, dtype=torch.float64) + drift).to(dtype)


def train(
    samples: Sequence[PrismSamples], embeddings: Tensor, epochs: int = 1, **options: Any
) -> tuple[Tensor, Tensor]:
    """Train maps of some samples together, from their own starting values."""
    starts = [one.start(embeddings.shape[1], epochs) for one in samples]
    return train_maps(
        torch.stack([w for w, _ in starts]).to(embeddings.dtype),
        embeddings,
        torch.stack([one.positives for one in samples]),
        torch.stack([one.negatives for one in samples]),
        torch.stack([order for _, order in starts]),
        **options,
    )


@pytest.mark.parametrize("wd", [0.0, 0.01])
def test_training_is_adam_on_the_naive_loss(wd: float) -> None:
    sizes, n, epochs = SIZES["many targets"], 11, 2
    embeddings, samples = random_embeddings(sizes, 6, torch.float64), published_sampling(sizes, n, 5)
    start, order = samples.start(6, epochs)
    w = start.double().requires_grad_()
    adam = torch.optim.Adam([w], lr=0.02, weight_decay=wd)
    rows = torch.cat([samples.positives, samples.negatives], 1)
    expected = []
    for epoch in range(epochs):
        for batch in (order[epoch, :4], order[epoch, 4:8], order[epoch, 8:]):  # the last is short
            adam.zero_grad()
            parts = naive_loss(w, embeddings[rows[batch]], len(sizes.biases))
            sum(parts).backward()
            adam.step()
            expected.append([part.item() for part in parts])
    [found], losses = train([samples], embeddings, epochs, lr=0.02, batch_size=4, wd=wd)
    assert torch.allclose(found, w, rtol=0, atol=1e-9)
    assert losses[:, 0].flatten().tolist() == pytest.approx(np.ravel(expected).tolist(), abs=1e-9)


@pytest.mark.parametrize("dim", [64, 512])
@pytest.mark.parametrize("name", ["gender", "race"])
def test_maps_trained_together_are_those_trained_alone(name: str, dim: int) -> None:
    sizes = SIZES[name]
    embeddings = random_embeddings(sizes, dim)
    samples = [published_sampling(sizes, 70, seed) for seed in range(5)]
    together, losses = train(samples, embeddings, lr=0.01)
    for k, one in enumerate(samples):
        [alone], its_losses = train([one], embeddings, lr=0.01)
        assert (together[k] - alone).abs().max() <= 1e-6
        assert (losses[:, k] - its_losses[:, 0]).abs().max() <= 1e-6
    assert (together[0] - together[1]).abs().max() > 1e-3


@dataclass
class Scenes:
    """Sentences as sums: common part + scene + target description + bias description + noise, unit.

    `training` and `held_out` have shape (scenes, target descriptions, bias descriptions, d), with other
    scenes and other noise; `target` and `bias` are the classes of the descriptions.
    """

    training: Tensor
    held_out: Tensor
    target: Tensor
    bias: Tensor


def make_scenes(sizes: TextSetSizes, d: int = 64) -> Scenes:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, d, generator=generator) / math.sqrt(d)

    target, bias = (
        torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        for counts in (sizes.targets, sizes.biases)
    )
    targets = draw(len(sizes.targets))[target] + 0.3 * draw(len(target))
    biases = draw(len(sizes.biases))[bias] + 0.3 * draw(len(bias))
    common = 2 * draw()

    def sentences(scenes: int) -> Tensor:
        parts = common + draw(scenes)[:, None, None] + targets[:, None] + biases
        return unit(parts + 0.3 * draw(*parts.shape[:3]))

    return Scenes(sentences(sizes.scenes), sentences(10), target, bias)


def separation(mapped: Tensor, labels: Tensor) -> float:
    """Variance between the classes' means over the variance within the classes."""
    means = torch.stack([mapped[labels == k].mean(0) for k in range(int(labels.max()) + 1)])
    within = (mapped - means[labels]).square().sum(1).mean()
    return float((means - means.mean(0)).square().sum(1).mean() / within)


@pytest.mark.parametrize("sampling", SAMPLERS)
@pytest.mark.parametrize(
    ("biases", "num_samples", "lr"), [((4, 4), 100, 0.01), ((4,) * 7, 200, 0.01), ((10, 10), 500, 0.1)]
)
def test_training_lowers_the_loss_and_separates_target_from_bias(
    biases: tuple[int, ...], num_samples: int, lr: float, sampling: str
) -> None:
    sizes = TextSetSizes(20, (5, 4), biases)
    scenes = make_scenes(sizes)
    embeddings = scenes.training.flatten(0, 2)
    samples = SAMPLERS[sampling](sizes, num_samples, 0)
    [w], losses = train([samples], embeddings, lr=lr)
    before, _ = samples.start(64)

    totals = [
        float(overall_loss(m, embeddings, samples.positives, samples.negatives).sum()) for m in (before, w)
    ]
    assert totals[1] < 0.2 * totals[0]
    assert losses[-1].sum() < 0.2 * losses[0].sum()

    shape = scenes.held_out.shape[:3]
    target = scenes.target[None, :, None].expand(shape).flatten()
    bias = scenes.bias[None, None].expand(shape).flatten()
    mapped = [unit(scenes.held_out @ m.T) for m in (before, w)]
    by_target, by_bias = ([separation(m.flatten(0, 2), labels) for m in mapped] for labels in (target, bias))
    assert by_target[1] > 3 * by_target[0]
    assert by_bias[1] < by_bias[0] / 3
    other_target = [(m[:, :1] * m[:, -1:]).sum(-1).mean() for m in mapped]  # same scene and bias
    assert other_target[1] < other_target[0] - 0.3


# the files


@dataclass
class Case:
    """A small run: two settings of one shape and one of another, with embeddings for every sentence."""

    folder: Path
    settings: list[PrismSetting]
    embeddings: dict[str, Tensor]

    def embed(self, sentences: Sequence[str]) -> Tensor:
        return torch.stack([self.embeddings[sentence] for sentence in sentences])

    def run(self, seeds: Sequence[int] = (0, 1), sampling: str = "published", **output: Any) -> list[dict]:
        target = Output(self.folder, "tiny", **output)
        return run_training(self.settings, self.embed, target, seeds=seeds, sampling=sampling)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def path(self, k: int, seed: int) -> Path:
        one = self.settings[k]
        return self.folder / prism_weight_name("tiny", one.task, one.setting, one.training, seed)


def make_setting(name: str, sizes: TextSetSizes, **training: Any) -> PrismSetting:
    numbers = itertools.product(range(sizes.scenes), range(sum(sizes.targets)), range(sum(sizes.biases)))
    sentences = tuple(f"{name} {numbers}" for numbers in numbers)
    return PrismSetting(
        "retrieval",
        name,
        sizes,
        sentences,
        PrismHyperparameters(**{"num_samples": 20, "lr": 0.01} | training),
    )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    settings = [
        make_setting("thief", GENDER, batch_size=8),
        make_setting("thug", GENDER, batch_size=8),
        make_setting("landscape", TextSetSizes(1, (2, 2), (2, 2)), lr=0.1),
    ]
    sentences = [sentence for one in settings for sentence in one.sentences]
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(len(sentences), 12, generator=generator) + 1
    return Case(tmp_path / "maps", settings, dict(zip(sentences, vectors, strict=True)))


def test_a_run_writes_maps_reports_and_losses(case: Case) -> None:
    reports = case.run()
    names = [(one.setting, seed) for one in case.settings for seed in (0, 1)]
    assert [(report["setting"], report["seed"]) for report in reports] == names
    paths = [case.path(k, seed) for k in range(3) for seed in (0, 1)]
    expected = {p.name for path in paths for p in (path, report_path(path))} | {"losses.csv"}
    assert set(case.files()) == expected
    with (case.folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        lines = {(line["setting"], int(line["seed"])): line for line in csv.DictReader(file)}
    assert set(lines) == set(names)
    for report, path in zip(reports, paths, strict=True):
        assert json.loads(report_path(path).read_text()) == report
        # readable by the published code: one linear layer named transformer
        module = torch.nn.ModuleDict({"transformer": torch.nn.Linear(12, 12, bias=False)})
        module.load_state_dict(torch.load(path, weights_only=True))
        assert path.stat().st_size < 4 * 12 * 12 + 4096  # the map alone, not its batch
        line = lines[report["setting"], report["seed"]]
        assert float(line["total_after"]) == report["loss_after"]["total"]
        assert len(report["batch_losses"]) == math.ceil(20 / report["batch_size"])


def test_the_map_of_a_file_is_the_one_of_its_setting_and_seed(case: Case) -> None:
    case.run(seeds=(3,))
    one = case.settings[1]
    embeddings = unit(case.embed(one.sentences))
    [w], _ = train([published_sampling(one.sizes, 20, 3)], embeddings, lr=0.01, batch_size=8)
    assert (load_prism_map(case.path(1, 3), dim=12) - w).abs().max() <= 1e-6


def test_a_setting_alone_gives_the_files_that_all_settings_give(case: Case) -> None:
    case.run(seeds=(0, 1))
    alone = replace(case, folder=case.folder.with_name("alone"), settings=case.settings[1:2])
    alone.run(seeds=(1,))
    paths = alone.path(0, 1), case.path(1, 1)
    first, second = (load_prism_map(path, dim=12) for path in paths)
    assert (first - second).abs().max() <= 1e-6
    first, second = (json.loads(report_path(path).read_text()) for path in paths)
    assert first["digest"] == second["digest"]


def test_seeds_differ_and_a_seed_repeats_bit_for_bit(case: Case) -> None:
    case.run()
    again = replace(case, folder=case.folder.with_name("again"))
    again.run()
    assert again.files() == case.files()
    first, second = (load_prism_map(case.path(0, seed), dim=12) for seed in (0, 1))
    assert (first - second).abs().max() > 0.1


def test_threads_train_the_same_maps(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.run()
    threaded = replace(case, folder=case.folder.with_name("threaded"))
    monkeypatch.setattr(prism_run, "_BATCH_BYTES", 1)  # one map a batch
    torch.set_num_threads(3)
    try:
        reports = threaded.run()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert threaded.files() == case.files()
    names = [(one.setting, seed) for one in case.settings for seed in (0, 1)]
    assert [(report["setting"], report["seed"]) for report in reports] == names


def test_what_is_done_is_kept_and_not_trained_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, files = case.run(), case.files()
    monkeypatch.setattr(prism_run, "train_maps", lambda *_, **__: pytest.fail("trained again"))
    assert case.run() == reports
    assert case.files() == files


def test_a_run_that_was_cut_off_goes_on_to_the_same_files(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = replace(case, folder=case.folder.with_name("undisturbed"))
    undisturbed.run()
    monkeypatch.setattr(prism_run, "_BATCH_BYTES", 1)  # one map a batch
    calls: list[Any] = []

    def third_is_cut_off(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_maps(*args, **options)

    monkeypatch.setattr(prism_run, "train_maps", third_is_cut_off)
    with pytest.raises(KeyboardInterrupt):
        case.run()
    kept = case.files()
    assert len(kept) == 4  # two maps and their reports; what was under way is lost
    calls[:] = [None] * 3
    case.run()
    assert len(calls) == 3 + 4
    assert case.files() == undisturbed.files()
    assert kept.items() <= case.files().items()


@pytest.mark.parametrize("cut_off", ["before the weights", "while they were replaced"])
def test_a_kill_between_report_and_weights_does_not_block(case: Case, cut_off: str) -> None:
    case.run()
    files, path = case.files(), case.path(1, 0)
    if cut_off == "before the weights":
        path.unlink()
    else:
        path.write_bytes(case.path(0, 1).read_bytes())
    case.run()
    assert case.files() == files


def test_files_of_another_run_are_replaced_only_where_asked(case: Case) -> None:
    case.folder.mkdir()
    path = case.path(2, 1)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"landscape.*seed=1.*--overwrite"):
        case.run()
    assert list(case.files().values()) == [b"mine"]  # refused before any training
    case.run(overwrite=True)
    assert load_prism_map(path, dim=12).shape == (12, 12)


@pytest.mark.parametrize("other", ["embeddings", "sentences", "sampling"])
def test_a_map_made_from_other_inputs_is_not_taken_for_this_one(case: Case, other: str) -> None:
    case.run()
    files = case.files()
    sampling = "published"
    if other == "embeddings":
        case.embeddings = {sentence: -vector for sentence, vector in case.embeddings.items()}
    elif other == "sampling":
        sampling = "independent"
    else:
        first = case.settings[0]
        case.settings[0] = replace(
            first, sentences=tuple(s.replace("thief", "thug") for s in first.sentences)
        )
    with pytest.raises(InputError, match="was not made from these"):
        case.run(sampling=sampling)
    assert case.files() == files


def test_safetensors_hold_the_same_map(case: Case) -> None:
    case.run(seeds=(0,))
    case.run(seeds=(0,), file_format="safetensors")
    for k in range(3):
        path = case.path(k, 0)
        assert torch.equal(
            load_prism_map(path, dim=12), load_prism_map(path.with_suffix(".safetensors"), dim=12)
        )


def test_a_diverging_training_is_one_line(case: Case) -> None:
    case.settings = [make_setting("thief", GENDER, lr=3e38, batch_size=4)]
    with pytest.raises(InputError, match=r"diverged with lr 3e\+38 \(thief\)"):
        case.run()
    assert not case.folder.exists()


def test_names_are_the_release_s() -> None:
    name = prism_weight_name(
        "ViT-L-14@336px",
        "retrieval",
        "stereotype_dangerous-person_utkrace",
        PrismHyperparameters(200, 0.01),
        2,
    )
    assert name == (
        "prism_clip=ViT-L-14@336px_task=retrieval_setting=stereotype_dangerous-person_utkrace_epochs=1_num_bases=0"
        "_num_samples=200_seed=2_lr=0.01_batch_size=64_wd=0.0_init_weight=random.pth"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"num_samples": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"epochs": 0},
        {"batch_size": 0},
        {"wd": -1.0},
    ],
)
def test_hyperparameters_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        PrismHyperparameters(**{"num_samples": 1, "lr": 0.1} | values)


# the command


@dataclass
class Command:
    """A project folder with text sets for two settings, and the command's `main` on it."""

    root: Path

    def __call__(self, *arguments: str) -> int:
        return prism_training.main(
            [*arguments, "--backbones-file", str(self.root / "config" / "backbones.yml")]
        )

    def single(self, *arguments: str) -> int:
        return self(
            "--backbone", "tiny", "--task", "retrieval", "--setting", "digit_one_color",
            "--text-embeddings", str(self.root / "text.npz"), *arguments,
        )  # fmt: skip

    def maps(self, folder: str = "debiasing_methods/prism_weights/default") -> list[str]:
        return sorted(path.name for path in (self.root / folder).glob("*.pth"))


TEXT_SET = {
    "scene descriptions": ["A <digit> on <color>.", "Here is a <digit> and <color>."],
    "target classes": ["one", "other"],
    "bias classes": ["red", "blue"],
    "target class descriptions": {"one": ["one", "1"], "other": ["two", "ten"]},
    "bias class descriptions": {"red": ["red"], "blue": ["blue", "a  ocean"]},
    "target placeholder": "<digit>",
    "bias placeholder": "<color>",
}
BACKBONE = "tiny: {open_clip: RN50, pretrained: openai, dim: 5, quick_gelu: true}\n"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    config = tmp_path / "config"
    (config / "prism" / "default" / "retrieval").mkdir(parents=True)
    (config / "backbones.yml").write_text(BACKBONE)
    (config / "prism_training.yml").write_text('"*": {num_samples: 30, lr: 0.01}\n')
    for name in ("one", "two"):
        path = config / "prism" / "default" / "retrieval" / f"digit_{name}_color.json"
        path.write_text(json.dumps(TEXT_SET))
    sets = load_text_sets(config / "prism" / "default")
    sentences = sets["retrieval", "digit_one_color"].sentences()
    embeddings = np.random.default_rng(0).normal(size=(len(sentences), 5)).astype(np.float32)
    np.savez(tmp_path / "text.npz", prompts=np.array(sentences), embeddings=embeddings)
    return Command(tmp_path)


def test_the_command_trains_one_setting(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.single("--seeds", "0", "4", "--num-samples", "12", "--lr", "1e-3") == 0
    assert command.maps() == [
        prism_weight_name("tiny", "retrieval", "digit_one_color", PrismHyperparameters(12, 1e-3), seed)
        for seed in (0, 4)
    ]
    out = capsys.readouterr().out
    assert "digit_one_color seed 4: loss" in out
    assert "losses.csv" in out


def test_both_spellings_and_published_options_are_taken(command: Command) -> None:
    published = ["--epochs", "1", "--num_bases", "0", "--num_samples", "30", "--seed", "0", "--lr", "0.01"]
    published += ["--batch_size", "64", "--wd", "0", "--init_weight", "random"]
    assert command.single(*published, "--output-dir", str(command.root / "one")) == 0
    hyphens = [word.replace("_", "-") for word in published]
    assert command.single(*hyphens, "--output-dir", str(command.root / "two")) == 0
    assert len(command.maps("one")) == 1
    first, second = ((command.root / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(second.iterdir())
    ]


def test_only_new_sentences_are_encoded_and_in_parts(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bias_evaluation.embedding import text_store

    asked: list[list[str]] = []

    class Fake:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def encode_text(self, prompts: Sequence[str], **_: Any) -> Tensor:
            asked.append(list(prompts))
            return torch.tensor([[1.0 + len(p), p.count("e"), p.count("n"), len(asked), 1] for p in prompts])

    monkeypatch.setattr(text_store, "Encoder", Fake)
    monkeypatch.setattr(prism_training, "_ENCODED_TOGETHER", 10)
    arguments = ["--backbone", "tiny", "--task", "retrieval", "--data-root", str(command.root / "data")]
    assert command(*arguments, "--setting", "digit_one_color", "--seed", "0", "1", "2") == 0
    assert {len(part) for part in asked[:-1]} == {10}
    assert len(asked) > 1
    flat = [prompt for part in asked for prompt in part]
    assert len(set(flat)) == len(flat)
    assert {"an ocean" in prompt for prompt in flat} == {True, False}
    assert not [prompt for prompt in flat if "a  ocean" in prompt]
    asked.clear()
    assert command(*arguments, "--setting", "digit_two_color", "--seed", "0") == 0
    assert asked == []  # the same sentences


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--num-bases", "4"], "--num-bases 4: only 0"),
        (["--init-weight", "identity"], "only 'random'"),
        (
            ["--setting", "digit_ten_color"],
            "unknown retrieval setting 'digit_ten_color'; choose",
        ),
        (["--task", "zs_classification"], "unknown zs_classification setting"),
        (["--backbone", "huge"], "unknown backbone 'huge'"),
        (["--prompts", "mine"], "unknown PRISM text sets 'mine'; choose from: default"),
        (["--lr", "0"], "lr must be above 0"),
        (["--num-samples", "0"], "num_samples must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--text-embeddings", "nowhere.npz"], "not found: nowhere.npz"),
        (["--config", "config/celeba.yml"], "give either --setting"),
    ],
)
def test_bad_options_are_one_line(command: Command, arguments: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        command.single(*arguments)
    assert command.maps() == []


def test_what_goes_with_what_is_checked(command: Command) -> None:
    with pytest.raises(InputError, match="give either --setting"):
        command()
    with pytest.raises(InputError, match="--setting needs --task and --backbone"):
        command("--setting", "digit_one_color", "--task", "retrieval")
    with pytest.raises(InputError, match="--task goes with --setting"):
        command("--config", "x.yml", "--task", "retrieval")


def test_missing_sentences_and_other_widths_are_one_line(command: Command) -> None:
    with np.load(command.root / "text.npz") as arrays:
        prompts, embeddings = arrays["prompts"], arrays["embeddings"]
    np.savez(command.root / "text.npz", prompts=prompts[:4], embeddings=embeddings[:4])
    with pytest.raises(InputError, match=r"have no embedding in .*text\.npz"):
        command.single()
    np.savez(command.root / "text.npz", prompts=prompts, embeddings=embeddings[:, :3])
    with pytest.raises(InputError, match=r"a float matrix \(rows, 5\) is needed"):
        command.single()


PROMPTS = """
bias: {color: {classes: [red, blue], templates: ["A {bias} page."]}}
settings:
  digit_color: {bias: color, queries: [one, two], query: "A photo of the digit {query}."}
"""
CONFIG = """
dataset: portraits
folder: Digits
backbones: [tiny, {other}]
settings:
  digit_color: {{task: retrieval, query_type: digit, bias: {{attribute: color, values: [red, blue]}}}}
"""


@pytest.fixture
def write_config(command: Command) -> Callable[..., str]:
    """Write a dataset config that needs both text sets: ``write_config(other="tiny", methods=…)``."""

    def write(other: str = "tiny", methods: str = "prism: {seeds: [0, 7]}\n") -> str:
        config = command.root / "config"
        (config / "digits.yml").write_text(CONFIG.format(other=other))
        (config / "methods.yml").write_text("vanilla: {}\n" + methods)
        (config / "backbones.yml").write_text(BACKBONE + BACKBONE.replace("tiny", "small"))
        (config / "prompts" / "default").mkdir(parents=True)
        (config / "prompts" / "default" / "portraits.yml").write_text(PROMPTS)
        return str(config / "digits.yml")

    return write


def test_a_config_trains_what_its_evaluation_looks_for(
    command: Command, write_config: Callable[..., str]
) -> None:
    from bias_evaluation.grid.configs import load_dataset_config
    from bias_evaluation.grid.plan import RunOptions, Selection, plan
    from bias_evaluation.suite.workspace import Workspace

    path = write_config()
    assert command("--config", path, "--text-embeddings", str(command.root / "text.npz")) == 0
    config = load_dataset_config(path)
    keys = plan(config, Selection(methods=["prism"]))
    assert [key.seed for key in keys] == [0, 7]
    options = RunOptions(command.root, command.root, "default", 1)
    workspace = Workspace(config, keys[0].backbone, options)
    files = [file.path for key in keys for file in workspace.methods.files(key)]
    assert sorted(path.name for path in files) == command.maps()
    assert all(path.is_file() for path in files)
    assert list(workspace.methods.get(keys[1]).maps) == ["one", "two"]


def test_config_errors_are_one_line(command: Command, write_config: Callable[..., str]) -> None:
    path = write_config(other="small", methods="")
    with pytest.raises(InputError, match="embeddings of one backbone, but 2 are"):
        command("--config", path, "--text-embeddings", str(command.root / "text.npz"))
    with pytest.raises(InputError, match=r"methods.yml has no entry 'prism' with seeds; give --seeds"):
        command("--config", path, "--backbone", "tiny", "--text-embeddings", str(command.root / "text.npz"))
