"""The audit on a world whose bias is planted: what it must find, and what it must not depend on."""

import numpy as np
import pytest
import torch

from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.bend import BendVLM
from debiasing_methods.projections import OrthProj, PrismMini
from fair_search.audit import AuditedMethod, audit, draw_reference
from fair_search.audit_settings import AuditSettings
from fair_search.groups import Groups, QueryLabels
from fair_search.judging import COLUMNS, RANDOM_ORDER
from safe_io.errors import InputError

N, D, Q = 1500, 16, 6
HOW = AuditSettings(ks=(20, 60), draws=60)
NAMES = [f"query {i}" for i in range(Q)]


@pytest.fixture(scope="module")
def world():
    """Images whose first coordinate is the group's; queries that all lean towards group b."""
    random = np.random.default_rng(0)
    codes = random.choice(3, N, p=[0.5, 0.3, 0.2])
    images = random.normal(size=(N, D)).astype(np.float32)
    images[:, 0] += 2 * (codes == 1)
    queries = torch.from_numpy(random.normal(size=(Q, D)).astype(np.float32))
    queries[:, 0] = 1.5
    spurious = torch.eye(D)[:1]
    augmentations = torch.from_numpy(random.normal(size=(2, D)).astype(np.float32))
    groups = [
        QueryGroup(q[None], name=name, spurious=spurious, augmentations=augmentations)
        for q, name in zip(queries, NAMES, strict=True)
    ]
    return images, Groups("kind", ("a", "b", "c"), codes), groups


def audited(groups, *methods):
    return {method.name: AuditedMethod(method, groups) for method in methods}


@pytest.fixture(scope="module")
def found(world):
    images, groups, queries = world
    return audit(images, groups, audited(queries, Vanilla(), OrthProj(), PrismMini()), NAMES, HOW)


def means(found, metric, k=60):
    table = found.table
    rows = table[(table["scope"] == "mean") & (table["metric"] == metric) & (table["k"] == k)]
    return rows.set_index("method")


def test_planted_bias_is_found_and_removed(found):
    skews = means(found, "max_skew")
    assert skews.loc["vanilla", "low"] > skews.loc[RANDOM_ORDER, "high"]
    assert skews.loc["prism-mini", "difference_high"] < 0
    assert skews.loc["orth-proj", "difference_high"] < 0
    query = found.table[(found.table["scope"] == "query") & (found.table["method"] == "vanilla")]
    assert set(query["query"]) == set(NAMES)


def test_table_is_tidy(found):
    table = found.table
    assert tuple(table.columns) == COLUMNS
    assert not table.duplicated(["method", "scope", "query", "k", "metric"]).any()
    rows = table[table["scope"] == "query"]
    assert len(rows) == 3 * Q * 2 * 8  # methods, queries, K, metrics without precision
    assert (table["low"] <= table["value"] + 1e-6).all()
    assert (table["value"] <= table["high"] + 1e-6).all()
    overlap = means(found, "overlap")
    assert overlap.loc["vanilla", "value"] == overlap.loc["vanilla", "low"] == 1
    mean_of_queries = rows.groupby(["method", "k", "metric"])["value"].mean()
    for (method, k, metric), value in mean_of_queries.items():
        assert means(found, metric, k).loc[method, "value"] == pytest.approx(value)


def test_same_inputs_same_table_whatever_the_chunks(world, found):
    images, groups, queries = world
    again = audit(
        images.astype(np.float32),
        groups,
        audited(queries, Vanilla(), OrthProj(), PrismMini()),
        NAMES,
        HOW,
        chunk_rows=37,
    )
    assert (again.lists.rows == found.lists.rows).all()
    assert again.table.equals(found.table)


def test_bootstrap_of_queries(world, found):
    images, groups, queries = world
    settings = AuditSettings(HOW.ks, bootstrap="queries", draws=400)
    other = audit(images, groups, audited(queries, Vanilla()), NAMES, settings)
    row = means(other, "max_skew").loc["vanilla"]
    assert row["value"] == means(found, "max_skew").loc["vanilla", "value"]
    values = other.table[
        (other.table["scope"] == "query") & (other.table["metric"] == "max_skew") & (other.table["k"] == 60)
    ]["value"]
    # a bootstrap mean of Q values spreads as their standard deviation (without Bessel's correction) over √Q
    assert (row["high"] - row["low"]) / 3.92 == pytest.approx(values.std(ddof=0) / np.sqrt(Q), rel=0.15)


