"""Results of other inputs are not taken for those of these."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from support.suite_world import (
    DIM,
    METHODS,
    METRICS,
    STEMS,
    K,
    World,
    save_sae,
)

from bias_evaluation.datasets.folder import VAL_INDICES
from bias_evaluation.datasets.metadata import METADATA
from safe_io.errors import InputError


def change_spurious(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "spurious", value=["Something {bias} here."])


def change_query(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="A photo of a {query}.")
    world.save_text()


def change_diverse(world: World) -> None:
    world.change(world.prompts, "diverse", "frames", value=["A {thing}."])


def change_option(world: World) -> None:
    world.change(world.methods, "orth-cali", "by_bias_attribute", "color", "lam", value=21)


def change_labels(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", "box", value={"shape": "round"})


def change_embeddings(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings) * 2)


def change_metadata(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.assign(more=1).to_feather(world.data / METADATA)


def change_folds(world: World) -> None:
    np.save(world.data / VAL_INDICES, np.load(world.data / VAL_INDICES)[:, ::-1])


def change_sae(world: World) -> None:
    save_sae(world.sae, DIM, latents=30)


def change_text(world: World) -> None:
    with np.load(world.text) as arrays:
        np.savez(world.text, prompts=arrays["prompts"], embeddings=arrays["embeddings"] * 2)


EVERYTHING = tuple(METHODS)
CHANGES: list[tuple[Callable[[World], None], str, tuple[str, ...], tuple[str, ...]]] = [
    (change_spurious, "prompts", ("word_color",), ("orth-proj", "orth-cali", "bendvlm")),
    (change_query, "prompts, text", ("word_color",), EVERYTHING),
    (change_diverse, "prompts", tuple(STEMS), ("sem-b",)),
    (change_option, "config", tuple(STEMS), ("orth-cali",)),
    (change_labels, "config", ("object_color",), EVERYTHING),
    (change_embeddings, "embeddings", tuple(STEMS), EVERYTHING),
    (change_metadata, "metadata", tuple(STEMS), EVERYTHING),
    (change_folds, "folds", tuple(STEMS), EVERYTHING),
    (change_sae, "weights", tuple(STEMS), ("sem-b",)),
    (change_text, "text", tuple(STEMS), EVERYTHING),
]


@pytest.mark.parametrize(
    ("change", "component", "settings", "methods"), CHANGES, ids=[c[0].__name__ for c in CHANGES]
)
def test_results_of_other_inputs_are_not_taken_for_these(
    world: World,
    change: Callable[[World], None],
    component: str,
    settings: tuple[str, ...],
    methods: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    world.run()
    before = world.results()
    change(world)
    capsys.readouterr()
    world.run("--dry-run")
    lines = capsys.readouterr().out.splitlines()
    stale = {f"{STEMS[s]}_clip-alpha_{m}" for s in settings for m in methods}
    differing = {line.split()[0]: line.split("made from another ")[1] for line in lines if "stale: " in line}
    if component != "prompts, text":  # there, the other settings differ in the text file alone
        assert set(differing) == stale
        assert set(differing.values()) == {component}
    assert all(differing[stem] == component for stem in stale)
    with pytest.raises(InputError) as error:
        world.run()
    first = next(iter(differing))
    assert f"{len(differing)} result(s) are there but made from another {differing[first]}" in str(
        error.value
    )
    assert f"the first: {first}.json; pass --overwrite" in str(error.value)
    assert world.results() == before
    world.run("--overwrite")
    after = world.results()
    assert set(after) == set(before)
    assert {name.removesuffix(".json") for name in after if after[name] != before[name]} == set(differing)
    world.run()


def test_what_does_not_decide_a_figure_leaves_results_alone(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run()
    world.change(world.methods, "orth-cali", "lam", value=2)  # for no bias attribute of this world
    world.change(world.config, "retrieval_k", value=K)
    moved = world.root.with_name("moved")
    world.root.rename(moved)
    capsys.readouterr()
    World(moved).run()
    assert "0 of 15 results computed" in capsys.readouterr().out


def test_published_results_are_not_taken_for_ours(world: World) -> None:
    world.run("--methods", "vanilla", "--settings", "shape_color")
    [path] = world.output.iterdir()
    records = json.loads(path.read_text())
    for record in records:
        del record["digests"]
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"made from another everything \(it records no digests\)"):
        world.run("--methods", "vanilla")
    assert len(world.results()) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "result file is not valid JSON: "),
        ("{}", "is not a list of result records"),
        ("[]", "is not a list of result records"),
        ("[1]", "is not a list of result records"),
    ],
)
def test_a_result_file_that_is_none(world: World, content: str, expected: str) -> None:
    world.output.mkdir()
    path = world.output / f"{STEMS['shape_color']}_clip-alpha_vanilla.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        world.run("--methods", "vanilla")
    assert expected in str(error.value)
    assert str(path) in str(error.value)
    assert path.read_text() == content
    world.run("--methods", "vanilla", "--overwrite")
    assert len(json.loads(path.read_text())) == len(METRICS["zs_classification"])
