"""Fixtures that several test folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """Folder with published results and oracle data, which the project does not ship."""
    root = Path(__file__).resolve().parents[1]
    folder = Path(os.environ.get("SEM_ORACLE_DIR", root / ".." / "shared")).resolve()
    if not folder.is_dir():
        pytest.skip("no oracle data: set SEM_ORACLE_DIR to the folder that holds official/ and golden/")
    return folder
