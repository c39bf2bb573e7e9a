"""Pictures of any kind as RGB with 8 bits, or a reason why there is no right way to read them.

Pillow's own conversion clips: of 16-bit gray it makes white, of floating-point pixels black. What CLIP's
preprocessing leaves as it is (the orientation in the EXIF data, colors below transparency) is left as it is
here too, is counted, and can be undone on request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # EXIF tag; 1: as stored
_DEEPEST = {8: 255, 16: 65535}  # bits → largest value
_GRAY_16 = ("I;16", "I;16B", "I;16L", "I;16N")
_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")


class Reading(NamedTuple):
    """How pictures are read, where CLIP's preprocessing ignores what they hold.

    Attributes
    ----------
    upright : bool
        Whether they are turned as their EXIF data says.
    on_white : bool
        Whether transparent ones are laid on white; without it their hidden colors show.
    """

    upright: bool = False
    on_white: bool = False


class Remarks(NamedTuple):
    """What a picture holds, or how many of some pictures do: an orientation, transparency."""

    turned: int = 0
    transparent: int = 0

    def plus(self, other: Remarks) -> Remarks:
        """Add the counts of other pictures."""
        return Remarks(self.turned + other.turned, self.transparent + other.transparent)


def as_rgb(image: Image, reading: Reading | None = None) -> tuple[Image, Remarks]:
    """Convert a picture.

    Parameters
    ----------
    image : PIL.Image.Image
        Of any mode.
    reading : Reading, optional
        As CLIP's preprocessing by default.

    Returns
    -------
    image : PIL.Image.Image
        Mode RGB.
    remarks : Remarks

    Raises
    ------
    ValueError
        Its pixels have no known range: floating-point numbers, or whole numbers beyond 16 bits.
    """
    from PIL import ImageOps

    reading = reading or Reading()
    turned = _is_turned(image)
    if turned and reading.upright:
        image = ImageOps.exif_transpose(image)
    transparent = _is_transparent(image)
    if transparent and reading.on_white:
        return _on_white(image), Remarks(int(turned), 1)
    return _converted(image), Remarks(int(turned), int(transparent))


def _converted(image: Image) -> Image:
    from PIL import Image as Pillow

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, of which no range is known; store 8 bits")
    if image.mode in (*_GRAY_16, "I"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > _DEEPEST[16]:
            raise ValueError(f"its pixels are {low} to {high}, beyond 16 bits; store 8 or 16 bits")
        if image.mode == "I" and high <= _DEEPEST[8]:  # 8 bits in a file of 32
            return Pillow.fromarray(values.astype(np.uint8)).convert("RGB")
        scaled = np.rint(values * (_DEEPEST[8] / _DEEPEST[16]))
        return Pillow.fromarray(scaled.astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBa", "La"):  # premultiplied, from which there is no direct way
        image = image.convert("RGBA" if image.mode == "RGBa" else "LA")
    return image.convert("RGB")


def _is_turned(image: Image) -> bool:
    """Whether its EXIF data says that it is to be turned."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    except Exception:  # damaged EXIF data raise many kinds, and pixels can be fine
        return False


def _is_transparent(image: Image) -> bool:
    """Whether some pixel is not opaque."""
    if image.mode in _ALPHA:
        return image.getchannel(image.getbands()[-1]).getextrema()[0] < _DEEPEST[8]
    if "transparency" not in image.info or image.mode not in ("P", "L", "RGB", "1"):
        return False
    return image.convert("RGBA").getchannel("A").getextrema()[0] < _DEEPEST[8]


def _on_white(image: Image) -> Image:
    from PIL import Image as Pillow

    seen = image.convert("RGBA")
    white = Pillow.new("RGBA", seen.size, "white")
    return Pillow.alpha_composite(white, seen).convert("RGB")
