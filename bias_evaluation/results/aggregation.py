"""From result files to one table: reading, checking name against content, and what must not be compared.

A result file is ``<dataset>_<task part>_clip-<backbone stem>_<method>[-seed<k>].json``, a JSON list with one
record a metric. Published files say `sem` or `orth_proj` for ``method`` and have no seed, so the result name,
its variant and its seed come from the file name; everything that name and content both state must agree.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from bias_evaluation.grid.methods import published_name
from debiasing_methods.registry import METHODS
from safe_io.errors import InputError
from safe_io.files import read_json

PUBLISHED_FIELDS = ("dataset", "task", "backbone", "method", "normalize", "setting", "metric", "mean", "ci")
"""Fields of every record, in the order of the table."""

DIGEST_COMPONENTS = ("revision", "config", "prompts", "weights", "text", "embeddings", "metadata", "folds")
"""What a result of ours records the digest of; each becomes a column ``digest_<component>``."""

COLUMNS = (
    *PUBLISHED_FIELDS,
    "seed",
    "variant",
    "file",
    "folds",
    "digest",
    *(f"digest_{component}" for component in DIGEST_COMPONENTS),
)
"""Columns that every table has; other fields of the records follow in the order in which they appear."""

_SHARED_DIGESTS: Mapping[str, tuple[str, ...]] = {
    "embeddings": ("dataset", "backbone"),
    "metadata": ("dataset",),
    "folds": ("dataset",),
    "text": ("dataset", "backbone"),
    "prompts": ("dataset", "setting", "method"),
    "revision": ("dataset",),
}
"""Digest component → columns; results that agree in the columns are compared, so one digest is expected.

The digests of configs and weights hold the method and its seed, so they tell nothing about two results.
"""

_TASK_IN_NAMES = {"retrieval": "retrieval", "zs-classification": "zs_classification"}
_NAME = re.compile(
    r"(?P<dataset>.+?)_(?P<task>retrieval|zs-classification)_(?P<setting>.+)_clip-(?P<backbone>.+)"
    r"_(?P<method>[^_]+?)(?:-seed(?P<seed>\d+))?\.json"
)
_NAME_FORMS = (
    "<dataset>_retrieval_<query type>_<bias attribute>_clip-<backbone>_<method>[-seed<k>].json or "
    "<dataset>_zs-classification_<setting>_clip-<backbone>_<method>[-seed<k>].json"
)
_RETRIEVAL_SETTING = re.compile(r"query=(?P<query>.+)\|bias=(?P<bias>.+)\|K=(?P<k>\d+)")
_SETTING_COLUMNS = ["dataset", "task", "setting_name"]


@dataclass(frozen=True)
class ResultName:
    """What the name of a result file states.

    Parameters
    ----------
    dataset : str
        Dataset name.
    task : str
        ``retrieval`` or ``zs_classification``.
    setting : str
        ``<query type>_<bias attribute>``, or the class setting; compared without regard to ``-`` and ``_``
        in classification, since names write the one and records the other.
    backbone : str
        Backbone stem (see `backbone_stem`).
    method : str
        Result name without its seed.
    seed : int or None
        Seed, where the name has one.
    """

    dataset: str
    task: str
    setting: str
    backbone: str
    method: str
    seed: int | None = None

    @classmethod
    def parse(cls, path: Path) -> ResultName:
        """Read a file name.

        Parameters
        ----------
        path : pathlib.Path
            Result file; only its name is looked at.

        Returns
        -------
        ResultName
            The parts of the name.

        Raises
        ------
        InputError
            The name has another form.
        """
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise InputError(
                f"{path} is not named like a result ({_NAME_FORMS}); move other files out of {path.parent}"
            )
        parts: dict[str, Any] = match.groupdict()
        parts["task"] = _TASK_IN_NAMES[parts["task"]]
        parts["seed"] = None if parts["seed"] is None else int(parts["seed"])
        return cls(**parts)

    @property
    def file_name(self) -> str:
        """Name of the result file."""
        task = next(name for name, task in _TASK_IN_NAMES.items() if task == self.task)
        setting = self.setting if self.task == "retrieval" else self.setting.replace("_", "-")
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{self.dataset}_{task}_{setting}_clip-{self.backbone}_{self.method}{seed}.json"


def backbone_stem(backbone: str) -> str:
    """Return a backbone's name as file names have it: without the input size after ``@``."""
    return backbone.split("@")[0]


def setting_name(task: str, setting: str) -> str:
    """Return a record's setting as configs name it: ``query=hair|bias=gender|K=500`` is ``hair_gender``.

    Raises
    ------
    InputError
        `task` is retrieval and `setting` has another form.
    """
    if task != "retrieval":
        return setting
    match = _RETRIEVAL_SETTING.fullmatch(setting)
    if match is None:
        raise InputError(
            f"'setting' is {setting!r}; retrieval needs 'query=<type>|bias=<attribute>|K=<number>'"
        )
    return f"{match['query']}_{match['bias']}"


