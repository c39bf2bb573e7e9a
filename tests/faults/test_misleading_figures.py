"""Figures that are right to the last digit and still mislead: groups, ties, empty queries, other images."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from fault_world import COLORS, World, call, encode
from support.world_parts import save_yaml

import audit_bias
import debias_queries
from bias_evaluation.scoring.fold_scores import SharedScores
from bias_evaluation.scoring.retrieval import evaluate_retrieval
from bias_evaluation.scoring.ties import TiedScoresWarning
from debiasing_methods.linalg import remove_span, span_basis, unit
from debiasing_methods.registry import get_method
from fair_search.audit import AuditedMethod, audit
from fair_search.audit_inputs import doubtful_groups, looks_missing
from fair_search.audit_settings import AuditSettings
from fair_search.groups import Groups
from safe_io.documents import read_alike
from safe_io.errors import run_main


def run_audit(
    world: World, *more: object, methods: tuple[str, ...] = ("vanilla", "orth-proj")
) -> tuple[int, str, str]:
    """Audit the world's embeddings by text alone; exit code, stdout and stderr."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    arguments = [
        "--embeddings", world.embeddings, "--metadata", world.data / "metadata.feather",
        "--attribute", "color",
        "--queries", world.root / "queries.csv", "--query-column", "query", "--bias", world.root / "bias.yml",
        "--text-embeddings", world.text, "--k", 6, "--draws", 5, "--output-dir", world.root / "made",
        *(["--methods", *methods] if methods else []), *more,
    ]  # fmt: skip
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_main(lambda: audit_bias.main([str(a) for a in arguments]))
    return code, out.getvalue(), err.getvalue()


# --- groups -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["Red", "red ", "RED", "ｒｅｄ"])
def test_spellings_of_one_label_are_pointed_out(world: World, spelling: str) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table.loc[:9, "color"] = [spelling if color == "red" else color for color in table["color"][:10]]
    table.to_feather(path)
    code, out, err = run_audit(world)
    assert code == 0
    assert out.splitlines()[0].startswith("groups of 'color': ")
    assert f"{spelling} 5" in out.splitlines()[0]
    assert "red 25" in out.splitlines()[0]
    assert "read alike; if they are one, give them one spelling" in err


@pytest.mark.parametrize("value", ["nan", "NaN", "N/A", "None", "null", "?"])
def test_texts_that_look_like_missing_values_are_pointed_out(world: World, value: str) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table.loc[[1, 4], "color"] = value
    table.to_feather(path)
    code, out, err = run_audit(world)
    assert code == 0
    assert f"{value} 2" in out.splitlines()[0]
    assert f"'{value}' of 'color' looks like a missing value, but is a group here" in err


def test_groups_are_listed_before_anything_else_and_small_ones_named() -> None:
    groups = Groups("g", ("a", "b", "c"), np.repeat([0, 1, 2], [1000, 40, 3]).astype(np.int8))
    lines = "\n".join(doubtful_groups(groups, (10, 50)))
    assert "groups of 'g' with fewer than 30 images: c 3; their shares say little" in lines
    assert "fewer than 5 images are expected among K = 50: b 1.9, c 0.1; their shares move by chance" in lines
    assert read_alike(["Middle Eastern", "middle_eastern", "White"]) == [("Middle Eastern", "middle_eastern")]
    assert not any(map(looks_missing, ("Nancy", "Male", "0", "No")))


def test_labels_of_another_attribute_are_not_given_to_a_method(world: World) -> None:
    size = {"bias": "size", "noun": "page", "classes": ["large", "small"]}
    size |= {"templates": ["A {bias} page.", "{bias} here."]}
    size |= {"diverse": {"words": {"thing": ["cat", "tree"]}, "frames": ["A {thing}."]}}
    save_yaml(world.root / "bias.yml", size)
    _more_text(
        world,
        [
            "A photo of a large page.",
            "A photo of a small page.",
            "A large page.",
            "A small page.",
            "large here.",
            "small here.",
        ],
    )
    code, _, err = run_audit(world, methods=("vanilla", "bendvlm"))
    assert code == 2
    assert "bendvlm: " in err
    assert "'color' has the groups blue, red, and the bias 'size' the classes large, small" in err
    code, _, err = run_audit(world, methods=("vanilla", "orth-proj"))
    assert code == 0
    assert "methods debias against one, and are judged on the other" in err


def test_a_tiny_group_leaves_out_the_methods_that_need_more_not_the_audit(world: World) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table["color"] = ["red"] + ["blue"] * (len(table) - 1)
    table.to_feather(path)
    code, out, err = run_audit(world, methods=("vanilla", "orth-proj", "bendvlm"))
    assert code == 0
    assert "left out: bendvlm: group 'red' has 1 image(s)" in err
    assert "Orth-Proj" in out
    assert run_audit(world, methods=("bendvlm",))[0] == 2


