"""Installing files of the paper's release: each is checked as evaluation would read it, then copied whole.

Nothing is overwritten unasked, and what belongs together stays together: embeddings are taken only with the
metadata that says which image each row is, fold indices only in pairs.
"""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from bias_evaluation.datasets.folder import (
    RELEASE,
    check_embeddings,
    check_folds,
    images_digest,
    manifest_path,
)
from bias_evaluation.datasets.metadata import METADATA, read_metadata
from bias_evaluation.grid.configs import Backbone
from bias_evaluation.prompts.official import read_class_templates, read_query_templates
from bias_evaluation.prompts.prism_texts import read_text_set
from bias_evaluation.release.files import (
    check_text_size,
    check_weight_file,
    read_diverse_prompts,
)
from bias_evaluation.release.find import EMBEDDINGS, Found, search
from bias_evaluation.results.aggregation import read_result
from bias_evaluation.weights.kinds import KINDS
from safe_io.arrays import load_array
from safe_io.documents import choices
from safe_io.errors import InputError
from safe_io.files import atomic_path, write_json

_DATASET_KINDS = ("metadata", "embeddings", "fold indices")
_DIFFERS = "another file is there already; --overwrite replaces it"
# Columns that evaluation reads; published metadata without them is not of that dataset.
_LABELS: Mapping[str, tuple[str, ...]] = {
    "CelebA": ("gender",),
    "FairFace": ("gender", "race"),
    "UTKFace": ("gender", "race"),
    "Waterbirds": ("bird type", "background"),
}


