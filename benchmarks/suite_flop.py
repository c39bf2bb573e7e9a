"""Multiplications and additions that a method's formulas leave to be done for some results.

Symbols: N images, m of them in a fold's evaluation part, F folds, d embedding dimension, s latents of the
SAE, Q queries of the results, P sentences that a method needs. A product (a × b)·(b × c) counts 2abc.
Sorting, noise, norms of length-d vectors, metrics and fits on labelled images (forests, classifiers,
covariances) count nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.suite_world import LATENTS
from bias_evaluation.grid.plan import ResultKey
from bias_evaluation.suite.workspace import Workspace
from bias_evaluation.weights.kinds import SAE
from debiasing_methods.base import DebiasingMethod, QueryGroup
from debiasing_methods.registry import get_method
from debiasing_methods.transforms import LinearTransform, SpanTransform


def gflop(workspace: Workspace, keys: Sequence[ResultKey]) -> float:
    """Work of one batch of results, in 10⁹ operations."""
    method = workspace.methods.get(keys[0])
    groups = [
        workspace.inputs.embedder.group(group, key.method.name, method.needs)
        for key in keys
        for group in workspace.inputs.prompts(key.setting).groups
    ]
    return (_image_work(workspace, method, groups) + _text_work(workspace, keys)) / 1e9


def _image_work(workspace: Workspace, method: DebiasingMethod, groups: Sequence[QueryGroup]) -> float:
    n, d = workspace.inputs.data.embeddings.shape
    evaluated = workspace.inputs.data.val.size  # F · m
    queries = sum(len(group.queries) for group in groups)
    if method.random_images:  # encode half of the latents once, decode every fold's images
        return 4 * n * d**2 + evaluated * (4 * d**2 + 2 * d * queries)
    if method.fits_images:  # a fold's own images
        return 2 * evaluated * d * queries
    if method.needs_reference:  # nearest images, then a fold's own queries
        return 2 * n * d * len(groups) + 2 * evaluated * d * queries
    transform = method.image_transform(groups)
    if isinstance(transform, SpanTransform):
        edits = {id(edit): edit for edit in transform.edits}.values()
        queries += sum(len(edit.removed) + len(edit.doubled) for edit in edits)
    maps = len({id(w) for w in transform.maps}) if isinstance(transform, LinearTransform) else 0
    return 2 * n * d * queries + maps * n * d**2  # half of a product: the factor is triangular


def _text_work(workspace: Workspace, keys: Sequence[ResultKey]) -> float:
    """Count encoding and decoding by the SAE; other methods' work on text is nothing beside the images'."""
    total = 0.0
    for key in keys:
        method = get_method(key.method.name)
        if method.weights == SAE.name:
            prompts = workspace.inputs.prompts(key.setting)
            sentences = prompts.sentences(method.name, method.needs)
            queries = sum(len(group.queries) for group in prompts.groups)
            total += 2.0 * (len(sentences) + queries) * workspace.backbone.dim * LATENTS
    return total
