"""A thirteenth method, and a twentieth, without a change of the project: evaluated, in tables, in figures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from support.suite_world import World

import process_json_outputs
from bias_evaluation.display.result_table import read_results
from debiasing_methods.base import DebiasingMethod
from debiasing_methods.projections import OrthProj
from debiasing_methods.registry import METHODS, register
from reproduce_tables import __main__ as tables
from reproduce_tables import figures
from safe_io.checkout import ROOT
from safe_io.errors import run_main

MODULE = '''
from debiasing_methods.base import DebiasingMethod
from debiasing_methods.linalg import unit


class Shrunk(DebiasingMethod):
    """Half of the part along the first spurious prompt."""

    name = "shrunk"
    display_name = "Shrunk"
    group = "bias-prompts"
    needs = frozenset({"spurious"})
    changes_text = True

    def __init__(self, *, strength: float) -> None:
        self.strength = strength

    def debias_text(self, groups, reference=None):
        self.check(groups)
        texts = []
        for group in groups:
            direction = unit(group.spurious[:1])
            texts.append(group.queries - self.strength * (group.queries @ direction.T) * direction)
        return texts
'''
ENTRY = {"class": "own_module:Shrunk", "strength": 0.5}
DESCRIPTION = """
tables:
  mine:
    title: All methods
    columns: [{dataset: [portraits]}, {backbone: [alpha]}, {setting: [object_color]}, {measures: [kl]}]
measures: {kl: {task: retrieval, metric: kl, best: lowest}}
"""


@pytest.fixture(autouse=True)
def _registry_as_before() -> Iterator[None]:
    before = dict(METHODS)
    yield
    METHODS.clear()
    METHODS.update(before)


@pytest.fixture
def world(suite_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Add the method to the methods file of a project."""
    module = suite_world.root / "modules" / "own_module.py"
    module.parent.mkdir()
    module.write_text(MODULE)
    monkeypatch.syspath_prepend(module.parent)
    suite_world.change(suite_world.methods, "shrunk", value=ENTRY)
    yield suite_world
    sys.modules.pop("own_module", None)


def _collect(world: World) -> Path:
    table = world.root / "all_results.feather"
    arguments = ["--input-dir", str(world.output), "--output-dir", str(world.root)]
    assert process_json_outputs.main(arguments) == 0
    return table


def test_it_is_evaluated_and_stands_in_tables_and_figures(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("--settings", "object_color")
    results = read_results(_collect(world))
    assert "shrunk" in set(results["method"])
    (world.root / "tables.yml").write_text(DESCRIPTION)
    common = ["--results", str(world.root / "all_results.feather"), "--output-dir", str(world.root / "out")]
    common += ["--methods-file", str(world.methods)]
    assert tables.main(["mine", "--description", str(world.root / "tables.yml"), *common]) == 0
    rows = pd.read_csv(world.root / "out" / "table_mine.csv").set_index("Method").iloc[:, 0]
    kl = results[(results["method"] == "shrunk") & (results["metric"] == "kl")]["mean"].item()
    assert rows["Shrunk"] == pytest.approx(kl, abs=5e-4)
    assert list(rows.index).index("Shrunk") == list(rows.index).index("Orth-Cali") - 1
    assert figures.main(common) == 0
    assert (world.root / "out" / "fairness_portraits_alpha.png").stat().st_size > 10_000
    assert "Shrunk" in capsys.readouterr().out


def test_another_version_of_its_file_gives_other_results(world: World) -> None:
    arguments = ("--settings", "object_color", "--methods", "shrunk", "vanilla")
    world.run(*arguments)
    before = world.results()
    module = world.root / "modules" / "own_module.py"
    module.write_text(MODULE.replace("group.spurious[:1]", "group.spurious[1:2]"))
    assert world.cli(*arguments) == 2
    assert world.results() == before
    world.run("--settings", "object_color", "--methods", "vanilla")  # the project's own are untouched


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"class": "own_module:Nothing"}, "has no class 'Nothing'"),
        ({"class": "own_modul:Shrunk"}, "no module 'own_modul' on Python's path"),
        (
            {"class": "own_module:Shrunk", "strenght": 1.0},
            "'strenght' is no option of shrunk; its options: strength",
        ),
        ({"class": "debiasing_methods.sem:SemB"}, "its attribute 'name' is 'sem-b'"),
        ({"class": 3}, "'class' must be text"),
    ],
)
def test_wrong_entries_are_one_line(
    world: World, entry: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world.change(world.methods, "shrunk", value=entry)
    assert world.cli() == 2
    error = capsys.readouterr().err
    assert expected in error
    assert str(world.methods) in error
    assert error.count("\n") == 1


def test_a_module_that_fails_is_one_line(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    (world.root / "modules" / "own_module.py").write_text("import no_such_library\n")
    assert world.cli() == 2
    assert (
        "importing it failed: ModuleNotFoundError: No module named 'no_such_library'"
        in capsys.readouterr().err
    )


def test_twenty_methods_have_figures(world: World) -> None:
    for k in range(7):
        names = {"name": f"more-{k}", "display_name": f"More {k}", "group": "both-prompts"}
        more: type[DebiasingMethod] = type(f"More{k}", (OrthProj,), names)
        register(more)
        world.change(world.methods, f"more-{k}", value={})
    world.run("--settings", "shape_color", "object_color")
    assert len(METHODS) >= 20
    common = ["--results", str(_collect(world)), "--output-dir", str(world.root / "out")]
    assert run_main(lambda: figures.main([*common, "--methods-file", str(world.methods)])) == 0
    assert (world.root / "out" / "fairness_portraits_alpha.png").is_file()


def test_it_can_be_held_to_the_contract(world: World) -> None:
    world.methods.write_text("shrunk: {class: 'own_module:Shrunk', strength: 0.5}\n")
    contract = ROOT / "tests" / "debiasing_methods" / "test_contract.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", contract, "-k", "shrunk", "--methods-file", world.methods],
        env=os.environ | {"PYTHONPATH": str(world.root / "modules")},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
