"""The solver of SPD's classifiers against scikit-learn's, and the optimality of what it finds."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from debiasing_methods.logistic import accuracy, fit_logistic


def world(n_classes, shift):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, n_classes, (300,), generator=generator)
    centers = shift * torch.randn(n_classes, 8, generator=generator, dtype=torch.float64)
    return 1 + torch.randn(300, 8, generator=generator, dtype=torch.float64) + centers[labels], labels


@pytest.mark.parametrize("shift", [0.0, 0.5, 5.0])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_weights_are_those_of_scikit_learn(n_classes, shift):
    x, labels = world(n_classes, shift)
    weights, intercept = fit_logistic(x, labels, n_classes)
    model = LogisticRegression(tol=1e-10, max_iter=10_000).fit(x, labels)
    torch.testing.assert_close(weights, torch.from_numpy(model.coef_), rtol=1e-4, atol=1e-5)
    if n_classes == 2:  # of more classes, intercepts are determined up to a constant
        torch.testing.assert_close(intercept, torch.from_numpy(model.intercept_), rtol=1e-4, atol=1e-5)
    assert accuracy(x, labels, weights, intercept) == pytest.approx(model.score(x, labels), abs=0.004)


@pytest.mark.parametrize("n_classes", [2, 4])
def test_the_gradient_vanishes(n_classes):
    x, labels = world(n_classes, 0.5)
    parts = [part.requires_grad_() for part in fit_logistic(x, labels, n_classes)]
    logits = x @ parts[0].T + parts[1]
    if n_classes == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") + parts[0].square().sum() / 2
    for slope in torch.autograd.grad(loss, parts):
        assert float(slope.abs().max()) < 1e-6


def test_the_preconditioner_changes_no_result():
    x, labels = world(4, 0.5)
    plain = fit_logistic(x, labels, 4)
    other = fit_logistic(x, labels, 4, scatter=torch.eye(8, dtype=torch.float64))
    torch.testing.assert_close(plain[0], other[0], rtol=0, atol=1e-7)
