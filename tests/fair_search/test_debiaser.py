"""The library: every method on arbitrary queries, and what goes wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bias_evaluation.embedding import text_tower
from bias_evaluation.embedding.text_store import write_text_embeddings
from debiasing_methods.linalg import unit
from debiasing_methods.registry import METHODS
from fair_search import (
    MissingLabelWarning,
    TextStore,
    TruncatedTextWarning,
    debiaser,
    find_backbone,
    load_debiaser,
    reference_images,
)
from safe_io.errors import InputError

QUERIES = ["A photo of a doctor.", "nurse", "Una foto de un médico", "医者の写真", "nurse"]
WITHOUT_TEXT = ["vanilla", "orth-proj", "prism-mini", "sem-b", "prism", "zsdebias"]
WITHOUT_TEXT += ["debiaslens-e", "debiaslens-e-control"]
WITHOUT_TEXT += ["spd", "leace", "sfid", "clip-clip"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_debiases_any_queries(search_world: Any, method: str, capfd: Any) -> None:
    loaded = search_world.load(method)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        debiased = loaded.debias(QUERIES, (search_world.images, search_world.labels))
        scores = loaded.scores(search_world.images, QUERIES, (search_world.images, search_world.labels))
    assert (debiased.shape, debiased.dtype) == ((len(QUERIES), 32), np.float32)
    np.testing.assert_allclose(np.linalg.norm(debiased, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(debiased[1], debiased[4])
    assert scores.shape == (50, len(QUERIES))
    assert np.abs(scores).max() <= 1 + 1e-6
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("method", METHODS)
def test_results_are_the_methods_own(search_world: Any, method: str) -> None:
    loaded = search_world.load(method)
    reference = reference_images(search_world.images, search_world.labels, loaded.bias.classes)
    texts = loaded.method.debias_text(loaded.groups(QUERIES), reference)
    expected = torch.cat([unit(t.reshape(-1, 32)) for t in texts]).numpy()
    np.testing.assert_array_equal(
        loaded.debias(QUERIES, (search_world.images, search_world.labels)), expected
    )


@pytest.mark.parametrize("method", METHODS)
def test_batches_change_nothing(search_world: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = (search_world.images, search_world.labels)
    monkeypatch.setattr(text_tower, "PACK_TOKENS", 1)  # sentences alone: their company changes the last bits
    loaded = search_world.load(method)
    whole = loaded.debias(QUERIES, reference), loaded.scores(search_world.images, QUERIES, reference)
    monkeypatch.setattr(debiaser, "_BATCH", 2)
    monkeypatch.setattr(debiaser, "IMAGE_ROWS", 7)
    parts = loaded.debias(QUERIES, reference), loaded.scores(search_world.images, QUERIES, reference)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_projected_query_is_orthogonal_to_the_spurious_prompts(search_world: Any) -> None:
    loaded = search_world.load("orth-proj", "race")
    spurious = loaded.groups(["nurse"])[0].spurious
    assert len(spurious) == 7
    assert np.abs(loaded.debias(QUERIES) @ spurious.numpy().T).max() < 1e-6


@pytest.mark.parametrize("method", WITHOUT_TEXT)
def test_embeddings_give_what_their_texts_give(search_world: Any, method: str) -> None:
    loaded = search_world.load(method)
    raw = loaded.text.embed(QUERIES[:4]).numpy()
    labelled = loaded.labelled((search_world.images, search_world.labels))
    for one, other in (
        [loaded.debias(queries, labelled) for queries in (raw, QUERIES[:4])],
        [loaded.scores(search_world.images, queries, labelled) for queries in (raw, QUERIES[:4])],
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("method", sorted(set(METHODS) - set(WITHOUT_TEXT)))
def test_methods_that_write_with_the_query_need_its_text(search_world: Any, method: str) -> None:
    with pytest.raises(ValueError, match="give texts"):
        search_world.load(method).debias(
            np.ones((2, 32), np.float32), (search_world.images, search_world.labels)
        )


def test_embeddings_of_a_plain_method_need_no_backbone() -> None:
    raw = np.arange(1, 9, dtype=np.float32).reshape(2, 4)
    debiased = load_debiaser("vanilla").debias(raw)
    np.testing.assert_allclose(debiased, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("queries", "line"),
    [
        ("one text", "sequence of texts"),
        ([], "no queries"),
        (["nurse", " "], "query 2 of 2 is blank"),
        (np.ones((2, 5), np.float32), "float matrix"),
        (np.ones((2, 32), np.int64), "float matrix"),
        (np.zeros((2, 32), np.float32), "query embeddings: 2 of 2 rows are NaN, infinite or all zero"),
        (np.full((2, 32), np.nan, np.float32), "the first: row 0"),
    ],
)
def test_bad_queries_are_one_line(search_world: Any, queries: Any, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        search_world.load("orth-proj").debias(queries)


# labelled images


def test_images_without_a_label_are_left_out_and_counted(search_world: Any) -> None:
    labels = search_world.labels.copy()
    labels[[3, 8, 9]] = None, np.nan, ""
    loaded, kept = search_world.load("bendvlm"), np.delete(np.arange(50), [3, 8, 9])
    with pytest.warns(MissingLabelWarning, match="3 of 50 reference images have no label"):
        debiased = loaded.debias(QUERIES, (search_world.images, labels))
    expected = loaded.debias(QUERIES, (search_world.images[kept], labels[kept]))
    np.testing.assert_array_equal(debiased, expected)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        (["Male"] * 50, "no reference image has the label Female"),
        (["Male", "Female"] * 24, "50 reference images have 48 labels"),
        (["Male", "female"] * 25, "25 label.s. are no bias class, the first in row 1: 'female'"),
    ],
)
def test_bad_labels_are_one_line(search_world: Any, labels: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        search_world.load("bendvlm").debias(QUERIES, (search_world.images, labels))


@pytest.mark.parametrize("number", [int, float, str])
def test_labels_may_be_numbers(number: type) -> None:
    labels = [number(label) for label in (0, 1, 1, 0)]
    reference = reference_images(np.eye(4, dtype=np.float16), labels, ["0", "1"])
    assert reference.labels.tolist() == [0, 1, 1, 0]


def test_images_of_another_backbone_are_refused(search_world: Any) -> None:
    loaded, narrow = search_world.load("bendvlm"), search_world.images[:, :5]
    with pytest.raises(ValueError, match="same backbone"):
        loaded.debias(QUERIES, (narrow, search_world.labels))
    with pytest.raises(ValueError, match=r"matrix \(images, 32\), got shape \(50, 5\)"):
        search_world.load("vanilla").scores(narrow, QUERIES)


def test_labelled_images_are_needed_in_one_fold(search_world: Any) -> None:
    loaded = search_world.load("bendvlm")
    with pytest.raises(ValueError, match="needs labelled images"):
        loaded.debias(QUERIES)
    reference = reference_images(search_world.images, search_world.labels, loaded.bias.classes)
    folds = replace(reference, folds=reference.folds.repeat(2, 1))
    with pytest.raises(ValueError, match="one fold, got 2"):
        loaded.debias(QUERIES, folds)


# long queries


def test_long_texts_are_counted_once(search_world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debiaser, "_BATCH", 1)
    long = "word " * 39  # with start and end one token too many
    with pytest.warns(TruncatedTextWarning) as caught:
        search_world.load("orth-cali").scores(search_world.images, ["word " * 38, long, "nurse"])
    assert [str(w.message) for w in caught] == [
        "1 of 3 queries, and 4 of 6 sentences made from them have more tokens than the model reads; their "
        "ends were cut off"
    ]
    with pytest.warns(TruncatedTextWarning, match="1 of 2 queries have more tokens"):
        search_world.load("vanilla").groups([long, "nurse"])


# loading


def test_a_loaded_model_serves_several_methods(search_world: Any) -> None:
    text = TextStore(find_backbone(search_world.backbone))
    encoded = []
    encode = text.encoder.encode_text
    text.encoder.encode_text = lambda prompts: encoded.extend(prompts) or encode(prompts)
    shared = [search_world.load(method, backbone=text) for method in ("sem-b", "sem-bi")]
    for loaded in shared:
        expected = search_world.load(loaded.method.name).debias(["nurse"])
        np.testing.assert_allclose(loaded.debias(["nurse"]), expected, atol=1e-6)
    assert sum(sentence == shared[0].bias.diverse[0] for sentence in encoded) == 1


def test_given_text_embeddings_load_no_model(search_world: Any, tmp_path: Path) -> None:
    loaded = search_world.load("orth-cali")
    sentences = ["nurse", *loaded.bias.prompts(["nurse"]).sentences("orth-cali", METHODS["orth-cali"].needs)]
    sentences = list(dict.fromkeys(sentences))
    path = tmp_path / "text.npz"
    write_text_embeddings(path, sentences, loaded.text.embed(sentences))
    given = load_debiaser("orth-cali", bias="gender", text_embeddings=path)
    np.testing.assert_allclose(given.debias(["nurse"]), loaded.debias(["nurse"]), atol=1e-6)
    with pytest.raises(InputError, match=r"3 prompt\(s\) have no embedding in .*, the first: 'doctor'"):
        given.debias(["nurse", "doctor"])


def test_parameters_and_repr(search_world: Any) -> None:
    loaded = load_debiaser("orth-cali", search_world.backbone, "gender", options={"lam": 5.0})
    params = loaded.get_params()
    assert (params["method"], params["bias"], params["options"]) == ("orth-cali", "gender", {"lam": 5.0})
    assert loaded.method.lam == 5.0
    assert repr(loaded).startswith("Debiaser(method='orth-cali', backbone=(")
    assert "None" not in repr(loaded)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"method": "orth-prj"}, "unknown method 'orth-prj'"),
        ({"bias": None}, "orth-proj needs a bias file"),
        ({"backbone": None}, "orth-proj needs prompts: give a backbone"),
        ({"backbone": "ViT-Z"}, "unknown backbone 'ViT-Z'"),
        ({"backbone": ("ViT-Z", "openai")}, "open_clip knows no model 'ViT-Z'"),
        ({"weights": "sae.pth"}, "orth-proj has no trained weights"),
        ({"method": "prism"}, "prism needs a trained map: give its file"),
        ({"method": "sem-b", "weights": "none.pth"}, "weights not found: none.pth"),
        ({"options": {"lam": 1}}, "orth-proj: unknown option 'lam'; choose from: .none."),
        ({"method": "orth-cali", "options": {"lam": -1}}, "orth-cali: lam must be"),
        ({"text_embeddings": "none.npz"}, "text embeddings not found: none.npz"),
        ({"device": "cuda"}, "this machine has no GPU"),
    ],
)
def test_bad_parameters_are_one_line(search_world: Any, changes: dict[str, Any], line: str) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    given = {"method": "orth-proj", "backbone": search_world.backbone, "bias": "gender"} | changes
    with pytest.raises(InputError, match=line):
        load_debiaser(**given)


def test_open_clip_models_need_no_entry_in_the_backbone_file() -> None:
    openai, laion = (find_backbone(("ViT-B-32", tag)) for tag in ("openai", "laion2b_s34b_b79k"))
    assert (openai.dim, openai.quick_gelu, openai.pretrained) == (512, True, "openai")
    assert (laion.dim, laion.quick_gelu) == (512, False)
