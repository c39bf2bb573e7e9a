"""Several attributes: an audit of each in a folder of its own, and one page with all verdicts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fair_search.report.page import Page, Section, render
from safe_io.errors import InputError
from safe_io.files import write_text


def one_by_one(args: argparse.Namespace) -> list[argparse.Namespace]:
    """Make the options of each attribute's audit; a single attribute keeps the folder as it is.

    Raises
    ------
    InputError
        Attributes are given twice or share a folder, or an option is for one attribute only.
    """
    names = args.attribute
    if len(names) == 1:
        return [argparse.Namespace(**vars(args) | {"attribute": names[0]})]
    for option in ("values", "compare"):
        if getattr(args, option) is not None:
            raise InputError(f"--{option} is of one attribute; audit {names[0]} by itself")
    folders = [folder_name(name) for name in names]
    if len(set(folders)) < len(folders):
        raise InputError(f"--attribute: {', '.join(names)} would share a folder; give each once")
    return [
        argparse.Namespace(**vars(args) | {"attribute": name, "output_dir": args.output_dir / folder})
        for name, folder in zip(names, folders, strict=True)
    ]


def folder_name(attribute: str) -> str:
    """Name of an attribute's folder: ``gender_x_race`` for ``gender*race``."""
    return re.sub(r"[^\w.-]+", "_", re.sub(r"\s*\*\s*", "_x_", attribute)).strip(".") or "_"


def write_overview(folder: Path, records: Mapping[str, Mapping[str, Any]]) -> None:
    """Write ``overview.html``, the verdicts of several audits; delete it if there is one audit only.

    Parameters
    ----------
    folder : pathlib.Path
    records : mapping
        Attribute → its `audit_files.audit_record`.
    """
    path = folder / "overview.html"
    if len(records) < 2:
        path.unlink(missing_ok=True)
        return
    sections = []
    for attribute, record in records.items():
        found = record["verdict"]
        sentences = (found["counts"], found["chance"], found["four_fifths"], *found["warnings"])
        details = f"All tables and figures: {folder_name(attribute)}/report.html."
        sections.append(Section(attribute, (*sentences, found["recommendation"]["why"], details)))
    page = Page(
        "Who is found? Audits of several attributes",
        f"Are the groups of {', '.join(records)} retrieved as often as they should be?",
        [f"{name}: {record['verdict']['counts']}" for name, record in records.items()],
        sections,
    )
    write_text(path, render(page))
