"""Audit a search system: how fair is what its queries retrieve, before and after debiasing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

import numpy as np
from tqdm import tqdm

from bias_evaluation.datasets.rgb import Reading
from fair_search.audit_options import build_parser, checked, default_options
from fair_search.audit_settings import AuditSettings
from fair_search.backbones import find_backbone
from fair_search.cli import chosen_backbone
from fair_search.report.page import render
from fair_search.several_audits import one_by_one, write_overview
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.files import json_text, write_text
from safe_io.matrix_files import TENSORS, matrix_digest, read_matrix
from safe_io.notices import warnings_as_lines

if TYPE_CHECKING:
    import pandas as pd

    from bias_evaluation.embedding.text_store import TextStore
    from bias_evaluation.uncertainty.draws import Uncertain
    from fair_search.audit import AuditedMethod
    from fair_search.audit_inputs import AuditQueries
    from fair_search.groups import Groups
    from fair_search.report.audit_report import AuditReport, Pictures
    from fair_search.reranking import RerankOptions

EXIT_GATE = 1  # a gate (--fail-if) failed
MOST_LISTED = 20  # names in an error line


def run_audit(args: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Audit, write the files and print the table; return the record, and a line for each gate that fails."""
    from fair_search.audit import audit
    from fair_search.audit_files import (
        audit_record,
        first_on_all_line,
        means_table,
        records,
        uncertainty_table,
        write_audit,
    )
    from fair_search.audit_inputs import query_labels, read_audit_queries
    from fair_search.audit_provenance import provenance
    from fair_search.audited_methods import BASE, load_audited_methods
    from fair_search.comparison import change_lines, check_same_data, compare, read_earlier
    from fair_search.gates import check_gate_methods, check_gates, parse_gates
    from fair_search.method_options import parse_options_of_methods
    from fair_search.report.audit_report import AuditReport
    from fair_search.report.figures import display_name

    gates = parse_gates(args.fail_if, args.k, labels=args.label_column is not None)
    earlier = None if args.compare is None else read_earlier(args.compare)
    embeddings = read_matrix(args.embeddings, "image embeddings")
    metadata, groups, lines = _groups(args, len(embeddings))
    for line in lines:
        print(f"note: {line}", file=sys.stderr)
    _say_groups(args, groups, metadata)
    queries = read_audit_queries(
        args.queries, column=args.query_column, label_column=args.query_labels, names=args.query_names
    )
    labels = query_labels(metadata, args.label_column, queries, args.metadata) if args.label_column else None
    pictures = _pictures(args, metadata)
    text = _text(args)
    _check_origin(args, text, metadata)
    audited, left_out = load_audited_methods(
        queries.values,
        args.methods,
        text=text,
        bias=args.bias,
        weights=_weights(args.weights),
        options=parse_options_of_methods(args.option),
        seed=args.seed,
        device=args.device,
        groups=groups,
    )
    left_out |= _without_tiny_groups(audited, groups)
    _print_left_out(left_out)
    if earlier is not None:
        check_same_data(earlier, _data(args, groups, queries), args.compare)
    check_gate_methods(gates, tuple(audited))
    _check_shown(args, queries, tuple(audited))
    _check_width(embeddings, audited, args.embeddings)
    rerank = _rerank(args, tuple(audited), text, groups)
    reranked = {name.partition("+")[0] for name in rerank.names} if rerank else set()
    uncertain = _uncertain(args, embeddings, queries, text)
    with tqdm(total=len(embeddings), unit="row", desc="searching", unit_scale=True) as bar:
        found = audit(
            embeddings,
            groups,
            audited,
            queries.names,
            AuditSettings(tuple(sorted(set(args.k))), args.desired, args.bootstrap, args.draws, args.seed),
            labels=labels,
            index=_index(args, embeddings),
            rerank=rerank,
            leakage_images=args.leakage,
            uncertain=uncertain,
            reference_per_group=args.reference,
            optional=() if args.methods else set(audited) - {BASE, *args.show_methods, *reranked},
            source=str(args.embeddings),
            device=args.device,
            progress=bar.update,
        )
    _print_left_out(found.left_out)
    left_out |= found.left_out
    notes = tuple(f"{line[:1].upper()}{line[1:]}." for line in lines)
    notes += tuple(f"{display_name(name)} is left out: {why}." for name, why in left_out.items())
    report = AuditReport(found, _Names(args, metadata), args.title, pictures, notes, args.max_loss)
    audited = {name: each for name, each in audited.items() if name not in left_out}
    digests = _digests(args, text, audited)
    made_from = provenance(
        args,
        default_options(),
        found,
        embeddings.shape,
        digests=digests,
        recommended=report.verdict.recommendation.method,
        weights=_weights(args.weights),
    )
    options = {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}
    record = audit_record(report, digests=digests, options=options, left_out=left_out)
    changes = None if earlier is None else compare(earlier, record, args.compare)
    results, failures = check_gates(gates, found.table, found.lists.methods)
    record |= {"gates": results, "changes": None if changes is None else records(changes)}
    report = replace(report, provenance=made_from, changes=changes)
    write_audit(args.output_dir, report, record)
    _warn_unreadable(report)
    print(*report.verdict.sentences, "", means_table(found), sep="\n")
    if found.first_on_all is not None:
        print(first_on_all_line(found))
    if found.uncertainty is not None:
        print("", uncertainty_table(found), sep="\n")
    if changes is not None:
        print(*change_lines(changes, found.lists.methods, args.compare), sep="\n")
    print(f"written: {args.output_dir / 'report.html'}, audit.csv, retrieved.csv, audit.json")
    return record, failures


