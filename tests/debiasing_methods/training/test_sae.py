"""SAE training: the configuration, the nested loss and the steps (MSAE, arXiv:2502.20578)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.sae_world import SMALL, small_rows
from torch import Tensor

from bias_evaluation.training_runs.sae_report import reconstruction_quality
from debiasing_methods.training import sae as matryoshka
from debiasing_methods.training.hyperparameters import SaeTrainingConfig
from debiasing_methods.training.sae import SaeParameters, SaeTraining, matryoshka_loss, nested_reconstructions


@pytest.fixture
def embeddings() -> Tensor:
    return small_rows()


@pytest.fixture
def parameters() -> SaeParameters:
    rng = np.random.default_rng(1)
    shapes = ((24, 8), (24,), (24, 8), (8,))
    return SaeParameters(*(torch.from_numpy(rng.normal(size=s)).requires_grad_() for s in shapes))


DIRECTIONS = np.random.default_rng(2).normal(size=(24, 32))


def planted(n: int) -> Tensor:
    """Rows that are sums of 3 of 24 fixed directions, away from the origin."""
    rng = np.random.default_rng(n)
    codes = np.zeros((n, 24))
    for row in codes:
        row[rng.choice(24, size=3, replace=False)] = rng.uniform(0.5, 1.5, size=3)
    return torch.from_numpy((codes @ DIRECTIONS + 2).astype(np.float32))


def naive_loss(
    x: Tensor, parameters: SaeParameters, levels: tuple[int, ...], weights: tuple[float, ...]
) -> Tensor:
    """Write the definition down, level by level and row by row."""
    w_e, b_e, dictionary, b_pre = parameters
    total = x.new_zeros(())
    for k, weight in zip(levels, weights, strict=True):
        squares = []
        for row in x:
            u = w_e @ (row - b_pre) + b_e
            kept = sorted(range(len(u)), key=lambda i: -u[i].item())[:k]
            found = b_pre + sum(torch.relu(u[i]) * dictionary[i] for i in kept)
            squares.append((found - row) ** 2)
        total = total + weight * torch.stack(squares).mean()
    return total


# --- configuration -----------------------------------------------------------------------------------------


def test_level_s_is_appended_and_the_sparsest_level_weighs_most():
    config = SaeTrainingConfig(n_latents=24, levels=(2, 5))
    assert config.all_levels == (2, 5, 24)
    assert config.level_weights == (3.0, 2.0, 1.0)
    assert SaeTrainingConfig(n_latents=24, levels=(2, 24)).all_levels == (2, 24)
    assert SaeTrainingConfig(n_latents=24, levels=(2, 5), full_level=False).all_levels == (2, 5)
    assert SaeTrainingConfig(n_latents=24, levels=(2, 5), weighting="uniform").level_weights == (1.0,) * 3


def test_levels_double_from_64_by_default():
    assert SaeTrainingConfig(n_latents=512).all_levels == (64, 128, 256, 512)
    assert SaeTrainingConfig(n_latents=300).all_levels == (64, 128, 256, 300)
    assert SaeTrainingConfig(n_latents=64).all_levels == (64,)
    assert SaeTrainingConfig(n_latents=10).all_levels == (10,)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"n_latents": 0}, "n_latents must be at least 1"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"lr": float("nan")}, "lr must be a number above 0"),
        ({"grad_clip": -1.0}, "grad_clip must be a number above 0"),
        ({"l1": -0.1}, "l1 must be a number of at least 0"),
        ({"l1": float("nan")}, "l1 must be a number of at least 0"),
        ({"decay_fraction": 1.5}, "decay_fraction must be between 0 and 1"),
        ({"weighting": "equal"}, "weighting must be one of reverse, uniform"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"levels": ()}, "levels must be ascending"),
        ({"levels": (0, 4)}, "levels must be ascending"),
        ({"levels": (4, 4)}, "levels must be ascending"),
        ({"n_latents": 8, "levels": (4, 9)}, r"levels must be at most n_latents \(8\), got 4 9"),
    ],
)
def test_wrong_configurations_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        SaeTrainingConfig(**wrong)


# --- loss and training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(2, 5, 24), (3,), (24,), (1, 2, 3, 23)])
def test_loss_and_gradients_are_those_of_the_definition(parameters, embeddings, levels):
    """L = Σ_k w_k · mean((W_d z_k + b_pre − x)²) (MSAE, arXiv:2502.20578)."""
    x = embeddings[:7].double()
    weights = tuple(float(w) for w in range(len(levels), 0, -1))
    loss = matryoshka_loss(x, parameters, levels, weights)
    expected = naive_loss(x, parameters, levels, weights)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    found = torch.autograd.grad(loss, parameters)
    for ours, theirs in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_the_penalty_is_the_mean_sum_of_positive_latents(parameters, embeddings):
    x = embeddings[:7].double()
    w_e, b_e, _, b_pre = parameters
    positive = sum(torch.relu(w_e @ (row - b_pre) + b_e).sum() for row in x) / 7
    plain, penalized = (matryoshka_loss(x, parameters, (2, 24), (2.0, 1.0), l1) for l1 in (0.0, 0.25))
    torch.testing.assert_close(penalized - plain, 0.25 * positive)


def test_the_penalty_makes_latents_sparse():
    x = planted(200)
    config = {"n_latents": 48, "levels": (4,), "lr": 3e-3, "batch_size": 100, "epochs": 60}
    positive = [
        int((SaeTraining(x, SaeTrainingConfig(**config, l1=l1)).run().encode(x) > 0).sum()) for l1 in (0, 0.1)
    ]
    assert positive[1] < 0.5 * positive[0]


def test_a_level_adds_latents_to_the_level_before(parameters, embeddings):
    u = embeddings.double() @ parameters.encoder_weight.detach().T
    parts = nested_reconstructions(u, torch.eye(24, dtype=torch.float64), (2, 5, 24))  # the codes themselves
    for k, codes in zip((2, 5, 24), parts.unbind(1), strict=True):
        assert ((codes > 0).sum(1) == (u > 0).sum(1).clamp(max=k)).all()
    two, five, all_latents = parts.unbind(1)
    assert torch.equal(five[two > 0], two[two > 0])
    assert torch.equal(all_latents[five > 0], five[five > 0])
    assert torch.equal(all_latents, u.relu())


def test_starting_values(embeddings):
    w_e, b_e, dictionary, b_pre = SaeTraining(embeddings, SMALL).parameters
    torch.testing.assert_close(dictionary.norm(dim=1), torch.full((24,), 0.1))
    assert torch.equal(w_e, dictionary)
    assert not b_e.any()
    assert not b_pre.any()
    assert dictionary.unique(dim=0).shape == (24, 8)


def test_a_step_is_clipped_adam_and_unit_norm(embeddings):
    config = SaeTrainingConfig(n_latents=24, levels=(2, 5), lr=1e-3, grad_clip=1e-3, standardize=False)
    training = SaeTraining(embeddings, config)
    before = SaeParameters(*(p.detach().clone().requires_grad_() for p in training.parameters))
    training.take_step()  # the batch is the whole data
    loss = matryoshka_loss(embeddings, before, (2, 5, 24), (3.0, 2.0, 1.0))
    gradients = torch.autograd.grad(loss, before)
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    assert norm > config.grad_clip  # so that clipping is part of what is tested
    clipped = [g * config.grad_clip / norm for g in gradients]
    # Adam's first step: moments with their bias corrected are the gradient and its square.
    stepped = [p - 1e-3 * g / (g.abs() + config.eps) for p, g in zip(before, clipped, strict=True)]
    stepped[2] = stepped[2] / stepped[2].norm(dim=1, keepdim=True)
    for found, expected in zip(training.parameters, stepped, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_parts_of_a_batch_add_up(embeddings, monkeypatch):
    whole = SaeTraining(embeddings, SMALL)
    losses = [whole.take_step()]
    monkeypatch.setattr(matryoshka, "ROWS", 7)
    parts = SaeTraining(embeddings, SMALL)
    losses.append(parts.take_step())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for a, b in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-7)


def test_every_epoch_uses_every_row_once_in_its_own_order(monkeypatch):
    seen = []
    real = matryoshka.matryoshka_loss

    def spy(x, *rest):
        seen.append(x[:, 0].tolist())
        return real(x, *rest)

    monkeypatch.setattr(matryoshka, "matryoshka_loss", spy)
    rows = torch.arange(1, 51, dtype=torch.float32)[:, None].expand(50, 3)
    config = SaeTrainingConfig(n_latents=4, batch_size=20, epochs=2, standardize=False)
    SaeTraining(rows, config).run()
    assert [len(batch) for batch in seen] == [17, 17, 16] * 2
    first, second = ([value for batch in part for value in batch] for part in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == rows[:, 0].tolist()
    assert first != second
    assert first != sorted(first)


def test_learning_rate_is_constant_then_linear_to_zero(embeddings):
    config = SaeTrainingConfig(n_latents=24, lr=1e-3, batch_size=90, epochs=50, decay_fraction=0.2)
    rate = SaeTraining(embeddings, config).learning_rate
    assert [rate(step) for step in (0, 20, 40)] == [1e-3] * 3
    assert [rate(step) for step in (45, 49, 50)] == pytest.approx([0.5e-3, 0.1e-3, 0])


def test_weights_take_raw_embeddings(embeddings):
    x = embeddings * 7 + 3
    training = SaeTraining(x, SMALL)
    sae = training.run()
    w_e, b_e, dictionary, b_pre = (p.detach().double() for p in training.parameters)
    m, c = x.double().mean(0), 1 / x.double().std(dim=0, correction=0).square().mean().sqrt()
    latents = torch.relu((c * (x - m) - b_pre) @ w_e.T + b_e)
    torch.testing.assert_close(sae.encode(x).double(), latents, rtol=1e-4, atol=1e-5)
    found = (latents @ dictionary + b_pre) / c + m
    torch.testing.assert_close(sae.decode(sae.encode(x)).double(), found, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dictionary.norm(dim=1), torch.ones(24).double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(sae.decoder_weight.norm(dim=0).double(), (1 / c).expand(24), rtol=1e-5, atol=0)


def test_without_standardization_the_weights_are_the_trained_ones(embeddings):
    training = SaeTraining(embeddings, SaeTrainingConfig(n_latents=24, epochs=2, standardize=False))
    sae = training.run()
    assert torch.equal(sae.encoder_weight, training.parameters.encoder_weight)
    assert torch.equal(sae.decoder_weight, training.parameters.dictionary.T)
    assert torch.equal(sae.pre_bias, training.parameters.pre_bias)


def test_columns_have_length_one_after_every_step(embeddings):
    lengths = []
    SaeTraining(embeddings, SMALL).run(lambda run, _: lengths.append(run.parameters.dictionary.norm(dim=1)))
    assert len(lengths) == 12  # 4 epochs of 3 batches
    torch.testing.assert_close(torch.stack(lengths), torch.ones(12, 24), rtol=1e-5, atol=0)


def test_a_planted_dictionary_is_found():
    config = SaeTrainingConfig(n_latents=48, levels=(3, 6), lr=1e-2, batch_size=256, epochs=60)
    losses: list[float] = []
    sae = SaeTraining(planted(2000), config).run(lambda _, loss: losses.append(loss))
    assert np.mean(losses[-8:]) < 0.01 * np.mean(losses[:8])
    quality, _ = reconstruction_quality(sae, planted(500), config.all_levels)  # rows it has not seen
    assert [row["level"] for row in quality["levels"]] == [3, 6, 48]
    assert all(row["fvu"] < 0.005 for row in quality["levels"])
    assert all(row["cosine"] > 0.999 for row in quality["levels"])
    columns = torch.nn.functional.normalize(sae.decoder_weight.double(), dim=0)
    cosines = torch.nn.functional.normalize(torch.from_numpy(DIRECTIONS), dim=1) @ columns
    assert cosines.amax(dim=1).min() > 0.99  # each direction is some latent's


def test_divergence_is_an_error(embeddings):
    training = SaeTraining(embeddings, SMALL)
    with torch.no_grad():
        training.parameters.pre_bias.fill_(1e30)
    with pytest.raises(ValueError, match=r"the loss is inf in step 1: .*smaller lr"):
        training.take_step()


def test_rows_that_are_all_the_same_cannot_be_standardized():
    with pytest.raises(ValueError, match="all rows to train on are the same"):
        SaeTraining(torch.ones(5, 3), SMALL)
