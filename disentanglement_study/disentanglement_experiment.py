"""How much of a bias attribute can be read from a probe for the subject: one backbone, attribute and feature.

Writes ``<backbone>_<bias>_<feature>.json`` with the accuracies of every fold, the disentanglement score and
its spread, and what it was made from. `probes.py` describes the probes, `score.py` the score.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, pstdev
from typing import TYPE_CHECKING, Any

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from tqdm import tqdm

from bias_evaluation.grid.configs import Backbone
from disentanglement_study.probes import FoldResult, ProbeSettings, check_sizes, cross_validate
from disentanglement_study.score import score_folds
from disentanglement_study.sentences import ROOT, add_common_options, open_store
from safe_io.command_line import ArgumentParser
from safe_io.documents import unknown
from safe_io.errors import InputError, run_main
from safe_io.files import read_json, sha256_file, sha256_json, write_json
from safe_io.provenance import installed_versions, versions

if TYPE_CHECKING:
    from bias_evaluation.embedding.text_store import TextStore
    from bias_evaluation.prompts.study_config import ProbeSentences, StudyConfig

FEATURES = ("clip", "sae")
OUTPUT_DIR = ROOT / "study_output" / "disentanglement"


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--clip_model": "--backbone"},
        description="Fit probes for the subject and for a bias attribute to text embeddings or their SAE "
        "latents, and say how much of the attribute can be read from the subject probe's decision values.",
        epilog="Example: disentanglement_experiment.py --main-task profession --bias-attr gender "
        "--backbone ViT-B-16 --latent sae. "
        "Run precompute_dataset.py first.",
    )
    add_common_options(parser)
    add = parser.add_argument
    add(
        "--main-task",
        metavar="T",
        help="what the main probe is trained for: the config's subject, the default",
    )
    add(
        "--bias-attr",
        "--bias",
        required=True,
        metavar="A",
        help="a bias attribute of the config, e.g. gender or ethnicity",
    )
    add(
        "--backbone",
        required=True,
        metavar="B",
        help="a backbone of the config; or MODEL:TAG, hf-hub:…, local-dir:…",
    )
    add(
        "--latent",
        "--feature",
        required=True,
        choices=FEATURES,
        help="raw text embeddings, or their SAE latents",
    )
    add("--sae", type=Path, metavar="FILE", help="SAE weights (default: where SEM looks for the backbone's)")
    add(
        "--prompts",
        default="default",
        metavar="NAME",
        help="prompt set whose SAE is looked for first (default: %(default)s)",
    )
    add(
        "--text-embeddings",
        type=Path,
        metavar="FILE",
        help="take the embeddings from this .npz file, with the arrays prompts and embeddings",
    )
    add("--folds", type=int, default=ProbeSettings.folds, metavar="N", help="default: %(default)s")
    add(
        "--tol",
        type=float,
        default=ProbeSettings.tol,
        metavar="T",
        help="the probes' stopping tolerance, as scikit-learn's (default: %(default)s, scikit-learn's own)",
    )
    add(
        "--output-dir",
        type=Path,
        default=OUTPUT_DIR,
        metavar="DIR",
        help="default: study_output/disentanglement/",
    )
    add("--overwrite", action="store_true", help="replace a result that was made from other inputs")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.prompts.study_config import load_study_config
    from bias_evaluation.weights.find import sae_file
    from bias_evaluation.weights.read import load_sae
    from disentanglement_study.latents import sae_facts, sae_latents

    config = load_study_config(args.config)
    if args.main_task not in (None, config.subject):
        raise unknown("main task", args.main_task, [config.subject], str(config.path))
    backbone, sentences = config.backbone(args.backbone), config.probe_sentences(args.bias_attr)
    settings = ProbeSettings(folds=args.folds, tol=args.tol)
    if not settings.tol > 0:
        raise InputError(f"--tol must be above 0, got {settings.tol}")
    n_values = len(config.biases[args.bias_attr])
    check_sizes(len(sentences.sentences), len(config.subjects), n_values, settings.folds)
    store = _open_complete(args, config, backbone, sentences)
    file = sae_file(config.root, args.prompts, backbone, args.sae) if args.latent == "sae" else None
    sae = None if file is None else load_sae(file.path, dim=backbone.dim, make=file.make)
    digests = {
        "sentences": sha256_json(asdict(sentences)),
        "probes": sha256_json(asdict(settings)),
        "text": store.digest,
        "weights": "" if file is None else sha256_file(file.path),
    }
    path = args.output_dir / f"{backbone.stem}_{args.bias_attr}_{args.latent}.json"
    if path.is_file() and not args.overwrite and _is_kept(path, digests):
        print(f"kept: {path}")
        return 0
    started = time.monotonic()
    embeddings = store.embed(sentences.sentences)
    features = embeddings.double().numpy() if sae is None else sae_latents(sae, embeddings)
    results = _run(features, sentences, settings, f"{backbone.stem}, {args.bias_attr}, {args.latent}")
    record = {
        "study": "disentanglement",
        "backbone": backbone.name,
        "bias": args.bias_attr,
        "feature": args.latent,
        "subject": config.subject,
        "values": list(config.biases[args.bias_attr]),
        **summarise(results, n_values),
        "sizes": _sizes(config, sentences, features),
        "sae": None if sae is None else sae_facts(sae, embeddings, features, backbone, file.path),
        "settings": asdict(settings),
        "versions": {**versions(), **installed_versions("scikit-learn")},
        "digests": digests,
    }
    write_json(path, record)
    print(f"{describe(record)} ({time.monotonic() - started:.0f} s)\nwritten: {path}")
    return 0


def _open_complete(
    args: argparse.Namespace, config: StudyConfig, backbone: Backbone, sentences: ProbeSentences
) -> TextStore:
    """Open the text embeddings; `InputError` where a sentence is missing."""
    from bias_evaluation.embedding.text_store import describe_missing

    store = open_store(backbone, args.data_root or config.root / "data", given=args.text_embeddings)
    if missing := store.missing(sentences.sentences):
        raise InputError(
            f"{describe_missing(missing, store.path)}; to make them: precompute_dataset.py --backbone "
            f"{backbone.option} --config {args.config}"
        )
    return store


def _is_kept(path: Path, digests: dict[str, str]) -> bool:
    """Whether a result holds; `InputError` where it was made from other inputs."""
    record = read_json(path, "result of the disentanglement study")
    then = record.get("digests", {}) if isinstance(record, dict) else {}
    changed = sorted(name for name in digests if then.get(name) != digests[name])
    if changed:
        raise InputError(f"{path} was made from another {', '.join(changed)}; pass --overwrite to replace it")
    return True


def _run(
    features: np.ndarray, sentences: ProbeSentences, settings: ProbeSettings, what: str
) -> list[FoldResult]:
    folds = cross_validate(features, np.array(sentences.subjects), np.array(sentences.biases), settings)
    return list(tqdm(folds, total=settings.folds, desc=what, unit="fold"))


def summarise(results: Sequence[FoldResult], n_values: int) -> dict[str, Any]:
    """Summarise the folds: each one's accuracies, their mean and standard deviation (ddof 0), the score."""
    columns = {name: [getattr(r, name) for r in results] for name in ("subject", "direct", "leak")}
    score = score_folds(columns["direct"], columns["leak"], 1 / n_values)
    return {
        "chance": 1 / n_values,
        **{f"a_{n}": {"mean": fmean(c), "sd": pstdev(c), "folds": c} for n, c in columns.items()},
        "iterations": [dict(zip(columns, r.iterations, strict=True)) for r in results],
        "score": asdict(score),
    }


def _sizes(config: StudyConfig, sentences: ProbeSentences, features: np.ndarray) -> dict[str, int]:
    return {
        "sentences": len(sentences.sentences),
        "templates": len(config.templates),
        "subjects": len(config.subjects),
        "features": features.shape[1],
        "varying_features": int((features.min(axis=0) < features.max(axis=0)).sum()),
    }


def describe(record: dict[str, Any]) -> str:
    """One line a result: the accuracies and the score."""
    shown = [f"{name} {record[name]['mean']:.4f} ± {record[name]['sd']:.4f}" for name in
             ("a_subject", "a_direct", "a_leak")]  # fmt: skip
    score = record["score"]
    value = "undefined" if score["value"] is None else f"{score['value']:.3f} ± {score['spread']:.3f}"
    why = f" ({score['undefined']})" if score["undefined"] else ""
    return f"{record['backbone']}, {record['bias']}, {record['feature']}: {', '.join(shown)}, D {value}{why}"


if __name__ == "__main__":
    sys.exit(run_main(main))
