"""Evaluate debiasing methods: one JSON a result, for every setting, backbone and method of some configs."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from tqdm import tqdm

from bias_evaluation.embedding.engines import Call, Part, add_engine_options, check_engine_options, run_calls
from bias_evaluation.grid.configs import DatasetConfig, add_direct_backbones
from bias_evaluation.grid.direct_backbones import FORMS, is_direct
from bias_evaluation.grid.flat_configs import load_configs
from bias_evaluation.grid.plan import (
    RERANKING_LABELS,
    ResultKey,
    RunOptions,
    Selection,
    State,
    check_selection,
    plan,
)
from debiasing_methods.reranking import ALGORITHMS
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main
from safe_io.locks import claim, remove_abandoned
from safe_io.notices import warnings_as_lines

if TYPE_CHECKING:
    from bias_evaluation.suite.workspace import Workspace

MOST_OF_A_KIND = 5  # lines about files that one command makes


@dataclass(frozen=True)
class PlannedResult:
    """One result of the grid: what it is, where it stands, and what computes it."""

    key: ResultKey
    state: State
    workspace: Workspace

    @property
    def path(self) -> Path:
        """The result file."""
        return self.key.path(self.workspace.options.output_dir)


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--backbones": "--backbone"},
        description="Evaluate debiasing methods: one JSON a result.",
        epilog="Without selectors everything in the configs is evaluated; of several configs, each gives "
        "what it has of the selected names. Results that are there and were made from the same inputs are "
        "kept.",
    )
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        required=True,
        nargs="+",
        metavar="FILE",
        help="dataset configs, e.g. config/celeba.yml, or flat configs of one result each",
    )
    add("--settings", nargs="+", metavar="S", help="only these task settings")
    add(
        "--backbone",
        nargs="+",
        metavar="B",
        help=f"only these backbones; also {FORMS}, without an entry in a file",
    )
    add(
        "--methods",
        nargs="+",
        metavar="M",
        help="only these methods, by result name (sem-bi, orth-proj, …); "
        f"with +{', +'.join(ALGORITHMS)} their retrieved images are re-ranked (sem-bi+detcons)",
    )
    add(
        "--seeds",
        nargs="+",
        type=int,
        metavar="K",
        help="only these seeds of seeded methods (prism, zsdebias)",
    )
    add(
        "--prompts", metavar="NAME", help="prompt set (default: the config's): default, official, or your own"
    )
    add("--data-root", type=Path, metavar="DIR", help="folder of the dataset folders (default: data/)")
    add("--output-dir", type=Path, metavar="DIR", help="folder of the results (default: main_eval_output/)")
    add(
        "--text-embeddings",
        type=Path,
        metavar="FILE",
        help="npz that supplies text embeddings (no model is loaded)",
    )
    add("--retrieval-k", type=int, metavar="K", help="number of retrieved images (default: the config's)")
    add(
        "--rerank-labels",
        choices=RERANKING_LABELS,
        default="given",
        help="labels that re-ranking sees: given (default), or predicted zero-shot from the images",
    )
    add(
        "--rerank-shares",
        nargs="+",
        default=["data"],
        metavar="SHARE",
        help="shares that re-ranking aims at: data (default: those of each fold's labels), uniform, or a "
        "number for each bias class",
    )
    add(
        "--uncertainty",
        action="store_true",
        help="also draw every figure 200 times from the posterior of the model: mean, standard deviation and "
        "95 %% range (docs/uncertainty.md)",
    )
    add("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    add(
        "--dry-run",
        action="store_true",
        help="print the grid with each result's state, and stop; a run that cannot start says what exactly "
        "is missing",
    )
    add("--overwrite", action="store_true", help="compute anew what is there, also if made from other inputs")
    add(
        "--skip-missing",
        action="store_true",
        help="leave out results that lack something, instead of stopping",
    )
    group = parser.add_argument_group("more than one process: parts are datasets x backbones (docs/scale.md)")
    add_engine_options(group)
    text = "encode the prompts of all results, and stop: once before --shard, so that parts need no model"
    group.add_argument("--text-only", action="store_true", help=text)
    return parser


def run_options(args: argparse.Namespace, config: DatasetConfig) -> RunOptions:
    """Fill what the command line leaves out from the config."""
    return RunOptions(
        data_root=args.data_root or config.root / "data",
        output_dir=args.output_dir or config.root / "main_eval_output",
        prompts=args.prompts or config.prompts,
        retrieval_k=config.retrieval_k if args.retrieval_k is None else args.retrieval_k,
        text_embeddings=args.text_embeddings,
        device=args.device,
        rerank_labels=args.rerank_labels,
        rerank_shares=tuple(args.rerank_shares),
        uncertainty=args.uncertainty,
    )


def make_grid(args: argparse.Namespace, part: Part | None = None) -> list[PlannedResult]:
    """List the results of the configs that the selectors allow, or those of a part, each with its state."""
    from bias_evaluation.embedding.encoder import check_device
    from bias_evaluation.suite.inputs import SharedCache
    from bias_evaluation.suite.workspace import Workspace

    if args.retrieval_k is not None and args.retrieval_k < 1:
        raise InputError(f"--retrieval-k must be at least 1, got {args.retrieval_k}")
    if args.engine == "local":
        check_device(args.device)
    configs, backbones = add_direct_backbones(load_configs(args.config), args.backbone)
    selection = Selection(args.settings, backbones, args.methods, args.seeds)
    check_selection(configs, selection)
    planned = [(config, key) for config in configs for key in plan(config, selection)]
    check_plan(planned, args.text_embeddings)
    if part:
        mine = part.select(places(key for _, key in planned))
        planned = [(config, key) for config, key in planned if place_of(key) in mine]
    shared, workspaces, grid = SharedCache(), {}, []
    for config, key in planned:
        options = run_options(args, config)
        folder = config.folder
        if args.data_root and config.flat:  # which names the whole path
            folder = Path(folder).name
        place = (config.path, folder, key.backbone, options)
        if place not in workspaces:
            workspaces[place] = Workspace(replace(config, folder=folder), key.backbone, options, shared)
        grid.append(PlannedResult(key, workspaces[place].states.of(key), workspaces[place]))
    return grid


def place_of(key: ResultKey) -> tuple[str, str]:
    """Tell which part of the work a result belongs to: its dataset and backbone."""
    return key.dataset, key.backbone.name


def places(keys: Iterable[ResultKey]) -> list[tuple[str, str]]:
    """List the datasets and backbones of some results, in order."""
    return list(dict.fromkeys(map(place_of, keys)))


def check_plan(planned: Sequence[tuple[DatasetConfig, ResultKey]], text_embeddings: Path | None) -> None:
    """Raise where there is nothing to do, or what there is does not go together."""
    if not planned:
        raise InputError(
            "the selectors leave no result: no config has all that they name together (re-ranking is for "
            "retrieval)"
        )
    backbones = dict.fromkeys(key.backbone.name for _, key in planned)
    if text_embeddings and len(backbones) > 1:
        raise InputError(
            f"--text-embeddings holds the text of one backbone; choose it with --backbone from: "
            f"{', '.join(backbones)}"
        )
    sources: dict[str, Path] = {}
    for config, key in planned:
        if sources.setdefault(key.stem, config.source) != config.source:
            raise InputError(
                f"{sources[key.stem]} and {config.source} both have the result '{key.stem}'; name one of them"
            )


def print_grid(grid: list[PlannedResult]) -> None:
    """Print one line a result: its name and its state."""
    width = max(len(item.key.stem) for item in grid)
    for item in grid:
        print(f"{item.key.stem:{width}}  {item.state}")
    kinds = [item.state.kind for item in grid]
    print(f"{len(grid)} results: " + ", ".join(f"{kinds.count(k)} {k}" for k in dict.fromkeys(kinds)))


def grouped_by_kind(lines: Sequence[str]) -> list[str]:
    """Shorten a long list of what is missing: a few lines for each command that makes it, and a count."""
    kinds: dict[str, list[str]] = {}
    for line in lines:
        command = re.search(r"`(?:python|bash) (\S+)", line)
        kinds.setdefault(command[1] if command else line, []).append(line)
    shown = []
    for command, own in kinds.items():
        shown += own if len(own) <= MOST_OF_A_KIND else own[: MOST_OF_A_KIND - 1]
        if len(own) > MOST_OF_A_KIND:
            shown.append(f"{len(own) - MOST_OF_A_KIND + 1} more that {command} makes")
    return shown


def select_work(grid: list[PlannedResult], *, overwrite: bool, skip_missing: bool) -> list[PlannedResult]:
    """Choose what to compute; raise where something is missing or was made from other inputs."""
    lacking = [item for item in grid if item.state.kind == "lacks"]
    missing = list(dict.fromkeys(chain.from_iterable(item.state.missing for item in lacking)))
    for line in grouped_by_kind(missing):
        print(f"missing: {line}", file=sys.stderr)
    if lacking and not skip_missing:
        raise InputError(
            f"{len(lacking)} of {len(grid)} results lack something (listed above), the first: "
            f"{lacking[0].key.stem}; provide it, or pass --skip-missing to compute the rest"
        )
    if lacking and not any(item.state.kind != "lacks" for item in grid):
        raise InputError(
            f"nothing can be computed: all {len(grid)} results lack something (listed above), the first: "
            f"{lacking[0].key.stem}"
        )
    stale = [item for item in grid if item.state.kind == "stale"]
    if stale and not overwrite:
        raise InputError(
            f"{len(stale)} result(s) are there but {stale[0].state.detail}, the first: "
            f"{stale[0].path.name}; pass --overwrite to replace them, or another --output-dir"
        )
    kinds = ("to do", "stale", "done") if overwrite else ("to do",)
    return [item for item in grid if item.state.kind in kinds]


def compute(batch: Sequence[PlannedResult]) -> int:
    """Compute and write the results of a batch of one workspace; returns how many.

    Those that another run is at, or has written meanwhile, are left out.
    """
    from bias_evaluation.results.records import write_records
    from bias_evaluation.suite.evaluate import evaluate

    with ExitStack() as claims:
        ours = [
            item for item in batch if claims.enter_context(claim(item.path)) and not _written_meanwhile(item)
        ]
        if ours:
            for key, records in evaluate(ours[0].workspace, [item.key for item in ours]):
                write_records(key.path(ours[0].workspace.options.output_dir), records)
    return len(ours)


def _written_meanwhile(item: PlannedResult) -> bool:
    from bias_evaluation.results.records import differences

    if item.state.kind != "to do" or not item.path.is_file():
        return False
    if changed := differences(item.path, item.workspace.states.digests(item.key)):
        raise InputError(
            f"{item.path} was written meanwhile, from another {', '.join(changed)}; run again with "
            f"--overwrite to replace it, or with another --output-dir"
        )
    return True


def run(work: list[PlannedResult]) -> int:
    """Compute and write results, workspace by workspace; returns how many.

    Labels, folds and K are checked for all workspaces before anything is written, embeddings and weights for
    each workspace before its own results are.
    """
    from bias_evaluation.suite.evaluate import batches

    parts: dict[Workspace, list[PlannedResult]] = {}
    for item in work:
        parts.setdefault(item.workspace, []).append(item)
    for workspace, part in parts.items():
        workspace.check([item.key for item in part])
    computed = 0
    with tqdm(total=len(work), unit="result", desc="evaluating") as bar:
        for workspace, part in parts.items():
            workspace.load([item.key for item in part])
            items = {item.key.stem: item for item in part}
            for batch in batches(workspace, [item.key for item in part]):
                bar.set_postfix_str(batch[0].stem)
                computed += compute([items[key.stem] for key in batch])
                bar.update(len(batch))
            workspace.release()
    return computed


def encode_text(work: list[PlannedResult]) -> None:
    """Encode and keep the prompts of some results, in the order in which `run` would."""
    parts: dict[Workspace, list[ResultKey]] = {}
    for item in work:
        parts.setdefault(item.workspace, []).append(item.key)
    for workspace, keys in parts.items():
        workspace.inputs.ensure_text(keys)


def run_on_ray(
    argv: Sequence[str], args: argparse.Namespace, grid: list[PlannedResult], work: list[PlannedResult]
) -> None:
    """Compute results as Ray tasks, one for each dataset and backbone, after the text of each backbone."""
    wanted = {place_of(item.key): item.key for item in work}
    if args.text_embeddings is None:
        names = dict.fromkeys(backbone for _, backbone in wanted)
        texts = [
            Call("main_eval", [*argv, "--engine", "local", "--text-only", "--backbone", name], name)
            for name in args.backbone or names
            if is_direct(name) or name in names
        ]
        run_calls(texts, device=args.device, what="encoding text")
    everywhere = places(item.key for item in grid)
    calls = [
        Call("main_eval", [*argv, "--engine", "local", "--shard", f"{k}/{len(everywhere)}"], " ".join(place))
        for k, place in enumerate(everywhere)
        if place in wanted
    ]
    run_calls(calls, device=args.device, what="evaluating")


def check_all_done(work: list[PlannedResult], n: int) -> None:
    """Raise where results are still to be computed."""
    if work:
        raise InputError(
            f"{len(work)} of {n} results are not there, the first: {work[0].path}; run the parts that have "
            f"them again (results that are there are kept)"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)
    part = check_engine_options(args)
    grid = make_grid(args, part)
    if not grid:
        print(f"part {part} has no result: there are fewer datasets and backbones than parts")
        return 0
    if args.dry_run:
        print_grid(grid)
        return 0
    work = select_work(grid, overwrite=args.overwrite and not args.join, skip_missing=args.skip_missing)
    if args.text_only:
        encode_text(work)
        return 0
    for folder in {item.workspace.options.output_dir for item in grid}:
        remove_abandoned(folder)
    computed = len(work)
    if args.join:
        check_all_done(work, len(grid))
    elif work and args.engine == "ray":
        run_on_ray(sys.argv[1:] if argv is None else argv, args, grid, work)
    elif work:
        with warnings_as_lines():
            computed = run(work)
    others = len(work) - computed
    elsewhere = f" ({others} left to another run, which is at them)" if others else ""
    lacking = sum(item.state.kind == "lacks" for item in grid)
    left_out = f" ({lacking} left out: they lack something)" if lacking else ""
    folders = ", ".join(dict.fromkeys(str(item.workspace.options.output_dir) for item in grid))
    print(f"{computed} of {len(grid)} results computed{left_out}{elsewhere}, in {folders}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