def retrieval_k(setting: str) -> int | None:
    """Return K of a retrieval setting, None for other settings."""
    match = _RETRIEVAL_SETTING.fullmatch(setting)
    return int(match["k"]) if match else None


def collect_results(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Read every result file that lies directly in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Folder of result files. Its sub-folders are runs of their own and are not read.

    Returns
    -------
    table : pandas.DataFrame
        One row a record, in the order of the file names, with the columns `COLUMNS` and then whatever else
        the records hold; ``method`` is the result name, ``seed`` null for methods without seeds.
    warnings : list of str
        One line for every group of results that are compared but were made from different inputs.

    Raises
    ------
    InputError
        The folder or its result files are missing or unreadable; a record lacks a field or has a wrong
        value; name and content contradict each other; two files or records state one result; one setting
        was run with two values of K.
    """
    if not folder.is_dir():
        raise InputError(f"folder of result files not found: {folder}; run main_eval.py or give --input-dir")
    paths = sorted(path for path in folder.glob("*.json") if not path.name.startswith("."))
    if not paths:
        raise InputError(
            f"no result files (*.json) directly in {folder}; run main_eval.py or give --input-dir"
        )
    table = _as_table(row for path in paths for row in read_result(path))
    settings = zip(table["task"], table["setting"], strict=True)
    table["setting_name"] = [setting_name(task, setting) for task, setting in settings]
    _check_one_file_per_result(table, folder)
    _check_one_k_per_setting(table, folder)
    return table.drop(columns="setting_name"), list(_digest_warnings(table))


def read_result(path: Path) -> Iterator[dict[str, Any]]:
    """Read and check one result file.

    Parameters
    ----------
    path : pathlib.Path
        Published result file or one of ours.

    Yields
    ------
    dict
        A row of the table for each record.

    Raises
    ------
    InputError
        See `collect_results`.
    """
    name = ResultName.parse(path)
    records = read_json(path, "result file")
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{path} must hold a JSON list with one record a metric; make it again with main_eval.py"
        )
    seen: set[str] = set()
    for number, record in enumerate(records, start=1):
        where = f"{path}, record {number}"
        _check_fields(record, where)
        _check_against_name(record, name, where)
        if record["metric"] in seen:
            raise InputError(
                f"{where}: a second value of '{record['metric']}' for one result; keep one of them"
            )
        seen.add(record["metric"])
        yield _as_row(record, name, path)


def _check_fields(record: Any, where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(
            f"{where} is a {type(record).__name__}, not an object with {', '.join(PUBLISHED_FIELDS)}"
        )
    missing = [field for field in PUBLISHED_FIELDS if field not in record]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; make the file again with main_eval.py")
    for field in PUBLISHED_FIELDS:
        value = record[field]
        if field == "ci" and value is None:
            continue  # a single record has no interval
        if field in ("mean", "ci"):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not abs(value) <= sys.float_info.max:  # NaN, infinite, or beyond any float
                raise InputError(f"{where}: '{field}' is {value!r}; a finite number is needed")
        elif field == "normalize":
            if not isinstance(value, bool):
                raise InputError(f"{where}: 'normalize' is {value!r}; true or false is needed")
        elif not isinstance(value, str):
            raise InputError(f"{where}: '{field}' is {value!r}; a string is needed")
    if record["task"] not in _TASK_IN_NAMES.values():
        choices = ", ".join(_TASK_IN_NAMES.values())
        raise InputError(f"{where}: 'task' is {record['task']!r}; allowed: {choices}")
    _check_own_fields(record, where)


def _check_own_fields(record: Mapping[str, Any], where: str) -> None:
    """Check the fields that published records lack; each may be missing or null."""
    kinds = {
        "folds": (int, "a whole number"),
        "digest": (str, "a string"),
        "digests": (dict, "an object of strings"),
    }
    for field, (kind, wanted) in kinds.items():
        value = record.get(field)
        wrong_part = isinstance(value, dict) and not all(
            isinstance(part, str | None) for part in value.values()
        )
        if value is not None and (not isinstance(value, kind) or wrong_part):
            raise InputError(f"{where}: '{field}' is {value!r}; {wanted} is needed")


def _check_against_name(record: Mapping[str, Any], name: ResultName, where: str) -> None:
    for field, in_name, in_record, agree in _compare(record, name, where):
        if not agree:
            raise InputError(
                f"{where}: the file name says {field} {in_name!r}, the record says {in_record!r}; "
                f"rename or remove the file"
            )
    _check_seed(name, where)


def _compare(record: Mapping[str, Any], name: ResultName, where: str) -> Iterator[tuple[str, Any, Any, bool]]:
    """Go through all that a record and its file's name both state: field, both values, whether they agree."""
    for field in ("dataset", "task"):
        yield field, getattr(name, field), record[field], getattr(name, field) == record[field]
    try:
        setting = setting_name(record["task"], record["setting"])
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    same = setting == name.setting
    if name.task != "retrieval":  # names write class settings with hyphens
        same = setting.replace("_", "-") == name.setting.replace("_", "-")
    yield "setting", name.setting, record["setting"], same
    stems = record["backbone"], backbone_stem(record["backbone"])
    yield "backbone", name.backbone, record["backbone"], name.backbone in stems
    yield "method", name.method, record["method"], record["method"] in _method_spellings(name.method, where)
    seed = record.get("seed", name.seed)
    yield "seed", name.seed, seed, seed == name.seed
    variant, stated = published_name(name.method).variant, record.get("variant")
    yield "variant", variant, stated, variant is None or stated is None or stated == variant


def _method_spellings(result: str, where: str) -> tuple[str, ...]:
    """List what a record of the result name `result` may say for ``method``."""
    if result not in METHODS:
        spelled = result.replace("-", "_")
        if names := [name for name in METHODS if published_name(name).method == spelled]:
            raise InputError(
                f"{where}: '{result}' in the file name does not say which result it is: {', '.join(names)}"
            )
    return result, published_name(result).method


def _check_seed(name: ResultName, where: str) -> None:
    known = METHODS.get(name.method)
    if known is None or known.seeded == (name.seed is not None):
        return
    if known.seeded:
        raise InputError(
            f"{where}: '{name.method}' is trained with seeds; its file name must end in -seed<k>.json"
        )
    raise InputError(f"{where}: '{name.method}' has no seeds, but the file name says seed {name.seed}")


def _as_row(record: Mapping[str, Any], name: ResultName, path: Path) -> dict[str, Any]:
    """Flatten a record: ``digests: {text: …}`` → ``digest_text``, ``versions: {…}`` → ``version_…``."""
    row: dict[str, Any] = {"variant": published_name(name.method).variant}
    for field, value in record.items():
        if isinstance(value, dict) and field in ("digests", "versions"):
            row.update({f"{field[:-1]}_{part}": each for part, each in value.items()})
        elif isinstance(value, dict | list):
            row[field] = json.dumps(value, ensure_ascii=False)
        else:
            row[field] = value
    return {**row, "method": name.method, "seed": name.seed, "file": path.name}


def _as_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows))
    extra = [column for column in table.columns if column not in COLUMNS]
    table = table.reindex(columns=[*COLUMNS, *extra])
    kinds = {"seed": "Int64", "folds": "Int64", "mean": "float64", "ci": "float64", "normalize": "bool"}
    table = table.astype({column: kinds.get(column, "str") for column in COLUMNS})
    for column in extra:  # a column of mixed kinds cannot be written as feather
        values = table[column].convert_dtypes()
        table[column] = values.astype("str") if values.dtype == object else values
    return table


