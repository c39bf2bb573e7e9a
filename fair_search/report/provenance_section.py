"""The section that says what an audit was made from, and how to repeat it."""

from __future__ import annotations

from fair_search.audit_provenance import Provenance
from fair_search.report.page import Command, Definitions, Section


def provenance_section(found: Provenance) -> Section:
    """Show the facts and the two commands."""
    blocks: list[Definitions | Command] = [
        Definitions(found.facts),
        Command("The same audit again", found.reproduce),
    ]
    if found.next_step:
        blocks.append(Command("The next step: debias the queries as recommended", found.next_step))
    notes = [
        "Paths are relative to the working folder; a file that is elsewhere is written without its folder."
    ]
    return Section("How this audit was made", notes, blocks)