def test_uniform_shares(world):
    images, groups, queries = world
    settings = AuditSettings((60,), desired="uniform", draws=5)
    uniform = audit(images, groups, audited(queries, Vanilla()), NAMES, settings)
    shares = np.stack([np.bincount(codes[:60], minlength=3) / 60 for codes in uniform.lists.codes[0]])
    expected = np.log(3 * shares.max(axis=1)).mean()
    assert means(uniform, "max_skew").loc["vanilla", "value"] == pytest.approx(expected)


def test_precision_needs_labels_and_counts_them(world):
    images, groups, queries = world
    labels = QueryLabels(groups.codes, np.array([0, 0, 1, 1, 2, 2]))  # the groups as labels
    found = audit(images, groups, audited(queries, Vanilla()), NAMES, HOW, labels=labels)
    expected = np.mean([(found.lists.codes[0, q, :20] == labels.queries[q]).mean() for q in range(Q)])
    assert means(found, "precision", 20).loc["vanilla", "value"] == pytest.approx(expected)


def test_reference_images_are_kept_from_every_method(world):
    images, groups, queries = world
    methods = audited(queries, Vanilla(), BendVLM(num_neighbors=20))
    found = audit(images, groups, methods, NAMES, HOW, reference_per_group=100)
    assert len(found.reference_rows) == 300
    assert not np.isin(found.lists.rows, found.reference_rows).any()
    assert found.counts.sum() == N - 300
    assert means(found, "max_skew").loc["bendvlm", "difference_high"] < 0


def test_images_without_a_group_are_not_retrieved(world):
    images, groups, queries = world
    codes = np.where(np.arange(N) % 3 == 0, -1, groups.codes)
    found = audit(images, Groups("kind", groups.classes, codes), audited(queries, Vanilla()), NAMES, HOW)
    assert (found.lists.rows % 3 != 0).all()
    assert found.counts.sum() == (codes >= 0).sum()


def test_lists_of_all_images(world):
    images, groups, queries = world
    settings = AuditSettings((N,), draws=3)
    found = audit(images, groups, audited(queries, Vanilla()), NAMES, settings)
    assert means(found, "kl", N).loc["vanilla", "value"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"settings": AuditSettings((N + 1,))},
            f"K = {N + 1} images cannot be retrieved from {N}; choose K between 1",
        ),
        ({"settings": AuditSettings((0, 5))}, "K = 0 images cannot be retrieved"),
        ({"codes": np.zeros(N, int)}, "group 'b' of 'kind' has no image"),
        ({"classes": ("a",), "codes": np.zeros(N, int)}, "one group only"),
    ],
)
def test_bad_input(world, change, message):
    images, groups, queries = world
    groups = Groups("kind", change.get("classes", groups.classes), change.get("codes", groups.codes))
    with pytest.raises(InputError, match=message):
        audit(images, groups, audited(queries, Vanilla()), NAMES, change.get("settings", HOW))


def test_misuse(world):
    images, groups, queries = world
    with pytest.raises(ValueError, match="at least one method"):
        audit(images, groups, {}, NAMES)
    with pytest.raises(ValueError, match="must differ"):
        audit(images, groups, audited(queries, Vanilla()), ["same"] * Q)
    with pytest.raises(ValueError, match="group codes of shape"):
        audit(images[:-1], groups, audited(queries, Vanilla()), NAMES)
    with pytest.raises(ValueError, match="do not hold 6 queries"):
        audit(images, groups, audited(queries[:-1], Vanilla()), NAMES)


def test_reference_of_a_group_of_one():
    with pytest.raises(InputError, match=r"group 'b' has 1 image\(s\)"):
        draw_reference(Groups("kind", ("a", "b"), np.array([0, 0, 0, 1])), 10, 0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_reference_image_that_cannot_be_normalised(world, value):
    images, groups, queries = world
    row = int(draw_reference(groups, 10, HOW.seed)[7])
    bad = images.copy()
    bad[row] = value
    with pytest.raises(
        InputError, match=rf"a.npy, labelled reference images: 1 of 30 rows is NaN, .* the first: row {row};"
    ):
        audit(
            bad,
            groups,
            audited(queries, BendVLM(num_neighbors=3)),
            NAMES,
            HOW,
            reference_per_group=10,
            source="a.npy",
        )