def _groups(args: argparse.Namespace, n_rows: int) -> tuple[pd.DataFrame, Groups, list[str]]:
    """Read the metadata and sort the images into groups; the lines are notes about intersections."""
    from fair_search.audit_inputs import image_groups, read_metadata_rows
    from fair_search.intersections import is_product, product_column

    metadata = read_metadata_rows(args.metadata, n_rows, args.id_column, args.ids)
    lines: list[str] = []
    if is_product(args.attribute, metadata):
        column, lines = product_column(metadata, args.attribute, args.metadata, args.min_group)
        metadata = metadata.assign(**{args.attribute: column})
    groups = image_groups(
        metadata, args.attribute, args.metadata, values=args.values, drop_unlabelled=args.drop_unlabelled
    )
    return metadata, groups, lines


def _data(args: argparse.Namespace, groups: Groups, queries: AuditQueries) -> dict[str, Any]:
    """Say what is audited, as far as an earlier audit must agree with it."""
    return {
        "attribute": groups.attribute,
        "groups": dict.fromkeys(groups.classes),
        "queries": list(queries.names),
        "measurement": {"desired": args.desired},
        "digests": {"metadata": matrix_digest(args.metadata)},
    }


def _print_left_out(left_out: Mapping[str, str]) -> None:
    for name, why in left_out.items():
        print(f"left out: {name}: {why}", file=sys.stderr)


def report_results(args: argparse.Namespace) -> int:
    """Write the report of the paper's suite."""
    from fair_search.report.suite_page import read_suite, suite_page

    results, lines = read_suite(args.from_results)
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
    path = args.output_dir / "report.html"
    write_text(path, render(suite_page(results, args.title)))
    print(f"{results['file'].nunique()} results -> {path}")
    return 0


def _check_origin(args: argparse.Namespace, text: TextStore | None, metadata: pd.DataFrame) -> None:
    """Compare the embeddings with the model of the text, and with the order of the metadata."""
    from bias_evaluation.datasets.folder import check_images
    from bias_evaluation.embedding.identity import check_made_by

    columns = [args.path_column, "file_path", *([args.id_column] if args.id_column else [])]
    in_order = check_images(args.embeddings, metadata, args.metadata, columns)
    backbone = text.backbone if text else None
    unordered = None if in_order or args.ids else args.metadata
    embedded = args.queries if args.queries.suffix.lower() in TENSORS else None
    check_made_by(args.embeddings, backbone, table=unordered, queries=embedded)


