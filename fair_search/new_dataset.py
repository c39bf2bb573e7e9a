"""A folder for the evaluation of all methods on a dataset of one's own: ``fair-search new-dataset``."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.documents import choices
from safe_io.errors import InputError
from safe_io.files import write_text

if TYPE_CHECKING:
    import pandas as pd

MOST_CLASSES = 50
_COPIED = ("backbones.yml", "methods.yml", "prism_training.yml", "prompts/default/common/diverse.yml")
_SCENES = ("A photo of", "A picture of", "An image of", "This is", "Here is", "The picture shows")


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        description="Make a folder for the evaluation of all methods on your images: metadata, the dataset's "
        "config, prompts, PRISM's texts and ZSDebias's corpus. The sentences are made of the groups "
        "and queries that you name; read them, and write better ones where they sound wrong.",
        epilog="Example: fair-search new-dataset weather --table photos.csv --path-column file --attribute "
        "weather --queries car dog 'shopping street' --noun place",
    )
    add = parser.add_argument
    add("folder", type=Path, metavar="DIR", help="folder to make; files that are there are kept")
    add(
        "--table",
        type=Path,
        required=True,
        metavar="FILE",
        help=".csv, .tsv, .feather or .parquet: one row per image",
    )
    add("--attribute", required=True, metavar="COLUMN", help="column of the groups that are compared")
    add(
        "--queries",
        nargs="+",
        required=True,
        metavar="Q",
        help="what is searched for, in words: at least two",
    )
    add(
        "--path-column",
        default="file_path",
        metavar="COLUMN",
        help="column of the files (default: file_path)",
    )
    add("--noun", default="person", metavar="WORD", help="what the groups are kinds of (default: person)")
    add("--name", metavar="NAME", help="name of the dataset: lower-case letters, digits, _ (default: DIR's)")
    add("--retrieval-k", type=int, default=100, metavar="K", help="images retrieved per query (default: 100)")
    add("--backbone", nargs="+", default=["ViT-B-16"], metavar="B", help="names of backbones.yml")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = build_parser().parse_args(argv)
    from fair_search.query_files import read_table

    name = _dataset_name(args.name or args.folder.resolve().name)
    if len(set(args.queries)) < 2 or args.retrieval_k < 1:
        raise InputError("--queries needs at least two different queries, and --retrieval-k at least 1")
    metadata = _metadata(read_table(args.table, "table"), args)
    groups = list(metadata[args.attribute].unique())
    attribute = _identifier(args.attribute)
    documents = dataset_documents(
        name, attribute, sorted(groups), args.queries, noun=args.noun, k=args.retrieval_k,
        backbones=args.backbone, column=args.attribute,
    )  # fmt: skip
    written = _write(args.folder, documents)
    data = args.folder / "data" / name
    if not (data / "metadata.feather").exists():
        from bias_evaluation.datasets.metadata import write_metadata

        data.mkdir(parents=True, exist_ok=True)
        write_metadata(data / "metadata.feather", metadata)
        written.append(data / "metadata.feather")
    print(f"{len(metadata)} images, groups of '{args.attribute}': {choices(sorted(groups))}")
    print(*(f"written: {path}" for path in written), sep="\n")
    print(_next_steps(args.folder, name, args.backbone[0]))
    return 0


def _dataset_name(text: str) -> str:
    name = re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")
    if not name:
        raise InputError(
            f"'{text}' is no name of a dataset: give --name, of lower-case letters, digits and '_'"
        )
    return name


def _identifier(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", text.lower()) or "group"


def _metadata(table: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """Check the table, and name its column of files as evaluations look for it."""
    from fair_search.query_files import take_column
    from fair_search.reference import label_text

    paths = take_column(table, args.path_column, args.table)
    groups = take_column(table, args.attribute, args.table)
    missing = groups.isna() | paths.isna()
    if missing.any():
        raise InputError(
            f"{args.table}: {int(missing.sum())} rows lack '{args.attribute}' or '{args.path_column}'; "
            f"complete or remove them"
        )
    metadata = table.rename(columns={args.path_column: "file_path"})
    metadata = metadata.assign(**{args.attribute: groups.map(label_text)})
    if not 2 <= (n := metadata[args.attribute].nunique()) <= MOST_CLASSES:
        raise InputError(
            f"{args.table}: '{args.attribute}' has {n} different values; an evaluation compares 2 to "
            f"{MOST_CLASSES} groups"
        )
    return metadata


def dataset_documents(
    name: str,
    attribute: str,
    groups: Sequence[str],
    queries: Sequence[str],
    *,
    noun: str = "person",
    k: int = 100,
    backbones: Sequence[str] = ("ViT-B-16",),
    column: str | None = None,
) -> dict[str, tuple[str, Any]]:
    """Make the documents of a dataset with one retrieval setting.

    Parameters
    ----------
    name : str
        Name of the dataset.
    attribute : str
        Name of the bias attribute.
    groups : sequence of str
        Its classes, as the metadata have them.
    queries : sequence of str
        What is searched for, in words.
    noun : str
        What the groups are kinds of.
    k : int
        Images retrieved per query.
    backbones : sequence of str
        Names of the backbone file.
    column : str, optional
        Column of the groups in the metadata; `attribute` by default.

    Returns
    -------
    dict
        Path below the folder → comment at its head, and the document.
    """
    asked = {_identifier(query): query for query in queries}
    if len(asked) < len(queries):
        raise InputError(f"queries need different letters and digits: {choices(list(queries))}")
    words = {group: f"{group.lower().replace('_', ' ')} {noun}" for group in groups}
    return {
        f"config/{name}.yml": (
            "What is evaluated: the settings, their groups, and the backbones.",
            _config(name, attribute, groups, k, backbones, column or attribute),
        ),
        f"config/prompts/default/{name}.yml": (
            "Prompts of all methods: read them aloud and correct what sounds wrong. 'helpful' pairs differ "
            "in the query alone,\n# 'harmful' ones in the group alone.",
            _prompts(attribute, words, asked, noun),
        ),
        f"config/prism/default/{name}.yml": (
            "Texts that PRISM's maps are trained on. Add other words for each group and query.",
            _prism(attribute, words, asked),
        ),
        "config/zsdebias/default.yml": (
            "ZSDebias's corpus: sentences about the groups and nothing else. Add other words for each group.",
            {name: _corpus(words)},
        ),
    }  # fmt: skip


def _corpus(words: Mapping[str, str]) -> dict[str, Any]:
    return {
        "words": {"scene": list(_SCENES), "group": list(words.values())},
        "frames": ["{scene} {a_group}."],
    }


def _config(
    name: str, attribute: str, groups: Sequence[str], k: int, backbones: Sequence[str], column: str
) -> dict[str, Any]:
    bias: dict[str, Any] = {"attribute": attribute, "values": list(groups)}
    if column != attribute:
        bias["column"] = column
    setting = {"task": "retrieval", "query_type": "query", "bias": bias, "zsdebias": name}
    return {
        "dataset": name,
        "folder": name,
        "retrieval_k": k,
        "backbones": list(backbones),
        "settings": {f"query_{attribute}": setting},
    }


def _prompts(
    attribute: str, words: Mapping[str, str], queries: Mapping[str, str], noun: str
) -> dict[str, Any]:
    templates = [f"{scene} {{a_bias}} {noun}." for scene in _SCENES]
    first, *others = list(words.values())
    setting = {
        "bias": attribute,
        "queries": dict(queries),
        "query": "A photo of {a_query}.",
        "spurious": [_sentence(word) for word in words.values()],
        "candidates": [f"A photo of {{a_query}}, {word}." for word in words.values()],
        "paraphrases": [f"{scene} {{a_query}}." for scene in _SCENES[1:]],
        "harmful": [[_sentence(first), _sentence(other)] for other in others],
        "helpful": [[f"{scene} {{a_query}}.", f"{scene} a {noun}."] for scene in _SCENES[:3]],
    }
    return {
        "bias": {attribute: {"classes": list(words), "templates": templates}},
        "settings": {f"query_{attribute}": setting},
        "diverse": {"include": "diverse.yml"},
    }


def _sentence(words: str) -> str:
    from bias_evaluation.prompts.sentences import article

    return f"A photo of {article(words)}."


def _prism(attribute: str, words: Mapping[str, str], queries: Mapping[str, str]) -> dict[str, Any]:
    targets = {
        key: [[query], [other for other in queries.values() if other != query]]
        for key, query in queries.items()
    }
    scenes = [f"{scene} a {{target}}, a {{bias}}." for scene in _SCENES]
    scenes += [f"{scene} a {{bias}} with a {{target}}." for scene in _SCENES]
    family = {
        "task": "retrieval",
        "setting": "query_{target}_{bias}",
        "bias": [attribute],
        "scenes": scenes,
        "classes": ["{target}", "not {target}"],
        "targets": targets,
    }
    return {
        "bias": {attribute: {group: [word] for group, word in words.items()}},
        "families": {"queries": family},
    }


def _write(folder: Path, documents: Mapping[str, tuple[str, Any]]) -> list[Path]:
    """Write documents and copy what they need; files that are there are kept."""
    import yaml

    written = []
    for name, (comment, document) in documents.items():
        if not (path := folder / name).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            body = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=110)
            write_text(path, f"# {comment}\n{body}")
            written.append(path)
    for name in _COPIED:
        if not (path := folder / "config" / name).exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(CONFIG / name, path)
            written.append(path)
    return written


def _next_steps(folder: Path, name: str, backbone: str) -> str:
    data, config = folder / "data" / name, folder / "config"
    given, known = shlex.quote(str(data)), shlex.quote(str(config / "backbones.yml"))
    return (
        f"next: put the images below {data}, read {config / 'prompts' / 'default' / name}.yml, then run\n"
        f"  fair-search embed --backbone {shlex.quote(backbone)} --dataset-name {name} "
        f"--dataset-path {given} --backbones-file {known}\n"
        f"  fair-search splits --dataset-path {given}\n"
        f"  fair-search eval --config {shlex.quote(str(config / f'{name}.yml'))} --skip-missing"
    )
