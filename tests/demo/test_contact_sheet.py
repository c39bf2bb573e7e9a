"""The contact sheet's rows, and bad input; the demo's test runs the whole command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bias_evaluation.grid.configs import load_dataset_config
from demo.contact_sheet import QUERIES, Row, draw_sheet, main, make_html, parse_query
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config" / "portraits.yml"


@pytest.fixture
def rows(tmp_path: Path) -> list[Row]:
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(np.full((64, 64, 3), 80 * i, dtype=np.uint8)).save(files[-1])
    return [
        Row("A <b>photo", method, tuple(files), {"woman": 1, "man": 2}) for method in ("Base CLIP", "SEM_bi")
    ]


def test_a_caption_has_method_and_counts(rows: list[Row]) -> None:
    assert rows[0].caption == "Base CLIP (woman: 1, man: 2)"


def test_a_figure_has_a_panel_per_row_with_its_pictures_in_order(rows: list[Row]) -> None:
    panels = draw_sheet(rows).axes
    assert [axes.get_title(loc="left").split(" – ")[1] for axes in panels] == [row.caption for row in rows]
    image = panels[0].images[0].get_array()
    assert [int(image[10, 64 * i + 5, 0]) for i in range(3)] == [0, 80, 160]


def test_a_page_escapes_text_and_holds_the_pictures(rows: list[Row]) -> None:
    page = make_html(rows, "a & b")
    assert "<h2>A &lt;b&gt;photo</h2>" in page
    assert page.count("<h2>") == 1  # once for the rows of a query
    assert page.count("data:image/png;base64,") == 6
    assert "a &amp; b" in page
    assert "http" not in page


def test_the_shipped_queries_exist() -> None:
    config = load_dataset_config(CONFIG)
    assert len({parse_query(text, config) for text in QUERIES}) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--queries", "nurse"], r"'nurse' must be SETTING:QUERY, with one of the settings haircolor_gender"),
        (["--queries", "blond_gender:dark"], "'blond_gender:dark' must be SETTING:QUERY"),
        (["--shown", "0"], "--shown must be at least 1"),
        (["--backbone", "tiny"], "unknown backbone 'tiny'"),
        (["--method", "sem"], "unknown method 'sem'"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        main(["--config", str(CONFIG), "--output-dir", str(tmp_path), *options])
    assert not list(tmp_path.iterdir())