def test_images_that_repeat_with_other_groups_are_pointed_out(world: World) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table.loc[1, "file_path"] = table.loc[0, "file_path"]
    table.to_feather(path)
    code, _, err = run_audit(world)
    assert code == 0
    assert "warning: 1 rows of the metadata repeat an image, some with different groups, such as 0.png" in err


def test_spellings_of_the_labels_that_queries_ask_for_are_pointed_out(world: World) -> None:
    path = world.data / "metadata.feather"
    table = pd.read_feather(path)
    table.loc[3, "shape"] = "Round "
    table.to_feather(path)
    asked = pd.DataFrame({"query": ["a ball"], "wanted": ["round"]})
    asked.to_csv(world.root / "queries.csv", index=False)
    code, _, err = run_audit(world, "--label-column", "shape", "--query-labels", "wanted")
    assert code == 0, err
    assert "the labels 'round' and 'Round ' of 'shape' read alike, but count as different" in err


# --- which images -----------------------------------------------------------------------------------------


def test_the_first_method_is_also_judged_on_all_images_when_some_are_kept_apart(world: World) -> None:
    pd.DataFrame({"query": ["A photo of a ball."]}).to_csv(world.root / "queries.csv", index=False)
    alone = run_audit(world, methods=("vanilla",))
    expected = json.loads((world.root / "made" / "audit.json").read_text())["means"]
    beside = run_audit(world, methods=("vanilla", "bendvlm"))
    found = json.loads((world.root / "made" / "audit.json").read_text())
    assert alone[0] == beside[0] == 0
    assert "Base CLIP on all 60 images, as they are searched today: " in beside[1]
    assert "30 were kept apart as labelled images" in beside[1]
    assert "on all" not in alone[1]
    of = {(row["metric"], row["k"]): row["value"] for row in found["first_method_on_all_images"]}
    rows = [row for row in expected if row["method"] == "vanilla"]
    assert of == {(row["metric"], row["k"]): row["value"] for row in rows}
    page = (world.root / "made" / "report.html").read_text()
    assert "Base CLIP on all images, as they are searched today" in page


# --- queries inside the bias ------------------------------------------------------------------------------


def _more_text(world: World, sentences: list[str]) -> None:
    with np.load(world.text) as arrays:
        prompts, rows = list(arrays["prompts"]), arrays["embeddings"]
    new = [s for s in dict.fromkeys(sentences) if s not in prompts]
    np.savez(
        world.text,
        prompts=np.array(prompts + new),
        embeddings=np.vstack([rows, *[encode(s)[None] for s in new]]),
    )


@pytest.mark.parametrize("scale", [1.0, 1e-3, 37.0])
def test_what_is_left_of_a_spurious_prompt_is_zero_not_rounding(scale: float) -> None:
    """Of a vector in the span; of any other exactly what was left before."""
    rows = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 64))).float()
    basis = span_basis(unit(rows[:3].double()))
    again = unit((rows[:2] * scale) * (1 + 1e-6))  # the same text from another batch
    assert torch.equal(remove_span(again, basis), torch.zeros(2, 64, dtype=torch.float64))
    other = unit(rows[3:]).double()
    assert torch.equal(remove_span(other, basis), other - (other @ basis.T) @ basis)


@pytest.mark.parametrize("method", ["orth-proj", "prism-mini"])
def test_a_query_inside_the_bias_is_not_ranked(world: World, method: str) -> None:
    lost = "A photo of a red page."
    pd.DataFrame({"query": ["a ball", lost]}).to_csv(world.root / "queries.csv", index=False)
    _more_text(world, [lost, "a red page", *(f"A photo of {lost}, a {color} page." for color in COLORS),
                       *(f"A photo of a red page, a {color} page." for color in COLORS)])  # fmt: skip
    code, _, err = run_audit(world, "--show", lost, "a ball", methods=("vanilla", method))
    assert code == 0, err
    assert "warning: 1 of 2 queries lie in the bias itself, so that nothing is left of them" in err
    record = json.loads((world.root / "made" / "audit.json").read_text())
    assert record["queries"] == ["a ball"]
    assert record["left_out_queries"] == {lost: [method]}
    pd.DataFrame({"query": [lost]}).to_csv(world.root / "queries.csv", index=False)
    code, _, err = run_audit(world, methods=("vanilla", method))
    assert code == 2
    assert "nothing is left of any query" in err