def _say_groups(args: argparse.Namespace, groups: Groups, metadata: pd.DataFrame) -> None:
    """Print the groups before anything else, and what looks wrong with them."""
    from fair_search.audit_inputs import describe_groups, doubtful_groups, repeated_images
    from fair_search.bias_files import load_bias

    print(describe_groups(groups), flush=True)
    bias = None if args.bias is None else load_bias(args.bias)
    repeats = repeated_images(metadata, args.path_column, groups)
    for line in [*doubtful_groups(groups, args.k, bias), *repeats]:
        print(f"warning: {line}", file=sys.stderr)


def _without_tiny_groups(audited: dict[str, AuditedMethod], groups: Groups) -> dict[str, str]:
    """Leave out the methods that take labelled images, if a group has none to spare; return why."""
    from fair_search.audit import lacks_reference

    names = [name for name, each in audited.items() if each.method.takes_labelled_images()]
    why = lacks_reference(groups) if names else ""
    if why and len(names) == len(audited):
        raise InputError(why)
    return {name: why for name in names if why and audited.pop(name)}


def _check_shown(args: argparse.Namespace, queries: AuditQueries, methods: tuple[str, ...]) -> None:
    for query in args.show:
        if query not in queries.names:
            raise unknown("query", query, queries.names[:MOST_LISTED], "--show")
    for method in args.show_methods:
        if method not in methods:
            raise unknown("method", method, methods, "--show-methods")


def _check_width(embeddings: np.ndarray, audited: Mapping[str, AuditedMethod], path: Path) -> None:
    width = next(iter(audited.values())).groups[0].queries.shape[1]
    if embeddings.shape[1] != width:
        raise InputError(
            f"{path} has width {embeddings.shape[1]}, but the queries have width {width}; images and queries "
            f"must be embedded by one model"
        )


def _rerank(
    args: argparse.Namespace, methods: tuple[str, ...], text: TextStore | None, groups: Groups
) -> RerankOptions | None:
    """Say what is re-ranked, and by which labels; None if nothing is."""
    from fair_search.bias_files import load_bias
    from fair_search.reranking import RerankOptions, class_prompts, rerank_names

    if not args.rerank:
        return None
    names = rerank_names(args.rerank, methods)
    if args.rerank_labels == "given":
        return RerankOptions(names)
    if args.bias is None or text is None:
        raise InputError("--rerank-labels predicted needs --bias and a model or --text-embeddings")
    return RerankOptions(names, class_prompts(load_bias(args.bias), text, groups, args.device))


def _uncertain(
    args: argparse.Namespace, embeddings: np.ndarray, queries: AuditQueries, text: TextStore | None
) -> Uncertain | None:
    """Load how uncertain images and queries are; None if it is not asked for."""
    if args.uncertainty is None:
        return None
    from fair_search.uncertainty import load_uncertain, residuals_path

    return load_uncertain(
        args.uncertainty,
        residuals_path(args.embeddings, args.residuals),
        embeddings,
        queries.values,
        text,
        seed=args.seed,
        source=args.embeddings,
        device=args.device,
    )


def _index(args: argparse.Namespace, embeddings: np.ndarray) -> Any:
    """Open or build the FAISS index that the options name; None where they name none."""
    from fair_search.ann import build_index, check_index, open_index, set_parameters

    if args.faiss is None:
        if args.faiss_parameters is not None:
            raise InputError("--faiss-parameters needs an index: give --faiss")
        return None
    path = _index_file(args)
    if path is not None:
        index = open_index(path, *embeddings.shape)
        check_index(index, embeddings, str(path))
    else:
        index = build_index(embeddings, args.faiss, source=str(args.embeddings))
    if args.faiss_parameters is not None:
        set_parameters(index, args.faiss_parameters)
    return index


def _index_file(args: argparse.Namespace) -> Path | None:
    """Return the index that is read from a file; None where there is none, or it is built."""
    path = None if args.faiss is None else Path(args.faiss)
    return path if path is not None and (path.suffix or path.is_file()) else None


