"""Debias the queries of a search system, for any CLIP-like backbone and any bias that can be put in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

import numpy as np

from bias_evaluation.grid.configs import Backbone
from fair_search.cli import (
    add_backbone_options,
    add_method_options,
    chosen_backbone,
    method_help,
)
from safe_io.arrays import write_matrix
from safe_io.errors import InputError, as_input_error, run_main
from safe_io.files import atomic_paths, dump_weights, json_text, sha256_file
from safe_io.matrix_files import matrix_digest, read_matrix
from safe_io.notices import warnings_as_lines
from safe_io.provenance import versions

if TYPE_CHECKING:
    from fair_search.debiaser import Debiaser, Reference

TRANSFORM, MANIFEST = ".transform.safetensors", ".manifest.json"  # suffixes of what stands beside the output
_EPILOG = """
examples:
  python debias_queries.py --queries queries.txt --method orth-proj --backbone ViT-B-16 --bias gender \\
      --output debiased.npy
  python debias_queries.py --queries log.csv --column query --method sem-bi --backbone ViT-B-16 \\
      --bias my_bias.yml --weights sae.pth --output debiased.safetensors

Beside the embeddings stand <output>.manifest.json (what they were made from) and, for methods that change
images, <output>.transform.safetensors: docs/own_dataset.md says how an index applies it.
"""


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--queries",
        required=True,
        type=Path,
        metavar="FILE",
        help="one a line (.txt), a column of a table (.csv, .tsv, .feather), or raw text embeddings (.npy, "
        ".safetensors) for methods whose prompts do not contain the query",
    )
    parser.add_argument("--column", metavar="NAME", help="which column of the table holds the queries")
    parser.add_argument("--method", required=True, metavar="NAME", help=method_help())
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FILE",
        help=".npy, or .safetensors (tensor 'embeddings')",
    )
    add_backbone_options(parser)
    add_method_options(parser)
    reference = parser.add_argument_group(
        "labelled images (bendvlm, bendsem-bi, spd, leace, sfid and clip-clip need them)"
    )
    reference.add_argument(
        "--reference-embeddings",
        type=Path,
        metavar="FILE",
        help="image embeddings: files as audit_bias.py reads",
    )
    reference.add_argument(
        "--reference-metadata",
        type=Path,
        metavar="FILE",
        help="table with one row an image (.csv, .tsv, .feather)",
    )
    reference.add_argument(
        "--reference-column", metavar="NAME", help="column of the bias class (default: the bias file's name)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from fair_search.loading import load_debiaser
    from fair_search.method_options import parse_options
    from fair_search.query_files import read_queries
    from fair_search.transform_files import transform_tensors

    _check_output(args)
    with warnings_as_lines():
        queries = read_queries(args.queries, args.column)
        debiaser = load_debiaser(
            args.method,
            chosen_backbone(args),
            args.bias,
            weights=args.weights,
            text_embeddings=args.text_embeddings,
            options=parse_options(args.option, args.method),
            seed=args.seed,
            device=args.device,
        )
        width = debiaser.text.dim if debiaser.text else np.shape(queries)[1]
        reference = debiaser.labelled(_reference(args, debiaser, width))
        try:
            embeddings = debiaser.debias(queries, reference)
        except InputError:
            raise
        except ValueError as error:  # what a library's caller did wrong is here what the user did
            raise InputError(f"{args.queries}: {error}") from None
        transform = _sibling(args.output, TRANSFORM)
        with as_input_error(args.method):
            tensors = transform_tensors(debiaser.image_transform(queries, reference), len(queries))
    outputs = [args.output] if tensors is None else [args.output, transform]
    described = _sibling(args.output, MANIFEST)
    with atomic_paths(*outputs, described) as temporaries:
        write_matrix(temporaries[0], embeddings)
        if tensors is not None:
            dump_weights(temporaries[1], tensors)
        written = dict(zip(outputs, temporaries, strict=False))
        facts = json_text(manifest(args, debiaser, queries, written))
        temporaries[-1].write_text(facts, encoding="utf-8")
    if tensors is None:
        transform.unlink(missing_ok=True)  # one of another method, which these queries must not be used with
    print(f"wrote {', '.join(map(str, outputs))} and {described}")
    return 0


def _check_output(args: argparse.Namespace) -> None:
    if args.output.suffix not in (".npy", ".safetensors"):
        raise InputError(f"--output {args.output}: the name must end with .npy or .safetensors")
    names = ("queries", "checkpoint", "weights", "text_embeddings", "bias")
    given = [getattr(args, name) for name in (*names, "reference_embeddings", "reference_metadata")]
    inputs = {Path(path).resolve() for path in given if path is not None}
    for path in (args.output, *(_sibling(args.output, suffix) for suffix in (TRANSFORM, MANIFEST))):
        if path.resolve() in inputs:
            raise InputError(f"--output {args.output}: {path} is one of the inputs; give another name")
    if args.seed < 0:
        raise InputError(f"--seed must be at least 0, got {args.seed}")


def _sibling(output: Path, suffix: str) -> Path:
    return output.with_name(output.stem + suffix)


def _reference(args: argparse.Namespace, debiaser: Debiaser, width: int) -> Reference | None:
    """Read labelled images where the method needs them; only then may they be given."""
    from bias_evaluation.datasets.folder import check_images
    from bias_evaluation.embedding.identity import check_made_by
    from fair_search.query_files import read_table, take_column

    files = {
        "--reference-embeddings": args.reference_embeddings,
        "--reference-metadata": args.reference_metadata,
    }
    if not debiaser.method.takes_labelled_images():
        for option, path in files.items():
            if path is not None:
                raise InputError(f"{option}: {args.method} uses no labelled images; leave it out")
        return None
    if None in files.values():
        raise InputError(f"{args.method} needs labelled images: give {' and '.join(files)}")
    if debiaser.bias is None:
        raise InputError(
            f"{args.method} needs a bias file, which names the classes of the images: give --bias"
        )
    images = read_matrix(args.reference_embeddings, "reference embeddings")
    if images.shape[1] != width:
        raise InputError(
            f"{args.reference_embeddings} has width {images.shape[1]}, but the text has width {width}"
        )
    table = read_table(args.reference_metadata, "reference metadata")
    in_order = check_images(args.reference_embeddings, table, args.reference_metadata)
    unordered = None if in_order else args.reference_metadata
    check_made_by(args.reference_embeddings, debiaser.text.backbone, table=unordered)
    column = args.reference_column or debiaser.bias.attribute
    return images, take_column(table, column, args.reference_metadata)


def manifest(
    args: argparse.Namespace,
    debiaser: Debiaser,
    queries: Sequence[str] | np.ndarray,
    outputs: Mapping[Path, Path],
) -> dict[str, Any]:
    """Say what debiased queries were made from: names, digests, versions and counts.

    Parameters
    ----------
    args : argparse.Namespace
    debiaser : Debiaser
    queries : sequence of str, or array of shape (Q, d)
    outputs : mapping of path to path
        Files that are written → where their content is now.

    Returns
    -------
    dict
        Plain values; the same for the same inputs.
    """
    from fair_search.loading import weights_file

    text, bias = debiaser.text, debiaser.bias
    texts = not isinstance(queries, np.ndarray)
    weights, _ = weights_file(args.method, text.backbone if text else None, args.weights)
    truncated = text.too_long(list(dict.fromkeys(queries))) if texts else 0
    files = {
        "queries": args.queries,
        "weights": weights,
        "text_embeddings": args.text_embeddings,
        "reference_embeddings": args.reference_embeddings,
        "reference_metadata": args.reference_metadata,
    }
    return {
        "method": args.method,
        "options": debiaser.get_params()["options"] or {},
        "changes_text": debiaser.method.changes_text,
        "changes_images": debiaser.method.changes_images,
        "seed": args.seed if debiaser.method.random_images else None,
        "backbone": _described(text.backbone) if text and text.backbone else None,
        "text_digest": text.digest if text else None,
        "bias": {"attribute": bias.attribute, "classes": bias.classes, "digest": bias.digest}
        if bias
        else None,
        "inputs": {name: _file(path) for name, path in files.items() if path is not None},
        "outputs": [{"file": str(path), "sha256": sha256_file(now)} for path, now in outputs.items()],
        "queries": {"rows": len(queries), "kind": "text" if texts else "embeddings", "truncated": truncated},
        "versions": versions("fair_search"),
    }


def _described(backbone: Backbone) -> dict[str, Any]:
    weights = backbone.pretrained or str(backbone.checkpoint)
    return {"name": backbone.name, "model": backbone.open_clip, "weights": weights, "dim": backbone.dim}


def _file(path: Path) -> dict[str, str]:
    return {"file": str(path), "sha256": matrix_digest(path)}


if __name__ == "__main__":
    sys.exit(run_main(main))
