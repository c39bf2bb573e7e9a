"""DeBiasLens: neuron sets N_g, their choice Z, and the edit ``α dec(z′) + (1 − α) x``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from debiasing_methods.base import QueryGroup
from debiasing_methods.debiaslens import DeBiasLensEmbedding, choose_neurons, group_neurons, switch_off
from debiasing_methods.sae import SparseAutoencoder


@pytest.fixture(scope="module")
def oracle(oracle_dir: Path) -> dict[str, Tensor]:
    with np.load(oracle_dir / "golden" / "peers" / "debiaslens.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays.files}


def _sae(oracle: dict[str, Tensor]) -> SparseAutoencoder:
    """Write the oracle's SAE, ``(v − b_dec)W_e + b_e``, with our names."""
    parts = (oracle["sae/W_enc"].T, oracle["sae/b_enc"], oracle["sae/W_dec"].T, oracle["sae/b_dec"])
    return SparseAutoencoder(*(part.double().contiguous() for part in parts))


@pytest.mark.parametrize(("probe", "n_classes"), [("probe2", 2), ("probe7", 7)])
def test_sets_and_choice_are_the_oracles(oracle, probe, n_classes):
    sets = group_neurons(oracle[f"{probe}/activations"].double(), oracle[f"{probe}/labels"], n_classes)
    for g, found in enumerate(sets):
        assert found.tolist() == oracle[f"{probe}/N{g}"].tolist()
    assert choose_neurons(sets).tolist() == sorted(oracle[f"{probe}/Z"].tolist())
    assert choose_neurons(sets, "all").tolist() == sorted(j for found in sets for j in found.tolist())


def test_the_edit_is_the_oracles(oracle):
    sae, v = _sae(oracle), oracle["sae/tokens"].double().reshape(-1, 32)
    u = sae.encode(v)
    z = torch.where(u > oracle["sae/threshold"], u, 0)
    neurons, alpha = oracle["sae/Z"], oracle["sae/alpha"].item()
    torch.testing.assert_close(z.float().reshape(3, 4, -1), oracle["sae/latents"], rtol=1e-5, atol=1e-6)
    expected = oracle["sae/residual"].reshape(-1, 32)
    torch.testing.assert_close(switch_off(v, z, sae, neurons, alpha), expected, rtol=1e-6, atol=1e-6)
    control = switch_off(v, z, sae, neurons[:0], alpha)
    torch.testing.assert_close(
        control, oracle["sae/reconstruction_only"].reshape(-1, 32), rtol=1e-6, atol=1e-6
    )


# --- by hand ------------------------------------------------------------------------------------------------

# four samples of class 0, then two of class 1
HAND = torch.tensor(
    [
        [1.0, 5.0, 0.0, 2.0, 0.0],
        [1.0, 6.0, 0.0, 2.0, 0.0],
        [1.0, 7.0, 0.0, 2.0, 0.0],
        [1.0, 0.0, 0.0, 2.0, 1.0],
        [0.0, 0.0, 3.0, 2.0, 0.0],
        [0.0, 0.0, 3.0, 2.0, 9.0],
    ]
)
LABELS = torch.tensor([0, 0, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("tau", "first", "second"),
    [
        (0.9, [1, 0], [4, 2]),  # ⌊.9 · 4⌋ = 3 and ⌊.9 · 2⌋ = 1; by the mean in the class
        (1.0, [0], [2]),
    ],
)
def test_sets_by_hand(tau, first, second):
    assert [found.tolist() for found in group_neurons(HAND, LABELS, 2, tau)] == [first, second]


def test_floors_are_exact():
    activations = torch.zeros(200, 1)
    activations[:57] = 1  # ⌊.57 · 100⌋ = 57; in floats it is 56
    labels = torch.arange(200) // 100
    assert group_neurons(activations, labels, 2, 0.57)[0].tolist() == [0]
    activations[56] = 0
    assert group_neurons(activations, labels, 2, 0.57)[0].tolist() == []


def test_choices():
    sets = [torch.tensor([4, 1]), torch.tensor([], dtype=torch.long), torch.tensor([2])]
    assert choose_neurons(sets).tolist() == [2, 4]
    assert choose_neurons(sets, "all").tolist() == [1, 2, 4]
    assert choose_neurons(sets, "none").tolist() == []
    with pytest.raises(ValueError, match="no latent fires for one class alone; choose another tau"):
        choose_neurons([sets[1], sets[1]])
    with pytest.raises(ValueError, match="neurons must be one of top1, all, none, got 'best'"):
        choose_neurons(sets, "best")
    with pytest.raises(ValueError, match="class 1 has no sample"):
        group_neurons(HAND[:4], LABELS[:4], 2)


# --- the method ---------------------------------------------------------------------------------------------


def _planted() -> tuple[SparseAutoencoder, QueryGroup]:
    """Make an SAE whose latents are the positive parts of the axes; axis 0 and 1 mark the two classes."""
    eye = torch.eye(6)
    sae = SparseAutoencoder(eye.clone(), torch.zeros(6), eye.clone(), torch.zeros(6))
    content = torch.tensor([[0.0, 0, 1, 2, 0, 0]])
    group = QueryGroup(
        queries=torch.tensor([[2.0, 0, 1, 1, 0, 0]]),
        bias_prompts=(content + 3 * eye[:1].repeat(5, 1), content + 3 * eye[1:2].repeat(5, 1)),
    )
    return sae, group


def test_planted_neurons_are_found_and_their_part_goes():
    sae, group = _planted()
    [text] = DeBiasLensEmbedding(sae=sae, alpha=1.0).debias_text([group])
    assert text.tolist() == [[0.0, 0, 1, 1, 0, 0]]
    [text] = DeBiasLensEmbedding(sae=sae).debias_text([group])
    torch.testing.assert_close(text, torch.tensor([[0.8, 0, 1, 1, 0, 0]]))


def test_alpha_0_is_the_query_and_the_control_is_the_reconstruction(make_world):
    world = make_world()
    [query, *_] = (group.queries for group in world.groups)
    untouched = DeBiasLensEmbedding(sae=world.sae, alpha=0.0, neurons="none").debias_text(world.groups)[0]
    torch.testing.assert_close(untouched, query, rtol=0, atol=1e-6)
    control = DeBiasLensEmbedding(sae=world.sae, alpha=1.0, neurons="none").debias_text(world.groups)[0]
    torch.testing.assert_close(control, world.sae.decode(world.sae.encode(query)))
    half = DeBiasLensEmbedding(sae=world.sae, alpha=0.5, neurons="none").debias_text(world.groups)[0]
    torch.testing.assert_close(half, (control + query) / 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.1}, "alpha must be between 0 and 1, got 1.1"),
        ({"tau": 0.0}, "tau must be above 0 and at most 1, got 0.0"),
        ({"neurons": "some"}, "neurons must be one of top1, all, none"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        DeBiasLensEmbedding(sae=_planted()[0], **options)


def test_classes_without_neurons_of_their_own_are_said_with_tau_and_sizes():
    sae, group = _planted()
    same = QueryGroup(group.queries, bias_prompts=(group.bias_prompts[0], group.bias_prompts[0].clone()))
    expected = r"no latent fires for one class alone.*\(tau 0.9; bias prompts per class: 5, 5\)"
    with pytest.raises(ValueError, match=expected):
        DeBiasLensEmbedding(sae=sae).debias_text([same])
