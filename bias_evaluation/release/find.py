"""Finding the release's files: by their names and, where names repeat, by the folder that they lie in."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bias_evaluation.datasets.folder import TRAIN_INDICES, VAL_INDICES
from bias_evaluation.datasets.metadata import METADATA
from bias_evaluation.grid.configs import TASKS
from bias_evaluation.results.aggregation import ResultName
from bias_evaluation.weights.kinds import KINDS
from safe_io.errors import InputError

PROMPTS = Path("config/prompts/official")
PRISM_TEXTS = Path("config/prism/official")
RESULTS = Path("main_eval_output/official")
DATA = Path("data")

DATASET_FOLDERS = ("CelebA", "FairFace", "UTKFace", "Waterbirds", "COCO", "FACET", "ImageNet100", "LFW")
EMBEDDINGS = re.compile(r"CLIP_(?P<backbone>.+)_embeddings\.npy")
_PASSED_BY = {"__pycache__", "node_modules"}


@dataclass(frozen=True)
class Found:
    """A file of the release.

    Attributes
    ----------
    kind : str
        What it is, in words.
    source : pathlib.Path
        Where it lies.
    target : pathlib.Path
        Where it belongs, relative to the project.
    """

    kind: str
    source: Path
    target: Path


@dataclass
class Search:
    """What a folder holds.

    Attributes
    ----------
    found : list of Found
        Files of the release, in the order of their paths.
    skipped : list of (pathlib.Path, str)
        Files that look like the release's but cannot be placed, and why.
    others : int
        Number of all other files.
    """

    found: list[Found] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0


class _MisplacedError(Exception):
    """A file with a name of the release's that cannot be placed; the message says why."""


def search(folder: Path, root: Path) -> Search:
    """Look for files of the release.

    Parameters
    ----------
    folder : pathlib.Path
        A checkout of the published repository, or any folder with such files. Hidden folders and links are
        passed by.
    root : pathlib.Path
        The project, which is passed by where it lies inside `folder`.

    Returns
    -------
    Search
    """
    result = Search()
    for path in _files(folder, root):
        try:
            placed = _place(path)
        except _MisplacedError as error:
            result.skipped.append((path, str(error)))
            continue
        if placed is None:
            result.others += 1
        elif path.is_symlink():
            result.skipped.append((path, "it is a link; give the folder that it points into"))
        else:
            result.found.append(Found(placed[0], path, placed[1]))
    return result


def _files(folder: Path, root: Path) -> Iterator[Path]:
    """All files in a fixed order."""

    def fail(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(folder, onerror=fail):
        parent = Path(name)
        folders[:] = sorted(
            child
            for child in folders
            if not child.startswith(".") and child not in _PASSED_BY and not _is_same(parent / child, root)
        )
        yield from (parent / file for file in sorted(files))


def _is_same(path: Path, root: Path) -> bool:
    return root.exists() and path.samefile(root)


Placed = tuple[str, Path]  # kind in words, target


def _place(path: Path) -> Placed | None:
    """Say what a file is and where it belongs; None for files that are not the release's."""
    for rule in _RULES:
        placed = rule(path)
        if placed:
            return placed
    return None


def _templates(path: Path) -> Placed | None:
    for kind in ("query", "prompt"):
        if path.name.endswith(f"_{kind}_templates.json"):
            return f"{kind} templates", PROMPTS / f"{kind}_templates" / path.name
    return None


def _diverse(path: Path) -> Placed | None:
    if path.name in ("diverse_prompts.py", "diverse_prompts.json"):
        return "diverse prompts", PROMPTS / "diverse_prompts.json"
    return None


def _prism_texts(path: Path) -> Placed | None:
    """Text sets of the two tasks share names, so the folder has to say which task it is."""
    if path.suffix == ".json" and path.parent.name in TASKS:
        return "PRISM text sets", PRISM_TEXTS / path.parent.name / path.name
    return None


def _result(path: Path) -> Placed | None:
    if path.suffix != ".json":
        return None
    try:
        ResultName.parse(path)
    except InputError:
        return None
    return "results", RESULTS / path.name


def _weights(path: Path) -> Placed | None:
    for kind in KINDS.values():
        if path.name == kind.archive:
            raise _MisplacedError(
                f"an archive; python download_release.py --source {kind.name}=FILE takes it"
            )
        if not kind.pattern.fullmatch(path.name):
            continue
        above = path.parent.parent.name
        if above == kind.folder.name != path.parent.name:
            raise _MisplacedError(
                f"weights in a sub-folder of {above} belong to the prompt set '{path.parent.name}', not to "
                f"the release"
            )
        return f"{kind.name} weights", kind.folder / path.name
    return None


def _data(path: Path) -> Placed | None:
    """Files that have the same names in every dataset's folder."""
    kinds = {METADATA: "metadata", TRAIN_INDICES: "fold indices", VAL_INDICES: "fold indices"}
    kind = "embeddings" if EMBEDDINGS.fullmatch(path.name) else kinds.get(path.name)
    if kind is None:
        return None
    folders = {_plain(name): name for name in DATASET_FOLDERS}
    folder = folders.get(_plain(path.parent.name))
    if folder is None:
        raise _MisplacedError(
            f"its folder does not say which dataset it is of; name the folder one of: "
            f"{', '.join(DATASET_FOLDERS)}"
        )
    return kind, DATA / folder / path.name


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).casefold()


_RULES: tuple[Callable[[Path], Placed | None], ...] = (
    _templates,
    _diverse,
    _result,
    _prism_texts,
    _weights,
    _data,
)
