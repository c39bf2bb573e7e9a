"""The report's HTML: complete, escaped, without network or script, and built so that anyone can read it."""

import base64
import io
import json
import re
import tomllib
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pandas as pd
import pytest
from PIL import Image

from fair_search.report.audit_page import audit_page
from fair_search.report.audit_report import AuditReport, Pictures
from fair_search.report.figures import display_name, plain_text, svg_uri
from fair_search.report.page import contrast, heat_style, number, render
from fair_search.report.suite_page import read_suite, suite_page
from fair_search.report.thumbnails import SIZE, thumbnail
from safe_io.checkout import ROOT

from .conftest import CLASSES, HOSTILE

VOID = {"meta", "img", "br"}


class Outline(HTMLParser):
    """Tags with their attributes, the text of each, and a check that they are nested."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.stack, self.text = [], [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        if not {"style", "title"} & set(self.stack):
            self.text.append(data)

    def all(self, *names):
        return [attrs for tag, attrs in self.tags if tag in names]


@pytest.fixture(scope="module")
def page(hostile_report):
    return Outline(hostile_report)


def test_well_formed(page, hostile_report):
    assert page.stack == []
    assert hostile_report.startswith("<!doctype html>")
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1] == {"name": "viewport", "content": "width=device-width, initial-scale=1"}


def test_hostile_names_are_text(page):
    assert not page.all("script", "b", "i", "u")
    text = " ".join(page.text)
    for name in (*HOSTILE, *CLASSES, "<i>attribute</i>", "A note & <more>."):
        assert name in text
    allowed = {"lang", "charset", "name", "content", "http-equiv", "class", "style", "src", "alt"}
    allowed |= {"scope", "role", "tabindex", "aria-label"}
    assert {attribute for _, attrs in page.tags for attribute in attrs} <= allowed


def test_needs_nothing_from_elsewhere(page, hostile_report):
    assert not page.all("link", "iframe", "object", "a", "form", "base")
    assert all(image["src"].startswith("data:image/") for image in page.all("img"))
    assert not re.search(r"url\(|@import|src=\"(?!data:)", hostile_report)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_headings_are_in_order(page):
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_tables_and_images_can_be_read_aloud(page):
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 4
    assert all(image["alt"].strip() for image in page.all("img"))
    regions = [attrs for attrs in page.all("div") if attrs.get("role") == "region"]
    assert all(region["tabindex"] == "0" and region["aria-label"] for region in regions)


def test_says_the_question_the_answer_and_every_metric(page):
    text = " ".join(page.text)
    assert "When 4 queries are searched for, are the groups of" in text
    assert "Of the first 20 results of Base CLIP" in text
    assert "% of random orders are between" in text
    assert "Four-fifths rule: " in text
    assert "The 4 worst queries" in text
    assert "The rule: methods on the Pareto front of MaxSkew and precision" in text
    assert "Differences to Base CLIP" in text
    assert "With 20 draws no difference can hold after the correction: at least 40 are needed" in text
    for label in ("KL", "MaxSkew", "MinSkew", "NDKL", "Parity ratio", "Precision", "Overlap"):
        assert label in text
    assert len(re.findall(r"\b1\. ", text)) == 2 * 3  # first images: two methods, three queries
    assert len([image for image in page.all("img") if "jpeg" in image["src"]]) == 2 * 3 * 20


def test_figure_is_svg_with_its_text(page):
    source = next(image["src"] for image in page.all("img") if "svg" in image["src"])
    svg = ElementTree.fromstring(base64.b64decode(source.split(",", 1)[1]))
    text = " ".join(svg.itertext())
    assert "Orth-Proj" in text
    assert "MaxSkew among 20 images" in text


def test_without_images_the_names_stand_there(hostile_audit):
    chosen = Pictures(queries=HOSTILE[:1], methods=("vanilla",), count=4)
    report = AuditReport(hostile_audit, [f"image {i}" for i in range(200)], "My title", chosen)
    page = Outline(render(audit_page(report)))
    text = " ".join(page.text)
    assert "My title" in text
    assert len(re.findall(r"image \d+", text)) == 4
    assert not [image for image in page.all("img") if "jpeg" in image["src"]]


def test_thumbnail(tmp_path):
    Image.new("CMYK", (600, 300)).save(tmp_path / "a.jpg")
    content = thumbnail(tmp_path / "a.jpg")
    assert content.startswith("data:image/jpeg;base64,")
    with Image.open(io.BytesIO(base64.b64decode(content.split(",")[1]))) as image:
        assert image.size == (SIZE, SIZE // 2)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    assert thumbnail(tmp_path / "b.jpg") == thumbnail(tmp_path / "none.jpg") == thumbnail(tmp_path) == ""


def test_groups_have_a_line_of_their_own(hostile_report):
    lines = set(re.findall(r"border-color:(#\w+);border-top-style:(\w+)", hostile_report))
    assert len(lines) == len({color for color, _ in lines}) == len({line for _, line in lines}) == 3


def test_every_shade_can_be_read():
    for step in range(101):
        background, color = re.findall(r"#\w{6}", heat_style(step / 100, 1.0))
        assert contrast(background, color) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert heat_style(float("nan"), 1.0) == heat_style(0.0, 0.0) == heat_style(0.0, 1.0)


def test_numbers():
    assert [number(x) for x in (-0.12345, 1.0, -0.0001, float("nan"))] == ["−0.123", "1.000", "0.000", "–"]


def test_names_with_dollars_are_no_formulas():
    from matplotlib.figure import Figure

    with plain_text():
        figure = Figure()
        figure.subplots().set_title(HOSTILE[2])
        svg = base64.b64decode(svg_uri(figure).split(",", 1)[1]).decode()
    assert "".join(ElementTree.fromstring(svg).itertext()).count(HOSTILE[2]) == 1
    assert display_name("my-method") == "my-method"


def results():
    common = {"dataset": "d<1>", "backbone": "B-16", "normalize": True, "seed": None, "folds": 10}
    retrieval = {"task": "retrieval", "setting": "query=job|bias=gender|K=5"}
    classes = {"task": "zs_classification", "setting": "parity"}
    rows = []
    for m, method in enumerate(("vanilla", "sem-bi", "mine")):
        skews = json.dumps({"<b>nurse</b>": 0.2 * m, "chef": 0.4})
        values = (("kl", 0.1 * m, None), ("max_skew", 0.3 - 0.1 * m, skews))
        for metric, mean, by_query in values:
            row = {"method": method, "metric": metric, "mean": mean, "ci": 0.01, "by_query": by_query}
            rows.append(common | retrieval | row | {"file": f"{method}-r"})
        for metric in ("Acc.", "WG Acc."):
            row = {"method": method, "metric": metric, "mean": 0.5, "ci": 0.02, "by_query": None}
            rows.append(common | classes | row | {"file": f"{method}-c"})
    return pd.DataFrame(rows)


def test_report_of_the_suite():
    page = Outline(render(suite_page(results())))
    text = " ".join(page.text)
    assert page.stack == []
    assert "6 results: 3 methods, 1 dataset(s), 1 backbone(s)" in text
    for part in ("d<1>", "<b>nurse</b>", "SEM_bi", "mine", "job, bias gender, K=5: query by query"):
        assert part in text
    assert not page.all("b")
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))


def test_template_is_installed():
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "fair_search.report" in setup["packages"]
    assert "template.html" in setup["package-data"]["fair_search.report"]


def test_suite_from_files(tmp_path):
    from safe_io.errors import InputError

    with pytest.raises(InputError):
        read_suite(tmp_path)
    with pytest.raises(InputError):
        read_suite(tmp_path / "none.feather")
