"""Image embeddings that stay in their file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from bias_evaluation.datasets import stored_images
from bias_evaluation.datasets.stored_images import StoredImages
from safe_io.arrays import load_array
from safe_io.errors import InputError

PATH = Path("folder/embeddings.npy")
ROWS = np.random.default_rng(0).normal(size=(23, 5)) * 3
FORMS = {
    "float16": ROWS.astype(np.float16),
    "float32": ROWS.astype(np.float32),
    "float64": ROWS,
    "big-endian": ROWS.astype(">f4"),
    "column by column": np.asfortranarray(ROWS.astype(np.float32)),
    "every second": np.repeat(ROWS.astype(np.float32), 2, axis=0)[::2],
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_images, "IMAGE_ROWS", 7)


@pytest.mark.parametrize("form", list(FORMS))
def test_rows_are_float32_as_stored_or_unit(form: str) -> None:
    images = StoredImages(FORMS[form], PATH)
    expected = torch.from_numpy(np.array(FORMS[form], dtype=np.float32, order="C"))
    chosen = torch.tensor([4, 0, 22])
    for rows in (slice(3, 11), chosen):
        torch.testing.assert_close(images.take(rows, normalize=False), expected[rows], rtol=0, atol=0)
        unit = torch.nn.functional.normalize(expected[rows])
        torch.testing.assert_close(images.take(rows, normalize=True), unit, rtol=0, atol=1e-7)
    assert len(images) == 23


def test_a_file_is_read_in_place_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.npy"
    np.save(path, FORMS["float32"])
    before = path.read_bytes()
    array = load_array(path, "embeddings", "x")
    images = StoredImages(array, path)
    assert np.shares_memory(images.rows.numpy(), array)
    images.rows[0] = 7.0  # no method does; if one did, the file would not know
    assert path.read_bytes() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
@pytest.mark.parametrize("form", ["float16", "float64"])
def test_rows_that_have_no_direction_are_counted(form: str, value: float) -> None:
    rows = FORMS[form].copy()
    rows[[9, 20]] = value
    message = f"{PATH}: 2 of 23 rows are NaN, infinite or all zero, the first: row 9; recompute"
    with pytest.raises(InputError, match=re.escape(message)):
        StoredImages(rows, PATH)
