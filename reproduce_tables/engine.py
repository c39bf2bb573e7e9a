"""From a table's description and the results to cells: no table has code of its own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from bias_evaluation.display.result_table import NEEDED, of_seeds, seed_notes
from bias_evaluation.grid.configs import SEEDS
from bias_evaluation.grid.methods import ResultMethod, find_result_method
from bias_evaluation.results.aggregation import ResultName, backbone_stem, retrieval_k, setting_name
from debiasing_methods.registry import METHODS
from reproduce_tables import TABLES_FILE
from safe_io.documents import Section, read_yaml, unknown
from safe_io.errors import InputError

"""Descriptions of the paper's tables."""

_FIELDS = ("dataset", "backbone", "setting", "measures")
_ResultKey = tuple[ResultName, str]  # a result and one of its metrics


@dataclass(frozen=True)
class Measure:
    """What a cell shows.

    Parameters
    ----------
    name : str
        Name in headers.
    task : str
        Task of the results it is taken from.
    metrics : tuple of str
        The metric, or the two metrics whose difference it is.
    best : str
        ``lowest`` or ``highest``.
    """

    name: str
    task: str
    metrics: tuple[str, ...]
    best: str


@dataclass(frozen=True)
class Column:
    """One column: where its results come from and what of them it shows.

    Parameters
    ----------
    labels : tuple of str
        Header, outermost part first; the last is the measure's name.
    dataset, backbone, setting : str
        Which results.
    measure : Measure
        What of them.
    """

    labels: tuple[str, ...]
    dataset: str
    backbone: str
    setting: str
    measure: Measure

    @property
    def header(self) -> str:
        """The header as one text, as CSV files have it."""
        return "|".join(self.labels)

    def result(self, method: str, seed: int | None) -> ResultName:
        """Name the result that this column needs of a method."""
        stem = backbone_stem(self.backbone)
        return ResultName(self.dataset, self.measure.task, self.setting, stem, method, seed)


@dataclass(frozen=True)
class Description:
    """One table's description, expanded.

    Parameters
    ----------
    name : str
        Number or name of the table; part of the output's file names.
    title : str
        Caption.
    columns : tuple of Column
        Columns from left to right.
    methods : tuple of ResultMethod
        Rows from top to bottom.
    seeds : tuple of int
        Seeds that a seeded method's cell is the mean of.
    retrieval_k : int or None
        K that the table is meant for; results of another K give a warning.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    methods: tuple[ResultMethod, ...]
    seeds: tuple[int, ...]
    retrieval_k: int | None = None


@dataclass
class Table:
    """A filled table.

    Parameters
    ----------
    description : Description
        What it shows.
    values : list of list of (float or None)
        Unrounded cells, one list a method; None where a result is missing.
    notes : list of str
        What is missing, one line each, and what else a reader must know.
    retrieval_k : int or None
        K of the retrieval results in the cells; None if there are none, or of several K.
    """

    description: Description
    values: list[list[float | None]]
    notes: list[str] = field(default_factory=list)
    retrieval_k: int | None = None


def load_description(path: Path, name: str, seeds: Sequence[int] | None = None) -> Description:
    """Read and expand one table's description.

    Parameters
    ----------
    path : pathlib.Path
        YAML file of descriptions; the head of ``tables.yml`` states the form.
    name : str
        Which of its tables.
    seeds : sequence of int, optional
        Seeds to take the mean over, instead of those of the description.

    Returns
    -------
    Description
        The table's columns and rows.

    Raises
    ------
    InputError
        The file, the table, a key or a value is missing, unknown or of the wrong kind.
    """
    measures, tables = _read_tables(path)
    if path != TABLES_FILE:  # other files need to state only the measures that the paper's tables lack
        measures = _read_tables(TABLES_FILE)[0] | measures
    if name not in tables:
        raise unknown("table", name, list(tables), str(path))
    section = Section(tables[name], f"{path}: table {name}")
    title = section.take("title", str, f"Table {name}")
    columns = tuple(_expand_columns(section, measures))
    methods = tuple(_methods(section))
    stated = _seeds(section)
    k = section.take("retrieval_k", int, None)
    section.finish()
    return Description(name, title, columns, methods, stated if seeds is None else tuple(seeds), k)


def _read_tables(path: Path) -> tuple[dict[str, Measure], dict[str, Any]]:
    document = Section(read_yaml(path, "table description"), str(path))
    measures = document.section("measures", {})
    found = {name: _measure(name, measures.section(name)) for name in measures}
    document.take_any("axes", None)
    document.take_any("methods", None)
    tables = document.take("tables", dict)
    document.finish()
    return found, {str(name): keys for name, keys in tables.items()}


def _measure(name: str, section: Section) -> Measure:
    task = section.choice("task", ("retrieval", "zs_classification"))
    metrics = (section.take("metric", str), section.take("minus", str, None))
    best = section.choice("best", ("lowest", "highest"))
    section.finish()
    return Measure(name, task, tuple(metric for metric in metrics if metric is not None), best)


def _expand_columns(section: Section, measures: Mapping[str, Measure]) -> Iterator[Column]:
    """Go through all combinations of one choice from each axis."""
    axes = [_choices_of(axis, f"{section.where}: columns") for axis in section.take("columns", list)]
    for combination in itertools.product(*axes):
        stated = [key for choice in combination for key in choice if key != "label"]
        wrong = [key for key in _FIELDS if stated.count(key) != 1]
        if wrong:
            raise InputError(
                f"{section.where}: the axes of 'columns' must fix each of {', '.join(_FIELDS)} once; "
                f"missing or repeated: {', '.join(wrong)}"
            )
        labels = tuple(choice["label"] for choice in combination if "label" in choice)
        fixed = {key: value for choice in combination for key, value in choice.items() if key != "label"}
        for name in fixed.pop("measures"):
            if name not in measures:
                raise unknown("measure", name, list(measures), section.where)
            yield Column((*labels, name), **fixed, measure=measures[name])


def _choices_of(axis: Any, where: str) -> list[dict[str, Any]]:
    """Return an axis' choices: fields → values, and the label where the header shows one."""
    if isinstance(axis, list):
        return [_labelled_choice(Section(choice, where)) for choice in axis]
    fields = Section(axis, where)
    keys = list(fields)
    if len(keys) != 1 or keys[0] not in _FIELDS:
        raise InputError(
            f"{where}: an axis is a list of choices, or one of {', '.join(_FIELDS)} with its values"
        )
    key = keys[0]
    values = fields.strings(key)
    return [{key: values}] if key == "measures" else [{key: value, "label": value} for value in values]


