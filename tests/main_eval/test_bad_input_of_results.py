"""Bad input is one line; nothing is written or overwritten."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from support.suite_world import (
    DIM,
    N,
    World,
    save_sae,
)

from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES
from bias_evaluation.datasets.metadata import METADATA


def spoil_row(value: float) -> Callable[[World], None]:
    def spoil(world: World) -> None:
        rows = np.load(world.embeddings)
        rows[17] = value
        np.save(world.embeddings, rows)

    return spoil


def too_few_rows(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings)[:-1])


def another_width(world: World) -> None:
    np.save(world.embeddings, np.load(world.embeddings)[:, :-1])


def fold_out_of_range(world: World) -> None:
    np.save(world.data / VAL_INDICES, np.load(world.data / VAL_INDICES) + np.uint32(200))


def sae_of_another_width(world: World) -> None:
    save_sae(world.sae, DIM + 1)


def damaged_sae(world: World) -> None:
    world.sae.write_bytes(world.sae.read_bytes()[:500])


def k_too_large(world: World) -> None:
    world.change(world.config, "retrieval_k", value=61)


def option_out_of_range(world: World) -> None:
    world.change(world.methods, "orth-cali", "by_bias_attribute", "color", "lam", value=-1)


def no_neighbors(world: World) -> None:
    world.change(world.methods, "bendvlm", "num_neighbors", value=0)


def column_missing(world: World) -> None:
    pd.read_feather(world.data / METADATA).drop(columns="shape").to_feather(world.data / METADATA)


def strange_value(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.loc[5, "color"] = "green"
    table.to_feather(world.data / METADATA)


def class_absent(world: World) -> None:
    colors = pd.read_feather(world.data / METADATA)["color"]
    train, val = (np.load(world.data / name) for name in (TRAIN_INDICES, VAL_INDICES))
    val[1] = np.flatnonzero(colors == "red")[: val.shape[1]]
    train[1] = np.setdiff1d(np.arange(N), val[1])
    np.save(world.data / TRAIN_INDICES, train)
    np.save(world.data / VAL_INDICES, val)


def group_absent(world: World) -> None:
    table = pd.read_feather(world.data / METADATA)
    table.loc[table["color"] == "red", "shape"] = "round"
    table.to_feather(world.data / METADATA)


def label_of_no_image(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", "box", value={"shape": "flat"})


def query_without_label(world: World) -> None:
    world.change(world.config, "settings", "object_color", "labels", value={"ball": {"shape": "round"}})


def classes_apart(world: World) -> None:
    world.change(world.prompts, "settings", "shape_color", "together", value=False)


def one_class_too_many(world: World) -> None:
    queries = {"round": "round ball", "square": "square box", "flat": "page"}
    world.change(world.prompts, "settings", "shape_color", "queries", value=queries)


def queries_together(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "together", value=True)


def broken_braces(world: World) -> None:
    world.change(world.prompts, "settings", "word_color", "query", value="A {query")


BAD_INPUT: list[tuple[Callable[[World], None], list[str]]] = [
    (
        spoil_row(np.nan),
        ["CLIP_alpha_embeddings.npy: 1 of ", " rows is NaN, infinite or all zero, the first: row 17"],
    ),
    (
        spoil_row(0.0),
        ["CLIP_alpha_embeddings.npy: 1 of ", " rows is NaN, infinite or all zero, the first: row 17"],
    ),
    (too_few_rows, ["CLIP_alpha_embeddings.npy has 119 rows, but metadata.feather beside it has 120"]),
    (another_width, ["CLIP_alpha_embeddings.npy has width 11, but the backbone has width 12"]),
    (fold_out_of_range, ["val_indices.npy names rows 2"]),
    (
        sae_of_another_width,
        ["MSAE_alpha.pth is an SAE for embeddings of width 13, but the backbone has width 12"],
    ),
    (damaged_sae, ["MSAE_alpha.pth", "to get it again: train it with"]),
    (k_too_large, ["K = 61 images cannot be retrieved from 60 evaluation images of a fold", "--retrieval-k"]),
    (option_out_of_range, ["methods.yml: orth-cali: lam must be a finite number of at least 0, got -1.0"]),
    (no_neighbors, ["methods.yml: bendvlm: num_neighbors must be at least 1, got 0"]),
    (column_missing, ["metadata.feather lacks the column 'shape'; it has: file_name, color"]),
    (strange_value, ["1 row(s) have a 'color' that is no class, first row 5: 'green'; classes: red, blue"]),
    (class_absent, ["bias class 'blue' has no evaluation image in fold 1"]),
    (group_absent, ["no evaluation image has target class 'square' and bias class 'red'"]),
    (label_of_no_image, ["metadata.feather: no row has shape = 'flat'"]),
    (query_without_label, ["setting 'object_color': unknown query label 'box'; choose from: ball"]),
    (classes_apart, ["missing: ", "its 2 target classes must be asked together ('together: true')"]),
    (
        one_class_too_many,
        ["missing: ", "1 group(s) of 3 queries", "its 2 target classes must be asked toget"],
    ),
    (queries_together, ["missing: ", "each query needs a group of its own (no 'together')"]),
    (broken_braces, ["missing: ", "'A {query' has braces that are no placeholder"]),
]


@pytest.mark.parametrize(
    ("spoil", "expected"), BAD_INPUT, ids=[f"{i}-{c[0].__name__}" for i, c in enumerate(BAD_INPUT)]
)
def test_bad_input_is_told_and_nothing_is_written(
    world: World,
    spoil: Callable[[World], None],
    expected: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(world)
    assert world.cli() == 2
    captured = capsys.readouterr()
    for part in expected:
        assert part in captured.err
    assert captured.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in captured.err
    assert not world.output.exists()


@pytest.mark.parametrize("spoil", [sae_of_another_width, k_too_large, spoil_row(np.nan), option_out_of_range])
def test_bad_input_overwrites_nothing(world: World, spoil: Callable[[World], None]) -> None:
    world.run()
    before = world.results()
    spoil(world)
    assert world.cli("--overwrite") == 2
    assert world.results() == before
