"""Results of the grid, computed: method → scores → metrics → records."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor

from bias_evaluation.grid.plan import ResultKey
from bias_evaluation.results.records import make_records
from bias_evaluation.scoring.classification import evaluate_classification, summarize_classification
from bias_evaluation.scoring.fold_scores import NothingLeftWarning, SharedScores, fold_scores
from bias_evaluation.scoring.reranking import Reranking
from bias_evaluation.scoring.retrieval import evaluate_retrieval, judged_queries, summarize_retrieval
from bias_evaluation.suite.reranking import make_reranking
from bias_evaluation.suite.uncertainty import uncertain_figures
from bias_evaluation.suite.workspace import Workspace
from debiasing_methods.base import DebiasingMethod, QueryGroup
from debiasing_methods.registry import get_method
from safe_io.errors import as_input_error


def batches(workspace: Workspace, keys: Sequence[ResultKey]) -> Iterator[list[ResultKey]]:
    """Put results together that have the same debiased images, where making those is the work.

    That is so where a method draws noise for each fold: its settings with one model and seed share the draw.

    Parameters
    ----------
    workspace : Workspace
        Of the results' dataset and backbone.
    keys : sequence of ResultKey

    Yields
    ------
    list of ResultKey
        In the order of the first of each batch.
    """
    together: dict[object, list[ResultKey]] = {}
    for key in keys:
        alone = not get_method(key.method.name).random_images
        together.setdefault(key.stem if alone else workspace.methods.get(key), []).append(key)
    yield from together.values()


def evaluate(
    workspace: Workspace, keys: Sequence[ResultKey]
) -> Iterator[tuple[ResultKey, list[dict[str, Any]]]]:
    """Compute the results of one batch.

    Parameters
    ----------
    workspace : Workspace
        Of the results' dataset and backbone.
    keys : sequence of ResultKey
        One result, or several that `batches` put together.

    Yields
    ------
    key : ResultKey
    records : list of dict
        Its result records.

    Raises
    ------
    InputError
        Inputs do not fit: labels, K, prompts or weights.
    """
    method = workspace.methods.get(keys[0])
    groups = [query_groups(workspace, key, method) for key in keys]
    with as_input_error(keys[0].stem):
        scores = fold_scores(
            method,
            [group for each in groups for group in each],
            workspace.inputs.images,
            workspace.inputs.data.val,
            lambda: workspace.inputs.reference(keys[0].setting.bias),
        )
        for key, own, mine in zip(keys, groups, _split(scores, groups), strict=True):
            yield key, _records(workspace, key, method, own, mine)


def query_groups(workspace: Workspace, key: ResultKey, method: DebiasingMethod) -> list[QueryGroup]:
    """Embed the queries of a result, with the prompts that its method needs."""
    prompts = workspace.inputs.prompts(key.setting).groups
    return [workspace.inputs.embedder.group(group, key.method.name, method.needs) for group in prompts]


def _split(scores: Iterable[Tensor], groups: Sequence[Sequence[QueryGroup]]) -> Iterator[Iterable[Tensor]]:
    """Give each result its own queries' rows of the scores; of a single one, fold by fold as they come."""
    if len(groups) == 1:
        yield scores
        return
    sizes = [sum(len(group.queries) for group in each) for each in groups]
    folds = [fold.split(sizes) for fold in scores]
    yield from zip(*folds, strict=True)


def _records(
    workspace: Workspace,
    key: ResultKey,
    method: DebiasingMethod,
    groups: Sequence[QueryGroup],
    scores: Iterable[Tensor],
) -> list[dict[str, Any]]:
    rerank, described = make_reranking(workspace.inputs, key) if key.rerank else (None, {})
    summary = _summarize(workspace, key, scores, rerank)
    if workspace.uncertainty is not None:
        drawn = _uncertain(workspace, key, method, groups)
        summary = {metric: {**values, "uncertainty": drawn[metric]} for metric, values in summary.items()}
    return make_records(
        key,
        summary,
        retrieval_k=workspace.options.retrieval_k,
        normalize=method.normalize,
        folds=len(workspace.inputs.data.val),
        digests=workspace.states.digests(key),
        reranking=rerank and {**rerank.report(), **described},
    )


def _uncertain(
    workspace: Workspace, key: ResultKey, method: DebiasingMethod, groups: Sequence[QueryGroup]
) -> dict[str, dict[str, Any]]:
    """Draw the figures of a result; lists are re-ranked in each draw."""
    rerank = make_reranking(workspace.inputs, key)[0] if key.rerank else None
    return uncertain_figures(
        workspace.uncertainty,
        workspace.inputs,
        key,
        method,
        groups,
        lambda: workspace.inputs.reference(key.setting.bias),
        lambda scores: _summarize(workspace, key, scores, rerank),
    )


def _warn_empty(names: Sequence[str], n: int, where: str, what: str) -> None:
    if names:
        warnings.warn(
            f"{where}: {len(names)} of {n} queries lie in the bias itself, so that nothing is left of them "
            f"({', '.join(names[:3])}{', …' if names[3:] else ''}): {what}",
            NothingLeftWarning,
            stacklevel=2,
        )


def _summarize(
    workspace: Workspace, key: ResultKey, scores: Iterable[Tensor], rerank: Reranking | None
) -> dict[str, dict[str, Any]]:
    data, setting, where = workspace.inputs.data, key.setting, key.stem
    bias = workspace.inputs.codes(setting.bias)
    if setting.task == "retrieval":
        names = [group.name for group in workspace.inputs.prompts(setting).groups]
        relevant = workspace.inputs.relevant(setting, names)
        k = workspace.options.retrieval_k
        kept = [names[query] for query in judged_queries(scores, len(names))]
        lost = [name for name in names if name not in kept]
        _warn_empty(lost, len(names), where, "its figures leave them out")
        records = evaluate_retrieval(scores, data.val, bias, setting.bias.values, k, relevant, where, rerank)
        return summarize_retrieval(records, kept)
    if isinstance(scores, SharedScores):
        lost = [str(setting.target.values[query]) for query in scores.empty]
        _warn_empty(lost, len(setting.target.values), where, "they score 0 for every image")
    target = workspace.inputs.codes(setting.target)
    classes = (setting.target.values, setting.bias.values)
    counts = evaluate_classification(scores, data.val, target, bias, (len(classes[0]), len(classes[1])))
    return summarize_classification(*counts, classes)
