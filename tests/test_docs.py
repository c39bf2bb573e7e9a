"""What the docs say can be done: pages, links, commands, and the ten lines of Python, which are run here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import audit_bias
import debias_queries
import precompute_embeddings
from debiasing_methods import prism_training, sae_training
from debiasing_methods.base import QueryGroup
from debiasing_methods.registry import METHODS, register
from fair_search import config_files
from safe_io.checkout import ROOT

PAGES = sorted((ROOT / "docs").rglob("*.md"))
HEADINGS = ["What it does", "What it needs", "What it assumes", "What it does not promise", "When to use it"]
PARSERS = {
    "audit_bias.py": audit_bias.build_parser,
    "debias_queries.py": debias_queries.build_parser,
    "precompute_embeddings.py": precompute_embeddings.build_parser,
    "debiasing_methods/sae_training.py": sae_training.build_parser,
    "debiasing_methods/prism_training.py": prism_training.build_parser,
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_page(method: str) -> None:
    text = (ROOT / "docs" / "methods" / f"{method}.md").read_text()
    assert [h for h in re.findall(r"^## (.*)", text, flags=re.M) if h in HEADINGS] == HEADINGS
    assert f"`{method}`" in text
    assert f"(methods/{method}.md)" in (ROOT / "docs" / "methods.md").read_text()


def links() -> Iterator[tuple[Path, str]]:
    for page in [ROOT / "README.md", *PAGES]:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
            if not target.startswith("http"):
                yield page, target


@pytest.mark.parametrize(
    ("page", "target"), list(links()), ids=lambda value: str(getattr(value, "name", value))
)
def test_links_lead_somewhere(page: Path, target: str) -> None:
    path, _, anchor = target.partition("#")
    linked = page.parent / path if path else page
    assert linked.is_file()
    if anchor:
        titles = re.findall(r"^#+ (.*)", linked.read_text(), flags=re.M)
        assert anchor in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def commands() -> Iterator[list[str]]:
    """Give the commands of the docs whose options can be checked."""
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for line in re.findall(r"^python ([\w/]+\.py .*)$", text, flags=re.M):
            yield shlex.split(line, comments=True)


@pytest.mark.parametrize("command", list(commands()), ids=lambda command: " ".join(command)[:60])
def test_commands_of_the_docs_have_these_options(command: list[str]) -> None:
    if command[0] in PARSERS:
        PARSERS[command[0]]().parse_args(command[1:])
    else:
        assert (ROOT / command[0]).is_file()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the demo's world, or one with its files: the demo's architecture untrained, and random images."""
    if (ROOT / "data" / "Portraits" / "CLIP_tiny-RN_embeddings.npy").is_file():
        monkeypatch.chdir(ROOT)
        return ROOT
    import open_clip
    import torch

    shutil.copytree(ROOT / "config", tmp_path / "config")
    (tmp_path / "demo").mkdir()
    shutil.copy(ROOT / "demo" / "tiny_clip.json", tmp_path / "demo")
    data = tmp_path / "data" / "Portraits"
    data.mkdir(parents=True)
    open_clip.add_model_config(ROOT / "demo" / "tiny_clip.json")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(open_clip.create_model("tiny_clip").state_dict(), data / "tiny_clip_0.pt")
    images = np.random.default_rng(0).normal(size=(400, 128)).astype(np.float32)
    np.save(data / "CLIP_tiny-RN_embeddings.npy", images)
    pd.DataFrame({"gender": ["woman", "man"] * 200}).to_feather(data / "metadata.feather")
    monkeypatch.setattr(config_files, "checkout", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_ten_lines_of_the_audit_page_run(world: Path, capsys: Any) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "audit.md").read_text(), flags=re.S)
    body = block[block.index("queries = ") :].replace("\n\n", "\n").strip().splitlines()
    assert len(body) <= 10
    names: dict[str, Any] = {}
    exec(compile(block, "audit.md", "exec"), names)
    assert names["debiased"].shape == (3, 128)
    np.testing.assert_allclose(np.linalg.norm(names["debiased"], axis=1), 1, atol=1e-6)
    assert {"vanilla", "orth-proj", "bendvlm"} <= set(names["table"]["method"])
    printed = capsys.readouterr()
    assert "max_skew" in printed.out
    assert printed.err == ""


def test_the_readme_is_short_and_names_every_guide() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130
    guides = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert {name for name in guides if f"docs/{name}" in text} == guides


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs mkdocs-material (requirements-dev.txt)")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "site" / "methods" / "sem-b" / "index.html").is_file()


def test_the_example_of_a_method_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "extend.md").read_text(), flags=re.S)
    names: dict[str, Any] = {"__name__": "my_module"}
    exec(compile(example, "extend.md", "exec"), names)
    monkeypatch.setattr("debiasing_methods.registry.METHODS", dict(METHODS))
    names["Shrunk"].__module__ = "my_module"
    assert register(names["Shrunk"]).name == "shrunk"
    [group] = [QueryGroup(queries=torch.tensor([[2.0, 1.0]]), spurious=torch.tensor([[3.0, 0.0]]))]
    assert names["Shrunk"](strength=1.0).debias_text([group])[0].tolist() == [[0.0, 1.0]]
