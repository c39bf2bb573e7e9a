"""Leakage in an audit: what is planted is read, and what is projected out is not."""

import numpy as np
import torch

from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.projections import PrismMini
from fair_search.audit import AuditedMethod, Groups, audit
from fair_search.audit_settings import AuditSettings

N, D = 600, 8


def test_planted_direction_is_read_until_it_is_removed():
    random = np.random.default_rng(0)
    codes = random.integers(2, size=N)
    images = random.normal(size=(N, D)).astype(np.float32)
    images[:, 0] += 4 * (2 * codes - 1)
    queries = [
        QueryGroup(torch.eye(D)[:1] + torch.eye(D)[i : i + 1], spurious=torch.eye(D)[:1]) for i in (1, 2)
    ]
    audited = {method.name: AuditedMethod(method, queries) for method in (Vanilla(), PrismMini())}
    settings = AuditSettings((10,), draws=5)
    groups = Groups("kind", ("a", "b"), codes)
    found = audit(images, groups, audited, ["q", "r"], settings, leakage_images=500)
    linear = found.leakage.set_index(["method", "probed"])["linear"]
    assert linear["vanilla", "images"] > 0.95
    assert linear["vanilla", "scores"] > 0.9
    assert linear["prism-mini", "images"] < 0.65
    assert linear["prism-mini", "scores"] < 0.65
    assert set(found.leakage["images"]) == {500}
