"""PRISM's sampling, loss and training of maps are what their definitions say (arXiv:2507.08979)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from support.prism_world import GENDER, RACE, SIZES, random_embeddings, train
from torch import Tensor

from debiasing_methods.linalg import unit
from debiasing_methods.training.prism import loss_and_gradient, overall_loss, prism_loss
from debiasing_methods.training.prism_sampling import (
    SAMPLERS,
    PrismSamples,
    TextSetSizes,
    published_sampling,
)


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
