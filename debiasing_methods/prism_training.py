"""Train PRISM maps on the text sets of config/prism/; runs by path.

One setting (``--task``, ``--setting``), or all that dataset configs need (``--config``): their settings and
seeds are trained together, backbone by backbone. See `bias_evaluation.training_runs.prism` for the files and
`debiasing_methods.training.prism` and `debiasing_methods.training.prism_sampling` for the training.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

if __package__ in (None, ""):  # run by path: make the project importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    from safe_io.start import guard_start

    guard_start()


from debiasing_methods.training.hyperparameters import SAMPLINGS, PrismHyperparameters
from safe_io.checkout import CONFIG
from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main

if TYPE_CHECKING:
    from torch import Tensor

    from bias_evaluation.grid.configs import Backbone, DatasetConfig
    from bias_evaluation.training_runs.prism import PrismSetting

_BACKBONES = CONFIG / "backbones.yml"
_ENCODED_TOGETHER = 8192  # sentences that are encoded before they are kept on disk
_PRINTED = 12  # maps: of more than these a summary is printed


def main(argv: Sequence[str] | None = None) -> int:
    """Train the maps that the command line names; return the exit code."""
    args = build_parser().parse_args(argv)

    from bias_evaluation.training_runs.prism import LOSSES, Output, run_training

    _check(args)
    from bias_evaluation.grid.configs import load_dataset_config

    configs = [load_dataset_config(path) for path in args.config or ()]
    folder = configs[0].path.parent if configs else args.backbones_file.resolve().parent
    for config in configs:
        if config.path.parent != folder:
            raise InputError(f"--config: {config.path} and {configs[0].path} are not in one folder")
    backbones = _backbones(args, configs)
    seeds = _seeds(args, configs)
    settings = _settings(args, configs, folder)
    root = folder.parent
    target = args.output_dir or root / "debiasing_methods" / "prism_weights" / args.prompts
    for backbone in backbones:
        reports = run_training(
            settings,
            _embedder(backbone, args, args.data_root or root / "data"),
            Output(target, backbone.name, args.format, args.overwrite),
            seeds=seeds,
            sampling=args.sampling,
            progress=True,
        )
        _print(reports)
    print(f"maps: {target}\nlosses: {target / LOSSES}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raise `InputError` where options do not go together, or are out of range."""
    if args.num_bases != 0:
        raise InputError(f"--num-bases {args.num_bases}: only 0 (the whole map is trained) is supported")
    if args.init_weight != "random":
        raise InputError(f"--init-weight {args.init_weight}: only 'random' is supported")
    if (args.config is None) == (args.setting is None):
        raise InputError("give either --setting (with --task and --backbone) or --config")
    if args.setting is not None and (args.task is None or args.backbone is None):
        raise InputError("--setting needs --task and --backbone")
    if args.config is not None and args.task is not None:
        raise InputError("--task goes with --setting; --config says itself which tasks there are")
    if any(seed < 0 for seed in args.seeds or ()):
        raise InputError(f"--seed must be at least 0, got {min(args.seeds)}")


def _backbones(args: argparse.Namespace, configs: Sequence[DatasetConfig]) -> list[Backbone]:
    """Backbones to train for: those named, else those of the configs."""
    from bias_evaluation.grid.configs import get_backbone

    known = configs[0].path.parent / "backbones.yml" if configs else args.backbones_file
    if args.backbone:
        found = [get_backbone(name, known) for name in args.backbone]
    else:
        found = [backbone for config in configs for backbone in config.backbones.values()]
    found = list(dict.fromkeys(found))
    if args.text_embeddings and len(found) > 1:
        raise InputError(
            f"--text-embeddings holds embeddings of one backbone, but {len(found)} are to be trained for; "
            f"choose one with --backbone"
        )
    return found


