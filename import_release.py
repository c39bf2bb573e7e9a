"""Bring files of the paper's release to where the project's scripts find them."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from bias_evaluation.grid.configs import load_backbones
from safe_io.checkout import ROOT
from safe_io.errors import run_main
from safe_io.exit_codes import EXIT_BAD_INPUT

if TYPE_CHECKING:
    from bias_evaluation.release.find import Found
    from bias_evaluation.release.install import Imported


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Install the files of the paper's release: prompts and PRISM text sets (then `--prompts "
        "official` selects them), weights, embeddings with their metadata, fold indices, and the published "
        "results. DIR may be a checkout of the published repository, or any folder with those files, which "
        "are found by their names. Each is checked before it is copied, and nothing in it is executed.",
        epilog="Tables of the published results: python process_json_outputs.py --input-dir "
        "main_eval_output/official. Weights in zip archives: download_release.py --source. Exit code 2 if a "
        "file was refused.",
    )
    parser.add_argument(
        "--from", dest="folder", type=Path, required=True, metavar="DIR", help="folder of the release"
    )
    parser.add_argument(
        "--to", type=Path, default=ROOT, metavar="DIR", help="project folder (default: this one)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files that differ")
    return parser


def count(word: str, files: Iterable[Found]) -> None:
    """Print how many files of each kind share a fate, and in which folder they are."""
    for (kind, folder), number in Counter((file.kind, file.target.parent) for file in files).items():
        print(f"{word:8} {number:4} {kind} -> {folder}")


def report(done: Imported, folder: Path) -> None:
    """Print what became of every file: refusals on stderr, the rest on stdout."""
    count("took", done.taken)
    count("kept", done.kept)
    for path, why in done.skipped:
        print(f"skipped  {path.relative_to(folder)}: {why}")
    alike: dict[tuple[str, Path], list[Path]] = {}
    for path, why in done.refused:
        alike.setdefault((" ".join(why.split()), path.parent), []).append(path.relative_to(folder))
    for (why, _), paths in alike.items():
        others = f" and {len(paths) - 1} more beside it" if len(paths) > 1 else ""
        print(f"refused  {paths[0]}{others}: {why}", file=sys.stderr)
    print(
        f"{len(done.taken)} file(s) taken, {len(done.kept)} there already, {len(done.skipped)} skipped, "
        f"{len(done.refused)} refused; {done.others} others are not the release's"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.release.install import import_release

    backbones = load_backbones(ROOT / "config" / "backbones.yml")
    done = import_release(args.folder, args.to, backbones=list(backbones.values()), overwrite=args.overwrite)
    report(done, args.folder)
    return EXIT_BAD_INPUT if done.refused else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
