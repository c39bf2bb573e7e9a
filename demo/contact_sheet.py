"""Contact sheet: whom queries retrieve before and after debiasing, with the counts of each group.

Each query has one row of pictures for the base model, and one for a debiased one. Pictures come from the
evaluation half of fold 0, as in the results.

Usage::

    python -m demo.contact_sheet --config config/portraits.yml --output-dir main_eval_output/demo
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from bias_evaluation.grid.configs import DatasetConfig, load_dataset_config
from bias_evaluation.grid.plan import ResultKey, RunOptions
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.files import write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bias_evaluation.suite.workspace import Workspace

QUERIES = ("role_gender:nurse", "role_gender:mechanic", "trait_gender:gentle", "hobby_skin:cyclist")
SHOWN = 20


@dataclass(frozen=True)
class Row:
    """What one method retrieves for one query.

    Attributes
    ----------
    query, method : str
        Sentence of the query, and name of the method as tables show it.
    files : tuple of pathlib.Path
        Pictures, best first.
    counts : dict of str to int
        Group to its number among them.
    """

    query: str
    method: str
    files: tuple[Path, ...]
    counts: dict[str, int]

    @property
    def caption(self) -> str:
        """Method and counts, such as "Base CLIP (woman: 17, man: 3)"."""
        return f"{self.method} ({', '.join(f'{group}: {n}' for group, n in self.counts.items())})"


def parse_query(text: str, config: DatasetConfig) -> tuple[str, str]:
    """Split "setting:query"; `InputError` if the config has no such retrieval setting."""
    setting, colon, query = text.partition(":")
    retrieval = [name for name, s in config.settings.items() if s.task == "retrieval"]
    if not colon or setting not in retrieval:
        raise InputError(
            f"--queries: '{text}' must be SETTING:QUERY, with one of the settings {', '.join(retrieval)} "
            f"of {config.path}"
        )
    return setting, query


def retrieve(workspace: Workspace, key: ResultKey, query: str, shown: int) -> Row:
    """Find the first pictures of one query in the evaluation half of fold 0.

    Parameters
    ----------
    workspace : Workspace
        Of the key's dataset and backbone.
    key : ResultKey
        Setting and method; one that needs no labeled reference images.
    query : str
        Name of a query of the setting.
    shown : int
        Number of pictures.

    Returns
    -------
    Row

    Raises
    ------
    InputError
        The setting has no such query, or the fold has too few pictures.
    """
    from bias_evaluation.scoring.fold_scores import SharedScores, fold_scores
    from bias_evaluation.scoring.retrieval import check_k

    workspace.load([key])
    data, setting = workspace.inputs.data, key.setting
    prompts = {group.name: group for group in workspace.inputs.prompts(setting).groups}
    if query not in prompts:
        raise unknown("query", query, list(prompts), setting.name)
    check_k(shown, data.val.shape[1])
    method = workspace.methods.get(key)
    group = workspace.inputs.embedder.group(prompts[query], key.method.name, method.needs)
    scores = fold_scores(method, [group], workspace.inputs.images, data.val[:1], _no_reference)
    assert isinstance(scores, SharedScores)
    [rows], _ = next(iter(scores.top_rows(shown)))
    classes = list(map(str, setting.bias.values))
    counts = np.bincount(workspace.inputs.codes(setting.bias)[rows], minlength=len(classes))
    folder = workspace.options.data_root / workspace.config.folder
    files = tuple(folder / name for name in data.metadata["file_path"].iloc[rows])
    return Row(
        prompts[query].queries[0],
        method.display_name,
        files,
        dict(zip(classes, counts.tolist(), strict=True)),
    )


def _no_reference() -> None:
    raise InputError("contact sheets need a method that works without labeled reference images")


def draw_sheet(rows: Sequence[Row]) -> Figure:
    """Draw the rows under each other, those of one query together."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(0.62 * len(rows[0].files), 0.95 * len(rows)), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(len(rows))), rows, strict=True):
        axes.imshow(np.concatenate([np.asarray(Image.open(f).convert("RGB")) for f in row.files], axis=1))
        axes.set_title(f"“{row.query}” – {row.caption}", fontsize=9, loc="left", pad=2)
        axes.set_axis_off()
    return figure


def make_html(rows: Sequence[Row], title: str) -> str:
    """Write the sheet as one HTML page that loads nothing from elsewhere."""
    body, last = [], ""
    for row in rows:
        if row.query != last:
            body.append(f"<h2>{html.escape(row.query)}</h2>")
            last = row.query
        pictures = "".join(f'<img alt="" src="data:image/png;base64,{_base64(f)}">' for f in row.files)
        body.append(f"<p>{html.escape(row.caption)}</p><div>{pictures}</div>")
    style = "body{font:15px/1.4 sans-serif;margin:2em}img{width:56px;margin:1px}p{margin:.6em 0 .2em}"
    head = f"<meta charset=utf-8><title>{html.escape(title)}</title><style>{style}</style>"
    text = "".join(body)
    body_text = f"<body><h1>{html.escape(title)}</h1>{text}</body>"
    return f'<!doctype html><html lang="en"><head>{head}</head>{body_text}</html>\n'


def _base64(file: Path) -> str:
    picture = io.BytesIO()
    Image.open(file).convert("RGB").save(picture, "PNG")
    return base64.b64encode(picture.getvalue()).decode()


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.contact_sheet",
        description="Draw whom queries retrieve before and after debiasing, with the counts of each group: "
        "contact_sheet_<backbone>.png, .pdf and .html.",
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path("config/portraits.yml"), metavar="FILE", help="dataset config")
    add("--backbone", default="tiny-RN", metavar="B", help="a backbone of the config (default: %(default)s)")
    add("--queries", nargs="+", default=list(QUERIES), metavar="SETTING:QUERY", help="default: %(default)s")
    add("--method", default="sem-bi", metavar="M", help="the debiased row (default: %(default)s)")
    add("--shown", type=int, default=SHOWN, metavar="N", help="pictures per row (default: %(default)s)")
    add("--output-dir", type=Path, default=Path("main_eval_output/demo"), metavar="DIR")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.display.figures import save_both
    from bias_evaluation.suite.workspace import Workspace

    if args.shown < 1:
        raise InputError(f"--shown must be at least 1, got {args.shown}")
    config = load_dataset_config(args.config)
    queries = [parse_query(text, config) for text in args.queries]
    if args.backbone not in config.backbones:
        raise unknown("backbone", args.backbone, list(config.backbones), str(config.path))
    for method in ("vanilla", args.method):
        if method not in config.methods:
            raise unknown("method", method, list(config.methods), str(config.path.parent / "methods.yml"))
    backbone = config.backbones[args.backbone]
    options = RunOptions(
        data_root=config.root / "data",
        output_dir=args.output_dir,
        prompts=config.prompts,
        retrieval_k=config.retrieval_k,
    )
    workspace = Workspace(config, backbone, options)
    rows = [
        retrieve(
            workspace,
            ResultKey(config.dataset, config.settings[s], backbone, config.methods[m], None),
            q,
            args.shown,
        )
        for s, q in queries
        for m in ("vanilla", args.method)
    ]
    stem = args.output_dir / f"contact_sheet_{backbone.stem}"
    title = f"The first {args.shown} people retrieved, before and after {rows[-1].method}"
    write_text(stem.with_name(f"{stem.name}.html"), make_html(rows, title))
    save_both(draw_sheet(rows), stem)
    for row in rows:
        print(f"{row.query:40s} {row.caption}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
