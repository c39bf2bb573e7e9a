"""Pictures of people: what is composited, how fast, and what happens without the packages that draw."""

from __future__ import annotations

import io
import sys
import time

import numpy as np
import pytest
from PIL import Image

from demo.portraits import painter
from demo.portraits.painter import CANVAS, PICTURE, Art, Painter, crop, halve
from demo.portraits.world import World, draw_people
from safe_io.errors import InputError

QUIET = World(lightness_spread=0, hair_spread=0, noise=0)
PERSON = {
    "role": "student", "gender": "man", "skin": "tan", "hair": "black", "expression": "smiling",
    "clothes": "hoodie", "clothes_color": "red", "background": "blue", "style": "bun", "beard": "none",
    "hat": "none", "glasses": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def still(module_monkeypatch: pytest.MonkeyPatch) -> Painter:
    for name in ("_SKIN_SPREAD", "_CLOTHES_SPREAD", "_BACKGROUND_SPREAD"):
        module_monkeypatch.setattr(painter, name, 0.0)
    return Painter(QUIET)


@pytest.fixture(scope="module")
def module_monkeypatch() -> pytest.MonkeyPatch:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def test_a_recolored_layer_is_the_part_drawn_in_that_color() -> None:
    """Black and white fills give every color: base + slope · c, against resvg's own rasterization of c."""
    art = Art()
    for part, name in (
        ("body", ""),
        ("clothes", "HOODIE"),
        ("hair", "BOB"),
        ("hat", "HAT"),
        ("beard", "BEARD_MEDIUM"),
    ):
        color = np.array([0x33, 0x99, 0xCC], dtype=np.float32) / 255
        direct = art._rasterize(art._svg(part, name, "#3399cc"))
        layer = art.layer(part, name)
        # 8-bit rasters: premultiplied values are exact to about two levels.
        np.testing.assert_allclose(
            layer.base + layer.slope * color, direct[layer.box][..., :3], atol=2.5 / 255
        )
        np.testing.assert_allclose(1 - layer.kept[..., 0], direct[layer.box][..., 3], atol=1 / 255)


def test_a_picture_shows_the_colors_of_the_person(still: Painter) -> None:
    picture = still.draw(PERSON, np.random.default_rng(0)).astype(int)
    assert picture[2, 2] == pytest.approx(painter.BACKGROUND_COLORS["blue"], abs=1)
    near = {
        name: (np.abs(picture - np.array(color)).max(axis=2) <= 3).sum()
        for name, color in (
            ("skin", painter.SKIN_COLORS["tan"]),
            ("other skin", painter.SKIN_COLORS["dark"]),
            ("clothes", painter.CLOTHES_COLORS["red"]),
            ("other clothes", painter.CLOTHES_COLORS["green"]),
            ("hair", painter.HAIR_COLORS["black"]),
        )
    }
    assert min(near["skin"], near["clothes"], near["hair"]) > 100
    assert max(near["other skin"], near["other clothes"]) < 10


@pytest.mark.parametrize("attribute", ["hat", "glasses", "beard"])
def test_what_a_person_wears_is_seen(still: Painter, attribute: str) -> None:
    worn = {"hat": "hat", "glasses": "glasses", "beard": "beard"}[attribute]
    bare, dressed = (still.draw({**PERSON, attribute: v}, np.random.default_rng(0)) for v in ("none", worn))
    assert (bare != dressed).any(axis=2).sum() > 30


def test_same_seed_same_picture() -> None:
    one, two = (Painter(World()).draw(PERSON, np.random.default_rng(3)) for _ in range(2))
    assert one.shape == (CANVAS, CANVAS, 3)
    np.testing.assert_array_equal(one, two)


def test_crops_are_squares_of_the_canvas() -> None:
    canvas = np.arange(CANVAS * CANVAS * 3).reshape(CANVAS, CANVAS, 3)
    rng = np.random.default_rng(0)
    firsts = set()
    for _ in range(500):
        picture = crop(canvas, rng)
        assert picture.shape == (PICTURE, PICTURE, 3)
        firsts.add(int(picture[0].min() // 3) % CANVAS)
    assert firsts == set(range(CANVAS - PICTURE + 1))


def test_halving_is_the_rounded_mean_of_blocks() -> None:
    canvas = np.random.default_rng(0).integers(0, 256, (CANVAS, CANVAS, 3)).astype(np.uint8)
    half = halve(canvas)
    blocks = [canvas[i::2, j::2].astype(float) for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(half, np.floor(sum(blocks) / 4 + 0.5))


def test_a_thousand_pictures_per_second() -> None:
    """The promise of issue 16 on an idle core; counted in CPU time of the best of five rounds."""
    records = draw_people(300, np.random.default_rng(0), World(), biased=False).to_dict("records")
    drawer, rng = Painter(World()), np.random.default_rng(1)
    seconds = []
    for _ in range(6):  # the first rasterizes the parts
        started = time.process_time()
        for person in records:
            drawer.draw(person, rng)
        seconds.append(time.process_time() - started)
    assert len(records) / min(seconds) >= 1000


@pytest.mark.parametrize("package", ["python_avatars", "resvg_py"])
def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        InputError, match=rf"the package {package}, .* is not installed; run: bash setup_env.sh"
    ):
        Painter(World())


def test_art_of_other_proportions_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    art, png = Art(), io.BytesIO()
    Image.new("RGBA", (72, 90)).save(png, "PNG")
    monkeypatch.setattr(art._resvg, "svg_to_bytes", lambda **_: png.getvalue())
    with pytest.raises(InputError, match=r"other proportions \(72 x 90 pixels, not 72 x 77\)"):
        art.layer("body")
