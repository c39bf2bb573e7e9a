"""Bias signals, bands, and weights of the ablations; tests/demo/test_demo.py compares them with results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from debiasing_methods.sae import SparseAutoencoder
from debiasing_methods.sem import Modulation, SemB
from qualitative_study.sem_ablation import (
    ABLATIONS,
    BANDS,
    bias_signal,
    class_means,
    main,
    tabulate_bands,
    tabulate_lengths,
)
from safe_io.checkout import ROOT
from safe_io.errors import InputError


def test_class_means_are_centered_over_the_classes_not_the_images() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    means = class_means(images, torch.tensor([0, 1, 1, 1]))
    torch.testing.assert_close(means, torch.tensor([[0.5, -0.5], [-0.5, 0.5]]))


def test_the_signal_is_the_spread_of_the_classes_scores() -> None:
    """By definition: scores of the decoded latents with each class's mean, greatest minus least."""
    rng = np.random.default_rng(0)
    latents, decoder, means = (torch.from_numpy(rng.normal(size=s)) for s in ((3, 6), (4, 6), (3, 4)))
    neutral, mask = torch.from_numpy(rng.normal(size=6)), torch.from_numpy(rng.random((3, 6)) < 0.5)
    found = bias_signal(latents, neutral, means @ decoder, mask)
    for i in range(3):
        moved = sum(decoder[:, j] * (latents[i, j] - neutral[j]) for j in range(6) if mask[i, j])
        scores = [float(mean @ moved) for mean in means]
        assert float(found[i]) == pytest.approx(max(scores) - min(scores))


def test_bands_hold_every_latent_once() -> None:
    bias = torch.tensor([[0.0, 0.499, 0.5, 0.899, 0.9, 1.0]], dtype=torch.float64)
    ones = torch.ones_like(bias)
    modulation = Modulation(ones, 0.5 * ones, bias, torch.arange(6.0).double()[None], 2 * ones)
    table = tabulate_bands(modulation, torch.zeros(6).double(), torch.tensor([[1.0] * 6, [0.0] * 6]).double())
    assert table["latents"].tolist() == [2, 2, 2]
    assert table["weight"].tolist() == [0.5, 2.5, 4.5]
    assert table["signal_before"].tolist() == [2, 2, 2]
    assert table["signal_after"].tolist() == [4, 4, 4]
    assert table["band"].tolist() == list(BANDS)


def test_lengths_are_measured_from_the_pre_bias() -> None:
    sae = SparseAutoencoder(torch.eye(2), torch.zeros(2), torch.eye(2), torch.tensor([5.0, -2.0]))
    method = SemB(sae=sae, diverse=torch.zeros(3, 2))
    h = torch.tensor([[3.0, 4.0]])
    table = tabulate_lengths(method, Modulation(h, h, h, h, 2 * h), torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    assert table["length"].tolist() == [5.0, 10.0]
    assert table["signal_per_length"].tolist() == pytest.approx([3 / 5, 6 / 10])


def test_weights_are_those_of_their_names() -> None:
    concept, bias = torch.tensor([0.0, 0.5, 1.0, 1.0]), torch.tensor([1.0, 0.75, 0.0, 1.0])
    expected = {
        "w = 1 (the SAE alone)": [1, 1, 1, 1],
        "SEM": [0, 0.5625, 4, 1],
        "only down: min(w, 1)": [0, 0.5625, 1, 1],
        "only up: max(w, 1)": [1, 1, 4, 1],
        "S_bias = 0": [1, 2.25, 4, 4],
        "S_concept = 0": [0, 0.0625, 1, 0],
    }
    assert {name: weight(concept, bias).tolist() for name, weight in ABLATIONS.items()} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--setting": "blond_gender"}, "--setting blond_gender is no retrieval setting"),
        ({"--setting": "roles"}, "unknown setting 'roles'"),
        ({"--backbone": "RN5"}, "unknown backbone 'RN5'"),
        ({"--retrieval-k": "0"}, "--retrieval-k must be at least 1, got 0"),
    ],
)
def test_bad_options_are_one_line(tmp_path, changes: dict[str, str], message: str) -> None:
    options = {"--config": str(ROOT / "config" / "portraits.yml"), "--setting": "role_gender"}
    options |= {"--backbone": "tiny-RN", "--output-dir": str(tmp_path), **changes}
    with pytest.raises(InputError, match=message):
        main([part for pair in options.items() for part in pair])
    assert not list(tmp_path.iterdir())
