"""Draw people: parts of `python_avatars`, rasterized by `resvg_py`, recolored and composited in NumPy.

A part's pixels are linear in its color c: it is rasterized in black and in white, and every color is in
between (its transparency does not depend on c). A picture then costs a few products of small arrays.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from demo.portraits.world import World
from safe_io.errors import InputError

CANVAS_WIDTH, CANVAS_HEIGHT = 72, 77  # the art's proportions
TOP = 4  # rows above hats
CANVAS = 72  # side of the square that is kept of it
PICTURE = 64  # side of a picture: a random crop of the canvas

SKIN_COLORS = {
    "light": (238, 190, 150),
    "tan": (222, 160, 105),
    "brown": (168, 104, 62),
    "dark": (97, 64, 48),
}
HAIR_COLORS = {
    "blond": (205, 165, 95), "black": (38, 30, 30), "brown": (112, 70, 48), "gray": (200, 196, 194),
    "red": (180, 70, 25),
}  # fmt: skip
CLOTHES_COLORS = {
    "red": (225, 60, 60), "blue": (60, 120, 220), "green": (70, 165, 80), "yellow": (240, 205, 70),
    "pink": (245, 120, 175), "white": (245, 245, 245), "black": (40, 44, 50), "purple": (140, 80, 180),
    "orange": (240, 145, 55),
}  # fmt: skip
BACKGROUND_COLORS = {
    "blue": (120, 180, 235), "green": (130, 200, 140), "yellow": (245, 225, 130), "pink": (250, 190, 210),
    "white": (248, 248, 248), "gray": (150, 152, 156), "orange": (245, 180, 110), "purple": (185, 155, 220),
}  # fmt: skip
_SKIN_SPREAD, _CLOTHES_SPREAD, _BACKGROUND_SPREAD = 9.0, 12.0, 10.0

# Names of parts in python_avatars.
HAIR = {
    "long": ("BIG_HAIR", "BOB", "LONG_NOT_TOO_LONG", "MIA_WALLACE", "STRAIGHT_1", "STRAIGHT_2",
             "STRAIGHT_STRAND", "LOOSE_HAIR", "LONG_HAIR_CURLY", "CURVY", "CURLY_2"),
    "short": ("CAESAR_SIDE_PART", "CAESAR", "SHORT_CURLY", "SHORT_FLAT", "SHORT_ROUND", "SHORT_WAVED",
              "QUIFF", "POMPADOUR", "BUZZCUT", "ELVIS"),
    "bun": ("BUN",),
    "curly": ("CURLY", "FRO"),
    "shaggy": ("SHAGGY", "MOWGLI", "WILD", "PIXIE", "SHAGGY_MULLET"),
}  # fmt: skip
BEARD = {"beard": ("BEARD_LIGHT", "BEARD_MEDIUM", "BEARD_MAGESTIC", "MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM")}
GLASSES = {
    "glasses": ("PRESCRIPTION_2", "ROUND"),
    "sunglasses": ("SUNGLASSES", "WAYFARERS", "SUNGLASSES_2"),
}
MOUTH = {
    "smiling": ("SMILE", "BIG_SMILE", "TWINKLE"), "serious": ("SERIOUS",), "sad": ("SAD", "CONCERNED"),
    "surprised": ("DISBELIEF", "SCREAM_OPEN"),
}  # fmt: skip
EYES = {
    "smiling": ("HAPPY", "DEFAULT"), "serious": ("DEFAULT", "SQUINT"), "sad": ("DEFAULT",),
    "surprised": ("SURPRISED",),
}  # fmt: skip
EYEBROWS = {
    "smiling": ("RAISED_EXCITED_NATURAL", "DEFAULT_NATURAL"),
    "serious": ("FLAT_NATURAL", "ANGRY_NATURAL"),
    "sad": ("SAD_CONCERNED_NATURAL",),
    "surprised": ("RAISED_EXCITED_NATURAL",),
}
CLOTHES = {
    "t-shirt": ("SHIRT_CREW_NECK", "SHIRT_V_NECK", "SHIRT_SCOOP_NECK"), "hoodie": ("HOODIE",),
    "sweater": ("COLLAR_SWEATER",), "suit": ("BLAZER_SHIRT", "SHIRT_WICK"), "overall": ("OVERALL",),
    "cook's jacket": ("CHEF",), "space suit": ("ASTRONAUT_SUIT",),
}  # fmt: skip
HAT = {
    "hat": ("HAT",),
    "winter hat": ("WINTER_HAT_2", "WINTER_HAT_3", "WINTER_HAT_4"),
    "cook's cap": ("CHEF_CAP",),
}

# Part → (argument of python_avatars.Avatar, its enumeration, the argument of its color).
_PARTS = {
    "clothes": ("clothing", "ClothingType", "clothing_color"),
    "hair": ("top", "HairType", "hair_color"),
    "hat": ("top", "HatType", "hat_color"),
    "beard": ("facial_hair", "FacialHairType", "facial_hair_color"),
    "mouth": ("mouth", "MouthType", None),
    "eyes": ("eyes", "EyeType", None),
    "eyebrows": ("eyebrows", "EyebrowType", None),
    "glasses": ("accessory", "AccessoryType", None),
}


class Layer(NamedTuple):
    """A rasterized part. A color c (3 numbers in 0..1) gives ``under * kept + base + slope * c``.

    Attributes
    ----------
    box : tuple of slice
        Rows and columns of the canvas that the part touches.
    kept : numpy.ndarray of float32, shape (h, w, 1)
        One minus the part's alpha.
    base, slope : numpy.ndarray of float32, shape (h, w, 3)
        Premultiplied colors: those of black, and what white adds to it.
    """

    box: tuple[slice, slice]
    kept: np.ndarray
    base: np.ndarray
    slope: np.ndarray


class Art:
    """Parts of people, each rasterized when it is first needed.

    Raises
    ------
    InputError
        A package that draws is not installed.
    """

    def __init__(self) -> None:
        try:
            import python_avatars
            import resvg_py
        except ImportError as error:
            raise InputError(
                f"the package {error.name}, which draws the demo's people, is not installed; "
                "run: bash setup_env.sh"
            ) from None
        self._avatars, self._resvg = python_avatars, resvg_py
        self._layers: dict[tuple[str, str], Layer] = {}

    def layer(self, part: str, name: str = "") -> Layer:
        """Return a part's layer; `part` is "body" or one of the tables above, `name` one of its entries."""
        key = part, name
        if key not in self._layers:
            self._layers[key] = self._make_layer(part, name)
        return self._layers[key]

    def _make_layer(self, part: str, name: str) -> Layer:
        black, white = (self._rasterize(self._svg(part, name, color)) for color in ("#000000", "#ffffff"))
        touched = black[..., 3] > 0
        rows, columns = (np.flatnonzero(touched.any(axis)) for axis in (1, 0))
        box = tuple(slice(i[0], i[-1] + 1) if len(i) else slice(0, 0) for i in (rows, columns))
        black, white = black[box], white[box]
        return Layer(box, 1 - black[..., 3:], black[..., :3], white[..., :3] - black[..., :3])

    def _svg(self, part: str, name: str, color: str) -> str:
        avatars = self._avatars
        empty = dict.fromkeys(
            ("eyebrows", "eyes", "nose", "mouth", "facial_hair", "accessory", "clothing"), ""
        )
        options = {"style": avatars.AvatarStyle.TRANSPARENT, "top": avatars.HairType.NONE, **empty}
        if part == "body":
            return avatars.Avatar(**options, skin_color=color).render()
        argument, enumeration, color_argument = _PARTS[part]
        options[argument] = getattr(avatars, enumeration)[name]
        if part == "mouth":
            options["nose"] = avatars.NoseType.DEFAULT
        if color_argument:
            options[color_argument] = color
        return _without_body(avatars.Avatar(**options).render())

    def _rasterize(self, svg: str) -> np.ndarray:
        """Rasterize to (CANVAS, CANVAS, 4): float32 in 0..1, colors premultiplied by alpha."""
        png = self._resvg.svg_to_bytes(svg_string=svg, width=CANVAS_WIDTH, skip_system_fonts=True)
        pixels = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"), dtype=np.float32) / 255
        if pixels.shape[:2] != (CANVAS_HEIGHT, CANVAS_WIDTH):
            raise InputError(
                f"python_avatars draws pictures of other proportions ({pixels.shape[1]} x {pixels.shape[0]} "
                f"pixels, not {CANVAS_WIDTH} x {CANVAS_HEIGHT}); install the version in requirements.lock"
            )
        pixels = pixels[TOP : TOP + CANVAS]
        return np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=2)


