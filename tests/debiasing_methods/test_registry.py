"""The registry: the paper's methods in the tables' order, and classes of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from debiasing_methods.base import Vanilla
from debiasing_methods.registry import METHODS, import_method, register

PAPER = "vanilla roboshot sem-i orth-proj prism-mini sem-b zsdebias orth-cali sem-bi prism bendvlm bendsem-bi"


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Take away what a test has registered."""
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


def _class(**attributes: object) -> type:
    return type(
        "Mine", (Vanilla,), {"name": "mine", "display_name": "Mine", "group": "bias-prompts"} | attributes
    )


def test_the_papers_methods_are_there_in_the_order_of_its_tables() -> None:
    assert [name for name in METHODS if name in PAPER.split()] == PAPER.split()


def test_a_class_of_ones_own_is_placed_after_its_group() -> None:
    mine = register(_class())
    names = list(METHODS)
    assert METHODS["mine"] is mine
    assert names.index("mine") == names.index("orth-cali") - 1
    assert register(mine) is mine  # once more changes nothing
    assert list(METHODS) == names


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"name": "sem-b"}, "the name 'sem-b' is taken by debiasing_methods.sem.SemB"),
        ({"name": "Mine_1"}, "lower-case letters, digits and single '-', found 'Mine_1'"),
        ({"display_name": None}, "the class attribute 'display_name' must be a text"),
        ({"group": "best"}, "unknown group 'best'; choose from: base, input-prompts, bias-prompts"),
        ({"needs": frozenset({"luck"})}, "unknown needs \\['luck'\\]; choose from: spurious"),
        ({"weights": "gan"}, "unknown kind of weights 'gan'; choose from: sae, prism, zsdebias"),
    ],
)
def test_what_the_contract_does_not_allow_is_refused(attributes: dict[str, object], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        register(_class(**attributes))
    assert "mine" not in METHODS


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("mine", "must have the form package.module:Class"),
        ("no_such_module:Mine", "no module 'no_such_module' on Python's path"),
        ("json:Mine", r"the module 'json' \(.*\) has no class 'Mine'"),
        ("json:JSONDecoder", "is not a subclass of debiasing_methods.base.DebiasingMethod"),
        ("debiasing_methods.base:DebiasingMethod", "the class attribute 'name' must be a text"),
    ],
)
def test_entries_that_name_no_method(entry: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        import_method(entry)


def test_a_module_that_lacks_a_module_of_its_own_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking_module.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_method("lacking_module:Mine")
    assert "lacking_module" not in sys.modules
