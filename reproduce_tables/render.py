"""A filled table as terminal text, CSV, Markdown and LaTeX, and beside the published figures."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from debiasing_methods.registry import GROUPS
from reproduce_tables.engine import Description, Table
from safe_io.errors import InputError

_BOLD, _PLAIN = "\033[1m", "\033[0m"
_BESIDE_TEXT, _ON_A_PAGE = 5, 14  # columns of figures at 10 pt: in one of two columns, and on a page
_ARROWS = {"lowest": "↓", "highest": "↑"}
_LATEX_ARROWS = {"↓": r"$\downarrow$", "↑": r"$\uparrow$"}
_LATEX_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    character: f"\\{character}" for character in "&%$#_{}"
}


@dataclass(frozen=True)
class Row:
    """One method's cells as printed, and which of them are the best of its group."""

    name: str
    group: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]


@dataclass(frozen=True)
class Grid:
    """A table as printed.

    Parameters
    ----------
    title : str
        Caption.
    headers : tuple of tuple of str
        Per column the parts of its header, outermost first; all of the same length.
    arrows : tuple of str
        Per column ↓ or ↑: where the best value lies; empty where there is none.
    rows : tuple of Row
        Methods from top to bottom.
    together : int
        Columns come in blocks of this many, which a terminal's lines do not break.
    """

    title: str
    headers: tuple[tuple[str, ...], ...]
    arrows: tuple[str, ...]
    rows: tuple[Row, ...]
    together: int = 1


def as_grid(table: Table) -> Grid:
    """Print a table's cells with three decimals and mark the best of each group.

    Parameters
    ----------
    table : Table
        Unrounded values.

    Returns
    -------
    Grid
        Values that print alike are equally good; a group with fewer than two values has no best.
    """
    description = table.description
    cells = [["" if value is None else f"{value:.3f}" for value in row] for row in table.values]
    groups = [method.group for method in description.methods]
    ends = [column.measure.best for column in description.columns]
    columns = [_best_of_column([row[j] for row in cells], groups, end) for j, end in enumerate(ends)]
    rows = (
        Row(
            method.display_name, GROUPS[method.group], tuple(cells[i]), tuple(column[i] for column in columns)
        )
        for i, method in enumerate(description.methods)
    )
    headers = tuple(column.labels for column in description.columns)
    return Grid(_title(table), headers, tuple(_ARROWS[end] for end in ends), tuple(rows))


def _title(table: Table) -> str:
    """Caption with K, if the table has cells of retrieval."""
    description = table.description
    k = table.retrieval_k or description.retrieval_k
    retrieval = any(column.measure.task == "retrieval" for column in description.columns)
    return f"{description.title} (K = {k})" if retrieval and k else description.title


def other_k(table: Table) -> str:
    """Part of a file's name for results of another K than the table is meant for; else empty."""
    meant = table.description.retrieval_k
    return f"_K{table.retrieval_k}" if meant and table.retrieval_k not in (None, meant) else ""


def _best_of_column(cells: Sequence[str], groups: Sequence[str], end: str) -> list[bool]:
    best = [False] * len(cells)
    for group in dict.fromkeys(groups):
        members = [i for i, each in enumerate(groups) if each == group and cells[i]]
        if len(members) < 2:
            continue
        values = [float(cells[i]) for i in members]
        limit = min(values) if end == "lowest" else max(values)
        for i, value in zip(members, values, strict=True):
            best[i] = value == limit
    return best


