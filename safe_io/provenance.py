"""What results and reports record about the software that made them."""

from __future__ import annotations

import platform
from functools import cache
from importlib import import_module
from importlib.metadata import version

from safe_io.checkout import ROOT
from safe_io.files import sha256_file, sha256_json

_PACKAGES = ("bias_evaluation", "debiasing_methods", "safe_io")


@cache
def versions(*more: str) -> dict[str, str]:
    """Return the versions of what decides a result's digits; `code` is a digest of the project's own modules.

    Parameters
    ----------
    *more : str
        Packages of the project that decide the digits too, beside those of the suite.
    """
    found = installed_versions("torch", "numpy", "scipy", "open_clip_torch")
    return {**found, "code": source_digest(*_PACKAGES, *more)}


def installed_versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of some installed packages, without importing them."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def build_versions(*modules: str) -> dict[str, str]:
    """Return the versions of Python and of some modules, as they say themselves.

    PyTorch then also tells which accelerator it was built for (2.14.1+cu130); reports of trainings say so.
    """
    found = {name: str(import_module(name).__version__) for name in modules}
    return {"python": platform.python_version(), **found}


def source_digest(*packages: str) -> str:
    """Return a digest of the project's own modules in some packages, 16 hexadecimal digits."""
    modules = sorted(path for package in packages for path in ROOT.glob(f"{package}/**/*.py"))
    return sha256_json({str(path.relative_to(ROOT)): sha256_file(path) for path in modules})[:16]
