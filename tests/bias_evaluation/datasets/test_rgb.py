"""Pictures of every mode of Pillow: right, or listed with the reason; what CLIP's preprocessing ignores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bias_evaluation.datasets.image_loading import ImageRows
from bias_evaluation.datasets.rgb import Reading, Remarks, as_rgb
from bias_evaluation.embedding.encoder import Encoder

GRAY = np.add.outer(np.arange(60), np.arange(80)).astype(np.uint8)  # 0 … 138
COLORS = np.stack([GRAY, GRAY[::-1], GRAY[:, ::-1]], axis=2)


def pixels(image: Image.Image, **reading: bool) -> np.ndarray:
    return np.asarray(as_rgb(image, Reading(**reading))[0])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_of_gray_are_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(path)
    with Image.open(path) as image:
        assert image.mode.startswith("I")
        np.testing.assert_array_equal(pixels(image), np.stack([GRAY] * 3, axis=2))


def test_byte_orders_of_sixteen_bits(tmp_path: Path) -> None:
    for mode, dtype in (("I;16", "<u2"), ("I;16B", ">u2")):
        data = (GRAY.astype(np.uint16) * 257).astype(dtype).tobytes()
        image = Image.frombytes(mode, (80, 60), data)
        np.testing.assert_array_equal(pixels(image)[..., 0], GRAY)


def test_thirty_two_bits_hold_eight_or_sixteen_or_are_refused() -> None:
    np.testing.assert_array_equal(pixels(Image.fromarray(GRAY.astype(np.int32)))[..., 0], GRAY)
    np.testing.assert_array_equal(pixels(Image.fromarray(GRAY.astype(np.int32) * 257))[..., 0], GRAY)
    for values in (GRAY.astype(np.int32) * 100_000, GRAY.astype(np.int32) - 5):
        with pytest.raises(ValueError, match="beyond 16 bits; store 8 or 16 bits"):
            as_rgb(Image.fromarray(values))


@pytest.mark.parametrize("values", [GRAY / 255, GRAY * 1.0])
def test_floating_point_pixels_are_unreadable_with_the_reason(tmp_path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tif")
    loaded = ImageRows(tmp_path, ["a.tif"], lambda image: image)[0]
    assert loaded.image is None
    assert loaded.why == (
        "ValueError: its pixels are floating-point numbers, of which no range is known; store 8 bits"
    )


def test_every_mode_of_pillow_is_right_or_refused() -> None:
    """Right: near the picture's colors (or its gray), and not white or black."""
    colors, refused = Image.fromarray(COLORS), set()
    for mode in sorted(Image.MODES):
        source = colors if mode not in ("RGBa", "La", "LA") else colors.convert("RGBA")
        try:
            if mode.startswith("I;16"):
                order = ">u2" if mode.endswith("B") else "<u2"
                data = (GRAY.astype(np.uint16) * 257).astype(order)
                image = Image.frombytes(mode, (80, 60), data.tobytes())
            elif mode == "LAB":
                image = Image.merge("LAB", [Image.fromarray(GRAY)] * 3)
            elif mode == "PA":
                image = colors.convert("P").convert("PA")
            else:
                image = source.convert("LA").convert(mode) if mode == "La" else source.convert(mode)
            found = pixels(image).astype(int)
        except ValueError:
            refused.add(mode)
            continue
        if mode not in ("1", "P", "PA", "LAB"):  # few colors, or converted by a color profile
            gray = np.asarray(colors.convert("L"))
            near = (np.abs(found - shown).mean() for shown in (COLORS, gray[..., None], GRAY[..., None]))
            assert min(near) < 4, mode
        assert 0 < found.mean() < 255, mode
    assert refused <= {"F", "LAB"}


def test_opaque_pictures_are_what_pillow_makes_of_them() -> None:
    image = Image.fromarray(COLORS)
    for mode in ("RGB", "L", "P", "1", "CMYK", "YCbCr", "HSV", "RGBA", "LA"):
        converted = image.convert(mode)
        found, remarks = as_rgb(converted)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(converted.convert("RGB")))
        assert remarks == Remarks(0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_counted_and_undone_on_request(tmp_path: Path, orientation: int) -> None:
    upright = Image.fromarray(COLORS)
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what a camera did: a transposition of Pillow
    stored = upright if orientation == 1 else upright.transpose(Image.Transpose(undo[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        found, remarks = as_rgb(image)
        np.testing.assert_array_equal(np.asarray(found), np.asarray(stored))
        assert remarks == Remarks(int(orientation > 1), 0)
        assert pixels(image, upright=True).shape == COLORS.shape


def test_hidden_colors_are_counted_and_covered_on_request() -> None:
    seen = np.dstack([COLORS, np.full(GRAY.shape, 255, np.uint8)])
    seen[:30, :, 3] = 0
    image = Image.fromarray(seen, "RGBA")
    found, remarks = as_rgb(image)
    np.testing.assert_array_equal(np.asarray(found), COLORS)  # as CLIP's preprocessing reads it
    assert remarks == Remarks(0, 1)
    covered = pixels(image, on_white=True)
    assert (covered[:30] == 255).all()
    np.testing.assert_array_equal(covered[30:], COLORS[30:])
    palette = image.convert("RGB").convert("P")
    palette.info["transparency"] = 0
    assert as_rgb(palette)[1].transparent in (0, 1)


def test_sixteen_bits_are_embedded_as_their_copy_of_eight(
    make_backbone: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = Encoder(make_backbone())
    Image.fromarray(GRAY).save(tmp_path / "8.png")
    Image.fromarray(GRAY.astype(np.uint16) * 257).save(tmp_path / "16.png")
    rows = ImageRows(tmp_path, ["8.png", "16.png"], encoder.preprocess)
    first, second = encoder.encode_images(torch.stack([rows[0].image, rows[1].image]))
    torch.testing.assert_close(first, second)