def test_a_query_inside_the_bias_comes_out_of_debias_queries_as_zeros_with_a_warning(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    pd.DataFrame({"query": ["a ball", "A photo of a red page."]}).to_csv(
        world.root / "queries.csv", index=False
    )
    arguments = [
        "--queries", world.root / "queries.csv", "--column", "query", "--bias", world.root / "bias.yml",
        "--method", "orth-proj", "--text-embeddings", world.text, "--output", world.root / "out.npy",
    ]  # fmt: skip
    assert run_main(lambda: debias_queries.main([str(a) for a in arguments])) == 0
    assert "warning: 1 of 2 queries lie in the bias itself" in capsys.readouterr().err
    lengths = np.linalg.norm(np.load(world.root / "out.npy"), axis=1)
    assert lengths[1] == 0
    assert lengths[0] == pytest.approx(1)


def test_main_eval_leaves_such_queries_out_of_its_figures(world: World) -> None:
    path = world.root / "config" / "prompts" / "mini" / "toy.yml"
    text = path.read_text().replace(
        "- A photo of a {bias} page.", "- A photo of a {bias} page.\n    - A photo of an odd.", 2
    )
    path.write_text(text)
    _more_text(world, ["A photo of an odd.", "A photo of a lucky.", "A photo of an odd."])
    more = ("--settings", "word_color", "--methods", "orth-proj", "vanilla")
    code, err = call(world, "evaluate", *more)
    assert code == 0, err
    assert "1 of 2 queries lie in the bias itself, so that nothing is left of them (odd)" in err
    [path] = world.results.glob("*orth-proj*.json")
    assert list(json.loads(path.read_text())[0]["by_query"]) == ["lucky"]
    [path] = world.results.glob("*vanilla*.json")
    assert list(json.loads(path.read_text())[0]["by_query"]) == ["lucky", "odd"]


# --- equal scores -----------------------------------------------------------------------------------------

N, HALF = 40, np.arange(40) // 20  # group 0 has the lower rows


def tied_scores(values: list[float]) -> torch.Tensor:
    return torch.tensor(values)[None]


@pytest.mark.parametrize("shared", [True, False])
def test_ties_at_the_last_place_are_counted_with_the_range_over_their_orders(shared: bool) -> None:
    """KL of a list of ten equal images is 0 or ln 2, as the rows happen to be ordered."""
    scores = torch.ones(1, N)
    val = np.arange(N)[None]
    given = SharedScores(lambda rows: scores[:, rows], N, torch.from_numpy(val)) if shared else [scores]
    with pytest.warns(TiedScoresWarning, match=r"x: 1 of 1 lists have equal scores .* mean kl 0\.") as caught:
        found = evaluate_retrieval(given, val, HALF, ("a", "b"), 10, where="x")
    assert found["kl"] == pytest.approx(np.log(2))  # the lower rows come first
    low, high = str(caught[0].message).split("mean kl ")[1].split(" (")[0].split(" to ")
    assert float(low) == 0
    assert 0.1 < float(high) < np.log(2)


def test_the_range_holds_every_tied_image_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties that go on beyond the best that were looked at first are all found."""
    scores = torch.cat([torch.tensor([9.0, 8.0]), torch.ones(998)])[None]
    val = np.arange(1000)[None]
    shared = SharedScores(lambda rows: scores[:, rows], 1000, torch.from_numpy(val))
    [(rows, [tie])] = list(shared.top_rows(5))
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    np.testing.assert_array_equal(tie.rows, np.arange(2, 1000))
    assert tie.taken == 3


def test_scores_that_differ_are_no_ties(recwarn: pytest.WarningsRecorder) -> None:
    scores = torch.cat([torch.ones(5), torch.linspace(0.9, 0, N - 5)])[
        None
    ]  # equal ones above the last place
    val = np.arange(N)[None]
    evaluate_retrieval([scores], val, HALF, ("a", "b"), 10)
    shared = SharedScores(lambda rows: scores[:, rows], N, torch.from_numpy(val))
    evaluate_retrieval(shared, val, HALF, ("a", "b"), 10)
    evaluate_retrieval(shared, val, HALF, ("a", "b"), N)
    assert not recwarn.list


@pytest.mark.parametrize("n", [40, 400])
def test_ties_of_an_audit_are_counted_with_their_range(n: int) -> None:
    """Also where they go on beyond the lists that are kept."""
    from debiasing_methods.base import QueryGroup

    rows = np.tile(np.array([[1.0, 0.0, 0.0]], np.float32), (n, 1))
    rows[-3:] = np.eye(3)[1]
    groups = Groups("g", ("a", "b"), (np.arange(n) >= n // 2).astype(np.int8))
    method = AuditedMethod(get_method("vanilla")(), [QueryGroup(torch.tensor([[1.0, 0.2, 0.0]]))])
    settings = AuditSettings(ks=(10,), draws=5)
    with pytest.warns(TiedScoresWarning, match=r"vanilla, K = 10: 1 of 1 lists have equal scores") as caught:
        found = audit(rows, groups, {"vanilla": method}, ["q"], settings)
    assert found.lists.codes[0, 0, :10].tolist() == [0] * 10  # the lower rows
    low, high = str(caught[0].message).split("mean KL ")[1].split(" (")[0].split(" to ")
    assert float(low) < 0.05
    assert float(high) < np.log(2)