@dataclass
class Imported:
    """What became of a folder's files.

    Attributes
    ----------
    taken, kept : list of Found
        Files that were installed; files that are there already with the same content.
    refused : list of (pathlib.Path, str)
        Files that are damaged, do not fit, or differ from what is there, and why.
    skipped : list of (pathlib.Path, str)
        Files that look like the release's but have no place here, and why.
    others : int
        Number of files that are not the release's.
    """

    taken: list[Found] = field(default_factory=list)
    kept: list[Found] = field(default_factory=list)
    refused: list[tuple[Path, str]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    others: int = 0


def import_release(
    folder: Path,
    root: Path,
    *,
    backbones: Sequence[Backbone] = (),
    overwrite: bool = False,
    progress: bool = True,
) -> Imported:
    """Install the release's files from a folder.

    Parameters
    ----------
    folder : pathlib.Path
        A checkout of the published repository, or any folder with those files.
    root : pathlib.Path
        Project root.
    backbones : sequence of Backbone
        Known backbones, whose widths embeddings and weights must have.
    overwrite : bool
        Replace files that differ.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Imported

    Raises
    ------
    InputError
        The folder does not exist, is the project itself, or holds no such file; or two different files in it
        belong into one place. Nothing has been installed then.
    """
    for path in (folder, root):
        if not path.is_dir():
            raise InputError(f"folder not found: {path}")
    if folder.samefile(root):
        raise InputError(f"{folder} is the project itself; --from must name the folder of the release")
    looked = search(folder, root)
    if not looked.found and not looked.skipped:
        raise InputError(f"{folder} holds no file of the release ({looked.others} other files)")
    files = _one_a_place(looked.found)
    job = _Import(root, backbones, overwrite)
    with tqdm(total=len(files), unit="file", desc="importing", disable=not progress) as bar:
        for group in _groups(files):
            job.take(group)
            bar.update(len(group))
    job.done.skipped += looked.skipped
    job.done.others = looked.others
    return job.done


def _one_a_place(files: Sequence[Found]) -> list[Found]:
    """Leave out second copies; two different files for one place are an error."""
    places: dict[Path, Found] = {}
    for file in files:
        first = places.setdefault(file.target, file)
        if first is not file and not _same_content(file, first.source):
            raise InputError(
                f"two different files belong into {file.target}: {first.source} and {file.source}; "
                f"remove one, or give a folder that holds only one of them"
            )
    return list(places.values())


def _groups(files: Sequence[Found]) -> Iterable[list[Found]]:
    """Files that are judged together: those of one dataset; every other file alone."""
    datasets: dict[Path, list[Found]] = {}
    for file in files:
        if file.kind in _DATASET_KINDS:
            datasets.setdefault(file.target.parent, []).append(file)
        else:
            yield [file]
    yield from datasets.values()


def _same_content(file: Found, other: Path) -> bool:
    """Whether a file says the same as another: the diverse prompts in either form, the rest byte for byte."""
    if file.kind == "diverse prompts":
        return read_diverse_prompts(file.source) == read_diverse_prompts(other)
    return filecmp.cmp(file.source, other, shallow=False)


class _OwnResultError(Exception):
    """A result of this project, which is none of the release."""


class _Import:
    """One import: where to, under which rules, and what has become of the files so far."""

    def __init__(self, root: Path, backbones: Sequence[Backbone], overwrite: bool) -> None:
        self.root, self.overwrite = root, overwrite
        self.backbones = {backbone.name: backbone for backbone in backbones}
        self.done = Imported()

    def take(self, group: Sequence[Found]) -> None:
        """Check and install files that belong together."""
        if group[0].kind in _DATASET_KINDS:
            self._take_dataset({file.source.name: file for file in group})
            return
        [file] = group
        try:
            self._check(file)
            self._install(file)
        except _OwnResultError as error:
            self.done.skipped.append((file.source, str(error)))
        except (InputError, PermissionError) as error:
            self._refuse(group, error)

    def _refuse(self, files: Iterable[Found], why: object) -> None:
        self.done.refused += [(file.source, str(why)) for file in files]

    def _check(self, file: Found) -> None:
        """Read a file as evaluation or training would."""
        path = file.source
        weights = KINDS.get(file.kind.removesuffix(" weights"))
        if weights:
            check_weight_file(weights, path, weights.backbone(path.name, self.backbones.values()))
            return
        check_text_size(path)
        if file.kind == "query templates":
            read_query_templates(path)
        elif file.kind == "prompt templates":
            read_class_templates(path, path.name.removesuffix("_prompt_templates.json"))
        elif file.kind == "diverse prompts":
            read_diverse_prompts(path)
        elif file.kind == "PRISM text sets":
            read_text_set(path)
        elif any(record.get("digest") for record in list(read_result(path))):
            raise _OwnResultError("a result of this project, since it records what it was made from")

    def _is_there(self, file: Found) -> bool:
        """Whether the project has a file already, with the same content."""
        target = self.root / file.target
        if not target.is_file():
            return False
        if filecmp.cmp(file.source, target, shallow=False):
            return True
        try:
            if file.kind == "metadata":  # the same table, written by another version
                return read_metadata(file.source).equals(read_metadata(target))
            return file.kind == "diverse prompts" and _same_content(file, target)
        except InputError:  # what is there is damaged
            return False

    def _install(self, file: Found) -> None:
        """Copy a file that has been checked; raise where a different one is there and must stay."""
        target = self.root / file.target
        if self._is_there(file):
            self.done.kept.append(file)
            return
        if target.exists() and not self.overwrite:
            raise InputError(_DIFFERS)
        if file.kind == "diverse prompts":
            write_json(target, read_diverse_prompts(file.source))
        else:
            if file.kind == "embeddings":
                manifest_path(target).unlink(missing_ok=True)  # it describes what was there
            with atomic_path(target) as temporary:
                shutil.copyfile(file.source, temporary)
        self.done.taken.append(file)

    # datasets

    def _take_dataset(self, files: Mapping[str, Found]) -> None:
        """Install the files of one dataset."""
        embeddings = [file for file in files.values() if file.kind == "embeddings"]
        rows = None
        if METADATA in files:
            rows = self._rows(files[METADATA])
            why = f"the dataset's {METADATA} was not taken"
        else:
            why = f"no {METADATA} of the dataset is with it, to say which image each row is"
        if rows is None:
            self._refuse(embeddings, why)
        else:
            good = [file for file in embeddings if self._fits(file, rows)]
            self._install_rows(files[METADATA], good)
        self._take_folds([file for file in files.values() if file.kind == "fold indices"])

    def _rows(self, metadata: Found) -> int | None:
        """Check metadata and count its rows; None where it was refused."""
        try:
            table = read_metadata(metadata.source)
            wanted = _LABELS.get(metadata.target.parent.name, ())
            missing = [column for column in wanted if column not in table.columns]
            if table.empty or missing:
                raise InputError(
                    f"it has {len(table)} rows and the columns {choices(list(table.columns))}; "
                    f"needed are rows, and the columns {choices(wanted)}"
                )
            return len(table)
        except (InputError, PermissionError) as error:
            self._refuse([metadata], error)
            return None

    def _fits(self, file: Found, rows: int) -> bool:
        """Check embeddings by their header; refuse them where they do not fit."""
        match = EMBEDDINGS.fullmatch(file.source.name)
        backbone = self.backbones.get(match["backbone"]) if match else None
        try:
            array = load_array(file.source, "embeddings", "the release")
            check_embeddings(array, file.source, rows, backbone.dim if backbone else None)
        except (InputError, PermissionError) as error:
            self._refuse([file], error)
            return False
        return True

    def _install_rows(self, metadata: Found, embeddings: Sequence[Found]) -> None:
        """Install metadata and the embeddings that number the same rows: both, or neither."""
        if not self._is_there(metadata):
            if why := self._reason_to_keep(metadata, embeddings):
                self._refuse([metadata, *embeddings], why)
                return
            for file in embeddings:  # first, so that a run that is killed leaves no mixture of old and new
                if not self._is_there(file):
                    (self.root / file.target).unlink(missing_ok=True)
        for file in (metadata, *embeddings):
            try:
                self._install(file)
                if file.kind == "embeddings":
                    self._describe(self.root / file.target)
            except InputError as error:
                self._refuse([file], error)

    def _describe(self, target: Path) -> None:
        """Write down which image each row of imported embeddings is, and where they come from."""
        table = read_metadata(target.with_name(METADATA))
        if not manifest_path(target).exists() and "file_path" in table:
            write_json(manifest_path(target), {"source": RELEASE, "images": images_digest(table)})

    def _reason_to_keep(self, metadata: Found, embeddings: Sequence[Found]) -> str:
        """Why the metadata that is there, or its absence, must stay as it is; empty where it need not."""
        target = self.root / metadata.target
        if target.exists() and not self.overwrite:
            return (
                f"{METADATA} differs from the one that is there; --overwrite replaces it and the embeddings"
            )
        replaced = {file.source.name for file in embeddings if self.overwrite or self._is_there(file)}
        others = sorted({p.name for p in target.parent.glob("CLIP_*_embeddings.npy")} - replaced)
        if others:
            return f"{target.parent / others[0]}, made with other rows, would stay; move it away"
        return ""

    def _take_folds(self, files: Sequence[Found]) -> None:
        """Install the two index files: both, or neither. They depend on the number of rows alone."""
        if not files:
            return
        try:
            if len(files) != 2:
                raise InputError(
                    "the indices of reference and evaluation rows belong together; one is missing"
                )
            arrays = [load_array(file.source, "fold indices", "the release") for file in files]
            rows = self._rows_there(files[0].target.parent) or sum(a.shape[-1] for a in arrays if a.ndim)
            for file, array in zip(files, arrays, strict=True):
                check_folds(array, file.source, rows)
            if len(arrays[0]) != len(arrays[1]):
                raise InputError(f"{len(arrays[0])} and {len(arrays[1])} folds do not belong together")
            if not self.overwrite and any(
                (self.root / file.target).exists() and not self._is_there(file) for file in files
            ):
                raise InputError(_DIFFERS)
            for file in files:
                self._install(file)
        except (InputError, PermissionError) as error:
            self._refuse(files, error)

    def _rows_there(self, folder: Path) -> int | None:
        """Count the rows of the metadata that a dataset folder of the project has."""
        path = self.root / folder / METADATA
        return len(read_metadata(path)) if path.is_file() else None