def _digests(args: argparse.Namespace, text: TextStore | None, methods: Iterable[str]) -> dict[str, str]:
    """Digests of everything that an audit is made from."""
    from fair_search.bias_files import load_bias
    from fair_search.loading import weights_file

    names = ("embeddings", "metadata", "ids", "queries", "query_names", "uncertainty")
    files = {name: getattr(args, name) for name in names} | {"index": _index_file(args)}
    if args.uncertainty is not None:
        from fair_search.uncertainty import residuals_path

        files["residuals"] = residuals_path(args.embeddings, args.residuals)
    given = _weights(args.weights)
    for method in methods:
        path, _ = weights_file(method, text.backbone if text else None, given.get(method))
        files[f"weights of {method}"] = path
    digests = {name: matrix_digest(path) for name, path in files.items() if path is not None}
    if text is not None:
        digests["text"] = text.digest  # of the text embeddings, or of the model and its checkpoint
    if args.bias is not None:
        digests["bias"] = load_bias(args.bias).digest
    return digests


def _warn_unreadable(report: AuditReport) -> None:
    if report.unreadable:
        print(
            f"warning: {len(report.unreadable)} images cannot be read and are not shown, the first: "
            f"{report.unreadable[0]}",
            file=sys.stderr,
        )


def _text(args: argparse.Namespace) -> TextStore | None:
    from bias_evaluation.embedding.text_store import TextStore

    backbone = chosen_backbone(args)
    if backbone is None and args.text_embeddings is None:
        return None
    found = None if backbone is None else find_backbone(backbone)
    return TextStore(found, given=args.text_embeddings, device=args.device)


def _weights(pairs: Sequence[str]) -> dict[str, Path]:
    weights = {}
    for pair in pairs:
        method, equals, path = pair.partition("=")
        if not equals or not path:
            raise InputError(f"--weights takes METHOD=FILE, such as prism=map.pth, got '{pair}'")
        weights[method] = Path(path)
    return weights


def _pictures(args: argparse.Namespace, metadata: pd.DataFrame) -> Pictures:
    """Say what the contact sheets show."""
    from bias_evaluation.datasets.folder import read_manifest
    from fair_search.query_files import take_column
    from fair_search.report.audit_report import Pictures

    paths = None
    if args.images:
        paths = _Paths(args.images, take_column(metadata, args.path_column, args.metadata))
    reading = read_manifest(args.embeddings).get("reading")
    known = {key: bool(reading.get(key)) for key in Reading._fields} if isinstance(reading, dict) else {}
    return Pictures(paths, tuple(args.show), tuple(args.show_methods), args.thumbnails, Reading(**known))


class _Names:
    """Names of the images, made when they are asked for: there may be millions.

    Their ids, or their paths, or the numbers of their rows.
    """

    def __init__(self, args: argparse.Namespace, metadata: pd.DataFrame) -> None:
        column = args.id_column or (args.path_column if args.path_column in metadata else None)
        self._length, self._column = len(metadata), None if column is None else metadata[column].to_numpy()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, row: int) -> str:
        return f"row {row}" if self._column is None else str(self._column[row])


class _Paths:
    """Paths of the images, made when they are asked for."""

    def __init__(self, folder: Path, column: pd.Series) -> None:
        if not folder.is_dir():
            raise InputError(f"folder of the images not found: {folder}")
        self._folder, self._column = folder, column.to_numpy()

    def __len__(self) -> int:
        return len(self._column)

    def __getitem__(self, row: int) -> Path:
        return self._folder / str(self._column[row])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    with warnings_as_lines():
        if args.from_results:
            if args.json or args.fail_if or args.compare:
                raise InputError("--json, --fail-if and --compare are of an audit; leave out --from-results")
            return report_results(args)
        with redirect_stdout(sys.stderr) if args.json else nullcontext():
            audits = one_by_one(checked(args))
            for later in audits[1:]:  # their mistakes are found before the first audit is computed
                _groups(later, len(read_matrix(later.embeddings, "image embeddings")))
            found = {each.attribute: run_audit(each) for each in audits}
            write_overview(args.output_dir, {name: record for name, (record, _) in found.items()})
    records = {name: record for name, (record, _) in found.items()}
    failures = [line for _, lines in found.values() for line in lines]
    if args.json:
        print(json_text(records if len(records) > 1 else next(iter(records.values()))), end="")
    print(*failures, sep="\n", end="\n" * bool(failures), file=sys.stderr)
    return EXIT_GATE if failures else 0


if __name__ == "__main__":
    sys.exit(run_main(main))
