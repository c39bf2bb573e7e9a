"""The command audit_bias.py on the files of a small search system."""

import json
import re
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import audit_bias
from debiasing_methods.registry import METHODS
from safe_io.errors import InputError, run_main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUERIES = "query,wanted\nA photo of a nurse.,even\nA photo of a doctor.,odd\nA photo of a chef.,even\n"


@pytest.fixture(scope="module")
def system(search_world, tmp_path_factory):
    """Folder of a search system's files and the options that name them."""
    folder = tmp_path_factory.mktemp("system")
    random = np.random.default_rng(0)
    images = random.normal(size=(120, search_world.images.shape[1])).astype(np.float16)
    np.save(folder / "images.npy", images)
    rows = np.arange(120)
    metadata = pd.DataFrame(
        {"file_path": [f"{i}.png" for i in rows], "gender": np.where(rows % 3 == 0, "Male", "Female"),
         "kind": np.where(rows % 2 == 0, "even", "odd")}
    )  # fmt: skip
    metadata.to_csv(folder / "metadata.csv", index=False)
    (folder / "queries.csv").write_text(QUERIES)
    for i in rows[:100]:  # some files are missing
        Image.new("RGB", (8, 6), (int(2 * i), 80, 120)).save(folder / f"{i}.png")
    model, checkpoint = search_world.backbone
    options = [
        *(
            "--embeddings",
            folder / "images.npy",
            "--metadata",
            folder / "metadata.csv",
            "--attribute",
            "gender",
        ),
        *("--queries", folder / "queries.csv", "--query-column", "query"),
        *("--backbone", model, "--checkpoint", checkpoint, "--bias", "gender", "--k", 5, 10, "--draws", 20),
    ]
    return folder, list(map(str, options))


def run(options, *more):
    return audit_bias.main([*options, *map(str, more)])


def error_line(capsys, options, *more):
    given = [*options, "--methods", "vanilla", *map(str, more)]
    assert run_main(partial(audit_bias.main, given)) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_all_methods_side_by_side(system, search_world, tmp_path, capsys):
    folder, options = system
    weights = [f"{name}={search_world.weights(name)}" for name in METHODS if search_world.weights(name)]
    labels = ["--query-labels", "wanted", "--label-column", "kind"]
    assert run(options, "--output-dir", tmp_path, "--weights", *weights, *labels, "--images", folder) == 0
    out, err = capsys.readouterr()
    assert "images cannot be read" in err
    table = pd.read_csv(tmp_path / "audit.csv")
    assert set(table["method"]) == {*METHODS, "(random order)"}
    fairness = {"kl", "max_skew", "min_skew", "ndkl", "dp_ratio", "exposure_ratio", "exposure_difference"}
    assert set(table["metric"]) == {"precision", "overlap", *fairness}
    by_group = pd.read_csv(tmp_path / "by_group.csv")
    assert len(by_group) == len(METHODS) * 2 * 2  # K, groups
    assert "BendSEM_bi" in out
    assert "K = 10, means over 3 queries" in out
    retrieved = pd.read_csv(tmp_path / "retrieved.csv")
    assert len(retrieved) == len(METHODS) * 3 * 10
    metadata = pd.read_csv(folder / "metadata.csv")
    assert (retrieved["group"].to_numpy() == metadata["gender"].to_numpy()[retrieved["row"]]).all()
    assert (retrieved["id"].to_numpy() == metadata["file_path"].to_numpy()[retrieved["row"]]).all()
    record = json.loads((tmp_path / "audit.json").read_text())
    assert record["methods"] == list(METHODS)
    assert record["verdict"]["recommendation"]["utility"] == "precision"
    assert record["verdict"]["counts"] in out
    assert sum(record["verdict"]["worst"][0]["counts"]) == 10
    assert record["reference_images"] == 20 + 40
    assert record["groups"] == {"Female": 40, "Male": 20}
    trained = {f"weights of {name}" for name in METHODS if search_world.weights(name)}
    assert set(record["digests"]) == {"embeddings", "metadata", "queries", "text", "bias", *trained}
    page = (tmp_path / "report.html").read_text()
    assert "data:image/jpeg" in page
    assert "python audit_bias.py --embeddings images.npy --metadata metadata.csv" in page
    assert str(folder) not in page
    assert record["digests"]["embeddings"][:16] in page


