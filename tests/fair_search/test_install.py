"""An installed package works away from the checkout: the configs travel with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from safe_io.checkout import ROOT

LEFT_BEHIND = shutil.ignore_patterns(".*", "data", "tests", "build", "*.egg-info", "*_weights", "__pycache__")
SCRIPT = """
import fair_search
bias = fair_search.load_bias("gender")
print(bias.classes, fair_search.find_backbone("ViT-B-16").dim, len(bias.diverse))
try:
    fair_search.load_debiaser("sem-b", "ViT-B-16", "race")
except fair_search.InputError as error:
    print(error)
"""


def test_package_data_hold_every_config_that_the_library_reads() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert setup["package-dir"]["fair_search.config"] == "config"
    config = ROOT / "config"
    carried = {path for glob in setup["package-data"]["fair_search.config"] for path in config.glob(glob)}
    needed = {
        *config.glob("*.yml"),
        *(config / "bias").glob("*.yml"),
        *config.glob("prompts/default/**/*.yml"),
    }
    assert needed <= carried


def test_every_package_of_the_checkout_is_installed() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found <= set(setup["packages"])


def test_installed_it_is_imported_from_elsewhere(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip and setuptools to build with")
    source, site = tmp_path / "source", tmp_path / "site"  # building writes into the source
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    built = subprocess.run(
        [sys.executable, *install, "--target", str(site), str(source)], capture_output=True, text=True
    )
    if "setuptools>=" in built.stderr or "No module named" in built.stderr:
        pytest.skip(f"setuptools is too old to build with: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = ran.stdout.splitlines()
    assert first == "('Male', 'Female') 512 330"
    assert second.startswith("sem-b needs a sparse autoencoder: give its file")
