"""Exported image transforms: applied to an index they give the method's own scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from debiasing_methods.base import ImageTransform
from debiasing_methods.registry import METHODS
from fair_search.transform_files import TransformFile, save_transform
from safe_io.errors import InputError
from safe_io.files import save_weights

QUERIES = ["A photo of a doctor.", "nurse", "医者の写真"]
CHANGE_IMAGES = [name for name, cls in METHODS.items() if cls.changes_images]
FORMULAS = ["roboshot", "prism-mini", "prism", "spd", "leace", "sfid", "clip-clip"]


def export(search_world: Any, method: str, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Write a method's transform; return its debiased queries and its own scores."""
    loaded = search_world.load(method)
    labelled = loaded.labelled((search_world.images, search_world.labels))
    assert save_transform(path, loaded.image_transform(QUERIES, labelled), len(QUERIES))
    return loaded.debias(QUERIES, labelled), loaded.scores(search_world.images, QUERIES, labelled)


@pytest.mark.parametrize("method", CHANGE_IMAGES)
def test_applied_to_images_a_file_gives_the_methods_scores(
    search_world: Any, method: str, tmp_path: Path
) -> None:
    text, scores = export(search_world, method, tmp_path / "t.safetensors")
    file = TransformFile(tmp_path / "t.safetensors")
    assert file.transform_of_query.shape == (len(QUERIES),)
    for q, number in enumerate(file.transform_of_query):
        images = file.apply(search_world.images, number)
        np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
        np.testing.assert_allclose(images @ text[q], scores[:, q], atol=2e-6)


@pytest.mark.parametrize("method", CHANGE_IMAGES)
def test_parts_of_an_index_give_what_the_whole_gives(search_world: Any, method: str, tmp_path: Path) -> None:
    export(search_world, method, tmp_path / "t.safetensors")
    file, images = TransformFile(tmp_path / "t.safetensors"), search_world.images
    parts = [file.apply(images[:20]), file.apply(images[20:], first_row=20), file.apply(images[:0])]
    np.testing.assert_allclose(np.concatenate(parts), file.apply(images), atol=1e-6)


@pytest.mark.parametrize("method", FORMULAS)
def test_the_documented_formula_is_the_method(search_world: Any, method: str, tmp_path: Path) -> None:
    text, scores = export(search_world, method, tmp_path / "t.safetensors")
    tensors = load_file(tmp_path / "t.safetensors")
    x = search_world.images / np.linalg.norm(search_world.images, axis=1, keepdims=True)
    for q, i in enumerate(tensors["transform_of_query"]):
        if method == "prism":
            new = x @ tensors[f"matrix_{i}"].T
        elif method in ("spd", "leace"):
            new = x - (x @ tensors["left"]) @ tensors["right"] + tensors["offset"]
        elif method in ("sfid", "clip-clip"):
            new = np.where(tensors["kept"], x, tensors["constant"])
        else:
            y = x - x @ tensors[f"removed_{i}"].T @ tensors[f"removed_{i}"]
            new = y + y @ tensors[f"doubled_{i}"].T @ tensors[f"doubled_{i}"]
        cosines = new @ text[q] / np.linalg.norm(new, axis=1)
        np.testing.assert_allclose(cosines, scores[:, q], atol=2e-6)


def test_queries_share_a_transform_where_the_method_does(search_world: Any, tmp_path: Path) -> None:
    numbers = {}
    for method in CHANGE_IMAGES:
        export(search_world, method, tmp_path / "t.safetensors")
        numbers[method] = TransformFile(tmp_path / "t.safetensors").transform_of_query.tolist()
    assert numbers.pop("roboshot") == [0, 1, 2]  # its helpful pairs are written with the query
    assert numbers.pop("cfd") == [0, 1, 2]  # its classes too
    assert all(found == [0, 0, 0] for found in numbers.values())


def test_nothing_is_written_where_images_stay(search_world: Any, tmp_path: Path) -> None:
    transform = search_world.load("orth-proj").image_transform(QUERIES)
    assert not save_transform(tmp_path / "t.safetensors", transform, len(QUERIES))
    assert not list(tmp_path.iterdir())


def test_an_unknown_transform_has_no_format(tmp_path: Path) -> None:
    class Doubling(ImageTransform):
        def apply(self, images: torch.Tensor, group: int = 0, first_row: int = 0) -> torch.Tensor:
            return 2 * images

    with pytest.raises(ValueError, match="no file format for a Doubling"):
        save_transform(tmp_path / "t.safetensors", Doubling(), 1)


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"x": torch.ones(2)}, "has no tensor 'transform_of_query'"),
        (
            {"transform_of_query": torch.tensor([0, 1]), "matrix_0": torch.eye(2)},
            "lacks the tensor 'matrix_1'",
        ),
        ({"transform_of_query": torch.tensor([0])}, "lacks the tensor 'tanh'"),
    ],
)
def test_other_files_are_refused(tensors: dict[str, torch.Tensor], line: str, tmp_path: Path) -> None:
    save_weights(tmp_path / "t.safetensors", tensors)
    with pytest.raises(InputError, match=line):
        TransformFile(tmp_path / "t.safetensors")
