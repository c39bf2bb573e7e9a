"""The re-ranking of a result of the grid: whose labels, which shares, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bias_evaluation.grid.plan import ResultKey
from bias_evaluation.scoring.reranking import Reranking, parse_shares, predict_labels
from bias_evaluation.suite.inputs import Inputs
from debiasing_methods.reranking import uniform_shares
from safe_io.errors import InputError

_WHERE = "--rerank-shares"


def make_reranking(inputs: Inputs, key: ResultKey) -> tuple[Reranking, dict[str, Any]]:
    """Make what re-ranks a result's lists.

    Parameters
    ----------
    inputs : Inputs
    key : ResultKey
        With a `rerank`.

    Returns
    -------
    reranking : Reranking
    record : dict
        `labels` ('given' or 'predicted'); of predicted ones also `label_error`, the share of the images whose
        prediction is not the given label, and `label_error_by_class`.

    Raises
    ------
    InputError
        Shares do not fit the classes, there are no class prompts, or all predictions are one class.
    """
    setting, labels = key.setting, inputs.options.rerank_labels
    given, classes = inputs.codes(setting.bias), setting.bias.values
    codes, record = given, {"labels": labels}
    if labels == "predicted":
        prompts = inputs.embedder.matrix(inputs.label_prompts(setting))
        codes = predict_labels(inputs.images, prompts, classes, key.stem)
        wrong = codes != given
        by_class = {str(name): float(wrong[given == code].mean()) for code, name in enumerate(classes)}
        record |= {"label_error": float(wrong.mean()), "label_error_by_class": by_class}
    return Reranking(key.rerank, codes, len(classes), check_shares(inputs, key)), record


def check_shares(inputs: Inputs, key: ResultKey) -> Any:
    """Return the desired shares of a result (None: those of the data); `InputError` if they do not fit."""
    given, n = inputs.options.rerank_shares, len(key.setting.bias.values)
    if key.rerank != "pbm":
        return parse_shares(given, n, f"{_WHERE} ({key.stem})")
    if given not in (("data",), ("uniform",)):
        raise InputError(
            f"{_WHERE} {' '.join(given)}: pbm gives all classes the same share; leave out the shares, or "
            f"{key.result_name}"
        )
    return uniform_shares(n)


def digest_parts(inputs: Inputs, key: ResultKey) -> Mapping[str, Any]:
    """Return what re-ranking adds to the inputs of a result; empty if it is not re-ranked."""
    if key.rerank is None:
        return {}
    options = inputs.options
    parts = {"rerank": key.rerank, "labels": options.rerank_labels, "shares": options.rerank_shares}
    if options.rerank_labels == "predicted":
        parts["prompts"] = inputs.label_prompts(key.setting)
    return parts
