"""Re-ranked lists of an audit: against a re-ranking of all scores, and in the command's files."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import normalize

import audit_bias
from debiasing_methods.base import QueryGroup, Vanilla
from debiasing_methods.reranking import ALGORITHMS, exact_shares, rerank, uniform_shares
from fair_search.audit import AuditedMethod, audit
from fair_search.groups import Groups, QueryLabels
from fair_search.judging import AuditSettings
from fair_search.reranking import RerankOptions, rerank_names
from safe_io.errors import InputError, run_main

N, D, CLASSES = 300, 6, ("a", "b", "c")
NAMES = tuple(f"vanilla+{algorithm}" for algorithm in ALGORITHMS)
QUERIES = ("one", "two", "three", "four")


@pytest.fixture(scope="module")
def world():
    random = np.random.default_rng(0)
    codes = np.sort(random.choice([-1, 0, 1, 2], N, p=[0.05, 0.2, 0.3, 0.45]))
    centers = 2 * random.normal(size=(4, D))
    images = (centers[codes] + random.normal(size=(N, D))).astype(np.float32)
    queries = torch.from_numpy((centers[[0, 1, 1, 2]] + random.normal(size=(4, D))).astype(np.float32))
    groups = [QueryGroup(row[None], name=name) for row, name in zip(queries, QUERIES, strict=True)]
    return (
        images,
        Groups("kind", CLASSES, codes),
        {"vanilla": AuditedMethod(Vanilla(), groups)},
        queries,
        centers,
    )


def run(world, options, desired="data", **more):
    images, groups, audited, _, _ = world
    settings = AuditSettings((5, 20), desired, draws=5)
    return audit(images, groups, audited, QUERIES, settings, rerank=options, **more)


@pytest.mark.parametrize("desired", ["data", "uniform"])
def test_lists_are_those_of_all_scores(world, desired):
    images, groups, _, queries, _ = world
    found = run(world, RerankOptions(NAMES), desired, chunk_rows=70).reranked
    scores = (normalize(torch.from_numpy(images)) @ normalize(queries).T).T.numpy()
    scores[:, groups.codes < 0] = -2
    order = np.argsort(-scores, axis=1, kind="stable")[:, : int((groups.codes >= 0).sum())]
    data = exact_shares(np.bincount(groups.codes[groups.codes >= 0]).tolist())
    for name, rows in zip(found.lists.methods, found.lists.rows, strict=True):
        algorithm = name.split("+")[1]
        shares = uniform_shares(3) if desired == "uniform" or algorithm == "pbm" else data
        expected = rerank(order, groups.codes, shares, 20, algorithm)
        assert (rows == expected.positions).all()
        assert found.counts[name]["fallbacks"] == expected.fallbacks.sum()
    assert found.labels == "given"
    assert found.label_error is None


def test_metrics_are_of_the_given_groups_and_compared_with_the_first_method(world):
    result = run(world, RerankOptions(("vanilla+detcons",)), "uniform")
    table = result.reranked.table
    means = table[table["scope"] == "mean"].set_index(["k", "metric"])
    before = result.table[(result.table["scope"] == "mean") & (result.table["method"] == "vanilla")]
    before = before.set_index(["k", "metric"])["value"]
    # 20 images of three groups: seven, seven and six
    shares = np.array([7, 7, 6]) / 20
    assert means.loc[(20, "kl"), "value"] == pytest.approx((shares * np.log(shares * 3)).sum())
    for metric in ("kl", "max_skew", "overlap"):
        value, difference = means.loc[(20, metric), ["value", "difference"]]
        assert difference == pytest.approx(value - before[20, metric])
    assert table[["low", "high"]].isna().all(axis=None)
    assert list(table.columns) == list(result.table.columns)


def test_predicted_labels_come_with_their_error(world):
    images, groups, _, _, centers = world
    prompts = torch.from_numpy(centers[:3].astype(np.float32))
    found = run(world, RerankOptions(("vanilla+detcons",), prompts)).reranked
    predicted = (normalize(torch.from_numpy(images)) @ normalize(prompts).T).argmax(1).numpy()
    kept = groups.codes >= 0
    assert found.labels == "predicted"
    assert found.label_error == pytest.approx((predicted != groups.codes)[kept].mean())
    assert 0 < found.label_error < 0.5
    assert [float(s) for s in found.shares] == pytest.approx(np.bincount(predicted[kept]) / kept.sum())
    assert (found.lists.codes == groups.codes[found.lists.rows]).all()


def test_precision_is_judged_where_labels_are(world):
    labels = QueryLabels(np.arange(N) % 2, np.zeros(4, np.int64))
    table = run(world, RerankOptions(("vanilla+pbm",)), labels=labels).reranked.table
    assert "precision" in set(table["metric"])


def test_predictions_of_one_group_are_refused(world):
    prompts = torch.stack([torch.ones(D), -torch.ones(D), -torch.ones(D)])
    images, groups, audited, _, _ = world
    with pytest.raises(InputError, match=r"all \d+ images are predicted to be 'a'"):
        audit(
            np.abs(images), groups, audited, QUERIES, AuditSettings((5,), draws=2),
            rerank=RerankOptions(("vanilla+detcons",), prompts),
        )  # fmt: skip


def test_names():
    methods = ("vanilla", "sem-b")
    assert rerank_names(["pbm", "sem-b+detcons", "pbm"], methods) == ("vanilla+pbm", "sem-b+detcons")
    with pytest.raises(InputError, match="unknown re-ranking 'pb'"):
        rerank_names(["pb"], methods)
    with pytest.raises(InputError, match="unknown method 'prism'"):
        rerank_names(["prism+pbm"], methods)


@pytest.fixture(scope="module")
def options(search_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("system")
    random = np.random.default_rng(0)
    np.save(folder / "images.npy", random.normal(size=(90, search_world.images.shape[1])).astype(np.float16))
    gender = np.where(np.arange(90) % 3 == 0, "Male", "Female")
    pd.DataFrame({"gender": gender}).to_csv(folder / "metadata.csv", index=False)
    (folder / "queries.txt").write_text("A photo of a nurse.\nA photo of a chef.\n")
    model, checkpoint = search_world.backbone
    files = {"embeddings": "images.npy", "metadata": "metadata.csv", "queries": "queries.txt"}
    given = [word for option, name in files.items() for word in (f"--{option}", folder / name)]
    given += ["--attribute", "gender", "--backbone", model, "--checkpoint", checkpoint]
    given += ["--k", 6, "--draws", 5, "--methods", "vanilla", "orth-proj"]
    return list(map(str, given))


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_the_command_writes_and_shows_re_ranked_lists(options, tmp_path, capsys):
    more = ["--bias", "gender", "--rerank", "detcons", "orth-proj+pbm", "--output-dir", str(tmp_path)]
    assert audit_bias.main([*options, *more]) == 0
    assert "Base CLIP + DetCons" in capsys.readouterr().out
    retrieved = pd.read_csv(tmp_path / "retrieved.csv")
    sizes = retrieved.groupby(["method", "query"])["group"].value_counts()
    assert (sizes.loc["vanilla+detcons", :, "Male"] == 2).all()
    assert (sizes.loc["orth-proj+pbm", :, "Male"] == 3).all()
    assert {"vanilla+detcons", "orth-proj+pbm"} < set(pd.read_csv(tmp_path / "audit.csv")["method"])
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["methods"] == ["vanilla", "orth-proj"]
    assert record["reranked"]["labels"] == "given"
    assert record["reranked"]["counts"]["vanilla+detcons"]["below_floor"] == 0
    page = (tmp_path / "report.html").read_text()
    assert "After ranking" in page
    assert "the ceiling against which" in page


def test_the_command_predicts_labels(options, tmp_path):
    more = ["--bias", "gender", "--rerank", "detcons", "--rerank-labels", "predicted"]
    assert audit_bias.main([*options, *more, "--output-dir", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "audit.json").read_text())["reranked"]
    assert record["labels"] == "predicted"
    assert 0 < record["label_error"] < 1
    assert "of the predictions are wrong" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--rerank", "detcon"], "unknown re-ranking 'detcon'"),
        (["--rerank", "sem-b+pbm"], "unknown method 'sem-b'"),
        (["--rerank-labels", "predicted"], "there is nothing to re-rank; give --rerank"),
        (["--rerank", "pbm", "--rerank-labels", "predicted"], "needs --bias"),
        (["--rerank", "pbm", "--rerank-labels", "predicted", "--bias", "race"], "labels cannot be predicted"),
    ],
)
def test_bad_input_is_one_line(options, more, line, tmp_path, capsys):
    given = [*options, *more, "--output-dir", str(tmp_path)]
    given[given.index("orth-proj")] = "vanilla"  # needs no bias file
    assert run_main(partial(audit_bias.main, given)) == 2
    assert line in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())
