"""Fetch the trained weights of the paper's release: SAE, PRISM and ZSDebias."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from bias_evaluation.grid.configs import load_backbones
from bias_evaluation.release.files import BASE_URL
from bias_evaluation.weights import KIND_NAMES
from safe_io.checkout import ROOT
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.exit_codes import EXIT_BAD_INPUT


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    names = ", ".join(KIND_NAMES)
    parser = argparse.ArgumentParser(
        description="Fetch the three weight archives of the paper's release and put their files into "
        "debiasing_methods/<kind>_weights/. A transfer that was cut goes on with the next call. Each archive "
        "is checked and unpacked aside first; nothing in it is executed, and a bad one changes nothing.",
        epilog="Example: python download_release.py --only sae --source sae=~/Downloads/sae_weights.zip",
    )
    add = parser.add_argument
    add(
        "--only",
        nargs="+",
        choices=KIND_NAMES,
        metavar="NAME",
        help=f"some of: {names} (default: all)",
    )
    add(
        "--base-url",
        default=BASE_URL,
        metavar="URL",
        help="address, or local folder, that holds <NAME>_weights.zip (default: %(default)s)",
    )
    add(
        "--source",
        action="append",
        default=[],
        metavar="NAME=ADDRESS",
        help="address or local file of one archive, in place of the base URL's; may be given several times",
    )
    add(
        "--sha256",
        action="append",
        default=[],
        metavar="NAME=HEX",
        help="expected SHA-256 of an archive; may be given several times",
    )
    add("--to", type=Path, default=ROOT, metavar="DIR", help="project folder (default: this one)")
    add("--timeout", type=float, default=30.0, metavar="S", help="seconds to wait (default: %(default)g)")
    add("--overwrite", action="store_true", help="fetch again what is there, and replace files that differ")
    return parser


def by_name(option: str, values: Sequence[str]) -> dict[str, str]:
    """Read the values of an option that is given as NAME=VALUE."""
    pairs = {}
    for value in values:
        name, separator, rest = value.partition("=")
        if not separator or not rest:
            raise InputError(f"{option} {value}: NAME=VALUE is needed")
        if name not in KIND_NAMES:
            raise unknown("archive", name, KIND_NAMES, option)
        if name in pairs:
            raise InputError(f"{option}: '{name}' is given twice")
        pairs[name] = rest
    return pairs


def check_digests(digests: dict[str, str]) -> None:
    """Raise `InputError` where an expected SHA-256 is none."""
    for name, digest in digests.items():
        if not re.fullmatch(r"[0-9a-fA-F]{64}", digest):
            raise InputError(f"--sha256 {name}: 64 hexadecimal digits are needed, found '{digest}'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.release.fetch import install_archive
    from bias_evaluation.weights.kinds import KINDS

    if not args.timeout > 0:
        raise InputError(f"--timeout must be positive, got {args.timeout:g}")
    sources, digests = by_name("--source", args.source), by_name("--sha256", args.sha256)
    check_digests(digests)
    backbones = load_backbones(ROOT / "config" / "backbones.yml")
    failed = 0
    for name in args.only or KINDS:
        kind = KINDS[name]
        try:
            done = install_archive(
                kind,
                sources.get(name, f"{args.base_url.rstrip('/')}/{kind.archive}"),
                args.to,
                sha256=digests.get(name),
                overwrite=args.overwrite,
                backbones=list(backbones.values()),
                timeout=args.timeout,
            )
        except InputError as error:  # the other archives are of use without this one
            print(f"error: {name}: {' '.join(str(error).split())}", file=sys.stderr)
            failed += 1
            continue
        print(f"{name}: {done.new} file(s) installed in {kind.folder}, {done.same} there already")
        if done.left_out:
            print(f"{name}: left out {len(done.left_out)} other member(s), the first: {done.left_out[0]}")
    return EXIT_BAD_INPUT if failed else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
