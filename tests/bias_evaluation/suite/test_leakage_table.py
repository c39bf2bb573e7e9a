"""The command that probes the images of every method."""

from __future__ import annotations

from functools import partial

import pandas as pd
import pytest
from support.suite_world import METHODS, World

from bias_evaluation.suite.leakage_table import main
from safe_io.errors import run_main


@pytest.fixture
def options(suite_world: World) -> list[str]:
    text = ["--text-embeddings", str(suite_world.text), "--output-dir", str(suite_world.output)]
    return ["--config", str(suite_world.config), "--backbones", "alpha", *text]


def test_every_method_has_its_rows(suite_world, options, capsys):
    for name in ("prism-mini", "leace"):
        suite_world.change(suite_world.methods, name, value={})
    settings = ["--settings", "word_color"]
    assert main([*options, *settings]) == 0
    assert "Base CLIP" in capsys.readouterr().out
    table = pd.read_csv(suite_world.output / "leakage.csv")
    assert set(table["method"]) == {*METHODS, "prism-mini", "leace"}
    assert (table.groupby("method")["images"].apply(set) == {"unit", "returned"}).all()
    unit = table[table["images"] == "unit"].set_index("method")
    assert unit.loc["vanilla", "linear"] == unit.loc["orth-proj", "linear"]  # images stay as they are
    assert unit["linear"].between(0, 1).all()
    assert unit["majority"].nunique() == 1
    first = (suite_world.output / "leakage.csv").read_bytes()
    assert main([*options, *settings]) == 0
    assert (suite_world.output / "leakage.csv").read_bytes() == first


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--fold", "9"], "--fold 9: there are 3 folds; choose 0 to 2"),
        (["--methods", "vanila"], "unknown method 'vanila'"),
        (["--settings", "shape"], "unknown setting 'shape'"),
    ],
)
def test_bad_input_is_one_line(options, more, line, capsys):
    assert run_main(partial(main, [*options, *more])) == 2
    assert line in capsys.readouterr().err.strip().splitlines()[-1]
