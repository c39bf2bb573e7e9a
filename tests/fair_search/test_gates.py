"""Gates: how they are written, what they are about, and when an audit fails."""

import pandas as pd
import pytest

from fair_search.gates import check_gate_methods, check_gates, parse_gates
from safe_io.errors import InputError

TABLE = pd.DataFrame(
    [
        (method, "mean", k, metric, value, value - 0.1, value + 0.1)
        for (method, k, metric), value in {
            ("vanilla", 10, "max_skew"): 0.7,
            ("vanilla", 50, "max_skew"): 0.5,
            ("sem-bi", 10, "kl"): 0.2,
        }.items()
    ],
    columns=["method", "scope", "k", "metric", "value", "low", "high"],
)


def check(*texts):
    return check_gates(parse_gates(texts, (10, 50), labels=False), TABLE, ("vanilla", "sem-bi"))


def test_first_method_and_largest_k_unless_named():
    gate = parse_gates(["max_skew > 0.5"], (50, 10), labels=False)[0]
    assert (gate.method, gate.metric, gate.k, gate.operator, gate.bound) == (None, "max_skew", 50, ">", 0.5)
    gate = parse_gates(["sem-bi:kl@10>=1e-1"], (50, 10), labels=False)[0]
    assert (gate.method, gate.metric, gate.k, gate.operator, gate.bound) == ("sem-bi", "kl", 10, ">=", 0.1)


def test_by_how_much():
    results, failures = check("max_skew@10>0.5")
    assert failures == [
        "gate 'max_skew@10>0.5' failed: mean MaxSkew of Base CLIP at K = 10 is 0.700 (95 % interval 0.600 to "
        "0.800), 0.200 above 0.5"
    ]
    assert results[0]["failed"]
    assert results[0]["value"] == 0.7
    assert check("sem-bi:kl@10<0.25")[1][0].endswith("0.050 below 0.25")


@pytest.mark.parametrize(
    ("text", "failed"), [("max_skew>0.5", False), ("max_skew>=0.5", True), ("max_skew<0.5", False),
                         ("max_skew<=0.5", True)]
)  # fmt: skip
def test_operators(text, failed):
    results, failures = check(text)
    assert results[0]["failed"] is failed
    assert bool(failures) is failed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_skew", r"give \[METHOD:\]METRIC\[@K\]>VALUE"),
        ("maxskew>0.5", "unknown metric 'maxskew'; choose from: kl, .* did you mean 'max_skew'"),
        ("max_skew@20>0.5", "K = 20 is not judged; choose from: 10, 50"),
        ("max_skew@x>0.5", "K = x is not judged"),
        ("max_skew>half", "'half' is no number"),
        ("max_skew>nan", "no value is above or below 'nan'"),
        ("precision<0.5", "precision needs labels"),
        ("max_skew==0.5", "is no number|give"),
    ],
)
def test_bad_gates(text, message):
    with pytest.raises(InputError, match=message):
        parse_gates([text], (10, 50), labels=False)


def test_unknown_method():
    gates = parse_gates(["sem-x:kl>0.1"], (10,), labels=False)
    with pytest.raises(InputError, match="unknown method 'sem-x'; choose from: vanilla, sem-bi"):
        check_gate_methods(gates, ("vanilla", "sem-bi"))
