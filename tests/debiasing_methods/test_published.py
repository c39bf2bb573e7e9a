"""Every method against the published implementation, on a fresh clone alone (the oracle in tests/oracle).

`benchmarks/small_oracle.py` says what is in it and how it was made; `test_golden.py` compares with the large
oracle, if there is one. ZSDebias draws noise: `test_golden.py` ties down its architecture.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.oracle import Oracle, as_tensor, deviation
from torch.nn.functional import normalize

from bias_evaluation.weights.read import sae_from_state_dict
from debiasing_methods.registry import METHODS, PAPER
from safe_io.checkout import ROOT

PATH = ROOT / "tests" / "oracle" / "published.npz"
TEXT = [name for name in PAPER if name != "zsdebias"]
IMAGES = ["roboshot", "prism-mini", "prism"]
BOUND = 1e-5  # relative to the largest entry
BOUNDS = {"bendvlm": 1e-4, "bendsem-bi": 1e-4}  # the published solver is numerical


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    with np.load(PATH) as arrays:
        weights = {name[4:]: as_tensor(arrays[name]) for name in arrays.files if name.startswith("sae/")}
        diverse = as_tensor(arrays["diverse"])
    return Oracle(PATH, sae_from_state_dict(weights, PATH), diverse)


@pytest.mark.parametrize("name", TEXT)
def test_text_is_the_published_text(name, oracle):
    method = oracle.method(name)
    [text] = method.debias_text(oracle.queries(name), oracle.reference() if method.needs_reference else None)
    [expected] = oracle.published(name, "text")
    assert deviation(text[0] if method.needs_reference else text, expected) <= BOUNDS.get(name, BOUND)


@pytest.mark.parametrize("name", IMAGES)
def test_images_and_their_scores_are_the_published_ones(name, oracle):
    transform = oracle.method(name).image_transform(oracle.queries(name))
    [text], [expected] = oracle.published(name, "text"), oracle.published(name, "images")
    images = oracle.images[oracle.data["val_indices"][0]]
    assert deviation(transform.apply(images), expected) <= BOUND
    cosines = normalize(expected, dim=1) @ normalize(text, dim=1).T
    torch.testing.assert_close(transform.scores(images, [text]), cosines, rtol=0, atol=BOUND)


@pytest.mark.parametrize("name", TEXT)
def test_the_comparison_tells_methods_apart(name, oracle):
    """Another method's text is far from the published one: the bound means something."""
    method = oracle.method(name)
    [text] = method.debias_text(oracle.queries(name), oracle.reference() if method.needs_reference else None)
    for other in (other for other in TEXT if other != name and METHODS[other].changes_text):
        [expected] = oracle.published(other, "text")
        assert deviation(text[0] if method.needs_reference else text, expected) > 20 * BOUND, other
