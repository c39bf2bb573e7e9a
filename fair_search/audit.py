"""The audit: embeddings, groups and queries in; a table of all methods side by side out.

Symbols: N images, d embedding dimension, M methods, Q queries, C groups, L length of the lists, K depth.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from bias_evaluation.scoring.fold_scores import NothingLeftWarning
from bias_evaluation.uncertainty.draws import Uncertain
from debiasing_methods.base import DebiasingMethod, QueryGroup, ReferenceImages
from debiasing_methods.chunks import IMAGE_ROWS
from fair_search.audit_settings import REFERENCE_PER_GROUP, AuditSettings
from fair_search.audit_ties import find_ties, warn_of_ties
from fair_search.bootstrap import list_length
from fair_search.groups import Groups, QueryLabels
from fair_search.index_shift import compare_index
from fair_search.judging import RankedLists, judge
from fair_search.ranking import Scorer, TopLists, rank_images
from fair_search.recommendation import Cost
from fair_search.reranking import RerankedAudit, RerankOptions, rerank_audit
from fair_search.uncertainty import AuditUncertainty, draw_audit, without_queries
from safe_io.arrays import check_rows, float_rows
from safe_io.errors import InputError


@dataclass(frozen=True, eq=False)
class AuditedMethod:
    """A method with its queries, one group a query.

    Attributes
    ----------
    method : DebiasingMethod
        With its options and weights (`fair_search.debiaser.Debiaser.method`).
    groups : sequence of QueryGroup
        One a query, in the order of the queries (`Debiaser.groups`).
    """

    method: DebiasingMethod
    groups: Sequence[QueryGroup]


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit found.

    Attributes
    ----------
    table : pandas.DataFrame
        See `judging.judge`.
    lists : RankedLists
        The lists of all methods.
    groups : Groups
        As given.
    counts : ndarray of shape (C,)
        Images of each group that could be retrieved.
    settings : AuditSettings
        How the lists were judged.
    reference_rows : ndarray of shape (n,), int64
        Rows that were kept apart as labelled reference images; empty where no method needs them.
    approximate : pandas.DataFrame or None
        See `index_shift.compare_index`.
    skipped_by_index : tuple of str
        Methods that the index cannot serve, since they change images.
    first_on_all : pandas.DataFrame or None
        Where images are kept apart as reference: the means of the first method on all images, as they were
        before any debiasing; columns of `table`.
    left_out_queries : mapping
        Query → methods that leave nothing of it, since it is part of the bias.
    reranked : RerankedAudit or None
        What re-ranking reaches, if it was asked for.
    costs : mapping
        Method → what it costs to run, in the order of the methods.
    leakage : pandas.DataFrame or None
        See `audit_leakage.audit_leakage`.
    left_out : dict
        Name → why a method that was `optional` could not be fitted.
    uncertainty : AuditUncertainty or None
        How far the model's uncertainty moves the figures, if it was asked for.
    """

    table: pd.DataFrame
    lists: RankedLists
    groups: Groups
    counts: np.ndarray
    settings: AuditSettings
    reference_rows: np.ndarray
    approximate: pd.DataFrame | None = None
    skipped_by_index: tuple[str, ...] = ()
    first_on_all: pd.DataFrame | None = None
    left_out_queries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    reranked: RerankedAudit | None = None
    costs: Mapping[str, Cost] = field(default_factory=dict)
    leakage: pd.DataFrame | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    uncertainty: AuditUncertainty | None = None


