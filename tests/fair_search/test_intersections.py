"""Intersections of attributes: names, pooling of small ones, and what cannot be combined."""

from pathlib import Path

import pandas as pd
import pytest

from fair_search.intersections import POOLED, is_product, product_column
from safe_io.errors import InputError

HERE = Path("m.csv")
TABLE = pd.DataFrame(
    {"gender": ["F"] * 6 + ["M"] * 6, "race": ["a", "a", "a", "a", "b", "c"] + ["a"] * 4 + ["b", None]}
)


def test_groups_and_pool():
    column, notes = product_column(TABLE, "gender*race", HERE, 2)
    assert column.value_counts().to_dict() == {"F × a": 4, "M × a": 4, POOLED: 3}
    assert column.isna().sum() == 1  # one of the attributes is missing
    assert notes == [
        "no image is M × c",
        f"intersections with fewer than 2 images (--min-group) are pooled into '{POOLED}': F × b 1, F × c 1, "
        "M × b 1",
    ]


def test_nothing_is_pooled_below_the_limit():
    column, notes = product_column(TABLE, "gender * race", HERE, 1)
    assert set(column.dropna()) == {"F × a", "F × b", "F × c", "M × a", "M × b"}
    assert notes == ["no image is M × c"]
    one = TABLE[TABLE["race"] != "b"]  # a single small intersection stays what it is
    assert set(product_column(one, "gender*race", HERE, 2)[0].dropna()) == {"F × a", "F × c", "M × a"}


def test_numbers():
    table = pd.DataFrame({"young": [0, 1, 1], "gender": ["F", "F", "M"]})
    assert list(product_column(table, "young*gender", HERE, 1)[0]) == ["0 × F", "1 × F", "1 × M"]


def test_a_column_of_the_very_name_comes_first():
    assert is_product("gender*race", TABLE)
    assert not is_product("gender", TABLE)
    assert not is_product("gender*race", TABLE.assign(**{"gender*race": 1}))


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("gender*age", "lacks the column 'age'"),
        ("gender*", "give different columns"),
        ("gender*gender", "give different columns"),
    ],
)
def test_bad_products(attribute, message):
    with pytest.raises(InputError, match=message):
        product_column(TABLE, attribute, HERE, 2)
