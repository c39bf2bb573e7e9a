"""debias_queries.py: files in, files out, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import debias_queries
from fair_search import load_debiaser
from safe_io.errors import run_main
from safe_io.files import sha256_file

QUERIES = ["A photo of a doctor.", "nurse", "Una foto de un médico", "医者の写真"]
DIM = 16
TEXT = {"context_length": 40, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, save_tiny_clip: Callable[..., None]) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("model")
    files = folder / "tiny_query_clip.json", folder / "model.pt"
    save_tiny_clip(*files, embed_dim=DIM, text_cfg=TEXT)
    return str(files[0]), str(files[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "queries.txt").write_text("\n".join(QUERIES) + "\n", encoding="utf-8")
    pd.DataFrame({"id": range(4), "text": QUERIES}).to_csv(tmp_path / "queries.csv", index=False)
    random = np.random.default_rng(0)
    np.save(tmp_path / "raw.npy", random.normal(size=(4, DIM)).astype(np.float16))
    np.save(tmp_path / "images.npy", random.normal(size=(20, DIM)).astype(np.float32))
    pd.DataFrame({"gender": ["Male", "Female"] * 10}).to_csv(tmp_path / "images.csv", index=False)
    return tmp_path


@pytest.fixture
def run(folder: Path, model: tuple[str, str], capsys: Any) -> Callable[..., tuple[int, str]]:
    """Run the command in the folder: ``run(queries, method, **options)`` → exit code and stderr."""

    def call(
        queries: str, method: str = "orth-proj", output: str = "out.npy", **options: Any
    ) -> tuple[int, str]:
        given = {"backbone": model[0], "checkpoint": model[1], "bias": "gender"} | options
        argv = ["--queries", str(folder / queries), "--method", method, "--output", str(folder / output)]
        for name, value in given.items():
            if value is not None:
                argv += [f"--{name.replace('_', '-')}", str(value)]
        code = run_main(lambda: debias_queries.main(argv))
        return code, capsys.readouterr().err

    return call


@pytest.mark.parametrize(("queries", "column"), [("queries.txt", None), ("queries.csv", "text")])
def test_text_gives_what_the_library_gives(
    run: Any, folder: Path, model: tuple[str, str], queries: str, column: str | None
) -> None:
    assert run(queries, column=column) == (0, "")
    found = np.load(folder / "out.npy")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, load_debiaser("orth-proj", model, "gender").debias(QUERIES))


def test_embeddings_in_either_format(run: Any, folder: Path, model: tuple[str, str]) -> None:
    raw = np.load(folder / "raw.npy").astype(np.float32)
    save_file({"embeddings": raw, "more": raw[:1]}, folder / "raw.safetensors")
    assert run("raw.npy") == (0, "")
    assert run("raw.safetensors", output="out.safetensors") == (0, "")
    expected = load_debiaser("orth-proj", model, "gender").debias(raw)
    np.testing.assert_array_equal(np.load(folder / "out.npy"), expected)
    np.testing.assert_array_equal(load_file(folder / "out.safetensors")["embeddings"], expected)


def test_the_manifest_says_what_it_was_made_from(run: Any, folder: Path, model: tuple[str, str]) -> None:
    run("queries.txt", "orth-cali")
    manifest = json.loads((folder / "out.manifest.json").read_text())
    assert (manifest["method"], manifest["options"], manifest["seed"]) == ("orth-cali", {"lam": 1000.0}, None)
    assert manifest["backbone"] == {
        "name": "tiny_query_clip", "model": model[0], "weights": model[1], "dim": DIM,
    }  # fmt: skip
    assert manifest["bias"]["classes"] == ["Male", "Female"]
    assert manifest["inputs"]["queries"]["sha256"] == sha256_file(folder / "queries.txt")
    assert manifest["outputs"] == [
        {"file": str(folder / "out.npy"), "sha256": sha256_file(folder / "out.npy")}
    ]
    assert manifest["queries"] == {"rows": 4, "kind": "text", "truncated": 0}
    assert {"python", "torch", "open_clip_torch"} <= set(manifest["versions"])


def test_options_of_the_method(run: Any, folder: Path, model: tuple[str, str]) -> None:
    assert run("queries.txt", "orth-cali", option="lam=3") == (0, "")
    expected = load_debiaser("orth-cali", model, "gender", options={"lam": 3.0}).debias(QUERIES)
    np.testing.assert_array_equal(np.load(folder / "out.npy"), expected)
    assert json.loads((folder / "out.manifest.json").read_text())["options"]["lam"] == 3
    code, error = run("queries.txt", "orth-cali", option="lamda=3")
    assert code == 2
    assert "unknown option 'lamda'; choose from: lam" in error


def test_a_second_run_gives_the_same_files(run: Any, folder: Path) -> None:
    run("queries.txt", "roboshot")
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    run("queries.txt", "roboshot")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert "out.transform.safetensors" in first


def test_a_transform_of_another_method_does_not_stay(run: Any, folder: Path) -> None:
    run("queries.txt", "prism-mini")
    assert (folder / "out.transform.safetensors").is_file()
    run("queries.txt", "orth-proj")
    assert not (folder / "out.transform.safetensors").exists()


def test_labelled_images(run: Any, folder: Path, model: tuple[str, str]) -> None:
    files = {"reference_embeddings": folder / "images.npy", "reference_metadata": folder / "images.csv"}
    code, note = run("queries.txt", "bendvlm", **files)
    assert code == 0
    assert note.startswith(
        f"note: {folder / 'images.npy'}: cannot be checked: whether it was made by the model"
    )
    assert note.count("\n") == 1
    images, labels = np.load(folder / "images.npy"), ["Male", "Female"] * 10
    expected = load_debiaser("bendvlm", model, "gender").debias(QUERIES, (images, labels))
    np.testing.assert_array_equal(np.load(folder / "out.npy"), expected)
    pd.DataFrame({"gender": ["Male", None] + ["Female"] * 18}).to_csv(folder / "images.csv", index=False)
    code, lines = run("queries.txt", "bendvlm", **files)
    assert (code, lines.removeprefix(note)) == (
        0, "warning: 1 of 20 reference images have no label and are left out\n",
    )  # fmt: skip


def test_long_queries_are_counted_in_one_line(run: Any, folder: Path) -> None:
    (folder / "long.txt").write_text("word " * 100 + "\nnurse\n")
    code, line = run("long.txt", "prism-mini")
    assert (code, line.count("\n")) == (0, 1)
    assert line.startswith("warning: 1 of 2 queries")
    assert json.loads((folder / "out.manifest.json").read_text())["queries"]["truncated"] == 1


BAD: dict[str, tuple[str, dict[str, Any], str]] = {
    "no file": ("none.txt", {}, "queries not found"),
    "empty": ("empty.txt", {}, "holds no query"),
    "blank line": ("blank.txt", {}, "1 of 3 queries are blank, the first in line 2"),
    "blank cell": ("blank.csv", {"column": "text"}, "1 of 2 queries are blank, the first in row 2"),
    "not UTF-8": ("latin.txt", {}, "not UTF-8 text"),
    "another suffix": ("queries.pdf", {}, "not '.pdf'"),
    "no column": ("queries.csv", {}, "say with --column which holds the queries: id, text"),
    "another column": ("queries.csv", {"column": "query"}, "lacks the column 'query'; it has: id, text"),
    "a column of a text": ("queries.txt", {"column": "text"}, "--column is for tables"),
    "NaN": ("nan.npy", {}, "rows is NaN, infinite or all zero, the first: row 1"),
    "another width": ("narrow.npy", {}, "float matrix (rows, 16)"),
    "embeddings for a text method": ("raw.npy", {"method": "sem-i", "weights": "sae.pth"}, "sae.pth"),
    "embeddings with the query": ("raw.npy", {"method": "orth-cali"}, "give texts"),
    "another output": ("queries.txt", {"output": "out.csv"}, "must end with .npy or .safetensors"),
    "output is input": ("raw.npy", {"output": "raw.npy"}, "is one of the inputs"),
    "output is the checkpoint": (
        "queries.txt",
        {"output": "m.npy", "checkpoint": "m.npy"},
        "m.npy is one of the",
    ),
    "transform is the weights": (
        "queries.txt",
        {"method": "prism", "weights": "out.transform.safetensors"},
        "out.transform.safetensors is one of the inputs",
    ),
    "another method": ("queries.txt", {"method": "orth"}, "unknown method 'orth'"),
    "no bias": ("queries.txt", {"bias": None}, "needs a bias file"),
    "weights alone": ("queries.txt", {"backbone": None}, "give --backbone"),
    "no reference": ("queries.txt", {"method": "bendvlm"}, "needs labelled images"),
    "unused reference": ("queries.txt", {"reference_embeddings": "x.npy"}, "uses no labelled images"),
    "negative seed": ("queries.txt", {"seed": -1}, "--seed must be at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run: Any, folder: Path, case: str) -> None:
    (folder / "empty.txt").write_text("\n\n")
    (folder / "blank.txt").write_text("a\n \nb\n")
    (folder / "blank.csv").write_text("id,text\n1,a\n2,\n")
    (folder / "latin.txt").write_bytes("médico".encode("latin-1"))
    shutil.copy(folder / "queries.txt", folder / "queries.pdf")
    rows = np.ones((2, DIM), np.float32)
    np.save(folder / "narrow.npy", rows[:, :4])
    rows[1, 0] = np.nan
    np.save(folder / "nan.npy", rows)
    queries, options, line = BAD[case]
    before = set(folder.iterdir())
    files = {key: folder / value for key, value in options.items() if key in ("checkpoint", "weights")}
    code, error = run(queries, **options | files)
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith("error: ")
    assert line in error
    assert set(folder.iterdir()) == before


def test_reference_rows_must_match(run: Any, folder: Path) -> None:
    files = {"reference_embeddings": folder / "images.npy", "reference_metadata": folder / "images.csv"}
    pd.DataFrame({"gender": ["Male", "Female"]}).to_csv(folder / "images.csv", index=False)
    code, error = run("queries.txt", "bendvlm", **files)
    line = "error: 20 reference images have 2 labels; there must be one each"
    assert (code, error.splitlines()[-1]) == (2, line)
    code, error = run("queries.txt", "bendvlm", reference_column="sex", **files)
    assert "lacks the column 'sex'; it has: gender" in error
