"""DeBiasLens's autoencoder: BatchTopK, partial losses, auxiliary loss, θ, and a run that can be cut off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from bias_evaluation.weights.read import load_sae, save_sae
from debiasing_methods.sem import SemB
from debiasing_methods.training.batch_topk import (
    BatchTopKConfig,
    BatchTopKTraining,
    auxiliary_loss,
    batch_topk,
    geometric_median,
    group_sizes,
    partial_errors,
)
from safe_io.errors import InputError
from safe_io.files import save_weights

SMALL = BatchTopKConfig(n_latents=64, k=4, steps=900, batch_size=64, lr=3e-3, warmup=20, silent_rows=2000)


@pytest.fixture(scope="module")
def oracle(oracle_dir: Path) -> dict[str, Tensor]:
    with np.load(oracle_dir / "golden" / "peers" / "debiaslens.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def _latents(oracle: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    v = oracle["batch/x"].double()
    return v, torch.relu((v - oracle["sae/b_dec"]) @ oracle["sae/W_enc"] + oracle["sae/b_enc"])


def test_a_batch_is_the_published_one(oracle):
    v, u = _latents(oracle)
    decoder, center = oracle["sae/W_dec"], oracle["sae/b_dec"]
    z = batch_topk(u, int(oracle["batch/k"]))
    torch.testing.assert_close(z, oracle["batch/latents"].double(), rtol=1e-6, atol=1e-6)
    reconstruction = z @ decoder + center
    torch.testing.assert_close(reconstruction, oracle["batch/reconstruction"].double(), rtol=1e-6, atol=1e-6)
    errors = partial_errors(v, z, decoder, center, oracle["sae/group_sizes"].tolist())
    torch.testing.assert_close(errors, oracle["batch/partial_losses"], rtol=1e-6, atol=0)
    dead = oracle["batch/dead"]
    aux = auxiliary_loss(v - reconstruction, u, dead, decoder)
    torch.testing.assert_close(aux, oracle["batch/aux_loss"], rtol=1e-6, atol=0)
    torch.testing.assert_close(errors.sum() / 16, oracle["batch/loss"], rtol=1e-6, atol=0)


def test_the_threshold_follows_as_published(oracle):
    training = BatchTopKTraining(oracle["batch/x"], BatchTopKConfig(warmup=0, batch_size=40))
    _, u = _latents(oracle)
    z = batch_topk(u, int(oracle["batch/k"]))
    training._follow_threshold(z)
    assert training.threshold == pytest.approx(oracle["batch/threshold_after_first"].item(), rel=1e-6)
    training._follow_threshold(batch_topk(2 * u, int(oracle["batch/k"])))
    least = float(z[z > 0].min())
    assert training.threshold == pytest.approx(0.999 * least + 0.001 * 2 * least)


# --- without the oracle -------------------------------------------------------------------------------------


def _planted(n: int = 1024) -> Tensor:
    """Rows that are sums of 3 of 24 directions, around a center."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 12, generator=generator), dim=1)
    chosen = torch.stack([torch.randperm(24, generator=generator)[:3] for _ in range(n)])
    sizes = 1 + torch.rand(n, 3, 1, generator=generator)
    return (directions[chosen] * sizes).sum(1) + 5


def test_group_sizes():
    assert group_sizes(64) == [4, 8, 16, 36]
    assert group_sizes(4096) == [256, 512, 1024, 2304]


def test_batch_topk_keeps_so_many_of_the_whole_batch():
    u = torch.tensor([[9.0, 8, 7], [1, 2, 0]])
    assert batch_topk(u, 1).tolist() == [[9, 8, 0], [0, 0, 0]]


def test_the_geometric_median_of_points_on_a_line_is_their_median():
    rows = torch.tensor([[0.0, 0], [1, 0], [2, 0], [50, 0], [-9, 0]])
    torch.testing.assert_close(geometric_median(rows, 2000, 1e-9), torch.tensor([1.0, 0]), atol=0.05, rtol=0)


