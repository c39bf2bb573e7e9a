"""A table of leakage: what probes read of the bias attribute from the images of every method.

`python -m bias_evaluation.suite.leakage_table --config config/fairface.yml --settings stereotype_gender
--backbone ViT-B-16` prints it and writes ``leakage.csv``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, as_input_error, run_main

if TYPE_CHECKING:  # imported where they are used, so that --help answers at once
    import pandas as pd

    from bias_evaluation.grid.plan import ResultKey
    from bias_evaluation.suite.leakage import Leakage, ProbeSettings
    from bias_evaluation.suite.workspace import Workspace
    from debiasing_methods.base import DebiasingMethod

MOST_GROUPS = 3  # query groups whose images are probed, where each has its own


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--backbones": "--backbone"},
        prog="python -m bias_evaluation.suite.leakage_table",
        description="Probe the images of every method for the bias attribute: accuracy of a linear probe and "
        "of an MLP on evaluation images that neither the method nor the probe has seen.",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="dataset config, e.g. config/celeba.yml")
    add("--settings", nargs="+", metavar="S", help="only these task settings")
    add("--backbone", nargs="+", metavar="B", help="only these backbones")
    add("--methods", nargs="+", metavar="M", help="only these methods")
    add("--fold", type=int, default=0, metavar="F", help="whose evaluation images (default: 0)")
    add("--data-root", type=Path, metavar="DIR", help="folder of the dataset folders (default: data/)")
    add("--text-embeddings", type=Path, metavar="FILE", help="npz that supplies text embeddings")
    add("--output-dir", type=Path, required=True, metavar="DIR", help="where leakage.csv goes")
    add("--seed", type=int, default=0, help="of the split and the MLP (default: 0)")
    return parser


def leakage_rows(
    workspace: Workspace, keys: Sequence[ResultKey], fold: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Probe the images of results of one workspace.

    Parameters
    ----------
    workspace : Workspace
    keys : sequence of ResultKey
        Of seeded methods the first seed is probed.
    fold : int
        Whose transform and evaluation images.
    seed : int
        Of the probes.

    Yields
    ------
    dict
        Setting, backbone, method, images ('unit' or 'returned') and the fields of `Leakage`. Methods that
        leave images as they are have the figures of the images themselves.
    """
    from bias_evaluation.suite.leakage import ProbeSettings

    unchanged: dict[str, dict[str, Leakage]] = {}
    for key in keys:
        method = workspace.methods.get(key)
        text_only = not method.changes_images and method.normalize
        found = unchanged.get(key.setting.name) if text_only else None
        if found is None:
            with as_input_error(key.stem):
                found = _probed(workspace, key, method, fold, ProbeSettings(seed=seed))
        if text_only:
            unchanged[key.setting.name] = found
        names = {"setting": key.setting.name, "backbone": key.backbone.name, "method": key.method.name}
        for kind, leakage in found.items():
            yield {**names, "images": kind, **asdict(leakage)}


def _probed(
    workspace: Workspace, key: ResultKey, method: DebiasingMethod, fold: int, settings: ProbeSettings
) -> dict[str, Leakage]:
    """Probe a method's images, at most those of `MOST_GROUPS` query groups."""
    from bias_evaluation.suite.evaluate import query_groups
    from bias_evaluation.suite.leakage import method_leakage

    inputs, groups = workspace.inputs, query_groups(workspace, key, method)
    transform = method.image_transform(
        groups, fold, *([inputs.reference(key.setting.bias)] if method.fits_images else [])
    )
    spread = sorted({i * (len(groups) - 1) // (MOST_GROUPS - 1) for i in range(MOST_GROUPS)})
    codes, rows = inputs.codes(key.setting.bias), inputs.data.val[fold]
    chosen = spread if method.changes_images else (0,)
    return method_leakage(method, transform, inputs.images, codes, rows, chosen, settings)


def first_seeds(keys: Sequence[ResultKey]) -> list[ResultKey]:
    """Keep of each method, setting and backbone the first seed."""
    first: dict[tuple[str, str, str], ResultKey] = {}
    for key in keys:
        first.setdefault((key.setting.name, key.backbone.name, key.method.name), key)
    return list(first.values())


def as_lines(table: pd.DataFrame) -> list[str]:
    """Write the accuracies of unit images as lines for a terminal."""
    from bias_evaluation.grid.methods import display_name

    unit = table[table["images"] == "unit"]
    width = max(map(len, map(display_name, unit["method"])))
    lines = [f"{'':{width}}  linear    MLP  majority"]
    for row in unit.itertuples():
        name = f"{display_name(row.method):{width}}"
        lines.append(f"{name}  {row.linear:6.3f} {row.mlp:6.3f}    {row.majority:6.3f}")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    import pandas as pd

    from bias_evaluation.grid.configs import load_dataset_config
    from bias_evaluation.grid.plan import RunOptions, Selection, check_selection, plan
    from bias_evaluation.suite.workspace import Workspace
    from safe_io.files import atomic_path

    config = load_dataset_config(args.config)
    selection = Selection(args.settings, args.backbone, args.methods)
    check_selection([config], selection)
    keys = first_seeds(plan(config, selection))
    options = RunOptions(
        data_root=args.data_root or config.root / "data",
        output_dir=args.output_dir,
        prompts=config.prompts,
        retrieval_k=config.retrieval_k,
        text_embeddings=args.text_embeddings,
    )
    rows = []
    for backbone in dict.fromkeys(key.backbone for key in keys):
        workspace = Workspace(config, backbone, options)
        mine = [key for key in keys if key.backbone == backbone]
        usable = [key for key in mine if not workspace.states.lacks(key)]
        for key in mine:
            if key not in usable:
                print(f"left out: {key.stem} lacks {', '.join(workspace.states.lacks(key))}", file=sys.stderr)
        if not usable:
            raise InputError(
                f"no result of {backbone.name} can be made; main_eval.py --dry-run says what is missing"
            )
        workspace.load(usable)
        _check_fold(args.fold, len(workspace.inputs.data.val))
        rows += leakage_rows(workspace, usable, args.fold, args.seed)
        workspace.release()
    table = pd.DataFrame(rows)
    with atomic_path(args.output_dir / "leakage.csv") as path:
        table.to_csv(path, index=False, lineterminator="\n")
    for (setting, backbone), part in table.groupby(["setting", "backbone"], sort=False):
        print(f"{setting}, {backbone}: accuracy of the bias attribute on held-out images")
        print("\n".join(as_lines(part)))
    print(f"written: {args.output_dir / 'leakage.csv'}")
    return 0


def _check_fold(fold: int, n_folds: int) -> None:
    if not 0 <= fold < n_folds:
        raise InputError(f"--fold {fold}: there are {n_folds} folds; choose 0 to {n_folds - 1}")


if __name__ == "__main__":
    sys.exit(run_main(main))