def _seeds(args: argparse.Namespace, configs: Sequence[DatasetConfig]) -> list[int]:
    """Seeds to train: those given, else those that the configs' evaluations use, else 0."""
    if args.seeds or not configs:
        return args.seeds or [0]
    if "prism" not in configs[0].methods:
        raise InputError(
            f"{configs[0].path.parent / 'methods.yml'} has no entry 'prism' with seeds; give --seeds"
        )
    return list(configs[0].methods["prism"].seeds)


def _settings(args: argparse.Namespace, configs: Sequence[DatasetConfig], folder: Path) -> list[PrismSetting]:
    """Text sets to train on, as plain data, each with its hyper-parameters."""
    from bias_evaluation.prompts.prism_settings import (
        TRAINING,
        hyperparameters,
        load_prism_training,
    )
    from bias_evaluation.prompts.prism_texts import load_text_sets
    from bias_evaluation.training_runs.prism import training_setting
    from safe_io.documents import unknown

    sets = load_text_sets(folder / "prism" / args.prompts)
    training = load_prism_training(folder / TRAINING)
    wanted = needed_text_sets(configs, args.prompts) if configs else [(args.task, args.setting)]
    settings = []
    for task, name in wanted:
        if (task, name) not in sets:
            names = [other for kind, other in sets if kind == task]
            raise unknown(f"{task} setting", name, names, str(folder / "prism" / args.prompts))
        values = asdict(hyperparameters(training, name, folder / TRAINING))
        values |= {key: given for key in values if (given := getattr(args, key)) is not None}
        try:
            chosen = PrismHyperparameters(**values)
        except ValueError as error:
            raise InputError(str(error)) from None
        settings.append(training_setting(task, name, sets[task, name], chosen))
    return settings


def needed_text_sets(configs: Sequence[DatasetConfig], prompts: str) -> list[tuple[str, str]]:
    """List the text sets whose maps evaluations of some configs look for: (task, name), each once.

    Parameters
    ----------
    configs : sequence of DatasetConfig
    prompts : str
        Name of the prompt set.
    """
    from bias_evaluation.prompts.prism_settings import text_set_name
    from bias_evaluation.prompts.setting_prompts import load_setting_prompts

    return list(
        dict.fromkeys(
            (setting.task, text_set_name(setting, group.name))
            for config in configs
            for setting in config.settings.values()
            for group in load_setting_prompts(config, setting, prompts).groups
        )
    )


def _embedder(
    backbone: Backbone, args: argparse.Namespace, data_root: Path
) -> Callable[[Sequence[str]], Tensor]:
    """Return what embeds sentences, raw; what was encoded before a kill is kept on disk."""
    from bias_evaluation.embedding.text_store import TextStore

    def embed(sentences: Sequence[str]) -> Tensor:
        cache = data_root / "text_embeddings"
        store = TextStore(backbone, cache, device=args.device, given=args.text_embeddings)
        if store.given is None:
            missing = store.missing(sentences)
            for start in range(0, len(missing), _ENCODED_TOGETHER):
                store.ensure(missing[start : start + _ENCODED_TOGETHER])
        return store.embed(sentences)

    return embed


def _print(reports: Sequence[dict[str, Any]]) -> None:
    """Print the losses of some maps, or their means where there are many."""
    if len(reports) <= _PRINTED:
        for report in reports:
            before, after = report["loss_before"], report["loss_after"]
            print(
                f"{report['backbone']} {report['setting']} seed {report['seed']}: loss {before['total']:.4f} "
                f"-> {after['total']:.4f} (positives {after['positive']:.4f}, negatives "
                f"{after['negative']:.4f})"
            )
        return
    before, after = (
        sum(report[when]["total"] for report in reports) / len(reports)
        for when in ("loss_before", "loss_after")
    )
    print(f"{reports[0]['backbone']}: {len(reports)} maps, mean loss {before:.4f} -> {after:.4f}")