def test_the_auxiliary_loss_is_zero_where_nothing_is_dead():
    residual, u = torch.randn(5, 4), torch.rand(5, 6)
    assert auxiliary_loss(residual, u, torch.zeros(6, dtype=torch.bool), torch.randn(6, 4)) == 0


def test_training_explains_planted_rows_with_few_latents():
    rows = _planted()
    training = BatchTopKTraining(rows, SMALL)
    losses: list[float] = []
    sae = training.run(lambda _, loss: losses.append(loss))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])  # the small groups cannot explain it all
    z = sae.encode(rows)
    assert 1 < (z > 0).sum(1).float().mean() < 8  # k = 4 in training; the threshold follows slowly
    left = (sae.decode(z) - rows).square().sum() / (rows - rows.mean(0)).square().sum()
    assert left < 0.3
    torch.testing.assert_close(sae.decoder_weight.norm(dim=0), torch.ones(64))


def test_a_run_that_was_cut_off_gives_the_same_weights(tmp_path):
    rows, short = _planted(200), BatchTopKConfig(n_latents=32, k=3, steps=12, batch_size=50, warmup=4)
    whole = BatchTopKTraining(rows, short).run()
    first = BatchTopKTraining(rows, short)
    for _ in range(7):
        first.take_step()
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = BatchTopKTraining(rows, short)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    resumed = second.run()
    assert all(
        torch.equal(a, b)
        for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    )
    assert whole.threshold > 0
    save_sae(tmp_path / "sae.safetensors", whole)
    loaded = load_sae(tmp_path / "sae.safetensors", dim=12)
    assert loaded.threshold == pytest.approx(whole.threshold)
    assert torch.equal(loaded.encode(rows), whole.encode(rows))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"n_latents": 5}, "n_latents must be at least k = 20, got 5"),
        ({"lr": -1.0}, "lr must be a number above 0, got -1.0"),
        ({"warmup": -1}, "warmup must be at least 0, got -1"),
        ({"steps": 500}, "warmup must be below steps, got 1000 and 500: the threshold is learned after"),
    ],
)
def test_config_is_checked(options, message):
    with pytest.raises(ValueError, match=message):
        BatchTopKConfig(**options)


def test_more_latents_per_row_than_there_are_is_refused():
    with pytest.raises(ValueError, match="k must be at most the 96 latents, got 97"):
        BatchTopKTraining(_planted(50), BatchTopKConfig(k=97))


def test_sem_takes_no_autoencoder_with_a_threshold(make_world):
    """One of DeBiasLens can have the width of SEM's, but its latents are others."""
    world = make_world()
    with pytest.raises(ValueError, match=r"SEM takes all positive latents.*threshold \(0.5\)"):
        SemB(sae=replace(world.sae, threshold=0.5), diverse=world.diverse)


@pytest.mark.parametrize("threshold", [[-1.0], [], [0.1, 0.2]])
def test_a_threshold_in_a_file_is_one_number(threshold, make_world, tmp_path):
    sae = make_world().sae
    save_weights(tmp_path / "sae.safetensors", sae.state_dict() | {"threshold": torch.tensor(threshold)})
    with pytest.raises(InputError, match="'threshold' must be one number of at least 0"):
        load_sae(tmp_path / "sae.safetensors", dim=sae.dim)


def test_a_step_s_loss_is_the_papers():
    """Mean over the four groups of a quarter of each error, and 0.03 of the auxiliary loss of the dead."""
    rows = _planted(40)
    training = BatchTopKTraining(rows, replace(SMALL, batch_size=40))
    training._silent[::2] = 2000  # every other latent is dead
    encoder, bias, decoder, center = (p.detach() for p in training.parameters)
    v = training._batch(0)
    u = torch.relu((v - center) @ encoder + bias)
    z = batch_topk(u, 4)
    errors = partial_errors(v, z, decoder, center, [4, 8, 16, 36])
    aux = auxiliary_loss(v - center - z @ decoder, u, torch.arange(64) % 2 == 0, decoder)
    assert float(aux) > 0
    assert training.take_step() == pytest.approx(float(errors.sum() / 16 + 0.03 * aux), rel=1e-6)
