"""What an audit was made from, for its page: enough to repeat it and to take the next step.

Symbols: N images, d embedding dimension, Q queries, C groups.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fair_search.audit import Audit
from fair_search.commands import audit_command, debias_command, option_words, plain_path, plain_word
from fair_search.intersections import SIGN
from safe_io.errors import InputError
from safe_io.provenance import versions

_SHORT = 16  # digits of a digest that are shown; audit.json has all


@dataclass(frozen=True)
class Provenance:
    """What an audit was made from.

    Attributes
    ----------
    facts : tuple of (str, str)
        Terms and what they are: model, embeddings, groups, queries, date, versions, options, seed.
    reproduce : str
        The command that repeats the audit.
    next_step : str
        The command that debiases the queries with the recommended method; empty if there is nothing to do.
    """

    facts: tuple[tuple[str, str], ...]
    reproduce: str
    next_step: str


def provenance(
    args: argparse.Namespace,
    defaults: Mapping[str, Any],
    found: Audit,
    shape: tuple[int, int],
    *,
    digests: Mapping[str, str],
    recommended: str,
    weights: Mapping[str, Path],
) -> Provenance:
    """Describe an audit that a command made.

    Parameters
    ----------
    args : argparse.Namespace
        Of the command.
    defaults : mapping
        Its defaults.
    found : Audit
    shape : tuple of int
        (N, d).
    digests : mapping
        What was read → its digest.
    recommended : str
        Method of the next step.
    weights : mapping
        Method → its weight file, if given.

    Returns
    -------
    Provenance
    """
    facts, next_step = _facts(args, defaults, found, shape, digests), ""
    if recommended != found.lists.methods[0] and args.bias is not None:
        needs = found.costs[recommended].needs_reference
        if needs and SIGN in found.groups.attribute:  # no column holds the intersections
            return Provenance(facts, audit_command(args, defaults), "")
        next_step = debias_command(args, recommended, weights.get(recommended), reference=needs)
    return Provenance(
        facts=facts,
        reproduce=audit_command(args, defaults),
        next_step=next_step,
    )


def _facts(
    args: argparse.Namespace,
    defaults: Mapping[str, Any],
    found: Audit,
    shape: tuple[int, int],
    digests: Mapping[str, str],
) -> tuple[tuple[str, str], ...]:
    def file(name: str) -> str:
        return f"{plain_path(getattr(args, name))} (sha256 {digests[name][:_SHORT]}…)"

    counts = ", ".join(
        f"{name} {n:,}" for name, n in zip(found.groups.classes, found.counts.tolist(), strict=True)
    )
    model = plain_word(args.backbone) if args.backbone else "none: queries are embeddings"
    if args.text_embeddings is not None:
        model = f"texts from {plain_path(args.text_embeddings)}"
    if "text" in digests:
        model += f" (digest {digests['text'][:_SHORT]}…)"
    given = [
        " ".join(option_words(name, value))
        for name, value in vars(args).items()
        if value != defaults.get(name) and name != "output_dir"
    ]
    reference = f"{len(found.reference_rows):,} labeled images were drawn with it" * bool(
        len(found.reference_rows)
    )
    return (
        ("Model", model),
        ("Embeddings", f"{file('embeddings')}; {shape[0]:,} rows of width {shape[1]}"),
        ("Metadata", file("metadata")),
        ("Groups", f"“{found.groups.attribute}”: {counts}"),
        ("Queries", f"{file('queries')}; {len(found.lists.queries)} are judged"),
        ("Date", f"{today()} (UTC)"),
        ("Versions", ", ".join(f"{name} {value}" for name, value in versions("fair_search").items())),
        ("Options", "; ".join(given)),
        (
            "Seed",
            f"{found.settings.seed}, of the {found.settings.draws} bootstrap draws and the random order"
            + (f"; {reference}" if reference else ""),
        ),
    )


def today() -> str:
    """Return the date in UTC; that of ``SOURCE_DATE_EPOCH`` (seconds) if a reproducible build sets it."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return datetime.fromtimestamp(int(given), UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        raise InputError(f"SOURCE_DATE_EPOCH must be a number of seconds, got '{given}'") from None
