"""One result of the grid, computed: method → scores → metrics → records."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bias_evaluation.classification import evaluate_classification, summarize_classification
from bias_evaluation.configs import Setting
from bias_evaluation.results import ResultKey, make_records
from bias_evaluation.retrieval import evaluate_retrieval, summarize_retrieval
from bias_evaluation.scoring import fold_scores
from bias_evaluation.workspace import Workspace, relevant_images
from debiasing_methods.base import ReferenceImages
from debiasing_methods.errors import InputError


def evaluate(workspace: Workspace, key: ResultKey, digests: dict[str, str]) -> list[dict[str, Any]]:
    """Compute one result.

    Parameters
    ----------
    workspace : Workspace
        Of the result's dataset and backbone.
    key : ResultKey
    digests : dict
        Component → digest of its inputs, for the records.

    Returns
    -------
    list of dict
        Result records.

    Raises
    ------
    InputError
        Inputs do not fit: labels, K, prompts or weights.
    """
    data, setting = workspace.data, key.setting
    method = workspace.method(key)
    bias = data.codes(setting.bias)
    groups = [
        workspace.embedder.group(group, key.method.name, method.needs)
        for group in workspace.prompts(setting).groups
    ]
    images = workspace.unit_images if method.normalize else workspace.raw_images

    def reference() -> ReferenceImages:
        codes, train = (torch.from_numpy(a).to(images.device) for a in (bias, data.train))
        return ReferenceImages(images, codes, tuple(map(str, setting.bias.values)), train)

    try:
        scores = fold_scores(method, groups, images, data.val, reference)
        summary = _summarize(workspace, setting, scores, bias)
    except InputError:
        raise
    except ValueError as error:  # a method's complaint about its arrays: say which result it was
        raise InputError(f"{key.stem}: {error}") from None
    return make_records(
        key,
        summary,
        retrieval_k=workspace.options.retrieval_k,
        normalize=method.normalize,
        folds=len(data.val),
        digests=digests,
    )


def _summarize(
    workspace: Workspace, setting: Setting, scores: Iterator[Tensor], bias: np.ndarray
) -> dict[str, dict[str, Any]]:
    data = workspace.data
    if setting.task == "retrieval":
        names = [group.name for group in workspace.prompts(setting).groups]
        relevant = relevant_images(data, setting, names)
        k = workspace.options.retrieval_k
        records = evaluate_retrieval(scores, data.val, bias, setting.bias.values, k, relevant)
        return summarize_retrieval(records, names)
    target = data.codes(setting.target)
    classes = (setting.target.values, setting.bias.values)
    counts = evaluate_classification(scores, data.val, target, bias, (len(classes[0]), len(classes[1])))
    return summarize_classification(*counts, classes)
