"""The evaluation's shortcuts change no number: scores of every method against the definition, fold by fold.

Plain way: for each fold alone, its evaluation images are normalised, prepared, transformed for each group,
normalised, and multiplied with that fold's debiased queries.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.scoring import fold_scores as scoring
from bias_evaluation.scoring.fold_scores import fold_scores
from debiasing_methods.registry import METHODS

FOLDS = 3


def plain_scores(world, method, rows: Tensor, fold: int) -> Tensor:
    """Scores ``(Q, m)`` of one fold, with nothing shared."""
    text = world.text(method)
    text = [t[fold] for t in text] if method.needs_reference else text
    images = method.prepare_images(normalize(world.images[rows]) if method.normalize else world.images[rows])
    transform = world.transform(method, fold=fold)
    columns = [normalize(transform.apply(images, g)) @ normalize(t).T for g, t in enumerate(text)]
    return torch.cat(columns, dim=1).T


@pytest.mark.parametrize("stored", [np.float32, np.float16])
@pytest.mark.parametrize("name", list(METHODS))
def test_scores_are_those_of_the_plain_way(name, stored, make_world, monkeypatch):
    monkeypatch.setattr(scoring, "IMAGE_ROWS", 512)  # several parts, the last of another size
    world = make_world()
    world.images = world.images.to(getattr(torch, np.dtype(stored).name)).float()
    world.reference = type(world.reference)(
        world.images, world.reference.labels, world.reference.classes, world.reference.folds
    )
    method = world.method(name)
    n = len(world.images)
    val = np.stack([np.random.default_rng(f).permutation(n)[: n // 2] for f in range(FOLDS)])
    images = StoredImages(world.images.numpy().astype(stored), Path("images.npy"))
    scores = list(fold_scores(method, world.groups, images, val, lambda: world.reference))
    assert len(scores) == FOLDS
    for fold, rows in enumerate(val):
        expected = plain_scores(world, method, torch.from_numpy(rows), fold)
        torch.testing.assert_close(scores[fold], expected, rtol=0, atol=1e-6)
