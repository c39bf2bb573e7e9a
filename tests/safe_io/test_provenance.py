"""What results record about the software that made them."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from safe_io import provenance


def test_versions_are_those_of_packages_and_of_modules() -> None:
    installed = provenance.installed_versions("torch", "open_clip_torch")
    assert list(installed) == ["python", "torch", "open_clip_torch"]
    assert installed["open_clip_torch"] == version("open_clip_torch")
    assert provenance.build_versions("torch") == {"python": installed["python"], "torch": torch.__version__}


def test_the_source_digest_follows_every_module_and_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    (tmp_path / "one" / "below").mkdir(parents=True)
    (tmp_path / "two").mkdir()
    for name in ("one/a.py", "one/below/b.py", "two/c.py", "one/notes.txt"):
        (tmp_path / name).write_text(name)
    both, one = provenance.source_digest("one", "two"), provenance.source_digest("one")
    assert provenance.source_digest("two", "one") == both != one
    (tmp_path / "one" / "notes.txt").write_text("other")
    assert provenance.source_digest("one") == one
    (tmp_path / "one" / "below" / "b.py").rename(tmp_path / "one" / "below" / "d.py")
    renamed = provenance.source_digest("one")
    (tmp_path / "one" / "a.py").write_text("other")
    assert len({both, one, renamed, provenance.source_digest("one")}) == 4
