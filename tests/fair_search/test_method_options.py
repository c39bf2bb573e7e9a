"""Options of methods on the command line: their types are those of the constructors."""

from typing import get_args

import pytest

from bias_evaluation.grid.configs import option_types
from debiasing_methods.registry import METHODS
from fair_search.method_options import parse_options, parse_options_of_methods
from safe_io.errors import InputError

_TEXT = {
    int: ("7", 7),
    float: ("1e-3", 1e-3),
    bool: ("true", True),
    str: ("word", "word"),
    type(None): ("", None),
}


@pytest.mark.parametrize("method", METHODS)
def test_every_option_of_a_plain_type_can_be_given(method):
    for name, kind in option_types(method).items():
        for plain in get_args(kind) or (kind,):
            text, value = _TEXT[plain]
            assert parse_options([f"{name}={text}"], method) == {name: value}
            assert parse_options([f"{name.replace('_', '-')}={text}"], method) == {name: value}


def test_options_of_several_methods():
    found = parse_options_of_methods(["orth-cali.lam=10", "bendvlm.num_neighbors=5"])
    assert found == {"orth-cali": {"lam": 10.0}, "bendvlm": {"num_neighbors": 5}}


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("lam", "--option takes KEY=VALUE"),
        ("lamda=1", "unknown option 'lamda'; choose from: .*did you mean 'lam'"),
        ("lam=much", "'lam' must be a number"),
        ("lam=", "'lam' must be a number"),
        ("lam=[", "'lam' must be a number"),
    ],
)
def test_bad_options(pair, message):
    with pytest.raises(InputError, match=message):
        parse_options([pair], "orth-cali")


def test_bad_methods():
    with pytest.raises(InputError, match="'lam' of orth-cali twice"):
        parse_options(["lam=1", "lam=2"], "orth-cali")
    with pytest.raises(InputError, match=r"--option takes METHOD\.KEY=VALUE"):
        parse_options_of_methods(["lam=1"])
    with pytest.raises(InputError, match="unknown method 'orth'"):
        parse_options_of_methods(["orth.lam=1"])
