"""The grid of results as data: what a command asks for, listed in the order of work.

Order: dataset → backbone (embeddings held once) → setting → method → seed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from bias_evaluation.grid.configs import Backbone, DatasetConfig, MethodConfig, Setting
from debiasing_methods.reranking import ALGORITHMS
from safe_io.documents import unknown
from safe_io.errors import InputError

T = TypeVar("T")

RERANKING_LABELS = ("given", "predicted")
"""Which labels re-ranking is done by: those of the images, or predicted zero-shot."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line adds to a config.

    Attributes
    ----------
    data_root, output_dir : pathlib.Path
        Folder of the dataset folders; folder of the result files.
    prompts : str
        Name of the prompt set.
    retrieval_k : int
        K of retrieval.
    text_embeddings : pathlib.Path or None
        File that supplies all text embeddings.
    device : str
        'cpu' or 'cuda'.
    rerank_labels : str
        Which labels re-ranking sees: 'given', or 'predicted' from the images by zero-shot classification.
    rerank_shares : tuple of str
        Shares that re-ranking aims at: ('data',), ('uniform',), or a number for each bias class.
    uncertainty : bool
        Whether figures are drawn from the posterior of the model, too.
    """

    data_root: Path
    output_dir: Path
    prompts: str
    retrieval_k: int
    text_embeddings: Path | None = None
    device: str = "cpu"
    rerank_labels: str = "given"
    rerank_shares: tuple[str, ...] = ("data",)
    uncertainty: bool = False


@dataclass(frozen=True)
class ResultKey:
    """One result of the grid: a setting of a dataset, a backbone, a method and, if trained, its seed.

    `rerank` names the algorithm that re-ranks the method's retrieved images, if one does.
    """

    dataset: str
    setting: Setting
    backbone: Backbone
    method: MethodConfig
    seed: int | None
    rerank: str | None = None

    @property
    def result_name(self) -> str:
        """The method's name and, after ``+``, that of the re-ranking."""
        return f"{self.method.name}+{self.rerank}" if self.rerank else self.method.name

    @property
    def stem(self) -> str:
        """Name of the result file without its suffix."""
        seed = "" if self.seed is None else f"-seed{self.seed}"
        return f"{self.dataset}_{self.setting.file_part}_clip-{self.backbone.stem}_{self.result_name}{seed}"

    def path(self, output_dir: Path) -> Path:
        """Path of the result file."""
        return output_dir / f"{self.stem}.json"


@dataclass(frozen=True)
class Selection:
    """Names that restrict the grid; None takes everything in the config."""

    settings: Sequence[str] | None = None
    backbones: Sequence[str] | None = None
    methods: Sequence[str] | None = None
    seeds: Sequence[int] | None = None


def plan(config: DatasetConfig, selection: Selection) -> list[ResultKey]:
    """List the results of a config that a selection allows, in the order of work.

    A name that the config does not have selects nothing; `check_selection` finds names that no config has.
    Re-ranked results (``<method>+<algorithm>``) are in the grid if they are selected by name, for retrieval.
    """
    return [
        ResultKey(config.dataset, setting, backbone, method, seed, rerank)
        for backbone in _chosen(config.backbones, selection.backbones)
        for setting in _chosen(config.settings, selection.settings)
        for method in config.methods.values()
        for rerank in _rerankings(method.name, setting, selection.methods)
        for seed in _seeds(method.name, method.seeds, selection.seeds)
    ]


def _rerankings(method: str, setting: Setting, names: Sequence[str] | None) -> list[str | None]:
    """List how a method's results are wanted: as they are (None), and re-ranked."""
    if names is None:
        return [None]
    wanted = [algorithm for algorithm in ALGORITHMS if f"{method}+{algorithm}" in names]
    return [*([None] if method in names else []), *(wanted if setting.task == "retrieval" else [])]


def _chosen(available: Mapping[str, T], names: Sequence[str] | None) -> list[T]:
    return [value for name, value in available.items() if names is None or name in names]


def _seeds(method: str, seeds: Sequence[int], wanted: Sequence[int] | None) -> list[int | None]:
    from debiasing_methods.registry import get_method

    if not get_method(method).seeded:
        return [None]
    return [seed for seed in seeds if wanted is None or seed in wanted]


def check_selection(configs: Sequence[DatasetConfig], selection: Selection) -> None:
    """Raise `InputError` where a selected name is in none of some configs, or no seed of a method is left."""
    from bias_evaluation.grid.methods import split_reranked

    methods_files = [config.flat or config.path.parent / "methods.yml" for config in configs]
    sources = [config.source for config in configs]
    for kind, names, available, files in (
        ("setting", selection.settings, [config.settings for config in configs], sources),
        ("backbone", selection.backbones, [config.backbones for config in configs], sources),
        ("method", selection.methods, [config.methods for config in configs], methods_files),
    ):
        known = list(dict.fromkeys(chain.from_iterable(available)))
        for name in names or ():
            name, algorithm = split_reranked(name) if kind == "method" else (name, None)
            if name not in known:
                raise unknown(kind, name, known, _some(files))
            if algorithm is not None and algorithm not in ALGORITHMS:
                raise unknown("re-ranking", algorithm, list(ALGORITHMS), f"--methods {name}+{algorithm}")
    if selection.seeds is not None:
        _check_seeds(configs, selection, selection.seeds)


def _some(paths: Iterable[Path]) -> str:
    """Name the first of some files, and say how many more there are."""
    first, *more = dict.fromkeys(map(str, paths))
    return f"{first} and {len(more)} more" if more else first


def _check_seeds(configs: Sequence[DatasetConfig], selection: Selection, wanted: Sequence[int]) -> None:
    from bias_evaluation.grid.methods import split_reranked
    from debiasing_methods.registry import get_method

    seeds: dict[str, set[int]] = {}
    names = None if selection.methods is None else [split_reranked(name)[0] for name in selection.methods]
    for method in chain.from_iterable(_chosen(config.methods, names) for config in configs):
        seeds.setdefault(method.name, set()).update(method.seeds)
    for name, known in seeds.items():
        if get_method(name).seeded and known.isdisjoint(wanted):
            raise InputError(
                f"--seeds {' '.join(map(str, wanted))}: {name} has the seeds "
                f"{' '.join(map(str, sorted(known)))}"
            )


@dataclass(frozen=True)
class State:
    """Where one result stands.

    Attributes
    ----------
    kind : str
        'done', 'to do', 'stale' (made from other inputs) or 'lacks'.
    detail : str
        What differs or is missing, in a few words.
    missing : tuple of str
        What exactly is missing and how to get it, one line each.
    """

    kind: str
    detail: str = ""
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Describe the state in a few words."""
        joint = " " if self.kind == "lacks" else ": "
        return f"{self.kind}{joint}{self.detail}" if self.detail else self.kind
