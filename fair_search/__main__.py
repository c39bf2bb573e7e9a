"""One command for everything: ``fair-search COMMAND …``, or ``python -m fair_search COMMAND …``.

Each command is one of the checkout's scripts; an installed package carries them as `fair_search.scripts`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import NamedTuple

from safe_io.checkout import IS_CHECKOUT, ROOT, SCRIPTS
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.start import guard_start

DISTRIBUTION = "sem-debiasing"


class Command(NamedTuple):
    """A command: the module with its ``main``, whether it is a script of the checkout, and what it does."""

    module: str
    is_script: bool
    help: str


COMMANDS = {
    "embed": Command("precompute_embeddings", True, "embed the images of a dataset"),
    "audit": Command("audit_bias", True, "measure how fair a search over image embeddings is"),
    "debias": Command("debias_queries", True, "debias the queries of a search system"),
    "new-dataset": Command("fair_search.new_dataset", False, "make a folder for a dataset of your own"),
    "splits": Command("generate_splits", True, "draw the folds of an evaluation"),
    "eval": Command("main_eval", True, "evaluate debiasing methods on datasets"),
    "uncertainty": Command("hessian_estimation", True, "estimate how sure a backbone is of its embeddings"),
    "results": Command("process_json_outputs", True, "gather results of an evaluation into one table"),
    "tables": Command("reproduce_tables.__main__", False, "print tables of the paper from results"),
    "train-sae": Command("debiasing_methods.sae_training", False, "train a sparse autoencoder"),
    "train-prism": Command("debiasing_methods.prism_training", False, "train PRISM's maps"),
    "train-zsdebias": Command("debiasing_methods.zsdebias_training", False, "train ZSDebias's models"),
    "demo": Command("demo.__main__", False, "run the whole pipeline on drawn people (in a checkout)"),
}


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line; options of a command are those of its own parser."""
    width = max(map(len, COMMANDS)) + 2
    parser = argparse.ArgumentParser(
        prog="fair-search",
        description="Audit and debias the embeddings of CLIP-like models.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:{width}}{command.help}" for name, command in COMMANDS.items())
        + "\n\n'fair-search COMMAND --help' shows the options of a command.",
    )
    parser.add_argument("command", metavar="COMMAND", help="what to do; its own options follow")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version()}")
    return parser


def version() -> str:
    """Version of the installed distribution."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "(checkout, not installed)"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or given[0].startswith("-"):
        build_parser().parse_args(given or ["--help"])
    name = given[0]
    if name not in COMMANDS:
        raise unknown("command", name, list(COMMANDS), "fair-search")
    sys.argv = [f"fair-search {name}", *given[1:]]  # usage lines name the program by it
    return load_command(name)(given[1:])


def load_command(name: str) -> Callable[[Sequence[str]], int]:
    """Import the ``main`` of a command.

    Parameters
    ----------
    name : str
        One of `COMMANDS`.

    Returns
    -------
    callable
        Arguments → exit code.

    Raises
    ------
    InputError
        The command needs a checkout, and the package is installed without one.
    """
    command = COMMANDS[name]
    if name == "demo" and not IS_CHECKOUT:
        raise InputError(
            "the demo writes its data and models into a checkout of the project: run it in one, with "
            "`bash run_demo.sh`"
        )
    if IS_CHECKOUT and str(ROOT) not in sys.path:  # installed with --editable, scripts are not on the path
        sys.path.insert(0, str(ROOT))
    return importlib.import_module((SCRIPTS if command.is_script else "") + command.module).main


def run() -> None:
    """Run the installed command; does not return."""
    guard_start()
    sys.exit(run_main(main))


if __name__ == "__main__":
    run()
