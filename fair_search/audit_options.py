"""The command line of `audit_bias.py`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from debiasing_methods.reranking import ALGORITHMS
from fair_search.audit_settings import DESIRED, FEW_IMAGES, MAX_LOSS, REFERENCE_PER_GROUP, SHOWN_IMAGES, UNITS
from fair_search.cli import add_backbone_options, method_help
from safe_io.documents import choices
from safe_io.errors import InputError

_DEFAULT_KS = (10, 50, 100)


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Measure how fair a search over image embeddings is, with every debiasing method side by "
        "side: KL, MaxSkew, MinSkew, NDKL and demographic-parity ratio at several K with 95 % bootstrap "
        "intervals, precision where labels exist. Writes report.html (one file, no network), audit.csv "
        "(method × query × K × metric), retrieved.csv and audit.json. Embeddings are read in chunks: memory "
        "does not grow with their number.",
        epilog="Example: python audit_bias.py --embeddings images.npy --metadata images.csv "
        "--attribute gender --queries queries.txt --backbone ViT-B-16 --bias gender --output-dir audit. "
        "The report of the paper's suite: python audit_bias.py --from-results main_eval_output "
        "--output-dir out",
    )
    _add_data_options(parser)
    add_backbone_options(parser)
    _add_method_options(parser)
    _add_measure_options(parser)
    _add_report_options(parser)
    return parser


def _add_data_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("images and queries").add_argument
    add(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="image embeddings (N, d), fp16 or fp32: .npy of any size, a folder of .npy parts or of "
        "clip-retrieval, .safetensors, .pt, .parquet or FILE.parquet:COLUMN",
    )
    add(
        "--metadata",
        type=Path,
        metavar="FILE",
        help="one row per image: .csv, .tsv, .feather, .parquet, or a folder of Parquet parts",
    )
    add(
        "--attribute",
        nargs="+",
        metavar="COLUMN",
        help="metadata column of the groups, such as gender; several are audited one by one; gender*race: "
        "their intersections",
    )
    add(
        "--min-group",
        type=int,
        default=FEW_IMAGES,
        metavar="N",
        help="intersections with fewer images are pooled into one group (default: %(default)s)",
    )
    add("--values", nargs="+", metavar="V", help="only these groups, in this order (default: all)")
    add(
        "--drop-unlabelled",
        action="store_true",
        help="leave out images whose attribute is missing or none of --values (otherwise an error)",
    )
    add("--id-column", metavar="COLUMN", help="metadata column that names each image")
    add(
        "--ids",
        type=Path,
        metavar="FILE",
        help="id of each embedding, one a line: joins metadata by --id-column",
    )
    add(
        "--queries",
        type=Path,
        metavar="FILE",
        help="a query a line (.txt), a column (.csv, .tsv, .feather, .parquet), or raw "
        "text embeddings (.npy, .safetensors, .pt)",
    )
    add("--query-column", metavar="COLUMN", help="column of the queries, in a table of several")
    add("--query-names", type=Path, metavar="FILE", help="short names of the queries, one a line")
    add("--query-labels", metavar="COLUMN", help="column of the query table: the label that a query asks for")
    add("--label-column", metavar="COLUMN", help="metadata column of the images' labels; gives precision")


def _add_method_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the methods").add_argument
    add(
        "--methods",
        nargs="+",
        metavar="M",
        help="the first is what the others are compared with (default: all that can be "
        f"loaded): {method_help()}",
    )
    add(
        "--bias", metavar="NAME|FILE", help="gender, race, age, or a bias file of your own: makes the prompts"
    )
    add(
        "--weights",
        nargs="+",
        metavar="METHOD=FILE",
        default=[],
        help="trained weights of prism, zsdebias or a sem method (default: "
        "the backbone's own, where there are)",
    )
    add(
        "--option",
        nargs="+",
        metavar="METHOD.KEY=VALUE",
        default=[],
        help="options of methods, such as orth-cali.lam=100 (default: those of config/methods.yml)",
    )
    add(
        "--reference",
        type=int,
        default=REFERENCE_PER_GROUP,
        metavar="N",
        help="bendvlm and bendsem-bi need labelled images: so many of each "
        "group, at most half, are drawn and "
        "kept apart, for all methods (default: %(default)s)",
    )


def _add_measure_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what is measured").add_argument
    add(
        "--k", nargs="+", type=int, default=list(_DEFAULT_KS), metavar="K", help="depths (default: 10 50 100)"
    )
    add("--desired", choices=DESIRED, default="data", help="desired shares (default: the data's)")
    add(
        "--rerank",
        nargs="+",
        default=[],
        metavar="A",
        help=f"also re-rank lists to the desired shares: {', '.join(ALGORITHMS)} after the first method, or "
        "after another (sem-bi+detcons); the lists are in retrieved.csv",
    )
    add(
        "--rerank-labels",
        choices=("given", "predicted"),
        default="given",
        help="labels that re-ranking sees: the attribute's (default), or predicted from the images, which "
        "needs --bias; it is judged by the attribute's",
    )
    add("--bootstrap", choices=UNITS, default="images", help="what intervals of means draw (default: images)")
    add("--draws", type=int, default=1000, help="bootstrap draws (default: %(default)s)")
    add("--seed", type=int, default=0, help="of draws and noise (default: %(default)s)")
    add(
        "--faiss",
        metavar="FILE|FACTORY",
        help="also search through this FAISS index of the normalised rows, or "
        "one built for the purpose, such as "
        "IVF1024,Flat; says how far that moves the metrics (pip install faiss-cpu)",
    )
    add(
        "--leakage",
        type=int,
        default=0,
        metavar="N",
        help="also probe how well the group can be read from N images and their scores (default: not at all)",
    )
    add(
        "--compare",
        type=Path,
        metavar="FILE",
        help="audit.json of an earlier audit of the same images and queries: says what changed",
    )
    add(
        "--fail-if",
        nargs="+",
        default=[],
        metavar="GATE",
        help="exit with code 1 if a mean is out of bounds: [METHOD:]METRIC[@K]>VALUE, such as "
        "'max_skew>0.5' (first method, largest K) or 'sem-bi:kl@10>=0.1'",
    )
    add("--faiss-parameters", metavar="P", help="search parameters of the index, such as nprobe=16")
    add(
        "--uncertainty",
        type=Path,
        metavar="FILE",
        help="what hessian_estimation.py wrote: also draw the figures 200 times from the posterior of the "
        "model (docs/uncertainty.md)",
    )
    add(
        "--residuals",
        type=Path,
        metavar="FILE",
        help="with --uncertainty: residuals of the images (default: CLIP_<backbone>_residuals.npy beside the "
        "embeddings)",
    )


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("the report").add_argument
    add(
        "--output-dir", type=Path, required=True, metavar="DIR", help="where the files go; made where missing"
    )
    add(
        "--json",
        action="store_true",
        help="print audit.json to stdout and nothing else; messages go to stderr",
    )
    add(
        "--max-loss",
        type=float,
        metavar="X",
        help="how much precision, or overlap without labels, a recommended method may lose (default: "
        f"{MAX_LOSS['precision']:g} of precision, {MAX_LOSS['overlap']:g} of overlap)",
    )
    add("--title", default="", help="heading of the report")
    add("--images", type=Path, metavar="DIR", help="folder of the images, for contact sheets")
    add("--path-column", default="file_path", metavar="COLUMN", help="path in it (default: %(default)s)")
    add("--show", nargs="+", default=[], metavar="QUERY", help="queries to show (default: the most skewed)")
    add(
        "--show-methods",
        nargs="+",
        default=[],
        metavar="M",
        help="methods to show (default: the first and the recommended one)",
    )
    add(
        "--thumbnails",
        type=int,
        default=SHOWN_IMAGES,
        metavar="N",
        help="images a list (default: %(default)s)",
    )
    add(
        "--from-results",
        type=Path,
        metavar="PATH",
        help="no audit: the report of main_eval.py's results, a folder of them or all_results.feather",
    )


def default_options() -> dict[str, Any]:
    """Values of all options that need not be given."""
    return vars(build_parser().parse_args(["--output-dir", "."]))


def checked(args: argparse.Namespace) -> argparse.Namespace:
    """Raise where an option that an audit needs is missing or out of its range."""
    missing = [
        f"--{name}" for name in ("embeddings", "metadata", "attribute", "queries") if not getattr(args, name)
    ]
    if missing:
        raise InputError(f"an audit needs {choices(missing)} (see --help); or give --from-results")
    if args.label_column is None and args.query_labels is not None:
        raise InputError("--query-labels needs --label-column: the metadata column of the images' labels")
    if args.rerank_labels == "predicted" and not args.rerank:
        raise InputError("--rerank-labels predicted: there is nothing to re-rank; give --rerank")
    for name in ("draws", "thumbnails", "reference", "min_group"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(args, name)}")
    if args.max_loss is not None and not 0 <= args.max_loss <= 1:
        raise InputError(f"--max-loss must be between 0 and 1, got {args.max_loss:g}")
    if args.residuals is not None and args.uncertainty is None:
        raise InputError("--residuals needs --uncertainty: it is for nothing else")
    if args.leakage < 0:
        raise InputError(f"--leakage must be at least 0, got {args.leakage}")
    if args.seed < 0:
        raise InputError(f"--seed must be at least 0, got {args.seed}")
    return args
