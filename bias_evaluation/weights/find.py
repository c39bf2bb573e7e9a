"""Where the trained weights of a method lie, and how to get them where they are missing."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bias_evaluation.grid.configs import Backbone
from bias_evaluation.prompts.prism_settings import hyperparameters, load_prism_training
from bias_evaluation.weights.kinds import PRISM, SAE, ZSDEBIAS, WeightKind
from debiasing_methods.training.hyperparameters import PrismHyperparameters

_RELEASED = ("human", "animal")  # ZSDebias corpora of the release's models
# Datasets that the paper trained ZSDebias on, by bias corpus.
_TRAINED_ON = {"human": ("LFW", "UTKFace", "FACET"), "animal": ("ImageNet100", "COCO")}
OFFICIAL = "official"  # name of the release's prompts, where they are installed


@dataclass(frozen=True)
class WeightFile:
    """A weight file that a result needs.

    Attributes
    ----------
    path : pathlib.Path
        The file: in the prompt set's own folder if it is there, else in the release's.
    make : str
        Commands that train or download it.
    """

    path: Path
    make: str


def find(root: Path, kind: WeightKind, prompts: str, name: str, make: str) -> WeightFile:
    """Look in ``<kind>_weights/<prompts>/`` (trained here), then in ``<kind>_weights/`` (the release).

    The release's PRISM maps were trained on its own texts: they serve the prompt set 'official' alone. A
    sparse autoencoder is also taken from the folder of another prompt set, if one set alone has it.

    Parameters
    ----------
    root : pathlib.Path
        Project root.
    kind : WeightKind
    prompts : str
        Name of the prompt set in use.
    name : str
        File name; a ``.safetensors`` file of the same stem serves as well.
    make : str
        Commands for the error line.
    """
    folder = root / kind.folder
    safe = Path(name).with_suffix(".safetensors").name if name.endswith(".pth") else name
    candidates = [folder / prompts / name, folder / prompts / safe]
    if not kind.for_its_prompts or prompts == OFFICIAL:  # a map belongs to the texts that it was trained on
        candidates += [folder / name, folder / safe]
    if kind is SAE:  # it is the backbone's: one that was trained beside another prompt set serves as well
        elsewhere = [path for each in (name, safe) for path in folder.glob(f"*/{glob.escape(each)}")]
        candidates += elsewhere if len(elsewhere) == 1 else []
    found = next((path for path in candidates if path.is_file()), folder / prompts / name)
    return WeightFile(found, make)


def _or_download(backbone: Backbone, then: str = "") -> str:
    """Say that the release has the file; it has those of OpenAI's models alone."""
    fetch = f" or fetch the release with `python download_release.py`{then}"
    return fetch if backbone.pretrained == "openai" else ""


def sae_file(root: Path, prompts: str, backbone: Backbone, given: Path | None = None) -> WeightFile:
    """Find the backbone's sparse autoencoder; `given` is the file where a config names one itself."""
    name = backbone.sae or f"MSAE_{backbone.stem}.pth"
    target = given or f"debiasing_methods/sae_weights/{prompts}/{name}"
    make = (
        f"train it with `python debiasing_methods/sae_training.py --backbone {backbone.option} "
        f"--output {target} --prompts FILE`, FILE with one prompt per line," + _or_download(backbone)
    )
    return WeightFile(given, make) if given else find(root, SAE, prompts, name, make)


def zsdebias_file(root: Path, prompts: str, backbone: Backbone, kind: str, seed: int) -> WeightFile:
    """Find a ZSDebias model; `kind` is the bias corpus that it was trained with."""
    name = f"{backbone.name}_{kind}_zsdebias_{seed}.pth"
    folders = " ".join(f"data/{folder}" for folder in _TRAINED_ON.get(kind, ("DIR",)))
    make = (
        f"train it with `python debiasing_methods/zsdebias_training.py --bias-attribute {kind} --backbone "
        f"{backbone.option} --seed {seed} --prompts {prompts} --dataset-paths {folders}` "
        f"(train_zsdebias.sh: all of the paper's)" + (_or_download(backbone) if kind in _RELEASED else "")
    )
    return find(root, ZSDEBIAS, prompts, name, make)


def prism_files(
    root: Path,
    prompts: str,
    backbone: Backbone,
    task: str,
    text_sets: Sequence[str],
    seed: int,
    training: Path | PrismHyperparameters,
) -> list[WeightFile]:
    """Find the PRISM maps of some text sets; `training` is how they are trained, or the file that says so."""
    given = isinstance(training, PrismHyperparameters)
    found = {"*": training} if given else load_prism_training(training)
    options = (
        "".join(f" --{name.replace('_', '-')} {value}" for name, value in asdict(training).items())
        if given
        else ""
    )
    files = []
    for text_set in text_sets:
        name = prism_weight_name(
            backbone.name, task, text_set, hyperparameters(found, text_set, training), seed
        )
        make = (
            f"train it with `python debiasing_methods/prism_training.py --backbone {backbone.option} --task "
            f"{task} --setting {text_set} --seed {seed} --prompts {prompts}{options}` "
            f"(train_all_prism.sh: all of the paper's)"
            + _or_download(backbone, f" and pass --prompts {OFFICIAL}")
        )
        files.append(find(root, PRISM, prompts, name, make))
    return files


def prism_weight_name(
    backbone: str,
    task: str,
    setting: str,
    training: PrismHyperparameters,
    seed: int,
    file_format: str = "pth",
) -> str:
    """Name a map's file as the release does.

    Parameters
    ----------
    backbone : str
        Name in weight files, e.g. ``ViT-L-14@336px``.
    task : str
        'retrieval' or 'zs_classification'.
    setting : str
        Name of the text set, e.g. ``stereotype_dangerous-person_race``.
    training : PrismHyperparameters
    seed : int
    file_format : str
        'pth' or 'safetensors'.
    """
    return (
        f"prism_clip={backbone}_task={task}_setting={setting}_epochs={training.epochs}_num_bases=0"
        f"_num_samples={training.num_samples}_seed={seed}_lr={float(training.lr)}"
        f"_batch_size={training.batch_size}_wd={float(training.wd)}_init_weight=random.{file_format}"
    )
