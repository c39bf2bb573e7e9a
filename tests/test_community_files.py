"""What contributors read names files and commands that exist, and issue templates are forms that load."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from safe_io.checkout import ROOT

TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
FORMS = [path for path in TEMPLATES if path.name != "config.yml"]


@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CHANGELOG.md"])
def test_what_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if not link.startswith("http")]
    quoted = re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text) + re.findall(r"(tests/[\w/]+\.py)", text)
    named = [*links, *quoted]
    assert all((ROOT / name).exists() for name in named), [n for n in named if not (ROOT / n).exists()]


def test_the_changelog_has_the_version_of_the_project() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, flags=re.M).group(1)
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_template_asks_for_something_that_is_required(form: Path) -> None:
    document = yaml.safe_load(form.read_text())
    assert set(document) == {"name", "description", "labels", "body"}
    ids = [part["id"] for part in document["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["type"] in ("input", "textarea", "dropdown") for part in document["body"])
    assert all(part["attributes"]["label"] for part in document["body"])
    for part in document["body"]:
        options = part["attributes"].get("options", ["text"])
        assert all(isinstance(option, str) for option in options)  # YAML reads a bare yes as true
    assert sum(bool(part.get("validations", {}).get("required")) for part in document["body"]) >= 3
