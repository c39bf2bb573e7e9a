"""An installed package works away from the checkout: commands, configs and types travel with it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from safe_io.checkout import ROOT

LEFT_BEHIND = shutil.ignore_patterns(".*", "data", "tests", "build", "*.egg-info", "*_weights", "__pycache__")
PUBLIC = ("bias_evaluation", "debiasing_methods", "fair_search", "reproduce_tables", "safe_io")
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


def test_every_package_of_the_checkout_is_installed_but_the_demo() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found - {"demo"} == {name for name in setup["packages"] if "." not in name}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder that the package is installed into, with `bin/`."""
    if importlib.util.find_spec("setuptools") is None or importlib.util.find_spec("pip") is None:
        pytest.skip("this environment has no pip and setuptools to build with")
    folder = tmp_path_factory.mktemp("install")
    source, site = folder / "source", folder / "site"  # building writes into the source
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    install = ["-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    built = subprocess.run(
        [sys.executable, *install, "--target", str(site), str(source)], capture_output=True, text=True
    )
    if "setuptools>=" in built.stderr or "No module named" in built.stderr:
        pytest.skip(f"setuptools is too old to build with: {built.stderr.strip().splitlines()[-1]}")
    assert built.returncode == 0, built.stderr
    return site


def run(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the installed package from a folder that is no checkout."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    env["PYTHONPATH"] = str(site)
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True, check=False
    )


def test_installed_it_is_imported_from_elsewhere(site: Path, tmp_path: Path) -> None:
    ran = run(site, tmp_path, "-c", SCRIPT)
    assert ran.returncode == 0, ran.stderr
    first, second = ran.stdout.splitlines()
    assert first == "('Male', 'Female') 512 330"
    assert second.startswith("sem-b needs a sparse autoencoder: give its file")


def test_no_common_name_is_installed_and_types_are(site: Path) -> None:
    installed = {
        path.name
        for path in site.iterdir()
        if path.name not in ("bin", "__pycache__") and not path.name.endswith(".dist-info")
    }
    assert installed == {*PUBLIC, "disentanglement_study", "qualitative_study"}
    assert all((site / name / "py.typed").is_file() for name in PUBLIC)
    assert (site / "bin" / "fair-search").is_file()


def test_installed_commands_show_their_help(site: Path, tmp_path: Path) -> None:
    shown = run(site, tmp_path, "-m", "fair_search", "--help")
    assert shown.returncode == 0, shown.stderr
    for name in ("embed", "audit", "debias", "eval", "tables", "train-sae"):
        assert f"\n  {name} " in shown.stdout
        ran = run(site, tmp_path, "-m", "fair_search", name, "--help")
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(f"usage: fair-search {name}"), ran.stdout
    demo = run(site, tmp_path, "-m", "fair_search", "demo")
    assert demo.returncode == 2
    assert demo.stderr == (
        "error: the demo writes its data and models into a checkout of the project: run it in one, with "
        "`bash run_demo.sh`\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_installed_audit_runs_outside_a_checkout(site: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.save(tmp_path / "images.npy", rng.normal(size=(60, 8)).astype(np.float32))
    np.save(tmp_path / "queries.npy", rng.normal(size=(3, 8)).astype(np.float32))
    pd.DataFrame({"group": ["a", "b", "b"] * 20}).to_csv(tmp_path / "images.csv", index=False)
    options = "--embeddings images.npy --metadata images.csv --attribute group --queries queries.npy --k 5 10"
    ran = run(
        site, tmp_path, "-m", "fair_search", "audit", *options.split(), "--methods", "vanilla",
        "--output-dir", "audit",
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    table = pd.read_csv(tmp_path / "audit" / "audit.csv")
    assert set(table["k"]) == {5, 10}
    assert (tmp_path / "audit" / "report.html").is_file()