def _without_body(svg: str) -> str:
    root = ElementTree.fromstring(svg)
    for group in list(root.iter()):
        for child in list(group):
            if (child.get("id") or "").endswith("_Body"):
                group.remove(child)
    return ElementTree.tostring(root, encoding="unicode")


class Painter:
    """Draws people of one world.

    Parameters
    ----------
    world : World
        How much light, hair color, and pixels vary.

    Raises
    ------
    InputError
        A package that draws is not installed.
    """

    def __init__(self, world: World) -> None:
        self._world, self._art = world, Art()

    def draw(self, person: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
        """Draw one person on the whole canvas.

        Parameters
        ----------
        person : mapping
            A row of `draw_people`.
        rng : numpy.random.Generator
            Chooses parts, shades, and light.

        Returns
        -------
        numpy.ndarray of uint8, shape (72, 72, 3)
        """
        image = np.empty((CANVAS, CANVAS, 3), dtype=np.float32)
        image[:] = _shade(BACKGROUND_COLORS[person["background"]], _BACKGROUND_SPREAD, rng)
        for part, name, color in self._stack(person, rng):
            layer = self._art.layer(part, name)
            view = image[layer.box]
            view *= layer.kept
            view += layer.base
            view += layer.slope * color
        return self._light(image, rng)

    def _stack(
        self, person: Mapping[str, str], rng: np.random.Generator
    ) -> list[tuple[str, str, np.ndarray]]:
        """List parts from the bottom to the top: part, name, and color."""
        skin = _shade(SKIN_COLORS[person["skin"]], _SKIN_SPREAD, rng)
        hair = _shade(HAIR_COLORS[person["hair"]], self._world.hair_spread, rng)
        clothes = _shade(CLOTHES_COLORS[person["clothes_color"]], _CLOTHES_SPREAD, rng)
        expression = person["expression"]
        stack = [
            ("body", "", skin),
            ("clothes", _pick(CLOTHES[person["clothes"]], rng), clothes),
            ("mouth", _pick(MOUTH[expression], rng), skin),
            ("eyes", _pick(EYES[expression], rng), skin),
            ("eyebrows", _pick(EYEBROWS[expression], rng), skin),
            ("hair", _pick(HAIR[person["style"]], rng), hair),
        ]
        if person["beard"] != "none":
            stack.append(("beard", _pick(BEARD[person["beard"]], rng), hair * np.float32(0.9)))
        if person["hat"] != "none":
            color = CLOTHES_COLORS[_pick(tuple(CLOTHES_COLORS), rng)]
            stack.append(("hat", _pick(HAT[person["hat"]], rng), _shade(color, _CLOTHES_SPREAD, rng)))
        if person["glasses"] != "none":
            stack.append(("glasses", _pick(GLASSES[person["glasses"]], rng), skin))
        return stack

    def _light(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change brightness and tint, add noise, and round to bytes."""
        spread = self._world.lightness_spread
        brightness = 1 + spread * rng.standard_normal()
        light = brightness * (1 + 0.4 * spread * rng.standard_normal(3, dtype=np.float32))
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        noise *= self._world.noise
        noise += image * (255 * light).astype(np.float32)
        return np.clip(noise, 0, 255, out=noise).astype(np.uint8)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.random() * len(options))]


def _shade(color: Sequence[int], spread: float, rng: np.random.Generator) -> np.ndarray:
    """Vary a color (0..255): brightness by `spread`, each channel by half of it; in 0..1."""
    varied = np.array(color) + spread * (rng.standard_normal() + 0.5 * rng.standard_normal(3))
    return (np.clip(varied, 0, 255) / 255).astype(np.float32)


def crop(canvas: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cut a picture (64, 64, 3) at random from the canvas, and mirror half of them."""
    top, left = (rng.integers(CANVAS - PICTURE + 1, size=2)).tolist()
    picture = canvas[top : top + PICTURE, left : left + PICTURE]
    return picture[:, ::-1] if rng.random() < 0.5 else picture


def halve(canvas: np.ndarray) -> np.ndarray:
    """Halve the resolution: the rounded mean of each 2 x 2 block, uint8 (36, 36, 3)."""
    blocks = canvas.reshape(CANVAS // 2, 2, CANVAS // 2, 2, 3).astype(np.uint16)
    return ((blocks.sum(axis=(1, 3)) + 2) // 4).astype(np.uint8)