def audit(
    embeddings: np.ndarray,
    groups: Groups,
    audited: Mapping[str, AuditedMethod],
    queries: Sequence[str],
    settings: AuditSettings | None = None,
    *,
    labels: QueryLabels | None = None,
    index: Any = None,
    rerank: RerankOptions | None = None,
    leakage_images: int = 0,
    uncertain: Uncertain | None = None,
    reference_per_group: int = REFERENCE_PER_GROUP,
    optional: Collection[str] = (),
    chunk_rows: int = IMAGE_ROWS,
    source: str = "embeddings",
    device: str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Audit methods on the embeddings of a search system.

    Parameters
    ----------
    embeddings : ndarray of shape (N, d)
        Image embeddings as stored, float16 or float32; may be memory-mapped and of any size.
    groups : Groups
        Group of each image.
    audited : mapping
        Name → method with its queries. The first is what the others are compared with.
    queries : sequence of str
        Names of the Q queries, all different.
    settings : AuditSettings, optional
        K, desired shares, bootstrap.
    labels : QueryLabels, optional
        Where they are given, precision is judged too.
    index : faiss.Index, optional
        Searched as well, for the methods that change text alone.
    rerank : RerankOptions, optional
        What is re-ranked to the desired shares as well.
    leakage_images : int
        Images that probes of the group are fitted to and judged on; 0: none.
    uncertain : Uncertain, optional
        Of the images and queries: figures are drawn from it as well.
    reference_per_group : int
        Where a method needs labelled images, so many of each group, at most half of it,
        are drawn at random and given to it. No method can then retrieve them: what a method has seen is never
        what it is judged on, and all methods are judged on the same images.
    optional : collection of str
        Methods that are left out where they cannot be fitted on the labelled images, rather than the whole
        audit.
    chunk_rows : int
        Rows that are read at a time.
    source : str
        Name of the embeddings' file, for error lines.
    device : str
        Where the methods' tensors are: 'cpu' or 'cuda'.
    progress : callable, optional
        Called with the number of rows read after each chunk.

    Returns
    -------
    Audit

    Raises
    ------
    InputError
        K is larger than the number of images, there are fewer than two groups, a group has no image, an
        embedding cannot be normalised, nothing is left of any query, or a method cannot be fitted.
    ValueError
        Lengths do not go together.

    Warns
    -----
    NothingLeftWarning
        Queries lie in the bias that a method removes; they are left out for all methods.
    TiedScoresWarning
        Images have the same score as the K-th of a list, so that the order of the rows decides between them.
    """
    settings = settings or AuditSettings()
    _check_lengths(embeddings, groups, audited, queries)
    reference = np.empty(0, np.int64)
    if any(each.method.takes_labelled_images() for each in audited.values()):
        reference = draw_reference(groups, reference_per_group, settings.seed)
    keep = groups.codes >= 0
    keep[reference] = False
    counts = _check_counts(groups, keep, settings, len(reference))
    labelled = _labelled_images(embeddings, groups, reference, device, source)
    scorers, left_out = make_scorers(audited, labelled, optional)
    empty = empty_queries(scorers, queries)
    if empty:
        kept = [i for i, query in enumerate(queries) if query not in empty]
        uncertain = without_queries(uncertain, kept)
        audited, queries, labels = _without(empty, audited, queries, labels)
        scorers, left_out = make_scorers(audited, labelled, optional)
    leakage = None
    if leakage_images:
        from fair_search.audit_leakage import audit_leakage  # scikit-learn takes its time

        leakage = audit_leakage(
            embeddings, scorers, groups, keep, leakage_images, seed=settings.seed, device=device
        )
    first = next(iter(scorers))
    keeps = dict.fromkeys(scorers, None if keep.all() else keep)
    if len(reference) and first not in _reference_methods(audited):
        scorers_and_all = {**scorers, _ON_ALL: scorers[first]}
        keeps[_ON_ALL] = groups.codes >= 0
    else:
        scorers_and_all = scorers
    found = rank_images(
        embeddings,
        scorers_and_all,
        list_length(max(settings.ks), int(keep.sum())),
        keep=keeps,
        chunk_rows=chunk_rows,
        source=source,
        device=device,
        progress=progress,
    )
    on_all = found.pop(_ON_ALL, None)
    lists = make_lists(found, groups.codes, queries, labels)
    table = judge(lists, groups.codes[keep], len(groups.classes), settings)
    population = counts / counts.sum()
    tied = find_ties(
        embeddings, scorers, found, keep, settings.ks, chunk_rows=chunk_rows, source=source, device=device
    )
    warn_of_ties(tied, lists, groups.codes, population, settings)
    approximate, skipped = None, ()
    if index is not None:
        approximate = compare_index(
            index, scorers, lists, groups.codes, keep, settings, None if labels is None else labels.relevant
        )
        skipped = tuple(name for name, s in scorers.items() if s.method.changes_images)
    first_on_all = None
    if on_all is not None:
        first_on_all = _means_of({first: on_all}, groups, queries, labels, settings)
    reranked = None
    if rerank is not None:
        reranked = rerank_audit(
            embeddings,
            scorers,
            lists,
            groups,
            keep,
            settings,
            rerank,
            labels,
            chunk_rows=chunk_rows,
            source=source,
            device=device,
        )
    drawn = None
    if uncertain is not None:
        drawn = draw_audit(
            embeddings,
            {name: (audited[name].method, audited[name].groups) for name in scorers},
            labelled,
            groups,
            keep,
            lists,
            settings,
            None if labels is None else labels.relevant,
            uncertain,
            source,
            device,
        )
    return Audit(
        table=table,
        lists=lists,
        groups=groups,
        counts=counts,
        settings=settings,
        reference_rows=reference,
        approximate=approximate,
        skipped_by_index=skipped,
        first_on_all=first_on_all,
        left_out_queries=empty,
        reranked=reranked,
        leakage=leakage,
        costs={name: Cost.of(audited[name].method) for name in scorers},
        left_out=left_out,
        uncertainty=drawn,
    )


_ON_ALL = "(first method on all images)"


def _reference_methods(audited: Mapping[str, AuditedMethod]) -> list[str]:
    return [name for name, each in audited.items() if each.method.takes_labelled_images()]


def _means_of(
    found: Mapping[str, TopLists],
    groups: Groups,
    queries: Sequence[str],
    labels: QueryLabels | None,
    settings: AuditSettings,
) -> pd.DataFrame:
    """Judge lists of all images, and take the means over the queries."""
    lists = make_lists(found, groups.codes, queries, labels)
    table = judge(lists, groups.codes[groups.codes >= 0], len(groups.classes), settings)
    return table[(table["scope"] == "mean") & (table["method"] == lists.methods[0])].reset_index(drop=True)


def empty_queries(scorers: Mapping[str, Scorer], queries: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Find the queries that a method leaves nothing of → the methods; they are warned of."""
    empty: dict[str, tuple[str, ...]] = {}
    for name, scorer in scorers.items():
        zero = (torch.cat(list(scorer.text)) == 0).all(dim=1)
        for query in torch.nonzero(zero).flatten().tolist():
            empty[queries[query]] = (*empty.get(queries[query], ()), name)
    if len(empty) == len(queries):
        raise InputError(
            "nothing is left of any query: all of them lie in the bias itself; ask for something else"
        )
    if empty:
        methods = dict.fromkeys(name for names in empty.values() for name in names)
        warnings.warn(
            f"{len(empty)} of {len(queries)} queries lie in the bias itself, so that nothing is left of them "
            f"(after {', '.join(methods)}); they are left out for all methods: "
            f"{'; '.join(list(empty)[:3])}{'; …' if len(empty) > 3 else ''}",
            NothingLeftWarning,
            stacklevel=3,
        )
    return empty


def _without(
    empty: Mapping[str, tuple[str, ...]],
    audited: Mapping[str, AuditedMethod],
    queries: Sequence[str],
    labels: QueryLabels | None,
) -> tuple[dict[str, AuditedMethod], tuple[str, ...], QueryLabels | None]:
    """Leave queries out of an audit; there is one group for each query."""
    kept = [i for i, query in enumerate(queries) if query not in empty]
    fewer = {
        name: AuditedMethod(each.method, [each.groups[i] for i in kept]) for name, each in audited.items()
    }
    own = None if labels is None else QueryLabels(labels.images, labels.queries[kept])
    return fewer, tuple(queries[i] for i in kept), own


def lacks_reference(groups: Groups) -> str:
    """Say why no labelled reference images can be drawn; empty if they can."""
    for code, name in enumerate(groups.classes):
        n = int((groups.codes == code).sum())
        if n < 2:
            return (
                f"group '{name}' has {n} image(s), and methods that need labelled images take some of each "
                f"group and leave the rest to be judged, so that at least 2 are needed"
            )
    return ""


def draw_reference(groups: Groups, per_group: int, seed: int) -> np.ndarray:
    """Draw the labelled reference images: rows ``(n,)``, sorted, at most half of each group."""
    if why := lacks_reference(groups):
        raise InputError(f"{why}: leave these methods out, or the group")
    random = np.random.default_rng(seed)
    drawn = []
    for code in range(len(groups.classes)):
        members = np.flatnonzero(groups.codes == code)
        drawn.append(random.choice(members, min(per_group, len(members) // 2), replace=False))
    return np.sort(np.concatenate(drawn))


def _labelled_images(
    embeddings: np.ndarray, groups: Groups, reference: np.ndarray, device: str, source: str
) -> ReferenceImages | None:
    """Read the labelled reference images, one fold that holds all; None where there are none."""
    if not len(reference):
        return None
    images = float_rows(embeddings[reference])
    where = f"{source}, labelled reference images"
    check_rows(images, where, name=lambda i: f"row {reference[i]}")
    return ReferenceImages(
        images.to(device),
        torch.from_numpy(groups.codes[reference].astype(np.int64)).to(device),
        groups.classes,
        torch.arange(len(reference), device=device)[None],
    )


def make_scorers(
    audited: Mapping[str, AuditedMethod], labelled: ReferenceImages | None, optional: Collection[str] = ()
) -> tuple[dict[str, Scorer], dict[str, str]]:
    """Debias the queries of every method, and make its image transform.

    Parameters
    ----------
    audited : mapping
    labelled : ReferenceImages or None
        For the methods that take them; one fold.
    optional : collection of str
        Methods that are left out where they cannot be fitted.

    Returns
    -------
    scorers : dict
        Name → `Scorer`.
    left_out : dict
        Name → why it could not be fitted.

    Raises
    ------
    InputError
        A method that is not optional cannot be fitted.
    """
    scorers, left_out = {}, {}
    for name, each in audited.items():
        try:
            scorers[name] = _scorer(each, labelled)
        except ValueError as error:
            why = str(error).removeprefix(f"{name}: ")
            if name not in optional:
                raise InputError(f"{name}: {why}") from None
            left_out[name] = why
    return scorers, left_out


def _scorer(each: AuditedMethod, labelled: ReferenceImages | None) -> Scorer:
    method = each.method
    text = method.debias_text(each.groups, labelled if method.needs_reference else None)
    if method.needs_reference:
        text = [folds[0] for folds in text]
    if method.fits_images:
        return Scorer(method, text, method.image_transform(each.groups, 0, labelled))
    return Scorer(method, text, method.image_transform(each.groups))


def make_lists(
    found: Mapping[str, TopLists], codes: np.ndarray, queries: Sequence[str], labels: QueryLabels | None
) -> RankedLists:
    """Put the lists of all methods together with groups and labels."""
    rows = np.stack([lists.rows for lists in found.values()])
    relevant = None if labels is None else labels.relevant(rows)
    return RankedLists(tuple(found), tuple(queries), rows, codes[rows], relevant)


def _check_lengths(
    embeddings: np.ndarray, groups: Groups, audited: Mapping[str, AuditedMethod], queries: Sequence[str]
) -> None:
    if not audited or not queries:
        raise ValueError("an audit needs at least one method and one query")
    if len(set(queries)) != len(queries):
        raise ValueError("names of queries must differ")
    if groups.codes.shape != (len(embeddings),):
        raise ValueError(f"{len(embeddings)} embeddings have group codes of shape {groups.codes.shape}")
    for name, each in audited.items():
        if sum(len(group.queries) for group in each.groups) != len(queries):
            raise ValueError(f"the groups of '{name}' do not hold {len(queries)} queries")


def _check_counts(groups: Groups, keep: np.ndarray, settings: AuditSettings, n_reference: int) -> np.ndarray:
    counts = np.bincount(groups.codes[keep], minlength=len(groups.classes))
    if len(groups.classes) < 2:
        raise InputError(
            f"'{groups.attribute}' has one group only ({groups.classes[0]}); an audit compares at least two"
        )
    if (counts == 0).any():
        raise InputError(
            f"group '{groups.classes[int(counts.argmin())]}' of '{groups.attribute}' has no image"
        )
    apart = f" (beside {n_reference} kept apart as labelled reference)" if n_reference else ""
    if min(settings.ks) < 1 or max(settings.ks) > counts.sum():
        wrong = max(settings.ks) if max(settings.ks) > counts.sum() else min(settings.ks)
        raise InputError(
            f"K = {wrong} images cannot be retrieved from {counts.sum()}{apart}; choose K between 1 and "
            f"{counts.sum()}"
        )
    return counts
