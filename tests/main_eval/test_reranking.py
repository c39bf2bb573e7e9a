"""Re-ranked results of the suite: names, records, shares that were asked for, predicted labels, bad input."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.suite_world import FOLDS, STEMS, K, World, encode, word_vector

from bias_evaluation.results.aggregation import collect_results
from debiasing_methods.reranking import ALGORITHMS


def records(world: World, method: str, setting: str = "word_color") -> list[dict[str, Any]]:
    return json.loads((world.output / f"{STEMS[setting]}_clip-alpha_{method}.json").read_bytes())


def test_results_are_named_after_method_and_algorithm(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"vanilla+{algorithm}" for algorithm in ALGORITHMS]
    world.run("--methods", "vanilla", *names, "bendvlm+detcons")
    assert "13 of 13 results computed" in capsys.readouterr().out  # classifications are not re-ranked
    for algorithm in ALGORITHMS:
        for record in records(world, f"vanilla+{algorithm}", "object_color"):
            assert record["method"] == f"vanilla+{algorithm}"
            assert (record["rerank"], record["labels"]) == (algorithm, "given")
            assert record["shares"] == ([0.5, 0.5] if algorithm == "pbm" else "data")
            assert record["short"] == 0
            assert "label_error" not in record
    assert not any("rerank" in record for record in records(world, "vanilla"))
    table, warnings = collect_results(world.output)
    assert warnings == []
    assert set(names) < set(table["method"])
    capsys.readouterr()
    world.run("--methods", *names)
    assert "0 of 8 results computed" in capsys.readouterr().out


def test_the_grid_without_a_name_is_not_re_ranked(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.run("--dry-run")
    assert "+" not in capsys.readouterr().out


@pytest.mark.parametrize("algorithm", ["detgreedy", "detcons", "detrelaxed"])
def test_shares_of_the_data_are_kept_up_to_one_image(world: World, algorithm: str) -> None:
    world.run("--methods", "vanilla", f"vanilla+{algorithm}")
    for record in records(world, f"vanilla+{algorithm}"):
        if record["metric"] == "max_skew":
            # a list holds at most one image more than its share of the rarer class
            assert record["mean"] <= np.log(1 + 1 / (K * 0.25))
            assert record["mean"] < records(world, "vanilla")[1]["mean"]
        assert (record["below_floor"], record["above_ceiling"], record["fallbacks"]) == (0, 0, 0)


def test_shares_that_were_asked_for(world: World) -> None:
    """0.2 · 15 = 3 red images in each list; the classes' own shares are known from the metadata."""
    world.run("--methods", "vanilla+detcons", "--rerank-shares", "0.2", "0.8")
    [kl, *_] = records(world, "vanilla+detcons")
    assert kl["shares"] == [0.2, 0.8]
    red = (pd.read_feather(world.data / "metadata.feather")["color"] == "red").to_numpy()
    val = np.load(world.data / "val_indices.npy")
    prior = red[val].mean(1)
    expected = 0.2 * np.log(0.2 / prior) + 0.8 * np.log(0.8 / (1 - prior))
    assert kl["mean"] == pytest.approx(expected.mean(), rel=1e-12)
    assert len(val) == FOLDS


def test_another_way_of_re_ranking_is_another_result(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.run("--methods", "vanilla+detcons")
    assert world.cli("--methods", "vanilla+detcons", "--rerank-shares", "uniform") == 2
    assert "made from another config" in capsys.readouterr().err


def test_predicted_labels_come_with_their_error(world: World) -> None:
    world.run("--methods", "vanilla+detcons", "--rerank-labels", "predicted")
    record = records(world, "vanilla+detcons")[0]
    assert record["labels"] == "predicted"
    images = np.load(world.embeddings)
    prompts = np.stack([encode(f"A photo of a {color} page.") for color in ("red", "blue")]).astype(
        np.float32
    )
    predicted = (
        (images / np.linalg.norm(images, axis=1, keepdims=True))
        @ (prompts / np.linalg.norm(prompts, axis=1, keepdims=True)).T
    ).argmax(1)
    blue = (pd.read_feather(world.data / "metadata.feather")["color"] == "blue").to_numpy()
    assert record["label_error"] == pytest.approx((predicted != blue).mean())
    assert 0 < record["label_error"] < 0.5
    assert record["label_error_by_class"]["red"] == pytest.approx((predicted != blue)[~blue].mean())


def test_predictions_of_one_class_only_are_refused(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.load(world.embeddings)
    np.save(world.embeddings, rows + 100 * word_vector("red", rows.shape[1]).astype(np.float32))
    assert world.cli("--methods", "vanilla+detcons", "--rerank-labels", "predicted") == 2
    assert "all 120 images are predicted to be 'red'" in capsys.readouterr().err
    assert not world.output.is_dir() or not list(world.output.glob("*.json"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--methods", "vanilla+detcon"], "unknown re-ranking 'detcon'"),
        (["--methods", "vanila+detcons"], "unknown method 'vanila'"),
        (["--methods", "vanilla+detcons", "--settings", "shape_color"], "re-ranking is for retrieval"),
        (["--methods", "vanilla+detcons", "--rerank-shares", "half"], "shares must be numbers, got half"),
        (["--methods", "vanilla+detcons", "--rerank-shares", "0.5"], "1 shares with sum 0.5 for 2 classes"),
        (["--methods", "vanilla+detcons", "--rerank-shares", "0.5", "0.6"], "2 shares with sum 1.1 for 2"),
        (
            ["--methods", "vanilla+pbm", "--rerank-shares", "0.2", "0.8"],
            "pbm gives all classes the same share",
        ),
    ],
)
def test_bad_input_is_one_line(
    world: World, arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert world.cli(*arguments) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert line in message[-1]
    assert not world.output.is_dir() or not list(world.output.glob("*.json"))


def test_a_used_up_class_is_counted(world: World) -> None:
    world.run("--methods", "vanilla+detcons", "--rerank-shares", "0.01", "0.99", "--retrieval-k", "50")
    record = records(world, "vanilla+detcons")[0]
    assert record["fallbacks"] > 0
    assert record["below_floor"] > 0


def test_methods_that_are_fitted_to_images_are_re_ranked_too(world: World) -> None:
    world.change(world.methods, "leace", value={})
    world.run("--methods", "leace", "leace+detcons", "--settings", "word_color")
    assert records(world, "leace+detcons")[1]["mean"] <= records(world, "leace")[1]["mean"]
    assert records(world, "leace+detcons")[0]["fallbacks"] == 0