def test_second_run_gives_the_same_files(system, tmp_path):
    for name in ("a", "b"):
        run(system[1], "--methods", "vanilla", "orth-proj", "--output-dir", tmp_path / name)
    for file in ("report.html", "audit.csv", "retrieved.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_clip_retrievals_folder_gives_the_same_audit(system, tmp_path):
    folder, options = system
    images, table = np.load(folder / "images.npy"), pd.read_csv(folder / "metadata.csv")
    for name in ("img_emb", "metadata"):
        (tmp_path / "out" / name).mkdir(parents=True)
    for i, rows in enumerate((slice(0, 50), slice(50, 120))):
        np.save(tmp_path / "out" / "img_emb" / f"img_emb_{i}.npy", images[rows])
        table[rows].to_parquet(tmp_path / "out" / "metadata" / f"metadata_{i}.parquet")
    parts = ("--embeddings", tmp_path / "out", "--metadata", tmp_path / "out" / "metadata")
    for name, more in (("plain", ()), ("parts", parts)):
        run(options, "--methods", "vanilla", "orth-proj", *more, "--output-dir", tmp_path / name)
    for file in ("audit.csv", "retrieved.csv"):
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes()
    table[:50].to_parquet(tmp_path / "out" / "metadata" / "metadata_1.parquet")
    with pytest.raises(InputError, match=r"img_emb_1\.npy has 70 rows, but its metadata .* has 50"):
        run(options, "--methods", "vanilla", *parts, "--output-dir", tmp_path / "parts")


def test_methods_that_cannot_be_loaded_are_left_out_and_named(system, tmp_path, capsys):
    run(system[1], "--output-dir", tmp_path)
    err = capsys.readouterr().err
    assert "left out: prism: " in err
    left_out = json.loads((tmp_path / "audit.json").read_text())["left_out_methods"]
    assert {"prism", "zsdebias"} <= set(left_out)
    assert "PRISM is left out" in (tmp_path / "report.html").read_text()


def test_query_embeddings_need_no_model(system, tmp_path):
    folder, options = system
    np.save(folder / "q.npy", np.random.default_rng(1).normal(size=(4, 32)).astype(np.float32))
    given = [*options[:6], "--queries", folder / "q.npy", "--k", "7", "--draws", "5"]
    assert run(list(map(str, given)), "--output-dir", tmp_path) == 0
    without_prompts = {name for name, cls in METHODS.items() if not cls.needs and cls.weights is None}
    assert set(pd.read_csv(tmp_path / "audit.csv")["method"]) == {*without_prompts, "(random order)"}


def test_methods_that_cannot_be_fitted_are_left_out_unless_they_are_named(system, tmp_path, capsys):
    folder, options = system
    images, genders = np.load(folder / "images.npy"), pd.read_csv(folder / "metadata.csv")["gender"]
    images[:, :20] = np.where(genders == "Male", 50, -50)[:, None]  # the forest is sure of everybody
    np.save(folder / "sure.npy", images)
    sure = [str(folder / "sure.npy") if option.endswith("images.npy") else option for option in options]
    assert run(sure, "--output-dir", tmp_path) == 0
    assert "left out: sfid: no reference image has" in capsys.readouterr().err
    assert {"spd", "sfid"} <= set(json.loads((tmp_path / "audit.json").read_text())["left_out_methods"])
    assert "leace" in set(pd.read_csv(tmp_path / "audit.csv")["method"])
    named = [*sure, "--output-dir", str(tmp_path), "--methods", "vanilla", "sfid"]
    assert run_main(partial(audit_bias.main, named)) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "sfid: no reference image has" in line


def test_index(system, tmp_path, capsys):
    pytest.importorskip("faiss", reason="faiss-cpu is not installed")
    more = ["--methods", "vanilla", "prism-mini", "--faiss", "Flat", "--output-dir", tmp_path]
    assert run(system[1], *more) == 0
    assert (pd.read_csv(tmp_path / "faiss.csv")["recall"] == 1).all()
    report = (tmp_path / "report.html").read_text()
    assert run(system[1], "--methods", "vanilla", "--output-dir", tmp_path) == 0
    assert not (tmp_path / "faiss.csv").exists()
    assert "Approximate search" in report
    assert "Not searched through the index: PRISM-mini" in report
    assert "--faiss-parameters needs an index" in error_line(
        capsys, system[1], "--faiss-parameters", "nprobe=1", "--output-dir", tmp_path
    )


def test_leakage(system, tmp_path):
    more = ["--methods", "vanilla", "orth-proj", "prism-mini", "--leakage", 90, "--output-dir", tmp_path]
    assert run(system[1], *more) == 0
    table = pd.read_csv(tmp_path / "leakage.csv")
    probed = [("vanilla", "images"), ("vanilla", "scores"), ("orth-proj", "scores")]
    probed += [("prism-mini", "images"), ("prism-mini", "scores")]
    assert list(zip(table["method"], table["probed"], strict=True)) == probed
    assert (table["images"] == 90).all()
    assert table[["linear", "mlp", "majority"]].min().min() > 0.3
    assert len(json.loads((tmp_path / "audit.json").read_text())["leakage"]) == 5
    assert "How often probes name the group" in (tmp_path / "report.html").read_text()


def test_several_attributes_and_their_intersections(system, tmp_path, capsys):
    more = ["--attribute", "gender", "gender*kind", "--min-group", 21, "--json", "--output-dir", tmp_path]
    assert run(system[1], "--methods", "vanilla", *more) == 0
    out, err = capsys.readouterr()
    records = json.loads(out)
    assert records["gender"]["groups"] == {"Female": 80, "Male": 40}
    pooled = {"Female × even": 40, "Female × odd": 40, "(other intersections)": 40}
    assert records["gender*kind"]["groups"] == pooled  # Male × even and × odd have 20 each
    assert "are pooled into '(other intersections)': Male × even 20, Male × odd 20" in err
    page = (tmp_path / "gender_x_kind" / "report.html").read_text()
    assert "Intersections with fewer than 21 images (--min-group) are pooled" in page
    overview = (tmp_path / "overview.html").read_text()
    assert overview.count(records["gender"]["verdict"]["counts"]) == 2
    assert (tmp_path / "gender" / "audit.json").is_file()


def test_compare_gate_and_json(system, tmp_path, capsys):
    given = [*system[1], "--methods", "vanilla", "orth-proj", "--json", "--output-dir"]
    assert run(given, tmp_path / "old") == 0
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "old" / "audit.json").read_text())
    assert "written: " in err
    more = ["--compare", tmp_path / "old" / "audit.json", "--fail-if", "max_skew>-1", "orth-proj:kl@5<-1"]
    assert run(given, tmp_path / "new", *more) == 1
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert [gate["failed"] for gate in record["gates"]] == [True, False]
    assert {row["change"] for row in record["changes"]} == {0}
    assert "gate 'max_skew>-1' failed: mean MaxSkew of Base CLIP at K = 10 is" in err
    assert "changes since" in err
    assert len(pd.read_csv(tmp_path / "new" / "changes.csv")) == len(record["changes"])
    assert "What changed since the earlier audit" in (tmp_path / "new" / "report.html").read_text()
    assert run(given, tmp_path / "new") == 0
    assert not (tmp_path / "new" / "changes.csv").exists()
    old = tmp_path / "old" / "audit.json"
    line = error_line(capsys, system[1], "--compare", old, "--desired", "uniform", "--output-dir", tmp_path)
    assert "is of other data: its desired shares: data" in line


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--k", "500"], "K = 500 images cannot be retrieved from"),
        (["--attribute", "sex"], "lacks the column 'sex'"),
        (["--methods", "sem-x"], "unknown method 'sem-x'; choose from: vanilla"),
        (["--methods", "prism"], "prism needs a trained map"),
        (["--weights", "prism"], "--weights takes METHOD=FILE"),
        (["--show", "A photo of a nurs."], "unknown query .* did you mean 'A photo of a nurse.'"),
        (["--show-methods", "prism", "--methods", "vanilla"], "unknown method 'prism'; choose from: vanilla"),
        (["--images", "nowhere"], "folder of the images not found: nowhere"),
        (["--draws", "0"], "--draws must be at least 1, got 0"),
        (["--max-loss", "1.5"], "--max-loss must be between 0 and 1, got 1.5"),
        (["--fail-if", "skew>1"], "unknown metric 'skew'"),
        (["--fail-if", "prism:kl>1"], "unknown method 'prism'; choose from: vanilla"),
        (["--compare", "none.json"], "earlier audit not found: none.json"),
        (["--attribute", "gender*sex"], "lacks the column 'sex'"),
        (["--attribute", "gender", "sex"], "lacks the column 'sex'"),
        (["--attribute", "gender", "kind", "--values", "odd"], "--values is of one attribute"),
        (["--attribute", "gender*kind", "gender_x_kind"], "would share a folder"),
        (["--attribute", "gender*kind", "--values", "Male × red", "Male × odd"], "unknown value"),
        (["--leakage", "-1"], "--leakage must be at least 0, got -1"),
        (["--leakage", "8"], "--leakage 8: group 'Male' has . of the 8 images that are probed, and 5 are"),
        (["--min-group", "0"], "--min-group must be at least 1, got 0"),
        (["--option", "lam=3"], "--option takes METHOD.KEY=VALUE"),
        (["--option", "orth-cali.lam=3"], "--option: unknown method 'orth-cali'; choose from: vanilla"),
        (["--seed", "-1"], "--seed must be at least 0, got -1"),
        (["--query-labels", "wanted"], "--query-labels needs --label-column"),
        (["--embeddings", "none.npy"], "image embeddings not found: none.npy"),
    ],
)
def test_bad_input_is_one_line(system, tmp_path, capsys, more, message):
    assert re.search(message, error_line(capsys, system[1], "--output-dir", tmp_path, *more))
    assert not list(tmp_path.iterdir())


def test_embeddings_of_another_width(system, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.ones((120, 48), np.float32))
    line = error_line(capsys, system[1], "--embeddings", tmp_path / "wide.npy", "--output-dir", tmp_path)
    assert "has width 48, but the queries have width 32" in line


def test_what_an_audit_needs(tmp_path, capsys):
    line = error_line(capsys, [], "--output-dir", tmp_path)
    assert "an audit needs --embeddings, --metadata, --attribute, --queries" in line


def test_without_faiss(system, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    line = error_line(capsys, system[1], "--faiss", "Flat", "--output-dir", tmp_path)
    assert "pip install faiss-cpu" in line