def as_csv(grid: Grid) -> str:
    """Write a grid as CSV: a column `Method`, then one column a figure, its header joined by ``|``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["Method", *("|".join(header) for header in grid.headers)])
    writer.writerows([row.name, *row.cells] for row in grid.rows)
    return text.getvalue()


def as_markdown(grid: Grid) -> str:
    """Write a grid as a Markdown table; groups have a line of their own, the best are bold."""
    heads = [
        f"{'<br>'.join(header)} {arrow}" for header, arrow in zip(grid.headers, grid.arrows, strict=True)
    ]
    lines = [f"**{grid.title}**", "", _markdown_row(["Method", *heads])]
    lines.append(_markdown_row(["---", *("---:" for _ in heads)]))
    for group, rows in itertools.groupby(grid.rows, key=lambda row: row.group):
        lines.append(_markdown_row([f"*{group}*", *("" for _ in heads)]))
        for row in rows:
            cells = (f"**{cell}**" if best else cell for cell, best in zip(row.cells, row.best, strict=True))
            lines.append(_markdown_row([row.name.replace("_", r"\_"), *cells]))
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def as_latex(grid: Grid, label: str = "") -> str:
    """Write a grid as a LaTeX table in the style of the package booktabs: rules between groups, best bold.

    Parameters
    ----------
    grid : Grid
    label : str
        Name to refer to it by; none by default.

    Returns
    -------
    str
        A ``table``; with more columns than fit beside text, a ``table*``, and with more than fit a page, one
        that is scaled to its width.
    """
    wide, wider = (len(grid.headers) > most for most in (_BESIDE_TEXT, _ON_A_PAGE))
    environment = "table*" if wide else "table"
    lines = [
        rf"% needs \usepackage{{booktabs{',graphicx' if wider else ''}}}",
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{_latex(grid.title)}}}",
        *([rf"\label{{{label}}}"] if label else []),
        *([r"\resizebox{\textwidth}{!}{%"] if wider else []),
        rf"\begin{{tabular}}{{l{'r' * len(grid.headers)}}}",
        r"\toprule",
        *_latex_header(grid),
    ]
    for _, rows in itertools.groupby(grid.rows, key=lambda row: row.group):
        lines.append(r"\midrule")
        for row in rows:
            cells = (
                rf"\textbf{{{cell}}}" if best else cell
                for cell, best in zip(row.cells, row.best, strict=True)
            )
            lines.append(" & ".join([_latex_name(row.name), *cells]) + r" \\")
    end = r"\end{tabular}" + ("}" if wider else "")
    return "\n".join([*lines, r"\bottomrule", end, rf"\end{{{environment}}}"]) + "\n"


def _latex_header(grid: Grid) -> Iterator[str]:
    depth = len(grid.headers[0])
    for level in range(depth - 1):
        spans = list(_spans(grid.headers, level))
        yield (
            " & ".join(["", *(rf"\multicolumn{{{b - a}}}{{c}}{{{_latex(label)}}}" for a, b, label in spans)])
            + r" \\"
        )
        yield "".join(rf"\cmidrule(lr){{{a + 2}-{b + 1}}}" for a, b, _ in spans)
    last = (
        f"{_latex(header[-1])} {_LATEX_ARROWS.get(arrow, '')}".rstrip()
        for header, arrow in zip(grid.headers, grid.arrows, strict=True)
    )
    yield " & ".join(["Method", *last]) + r" \\"


def _latex(text: str) -> str:
    return "".join(_LATEX_SPECIAL.get(character, character) for character in text)


def _latex_name(name: str) -> str:
    """Typeset a method's name: what follows an underscore is a subscript."""
    match = re.fullmatch(r"([^_]+)_([^_]+)", name)
    return rf"{_latex(match[1])}$_{{{_latex(match[2])}}}$" if match else _latex(name)


def _spans(headers: Sequence[tuple[str, ...]], level: int) -> Iterator[tuple[int, int, str]]:
    """Find the neighbouring columns that share their header down to a level: start, end, label."""
    start = 0
    for prefix, columns in itertools.groupby(headers, key=lambda header: header[: level + 1]):
        end = start + len(list(columns))
        yield start, end, prefix[-1]
        start = end


def as_text(grid: Grid, width: int, *, bold: bool) -> str:
    """Write a grid for a terminal; a table wider than the terminal is continued below.

    Parameters
    ----------
    grid : Grid
        The table.
    width : int
        Characters in a line.
    bold : bool
        Whether the best values are made bold with the terminal's control sequences.

    Returns
    -------
    str
        Lines, each ending in a newline.
    """
    names = max(len("Method"), *(len(row.name) for row in grid.rows))
    parts = []
    start = 0
    while start < len(grid.headers):
        end = start + grid.together
        while end < len(grid.headers) and names + sum(_widths(grid, start, end + grid.together)) <= width:
            end += grid.together
        parts.append("\n".join(_text_lines(grid, start, end, names, bold=bold)))
        start = end
    return f"{grid.title}\n\n" + "\n\n".join(parts) + "\n"


def _widths(grid: Grid, start: int, end: int) -> list[int]:
    """Widths of some columns, gaps included, so that cells and the labels above them fit."""
    headers = grid.headers[start:end]
    widths = []
    for j, header in enumerate(headers, start):
        cells = max((len(row.cells[j]) for row in grid.rows), default=0)
        widths.append(2 + max(cells, len(header[-1] + grid.arrows[j])))
    for level in range(len(headers[0]) - 1):
        for a, b, label in _spans(headers, level):
            widths[b - 1] += max(0, 2 + len(label) - sum(widths[a:b]))
    return widths