def build_parser() -> ArgumentParser:
    """Describe the command line."""
    parser = ArgumentParser(
        published={"--CLIP_model": "--backbone"},
        description="Train PRISM maps on text alone: for one setting, or for all settings and seeds that "
        "dataset configs need. Maps that are there and were trained the same way are kept, and a run that "
        "was cut off goes on.",
        epilog="examples: python debiasing_methods/prism_training.py --backbone ViT-B-16 --task "
        "zs_classification --setting waterbirds --seed 0; python debiasing_methods/prism_training.py "
        "--config config/celeba.yml config/fairface.yml",
    )
    _add_what(parser.add_argument_group("what to train"))
    _add_training(parser.add_argument_group("training (default: as config/prism_training.yml says)"))
    _add_files(parser.add_argument_group("files"))
    return parser


def _add_what(group: argparse._ArgumentGroup) -> None:
    text = (
        "backbone(s), by the name here or OpenAI's, or MODEL:TAG, hf-hub:…, local-dir:… (default with "
        "--config: the configs')"
    )
    group.add_argument("--backbone", nargs="+", metavar="NAME", help=text)
    text = "task of the setting"
    group.add_argument("--task", choices=("retrieval", "zs_classification"), help=text)
    text = "text set to train on, e.g. stereotype_thief_race, celeba_gray_hair_gender, waterbirds"
    group.add_argument("--setting", metavar="NAME", help=text)
    text = "dataset config(s): train every map that their evaluation needs"
    group.add_argument("--config", nargs="+", type=Path, metavar="FILE", help=text)
    text = "folder of text sets in config/prism/, and prompt set that the maps go with (default: %(default)s)"
    group.add_argument("--prompts", default="default", metavar="NAME", help=text)
    text = "seed(s), one map each (default: with --config those of methods.yml, else 0)"
    group.add_argument("--seed", "--seeds", dest="seeds", nargs="+", type=int, metavar="K", help=text)


def _add_training(group: argparse._ArgumentGroup) -> None:
    texts = {
        "num_samples": "samples drawn from the text set",
        "lr": "learning rate of Adam",
        "epochs": "passes over the samples",
        "batch_size": "samples a step; the last batch may be short",
        "wd": "weight decay",
    }
    kinds = get_type_hints(PrismHyperparameters)
    for name, text in texts.items():
        kind = kinds[name]
        group.add_argument(
            f"--{name.replace('_', '-')}", type=kind, metavar="N" if kind is int else "X", help=text
        )
    text = (
        "published: as in the published training, where random choices hang together; independent: draw each "
        "choice by itself (default: %(default)s)"
    )
    group.add_argument("--sampling", choices=SAMPLINGS, default="published", help=text)
    text = "published option; only 0 is supported"
    group.add_argument("--num-bases", type=int, default=0, metavar="N", help=text)
    text = "published option; only random is supported"
    group.add_argument("--init-weight", default="random", metavar="NAME", help=text)


def _add_files(group: argparse._ArgumentGroup) -> None:
    from bias_evaluation.weights import FORMATS

    folder: dict[str, Any] = {"type": Path, "metavar": "DIR"}
    text = "where the maps go (default: debiasing_methods/prism_weights/<prompts>/)"
    group.add_argument("--output-dir", help=text, **folder)
    text = "file format: pth, the release's, or safetensors (default: %(default)s)"
    group.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=text)
    text = "replace files of other runs, and train finished maps anew"
    group.add_argument("--overwrite", action="store_true", help=text)
    text = "npz that supplies the sentences' embeddings: 'prompts' and 'embeddings' (no model is loaded)"
    group.add_argument("--text-embeddings", type=Path, metavar="FILE", help=text)
    text = "with --setting: backbone file (default: config/backbones.yml); its folder is the config folder"
    group.add_argument("--backbones-file", type=Path, default=_BACKBONES, metavar="FILE", help=text)
    text = "DIR/text_embeddings keeps what is encoded (default: data/ of the project)"
    group.add_argument("--data-root", help=text, **folder)
    text = "where to encode the sentences (default: %(default)s); maps are trained on the CPU"
    group.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help=text)


if __name__ == "__main__":
    sys.exit(run_main(main))
