"""The report in headless Chromium, at the width of a desktop and of a phone.

What is measured in the page: nothing sticks out at the side, every text has enough contrast, every image is
drawn. The screenshots are kept where SEM_SCREENSHOTS names a folder, to be looked at.
"""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium: the report is not looked at in a browser"
)

DARK = "--blink-settings=preferredColorScheme=0"
# Runs in the page: width of the content, images that failed, and the least contrast of any visible text.
MEASURE = """
const channel = c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
const parse = text => text.match(/[0-9.]+/g).map(Number);
const luminance = rgb => 0.2126 * channel(rgb[0] / 255) + 0.7152 * channel(rgb[1] / 255)
  + 0.0722 * channel(rgb[2] / 255);
function background(element) {
  for (let e = element; e; e = e.parentElement) {
    const color = parse(getComputedStyle(e).backgroundColor);
    if (color.length < 4 || color[3] > 0) return color;
  }
  return [255, 255, 255];
}
const closed = [...document.querySelectorAll("details:not([open]) table")];
const shown = closed.filter(t => t.checkVisibility({contentVisibilityAuto: true})).length;
const paper = getComputedStyle(document.body).backgroundColor;
document.querySelectorAll("details").forEach(d => d.open = true);
let least = 21, texts = 0;
for (const element of document.body.querySelectorAll("*")) {
  if (![...element.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
  if (["SCRIPT", "STYLE"].includes(element.tagName)) continue;
  const [a, b] = [luminance(parse(getComputedStyle(element).color)), luminance(background(element))];
  least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  texts += 1;
}
const images = [...document.images];
const found = {
  content: document.documentElement.scrollWidth, window: window.innerWidth, contrast: least, texts: texts,
  broken: images.filter(i => !(i.complete && i.naturalWidth)).length, images: images.length,
  sideways: [...document.querySelectorAll(".scroll")].filter(e => e.scrollWidth > e.clientWidth).length,
  closed: closed.length, shown: shown, paper: paper,
  smallest: Math.min(...[...document.querySelectorAll("p, td, th, li, small")].map(
    e => parseFloat(getComputedStyle(e).fontSize))), title: document.title,
};
"""


def chromium(folder: Path, *options: str) -> str:
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",  # the page is our own
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={folder / 'profile'}",
        *options,
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=90, check=True).stdout


def frame(report: str, width: int, height: int, script: str = "") -> str:
    """Put the report into a frame of some width: Chromium's own window is never narrower than 500 pixels."""
    inner = re.sub(r"<meta http-equiv[^>]*>", "", report) if script else report  # which forbids scripts
    inner = inner.replace("</body>", f"<script>{script}</script></body>") if script else inner
    return (
        '<!doctype html><meta charset="utf-8"><body style="margin:0"><pre id="found"></pre>'
        f'<iframe style="border:0;display:block" width="{width}" height="{height}" '
        f'srcdoc="{html.escape(inner, quote=True)}"></iframe>'
    )


def measure(report: str, width: int, folder: Path, *options: str) -> dict:
    script = MEASURE + "parent.document.getElementById('found').textContent = JSON.stringify(found);"
    page = folder / f"measure_{width}.html"
    page.write_text(frame(report, width, 900, f"window.onload = () => {{ {script} }}"), encoding="utf-8")
    dom = chromium(folder, *options, "--virtual-time-budget=5000", "--dump-dom", page.as_uri())
    return json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)[1]))


@pytest.mark.parametrize("width", [1280, 390])
def test_fits_and_can_be_read(hostile_report, tmp_path, width):
    found = measure(hostile_report, width, tmp_path)
    assert found["window"] == width
    assert found["content"] <= width  # tables scroll within themselves, the page never sideways
    assert found["contrast"] >= 4.5
    assert found["texts"] > 100
    assert found["broken"] == 0
    assert found["images"] > 100
    assert found["smallest"] >= 12
    assert "broken" not in found["title"]
    if width == 390:
        assert found["sideways"] >= 1


def test_nothing_scrolls_sideways_on_a_desk(hostile_report, tmp_path):
    found = measure(hostile_report, 1300, tmp_path)
    assert found["content"] <= 1300
    assert found["sideways"] == 0


def test_dark_mode_can_be_read(hostile_report, tmp_path):
    found = measure(hostile_report, 1280, tmp_path, DARK)
    assert found["paper"] == "rgb(22, 25, 29)"
    assert found["contrast"] >= 4.5


def test_print_shows_everything(hostile_report, tmp_path):
    """Measure the rules for paper on a screen as wide as a page of A4 on its side, 273 mm."""
    printed = hostile_report.replace("@media print", "@media screen")
    assert printed != hostile_report
    on_paper, on_screen = (measure(page, 1032, tmp_path) for page in (printed, hostile_report))
    assert on_screen["closed"] == on_paper["closed"] > 0
    assert on_screen["shown"] == 0
    assert on_paper["shown"] == on_paper["closed"]  # closed sections are printed too
    assert on_paper["sideways"] == 0  # no column is cut off
    assert on_paper["content"] <= 1032


def test_pdf(hostile_report, tmp_path):
    folder = Path(os.environ.get("SEM_SCREENSHOTS", tmp_path))
    page, pdf = tmp_path / "print.html", folder / "report.pdf"
    page.write_text(hostile_report, encoding="utf-8")
    chromium(tmp_path, f"--print-to-pdf={pdf}", page.as_uri())
    assert len(re.findall(rb"/Type\s*/Page\b", pdf.read_bytes())) >= 5


@pytest.mark.parametrize(("width", "name"), [(1280, "desktop"), (390, "phone")])
def test_screenshot(hostile_report, tmp_path, width, name):
    folder = Path(os.environ.get("SEM_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page, picture = tmp_path / f"{name}.html", folder / f"report_{name}.png"
    page.write_text(frame(hostile_report, width, 2000), encoding="utf-8")
    window = max(width, 500)
    chromium(tmp_path, f"--window-size={window},2000", f"--screenshot={picture}", page.as_uri())
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[:2] == (2000, window)
    inside = pixels[:, :width].astype(int)
    assert (inside.min(axis=2) < 128).any(axis=1)[:1800].mean() > 0.2  # rows with something dark on them
    assert len(np.unique(inside.reshape(-1, 3), axis=0)) > 100  # text, figure and pictures