def _text_lines(grid: Grid, start: int, end: int, names: int, *, bold: bool) -> Iterator[str]:
    headers, widths = grid.headers[start:end], _widths(grid, start, end)
    for level in range(len(headers[0]) - 1):
        labels = (f"  {label:^{sum(widths[a:b]) - 2}}" for a, b, label in _spans(headers, level))
        yield (" " * names + "".join(labels)).rstrip()
    last = (header[-1] + arrow for header, arrow in zip(headers, grid.arrows[start:end], strict=True))
    yield f"{'Method':<{names}}" + "".join(
        f"{label:>{size}}" for label, size in zip(last, widths, strict=True)
    )
    for group, rows in itertools.groupby(grid.rows, key=lambda row: row.group):
        yield f"-- {group} ".ljust(names + sum(widths), "-")
        for row in rows:
            cells = zip(row.cells[start:end], row.best[start:end], widths, strict=True)
            padded = (_mark(f"{cell:>{size}}", mark=best and bold) for cell, best, size in cells)
            yield (f"{row.name:<{names}}" + "".join(padded)).rstrip()


def _mark(cell: str, *, mark: bool) -> str:
    return f"{_BOLD}{cell}{_PLAIN}" if mark else cell


def read_published(path: Path, description: Description) -> Grid:
    """Read the published figures of a table.

    Parameters
    ----------
    path : pathlib.Path
        CSV file of the form that `as_csv` writes.
    description : Description
        The table that they fill.

    Returns
    -------
    Grid
        The published table; cells are empty where a method has none.

    Raises
    ------
    InputError
        The file is missing, has other columns, or holds something else than numbers.
    """
    if not path.is_file():
        raise InputError(
            f"no published figures for this table: {path} not found; "
            f"leave out --published and --compare-published"
        )
    with path.open(encoding="utf-8", newline="") as file:
        header, *lines = list(csv.reader(file)) or [[]]
    wanted = ["Method", *(column.header for column in description.columns)]
    if header[:1] != ["Method"] or set(wanted) - set(header) or any(len(x) != len(header) for x in lines):
        raise InputError(f"{path} does not have the columns of the table: {', '.join(wanted)}")
    at = [header.index(name) for name in wanted[1:]]
    published = {line[0]: [_figure(line[j], line[0], path) for j in at] for line in lines}
    empty: list[float | None] = [None] * len(description.columns)
    return as_grid(Table(description, [published.get(m.display_name, empty) for m in description.methods]))


def _figure(cell: str, row: str, path: Path) -> float | None:
    if not re.fullmatch(r"(-?\d+(\.\d+)?)?", cell):
        raise InputError(f"{path}: the row '{row}' holds something else than numbers")
    return float(cell) if cell else None


def compare(grid: Grid, published: Grid) -> Grid:
    """Put the published value and the difference (ours as printed minus published) beside each cell.

    Parameters
    ----------
    grid : Grid
        Our table.
    published : Grid
        The published table (see `read_published`), with the same rows and columns.

    Returns
    -------
    Grid
        Three columns for each of `grid`.
    """
    headers = tuple(
        (*header, part) for header in grid.headers for part in ("ours", "published", "difference")
    )
    rows = []
    for row, theirs in zip(grid.rows, published.rows, strict=True):
        cells = itertools.chain.from_iterable(
            (a, b, difference(a, b)) for a, b in zip(row.cells, theirs.cells, strict=True)
        )
        best = itertools.chain.from_iterable((mark, False, False) for mark in row.best)
        rows.append(Row(row.name, row.group, tuple(cells), tuple(best)))
    return Grid(
        f"{grid.title}: ours, published, difference", headers, ("",) * len(headers), tuple(rows), together=3
    )


def difference(ours: str, published: str) -> str:
    """Return the difference of two printed values as printed; empty where one of them is."""
    if not ours or not published:
        return ""
    text = f"{float(ours) - float(published):+.3f}"
    return "0.000" if float(text) == 0 else text


def summary(compared: Grid) -> str:
    """Say in one line how many cells equal the published ones, and how far the others are."""
    differences = [float(cell) for row in compared.rows for cell in row.cells[2::3] if cell]
    if not differences:
        return "no cell can be compared"
    equal = sum(each == 0 for each in differences)
    largest = max(map(abs, differences))
    return f"{equal} of {len(differences)} cells equal the published ones; largest difference {largest:.3f}"
