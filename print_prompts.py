"""Print what a compact prompt file expands to: every sentence of a setting, with the methods that use it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":  # before packages that may be missing, or take their time
    from safe_io.start import guard_start

    guard_start()

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.prism_texts import PrismTextSet, load_text_sets
from safe_io.documents import unknown
from safe_io.errors import run_main

if TYPE_CHECKING:
    from bias_evaluation.prompts.sentences import MethodPrompts, PromptGroup, SettingPrompts

Block = tuple[str, tuple[str, ...]]  # a title, and the lines below it
SAMPLES = 5  # sentences shown of a PRISM text set


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description="Print the expanded prompts of a dataset: for each query the query itself and every kind "
        "of sentence, how many there are and which methods use them.",
        epilog="Examples: print_prompts.py --config config/celeba.yml --setting hair_gender --method sem-bi; "
        "print_prompts.py --config config/celeba.yml --prism celeba_gray_hair_gender",
    )
    add = parser.add_argument
    add("--config", type=Path, required=True, metavar="FILE", help="dataset config, e.g. config/celeba.yml")
    add("--setting", metavar="S", help="only this task setting")
    add("--method", metavar="M", help="only what this method uses (result name: sem-bi, orth-proj, …)")
    add(
        "--prompts", metavar="NAME", help="prompt set (default: the config's): default, official, or your own"
    )
    add("--prism", metavar="S", help="instead, the size and a sample of the PRISM text set of this name")
    return parser


def blocks(prompts: MethodPrompts, queries: tuple[str, ...]) -> list[Block]:
    """List one method's sentences, one block a list of sentences."""
    pairs = tuple(f"{j} and {k}" for j, k in prompts.candidate_pairs)
    found = [
        ("spurious prompts", prompts.spurious),
        ("candidates", prompts.candidates),
        ("pairs of candidates, counted from 0", pairs),
        ("augmentations", prompts.augmentations),
        ("harmful pairs", tuple(map(" | ".join, prompts.harmful))),
        ("helpful pairs", tuple(map(" | ".join, prompts.helpful))),
    ]
    for query, wordings in zip(queries, prompts.paraphrases, strict=False):
        found.append((f"paraphrases of '{query}'", wordings))
    found += [(f"bias prompts of {name}", texts) for name, texts in prompts.bias_prompts.items()]
    return [(title, lines) for title, lines in found if lines]


def used_blocks(group: PromptGroup, needs: Mapping[str, frozenset[str]]) -> dict[Block, list[str]]:
    """Block → the methods that use it, over all methods."""
    users: dict[Block, list[str]] = {("query", group.queries): []}
    for method, kinds in needs.items():
        for block in blocks(group.for_method(method, kinds), group.queries):
            users.setdefault(block, []).append(method)
    return users


def print_blocks(users: Mapping[Block, list[str]]) -> None:
    """Print blocks with their size and users."""
    for (title, lines), methods in users.items():
        print(f"  {title} ({len(lines)})" + (f": {', '.join(methods)}" if methods else ""))
        for line in lines:
            print(f"    {line}")


def print_setting(prompts: SettingPrompts, needs: Mapping[str, frozenset[str]]) -> None:
    """Print what the queries share once, then each query's own sentences."""
    groups = {group.name: used_blocks(group, needs) for group in prompts.groups}
    first = next(iter(groups.values()))
    shared = {block: methods for block, methods in first.items() if all(block in g for g in groups.values())}
    users = [method for method, kinds in needs.items() if "diverse" in kinds]
    if users and prompts.diverse:
        shared["diverse prompts", prompts.diverse] = users
    if len(groups) > 1:
        print(f"all {len(groups)} queries")
    print_blocks(shared)
    for name, found in groups.items() if len(groups) > 1 else ():
        print(name)
        print_blocks({block: methods for block, methods in found.items() if block not in shared})
    sentences = dict.fromkeys(chain.from_iterable(prompts.sentences(m, k) for m, k in needs.items()))
    print(f"{len(sentences)} distinct sentences, from {prompts.source}")


def print_text_set(name: tuple[str, str], text_set: PrismTextSet) -> None:
    """Print the size of a PRISM text set and a few of its sentences."""
    print(f"{name[1]} ({name[0]}): {len(text_set.scene_descriptions)} scenes")
    for kind, descriptions in (
        ("target", text_set.target_class_descriptions),
        ("bias", text_set.bias_class_descriptions),
    ):
        for label, texts in descriptions.items():
            print(f"  {kind} class '{label}' ({len(texts)}): {', '.join(texts)}")
    sentences = text_set.sentences()
    print(f"  {len(sentences)} distinct sentences, such as")
    step = max(1, len(sentences) // SAMPLES - 1)  # no multiple of a scene's sentences: all parts vary
    for sentence in sentences[::step][:SAMPLES]:
        print(f"    {sentence}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.grid.methods import find_method
    from bias_evaluation.prompts.setting_prompts import load_setting_prompts
    from debiasing_methods.registry import METHODS

    config = load_dataset_config(args.config)
    prompts = args.prompts or config.prompts
    if args.prism is not None:
        folder = config.path.parent / "prism" / prompts
        sets = load_text_sets(folder)
        chosen = {name: text_set for name, text_set in sets.items() if name[1] == args.prism}
        if not chosen:
            raise unknown("PRISM text set", args.prism, [name for _, name in sets], str(folder))
        for name, text_set in chosen.items():
            print_text_set(name, text_set)
        return 0
    if args.setting is not None and args.setting not in config.settings:
        raise unknown("setting", args.setting, list(config.settings), str(config.path))
    methods = METHODS if args.method is None else {args.method: find_method(args.method)}
    for setting in config.settings if args.setting is None else [args.setting]:
        print(f"== {config.dataset}, {setting}")
        print_setting(
            load_setting_prompts(config, config.settings[setting], prompts),
            {name: method.needs for name, method in methods.items()},
        )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