def _check_one_file_per_result(table: pd.DataFrame, folder: Path) -> None:
    keys = [*_SETTING_COLUMNS, "backbone", "method", "seed"]
    for _, group in table.groupby(keys, dropna=False, sort=False):
        files = group["file"].unique()
        if len(files) > 1:
            raise InputError(
                f"{folder}: two files for one result: {files[0]} and {files[1]}; remove one of them"
            )


def _check_one_k_per_setting(table: pd.DataFrame, folder: Path) -> None:
    """Names of result files do not tell K, so runs with different K would mix unseen."""
    for (dataset, _, setting), group in table.groupby(_SETTING_COLUMNS, sort=False):
        spellings = group.drop_duplicates("setting")
        if len(spellings) > 1:
            first, second = (
                f"K={retrieval_k(row.setting)} in {row.file}" for row in spellings.head(2).itertuples()
            )
            raise InputError(
                f"{folder}: two values of K for {dataset} {setting}: {first}, {second}; "
                f"run one again with main_eval.py --retrieval-k K --overwrite, or keep them in two folders"
            )


def _digest_warnings(table: pd.DataFrame) -> Iterator[str]:
    for component, keys in _SHARED_DIGESTS.items():
        column = f"digest_{component}"
        known = table[table[column].notna()]
        for values, group in known.groupby(list(keys), sort=False):
            if group[column].nunique() > 1:
                yield _difference(
                    component, values, group.drop_duplicates("file").groupby(column, sort=False)
                )
    without = table[table["digest"].isna()]["file"].unique()
    if 0 < len(without) < table["file"].nunique():
        yield (
            f"{len(without)} of {table['file'].nunique()} files record no digest (e.g. {without[0]}), so "
            f"whether they were made from the same inputs as the others cannot be checked"
        )


def _difference(component: str, values: Sequence[str], digests: Any) -> str:
    parts = [f"{digest[:12]} ({len(files)} files, e.g. {files['file'].iloc[0]})" for digest, files in digests]
    return (
        f"{' '.join(values)}: results to be compared were made from different {component}: "
        f"{', '.join(parts)}; run the outdated ones again with main_eval.py --overwrite"
    )
