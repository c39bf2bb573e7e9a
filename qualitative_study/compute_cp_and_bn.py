"""Content preservation and bias neutralisation of the versions: a table, printed and saved.

Symbols: z_g(p) unit embedding of subject p with bias value g in a version, x(p) the raw unit embedding of the
neutral sentence.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])


from qualitative_study.options import build_parser
from safe_io.errors import run_main
from safe_io.files import write_json, write_text
from safe_io.provenance import versions

if TYPE_CHECKING:
    from torch import Tensor


def content_preservation(version: Tensor, base: Tensor) -> float:
    """``CP = mean over p and g of z_g(p)·x(p)`` (SEM, arXiv:2603.19028, section 4.2).

    Parameters
    ----------
    version, base : Tensor of shape (B + 1, P, d)
        A version and raw CLIP, unit rows, the neutral sentences last.
    """
    return float((version[:-1] * base[-1]).sum(-1).double().mean())


def bias_neutralisation(version: Tensor) -> float:
    """``BN = mean over p of z_g(p)·z_h(p)``; of more than two bias values, the mean over all pairs g, h too.

    Parameters
    ----------
    version : Tensor of shape (B + 1, P, d)
        Unit rows, the neutral sentences last.
    """
    pairs = list(combinations(version[:-1].double(), 2))
    return float(sum((z * y).sum(-1).mean() for z, y in pairs)) / len(pairs)


def measure(found: Mapping[str, Tensor], base: Tensor) -> dict[str, dict[str, float]]:
    """Measure every version: name → CP and BN."""
    return {
        name: {"CP": content_preservation(z, base), "BN": bias_neutralisation(z)} for name, z in found.items()
    }


def format_table(scores: Mapping[str, Mapping[str, float]]) -> str:
    """Write the table as Markdown, three decimals."""
    from qualitative_study.versions import display_name

    lines = [f"| {display_name(name)} | {s['CP']:.3f} | {s['BN']:.3f} |" for name, s in scores.items()]
    return "\n".join(["| version | CP ↑ | BN ↑ |", "|---|---|---|", *lines]) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = build_parser(
        "Content preservation (CP: how close the debiased sentences stay to the raw neutral one) and bias "
        "neutralisation (BN: how close they come to each other) of sentences that differ in a bias value.",
        "Writes cp_bn_<backbone>.csv, .md (three decimals) and .json (all digits, and what it was made "
        "from). Example: compute_cp_and_bn.py --versions vanilla orth-proj sem-b sem-b-neutral sem-bi",
    )
    args = parser.parse_args(argv)

    from qualitative_study.versions import open_maker

    maker = open_maker(args)
    needed = list(dict.fromkeys(["vanilla", *args.versions]))
    found = maker.make(needed)
    scores = measure({name: found[name] for name in args.versions}, found["vanilla"])
    table = format_table(scores)
    stem = args.output_dir / f"cp_bn_{maker.backbone.stem}"
    csv = [f"{name},{s['CP']:.3f},{s['BN']:.3f}" for name, s in scores.items()]
    write_text(stem.with_name(f"{stem.name}.csv"), "\n".join(["version,CP,BN", *csv]) + "\n")
    write_text(stem.with_name(f"{stem.name}.md"), table)
    write_json(
        stem.with_name(f"{stem.name}.json"),
        {
            "study": "qualitative",
            "backbone": maker.backbone.name,
            "subject": maker.config.subject,
            "values": list(maker.study.biases),
            "scores": scores,
            "versions": versions(),
            "digests": maker.digests(needed),
        },
    )
    print(f"{table}written: {stem}.csv, .md, .json")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
