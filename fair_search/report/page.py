"""What a report consists of, and how it becomes one HTML file.

Everything that comes from data (names of queries, groups, files) is plain text here; the template escapes it.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

# Light to dark; a step of the scale is chosen by the value, the color of the text by contrast.
_SCALE = ("#ffffff", "#fff3d6", "#ffe0a3", "#ffc46b", "#f59f3c", "#d97316", "#a84a0c", "#702a05")
_DARK_TEXT, _LIGHT_TEXT = "#1a1a1a", "#ffffff"
_LEAST_CONTRAST = 4.5  # WCAG 2.2, criterion 1.4.3


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, a smaller second line, colors, and whether it stands out."""

    text: str
    small: str = ""
    style: str = ""
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table: its caption, the headers of its columns (the first one is that of the rows), and its rows."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    kind: str = "table"


@dataclass(frozen=True)
class Figure:
    """A picture: a data URI, what it says for someone who does not see it, and its caption."""

    source: str
    alt: str
    caption: str
    wide: bool = False
    kind: str = "figure"


@dataclass(frozen=True)
class Thumbnail:
    """A retrieved image: data URI (empty: no picture), its texts, color and line of its group."""

    source: str
    alt: str
    caption: str
    color: str
    pattern: str = "solid"


@dataclass(frozen=True)
class Sheet:
    """A contact sheet: what one method retrieves for one query."""

    title: str
    note: str
    images: Sequence[Thumbnail]
    kind: str = "sheet"


@dataclass(frozen=True)
class Definitions:
    """Terms and what they mean."""

    items: Sequence[tuple[str, str]]
    kind: str = "definitions"


@dataclass(frozen=True)
class Command:
    """A command line to copy, and what it does."""

    title: str
    text: str
    kind: str = "command"


@dataclass(frozen=True)
class Section:
    """A part of the report: title, paragraphs, then tables, figures, sheets and commands.

    `folded` hides it until it is opened; `parts` are sections one level below.
    """

    title: str
    paragraphs: Sequence[str] = ()
    blocks: Sequence[Table | Figure | Sheet | Definitions | Command] = ()
    parts: Sequence[Section] = ()
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """The report.

    Attributes
    ----------
    title, question : str
        Its heading, and what it answers.
    summary : sequence of str
        Answers, a sentence or two each.
    sections : sequence of Section
        Everything else.
    """

    title: str
    question: str
    summary: Sequence[str]
    sections: Sequence[Section]


def render(page: Page) -> str:
    """Return the HTML document of a page."""
    folder = Path(__file__).resolve().parent
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(page=page)


def data_uri(content: bytes, media_type: str) -> str:
    """Return bytes as a data URI."""
    return f"data:{media_type};base64,{base64.b64encode(content).decode('ascii')}"


def heat_style(value: float, largest: float) -> str:
    """CSS of a cell whose darkness says how large a value is; its text is always readable.

    Parameters
    ----------
    value : float
        0 is white.
    largest : float
        Value of the darkest color.
    """
    share = min(max(value / largest, 0.0), 1.0) if largest > 0 and math.isfinite(value) else 0.0
    background = _SCALE[round(share * (len(_SCALE) - 1))]
    color = _DARK_TEXT if contrast(_DARK_TEXT, background) >= _LEAST_CONTRAST else _LIGHT_TEXT
    return f"background:{background};color:{color}"


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colors ``#rrggbb``, 1 to 21 (WCAG 2.2, "relative luminance")."""
    lighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def number(value: float, digits: int = 3) -> str:
    """Write a number with a true minus sign; "–" for what is not known."""
    if not math.isfinite(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else f"{0:.{digits}f}"


def value_cell(value: float, low: float, high: float, *, strong: bool = False, digits: int = 3) -> Cell:
    """Make a cell of a value and its interval."""
    known = math.isfinite(low) and math.isfinite(high)
    small = f"{number(low, digits)} to {number(high, digits)}" if known else ""
    return Cell(number(value, digits), small, strong=strong)