def _labelled_choice(section: Section) -> dict[str, Any]:
    label = section.take("label", str, None)
    fixed: dict[str, Any] = {}
    for key in section:
        if key not in _FIELDS:
            raise unknown("field", key, (*_FIELDS, "label"), section.where)
        fixed[key] = section.strings(key) if key == "measures" else section.take(key, str)
    label = label or next((value for key, value in fixed.items() if key != "measures"), None)
    if label is None:
        raise InputError(f"{section.where}: a choice that fixes nothing but measures needs a label")
    return {**fixed, "label": label}


def _methods(section: Section) -> Iterator[ResultMethod]:
    for name in section.strings("methods", tuple(METHODS)):
        yield find_result_method(name, section.where)


def _seeds(section: Section) -> tuple[int, ...]:
    seeds = section.take("seeds", list, list(SEEDS))
    if not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InputError(f"{section.where}: 'seeds' must be a list of whole numbers from 0, found {seeds!r}")
    return tuple(seeds)


def fill(description: Description, results: pd.DataFrame) -> Table:
    """Fill a table's cells.

    Parameters
    ----------
    description : Description
        The table.
    results : pandas.DataFrame
        All results (see `bias_evaluation.display.result_table.read_results`).

    Returns
    -------
    Table
        Cells and notes. A cell that needs a result that is not there is empty, and a note names the file.

    Raises
    ------
    InputError
        `results` hold two values of one metric of one result.
    """
    means = _index(of_seeds(results, description.seeds))
    rows = [
        [_cell(column, method, description, means) for column in description.columns]
        for method in description.methods
    ]
    others = [f"{note}; --seeds chooses others" for note in seed_notes(results, description.seeds)]
    notes = [*_missing(description, means), *_other_k(description, results), *others]
    ks = {k for _, _, k in _retrieval_ks(description, results)}
    return Table(description, rows, notes, ks.pop() if len(ks) == 1 else None)


def _index(results: pd.DataFrame) -> dict[_ResultKey, float]:
    means: dict[_ResultKey, float] = {}
    for row in results[list(NEEDED)].itertuples(index=False):
        seed = None if pd.isna(row.seed) else int(row.seed)
        setting = setting_name(row.task, row.setting)
        result = ResultName(row.dataset, row.task, setting, backbone_stem(row.backbone), row.method, seed)
        if (result, row.metric) in means:
            raise InputError(
                f"two values of {row.metric} for {result.file_name} in the table of results; "
                f"make it again with process_json_outputs.py"
            )
        means[result, row.metric] = float(row.mean)
    return means


def _needed(column: Column, method: ResultMethod, seeds: tuple[int, ...]) -> list[ResultName]:
    return [column.result(method.name, seed) for seed in (seeds if method.seeded else (None,))]


def _cell(
    column: Column,
    method: ResultMethod,
    description: Description,
    means: Mapping[_ResultKey, float],
) -> float | None:
    """Return the mean over seeds of a metric, or the difference of two such means."""
    needed = _needed(column, method, description.seeds)
    parts = []
    for metric in column.measure.metrics:
        values = [means.get((result, metric)) for result in needed]
        if None in values:
            return None
        parts.append(sum(values) / len(values))
    return parts[0] - parts[1] if len(parts) == 2 else parts[0]


def _missing(description: Description, means: Mapping[_ResultKey, float]) -> Iterator[str]:
    """Name every missing result once, and every metric that a result there lacks."""
    there = {result for result, _ in means}
    named: set[str] = set()
    for method, column in itertools.product(description.methods, description.columns):
        for result, metric in itertools.product(
            _needed(column, method, description.seeds), column.measure.metrics
        ):
            if (result, metric) in means:
                continue
            note = f"missing result: {result.file_name}"
            if result in there:
                note = f"missing metric: {metric} in {result.file_name}"
            if note not in named:
                named.add(note)
                yield note


def _other_k(description: Description, results: pd.DataFrame) -> Iterator[str]:
    for dataset, setting, k in _retrieval_ks(description, results):
        if description.retrieval_k not in (None, k):
            yield f"warning: results of {dataset} {setting} in a table for K={description.retrieval_k}"


def _retrieval_ks(description: Description, results: pd.DataFrame) -> Iterator[tuple[str, str, int | None]]:
    """List dataset, setting and K of the retrieval results that a table's columns are about."""
    retrieval = results[results["task"] == "retrieval"]
    wanted = {(column.dataset, column.setting) for column in description.columns}
    for dataset, setting in retrieval[["dataset", "setting"]].drop_duplicates().itertuples(index=False):
        if (dataset, setting_name("retrieval", setting)) in wanted:
            yield dataset, setting, retrieval_k(setting)
