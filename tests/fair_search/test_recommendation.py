"""The stated rule: Pareto front, Holm's correction, allowed loss, lowest cost."""

import pandas as pd
import pytest

from debiasing_methods.registry import METHODS
from fair_search.audit_settings import MAX_LOSS
from fair_search.judging import RANDOM_ORDER
from fair_search.recommendation import Cost, holds, pareto_front, recommend

QUERIES_ONLY, TRAINED = Cost(changes_text=True), Cost(changes_text=True, needs_weights=True)
LABELED, IMAGES = Cost(changes_text=True, needs_reference=True), Cost(changes_images=True)


def table(random_high=0.1, **methods):
    """Means at K = 10: name → (MaxSkew, corrected p-value, utility); the first is called first."""
    rows = [(RANDOM_ORDER, "max_skew", 0.05, 0.0, random_high, None, None)]
    base = methods["first"][0]
    for name, (skew, p, useful) in methods.items():
        rows.append((name, "max_skew", skew, skew - 0.1, skew + 0.1, skew - base, p))
        rows.append((name, "overlap", useful, useful, useful, None, None))
    columns = ["method", "metric", "value", "low", "high", "difference", "p_holm"]
    return pd.DataFrame(rows, columns=columns).assign(scope="mean", k=10)


def chosen(costs, max_loss=None, **methods):
    return recommend(table(**methods), 10, {"first": Cost(), **costs}, max_loss)


def test_cheapest_of_the_front_and_not_the_lowest_skew():
    found = chosen(
        {"images": IMAGES, "queries": QUERIES_ONLY},
        first=(0.8, None, 1.0), images=(0.2, 0.001, 0.6), queries=(0.4, 0.01, 0.7),
    )  # fmt: skip
    assert found.method == "queries"
    assert found.front == ("first", "queries", "images")
    assert found.passing == ("queries", "images")
    assert "0.40, that of Base" not in found.why
    assert "Cost: debiases the queries." in found.why


def test_dominated_methods_are_not_on_the_front():
    skew, useful = pd.Series({"a": 0.5, "b": 0.4, "c": 0.4}), pd.Series({"a": 0.9, "b": 0.9, "c": 0.8})
    assert pareto_front(skew, useful, ["a", "b", "c"]) == ["b"]
    assert pareto_front(pd.Series({"a": 1, "b": 1}), pd.Series({"a": 1, "b": 1}), ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize(
    ("p", "useful", "loss", "method"),
    [
        (0.049, 0.5, None, "other"),
        (0.051, 0.5, None, "first"),  # does not hold after the correction
        (0.001, 0.49, None, "first"),  # loses more than half
        (0.001, 0.49, 0.6, "other"),
    ],
)
def test_what_passes(p, useful, loss, method):
    found = chosen({"other": QUERIES_ONLY}, loss, first=(0.8, None, 1.0), other=(0.2, p, useful))
    assert found.method == method
    assert found.max_loss == (MAX_LOSS["overlap"] if loss is None else loss)


def test_nothing_is_recommended_if_chance_explains_the_skew():
    methods = {"first": (0.15, None, 1.0), "other": (0.01, 0.001, 0.9)}
    found = recommend(table(random_high=0.1, **methods), 10, {"first": Cost(), "other": QUERIES_ONLY})
    assert found.method == "first"  # its interval starts at 0.05, below 0.1
    assert "chance alone could explain its skew" in found.why


def test_a_worse_method_never_holds():
    row = pd.Series({"difference": 0.2, "p_holm": 0.001})
    assert not holds(row, "lower")
    assert holds(row, "higher")


def test_order_of_costs():
    assert Cost() < QUERIES_ONLY < TRAINED < LABELED < IMAGES
    of = {name: Cost.of(method) for name, method in METHODS.items()}
    assert of["vanilla"] < of["orth-proj"] < of["sem-bi"] < of["bendvlm"] < of["prism-mini"] < of["prism"]
    assert all(cost.words for cost in of.values())
