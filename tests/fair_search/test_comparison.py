"""Comparison with an earlier audit: the interval of a change, and audits that cannot be compared."""

import copy
import json
from pathlib import Path

import pytest

from fair_search.comparison import change_lines, compare, read_earlier, surely
from safe_io.errors import InputError

HERE = Path("old/audit.json")


def record(value, low, high, **changes):
    found = {
        "attribute": "weather",
        "groups": {"rainy": 3, "sunny": 4},
        "queries": ["a", "b"],
        "measurement": {"desired": "data"},
        "digests": {"metadata": "0" * 64},
        "means": [
            {"method": "vanilla", "k": 10, "metric": "max_skew", "value": value, "low": low, "high": high},
            {"method": "(random order)", "k": 10, "metric": "kl", "value": 0.1, "low": 0.0, "high": 0.2},
        ],
    }
    return copy.deepcopy(found | changes)


def test_interval_of_a_change_by_hand():
    old, new = record(0.5, 0.4, 0.7), record(0.2, 0.15, 0.25)
    changes = compare(old, new, HERE).set_index(["method", "metric"])
    row = changes.loc[("vanilla", "max_skew")]
    assert row["change"] == pytest.approx(-0.3)
    # below: √(0.05² + 0.2²), above: √(0.05² + 0.1²)
    assert row["change_low"] == pytest.approx(-0.3 - 0.20616, abs=1e-5)
    assert row["change_high"] == pytest.approx(-0.3 + 0.11180, abs=1e-5)
    same = compare(old, old, HERE)
    assert (same["change"] == 0).all()
    assert not surely(same).any()
    line = change_lines(changes.reset_index(), ["vanilla"], HERE)[1]
    assert line == "  vanilla: MaxSkew -0.300 [-0.506, -0.188] *"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attribute": "gender"}, "is of other data: its attribute: gender; of this audit: weather"),
        ({"groups": {"rainy": 3, "snowy": 4}}, "groups: rainy, snowy; of this audit: rainy, sunny"),
        ({"queries": ["a", "c"]}, "queries: a, c; of this audit: a, b"),
        ({"measurement": {"desired": "uniform"}}, "desired shares: uniform"),
        ({"digests": {"metadata": "1" * 64}}, r"metadata \(digest\)"),
        ({"queries": ["a"], "left_out_queries": {"b": ["orth-proj"]}}, "had to leave out other queries"),
        ({"means": []}, "no method and K in common"),
    ],
)
def test_audits_of_other_data(changes, message):
    with pytest.raises(InputError, match=message):
        compare(record(0.5, 0.4, 0.6, **changes), record(0.2, 0.1, 0.3), HERE)


def test_order_of_queries_does_not_matter():
    assert len(compare(record(0.5, 0.4, 0.6, queries=["b", "a"]), record(0.2, 0.1, 0.3), HERE)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "a mapping is needed"),
        ("{}", "the key 'attribute' is missing"),
        ("nonsense", "is not valid JSON"),
        (json.dumps(record(1, 1, 1) | {"means": [{"method": "x"}]}), "do not have the columns method, k"),
        (json.dumps(record("a", 1, 1)), "do not have the columns"),
        (json.dumps(record(1, None, 1) | {"means": 3}), "'means' must be a list"),
    ],
)
def test_files_that_are_no_audit(tmp_path, content, message):
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_earlier(path)
    with pytest.raises(InputError, match="earlier audit not found"):
        read_earlier(tmp_path / "none.json")
