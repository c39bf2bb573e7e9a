"""Result names of methods and of re-ranked results: what tables say of them, and their order."""

from __future__ import annotations

import pytest

from bias_evaluation.grid.methods import display_name, find_result_method, group_index, in_table_order
from debiasing_methods.registry import GROUPS, METHODS
from debiasing_methods.reranking import ALGORITHMS, DISPLAY_NAMES
from safe_io.errors import InputError


def test_a_re_ranked_result_is_described_by_method_and_algorithm():
    found = find_result_method("prism+detcons")
    assert found == ("prism+detcons", "PRISM + DetCons", "after-ranking", True)
    assert find_result_method("vanilla").group == "base"
    assert list(GROUPS)[-1] == "after-ranking"
    assert set(DISPLAY_NAMES) == set(ALGORITHMS)


def test_re_ranked_results_come_after_the_methods_and_unknown_names_last():
    names = [
        "other",
        "sem-bi+pbm",
        "sem-bi+detcons",
        "sem-bi",
        "other+pbm",
        "vanilla+pbm",
        "vanilla",
        "vanilla",
    ]
    expected = ["vanilla", "sem-bi", "vanilla+pbm", "sem-bi+detcons", "sem-bi+pbm", "other", "other+pbm"]
    assert in_table_order(names) == expected
    assert in_table_order(reversed(METHODS)) == list(METHODS)


def test_names_that_are_not_known_are_shown_as_they_are():
    assert display_name("vanilla+detgreedy") == "Base CLIP + DetGreedy"
    assert display_name("vanilla+other") == "vanilla+other"
    assert group_index("vanilla+pbm") == len(GROUPS) - 1
    assert group_index("other+pbm") == len(GROUPS)
    with pytest.raises(InputError, match="unknown re-ranking 'detcon'"):
        find_result_method("vanilla+detcon")
    with pytest.raises(InputError, match="unknown method 'vanila'"):
        find_result_method("vanila+detcons")
