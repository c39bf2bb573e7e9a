"""Metadata of each dataset, made from its own label files: `metadata.feather`, one row an image.

Every builder takes the dataset folder as its providers publish it (the trees stand in data/README.md) and
returns a table with `file_name` and `file_path` (relative to the folder). What a builder leaves out is said
in one line on stderr.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from safe_io.documents import check_utf8, choices
from safe_io.errors import InputError
from safe_io.files import atomic_path, read_json

METADATA = "metadata.feather"
SKIPPED = "skipped_images.json"  # images that the metadata leaves out, since they could not be read

GENDERS = ("Male", "Female")
FAIRFACE_RACES = (
    "Black",
    "East Asian",
    "Indian",
    "Latino_Hispanic",
    "Middle Eastern",
    "Southeast Asian",
    "White",
)
UTKFACE_RACES = ("White", "Black", "Asian", "Indian", "Latino Hispanic")
WATERBIRDS_FOLDERS = ("waterbird_complete95_forest2water2", "waterbirds_complete95_forest2water2")

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
_SEE = "see data/README.md for the expected tree"


# --- reading label files ------------------------------------------------------------------------------------


def _existing(*candidates: Path) -> Path:
    """Return the first candidate that is a file; complain about the first where none is."""
    for path in candidates:
        if path.is_file():
            return path
    raise InputError(f"label file not found: {' or '.join(map(str, candidates))}; {_SEE}")


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"label file is not text: {path}: {error}") from None


def _read_csv(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a label file that must have some columns; the index of a row is its line number."""
    try:
        table = pd.read_csv(path, low_memory=False, encoding="utf-8-sig")
    except (ValueError, UnicodeDecodeError) as error:  # pandas' parser errors name the line
        raise InputError(
            f"label file cannot be read as a table: {path}: {str(error).strip()}; get the file anew"
        ) from None
    if twice := repeated(next(csv.reader(_read_lines(path)))):  # pandas would rename the second
        raise _malformed(path, 1, f"the column '{twice}' is there twice")
    missing = [c for c in columns if c not in table.columns]
    if missing:
        raise InputError(
            f"{path} lacks the column(s) {choices(missing)}; it has: {choices(list(table.columns))}"
        )
    written = [number for number, line in enumerate(_read_lines(path), start=1) if line.strip()]
    table.index = written[1:] if len(written) == len(table) + 1 else range(2, len(table) + 2)
    for column in columns:
        if table[column].isna().any():
            raise _malformed(path, table.index[table[column].isna()][0], f"'{column}' is empty")
    return table


def repeated(names: Sequence[str]) -> str | None:
    """Return the first name that is there twice."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def _malformed(path: Path, line: int, what: str) -> InputError:
    return InputError(f"{path}, line {line}: {what}; mend the line, or get the file anew")


def _check_values(table: pd.DataFrame, path: Path, column: str, allowed: Sequence[Any]) -> None:
    """Raise where a value of a column is none of the allowed ones."""
    _reject(table, path, column, ~table[column].isin(allowed), allowed)


def _decode(table: pd.DataFrame, path: Path, column: str, names: Sequence[Any]) -> pd.Series:
    """Turn the codes 0, 1, … of a column into names."""
    codes = pd.to_numeric(table[column], errors="coerce")
    _reject(table, path, column, ~codes.isin(range(len(names))), range(len(names)))
    return codes.map(dict(enumerate(names)))


def _reject(table: pd.DataFrame, path: Path, column: str, wrong: pd.Series, allowed: Sequence[Any]) -> None:
    if wrong.any():
        value = str(table.loc[wrong, column].iloc[0])
        raise _malformed(path, table.index[wrong][0], f"'{column}' is {value!r}; allowed: {choices(allowed)}")


def _base_names(paths: pd.Series) -> list[str]:
    return [str(path).rsplit("/", 1)[-1] for path in paths]


def _images(folder: Path) -> list[Path]:
    """Image files directly in a folder, sorted by name."""
    if not folder.is_dir():
        raise InputError(f"image folder not found: {folder}; {_SEE}")
    files = [path for path in folder.iterdir() if path.suffix.lower() in _IMAGE_SUFFIXES]
    for path in files:
        check_utf8(path.name, f"image in {folder}")
    return sorted((path for path in files if not path.name.startswith(".")), key=lambda path: path.name)


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


# --- evaluation datasets ------------------------------------------------------------------------------------


def _celeba(folder: Path) -> pd.DataFrame:
    """CelebA: a count line, a line of 40 attribute names, then a name and 40 values -1 or 1 a line."""
    path = _existing(folder / "Anno" / "list_attr_celeba.txt")
    count, header, *rows = [*_read_lines(path), "", ""]
    attributes = header.split()
    if twice := repeated(attributes):
        raise _malformed(path, 2, f"the attribute '{twice}' is there twice")
    if "Male" not in attributes:
        raise InputError(f"{path} lacks the column(s) Male; line 2 has: {choices(attributes)}")
    names, values, lines = [], [], []
    for number, line in enumerate(rows, start=3):
        if not line.strip():
            continue
        name, *signs = line.split()
        if len(signs) != len(attributes) or not {"-1", "1"}.issuperset(signs):
            wanted = f"an image name and {len(attributes)} values -1 or 1 are needed"
            raise _malformed(path, number, f"{wanted}, found {line[:60]!r}")
        lines.append(number)
        names.append(name)
        values.append([1 if sign == "1" else -1 for sign in signs])
    if count.strip() != str(len(names)):
        raise _malformed(path, 1, f"the file says it has {count.strip()!r} images, but it lists {len(names)}")
    table = pd.DataFrame(np.array(values, np.int64).reshape(-1, len(attributes)), lines, attributes)
    table.insert(0, "file_name", names)
    table["gender"] = np.where(table["Male"] == 1, *GENDERS)
    table["file_path"] = [f"Img/img_align_celeba/{name}" for name in names]
    return table


def _fairface(folder: Path) -> pd.DataFrame:
    """FairFace: the rows of the training list, then those of the validation list."""
    parts = []
    for part in ("train", "val"):
        path = _existing(folder / f"fairface_label_{part}.csv")
        table = _read_csv(path, ("file", "age", "gender", "race"))
        _check_values(table, path, "gender", GENDERS)
        _check_values(table, path, "race", FAIRFACE_RACES)
        parts.append(table)
    table = pd.concat(parts).rename(columns={"file": "file_path"})
    table.insert(1, "file_name", _base_names(table["file_path"]))
    return table


def _utkface(folder: Path) -> pd.DataFrame:
    """UTKFace: labels stand in the file names, ``age_gender_race_date.jpg``."""
    rows, odd = [], []
    for path in _images(folder / "images"):
        parts = path.name.split("_")
        if len(parts) != 4 or "" in (*parts[:3], path.stem.split("_")[-1]):
            odd.append(path.name)
            continue
        age, gender, race = (int(part) if part.isdecimal() else -1 for part in parts[:3])
        if age < 0 or gender not in range(len(GENDERS)) or race not in range(len(UTKFACE_RACES)):
            raise InputError(
                f"{path}: the name must be <age>_<gender 0-{len(GENDERS) - 1}>_<race "
                f"0-{len(UTKFACE_RACES) - 1}>_<date>.jpg; rename the file or move it away"
            )
        rows.append((path.name, age, GENDERS[gender], UTKFACE_RACES[race], f"images/{path.name}"))
    if odd:
        _warn(f"{folder}: {len(odd)} image(s) skipped, whose names do not split in four: {_some(odd)}")
    return pd.DataFrame(rows, columns=["file_name", "age", "gender", "race", "file_path"])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _waterbirds(folder: Path) -> pd.DataFrame:
    """Waterbirds: `y` is the bird, `place` the background; image paths are relative to the subfolder."""
    path = _existing(*(folder / name / "metadata.csv" for name in WATERBIRDS_FOLDERS))
    table = _read_csv(path, ("img_filename", "y", "place", "split"))
    names = table["img_filename"].astype(str)
    return pd.DataFrame(
        {
            "file_path": f"{path.parent.name}/" + names,
            "file_name": _base_names(names),
            "bird type": _decode(table, path, "y", ("land bird", "water bird")),
            "background": _decode(table, path, "place", ("land background", "water background")),
            "split": _decode(table, path, "split", (0, 1, 2)),
        }
    )


def _portraits(folder: Path) -> pd.DataFrame:
    """Portraits, the demo's own dataset."""
    columns = ("file_name", "role", "trait", "hobby", "gender", "skin", "hair", "blond")
    table = _read_csv(_existing(folder / "labels.csv"), columns)
    table["file_path"] = "images/" + table["file_name"].astype(str)
    return table


# --- datasets that ZSDebias trains on -----------------------------------------------------------------------


def _coco(folder: Path) -> pd.DataFrame:
    """COCO: training images with at least one annotation of an animal, in the order of the file."""
    name = "instances_train2017.json"
    path = _existing(folder / "annotations" / name, folder / name)
    document = read_json(path, "annotations")
    try:
        animals = {c["id"] for c in document["categories"] if c["supercategory"] == "animal"}
        wanted = {a["image_id"] for a in document["annotations"] if a["category_id"] in animals}
        names = [str(image["file_name"]) for image in document["images"] if image["id"] in wanted]
    except KeyError as error:
        raise InputError(f"{path} lacks the key {error}; it must be COCO's {name}") from None
    except TypeError:
        raise InputError(f"{path} is not in COCO's form; it must be COCO's {name}") from None
    return _with_folder(names, "train2017")


def _with_folder(names: Iterable[str], folder: str) -> pd.DataFrame:
    names = list(names)
    return pd.DataFrame({"file_name": names, "file_path": [f"{folder}/{name}" for name in names]})


def _facet(folder: Path) -> pd.DataFrame:
    """FACET: a row a person whose torso and face are visible, so images repeat."""
    path = _existing(folder / "annotations.csv", folder / "annotations" / "annotations.csv")
    table = _read_csv(path, ("filename", "visible_torso", "visible_face"))
    for column in ("visible_torso", "visible_face"):
        table = table[_decode(table, path, column, (0, 1)) == 1]
    table = table.rename(columns={"filename": "file_name"})
    table["file_path"] = "images/" + table["file_name"].astype(str)
    return table


def _imagenet100(folder: Path) -> pd.DataFrame:
    """ImageNet-100: the training images of the classes that `imagenet100.txt` lists, class by class."""
    path = _existing(folder / "imagenet100.txt")
    wnids: dict[str, None] = {}
    for number, line in enumerate(_read_lines(path), start=1):
        wnid = line.strip()
        if wnid and (wnid[0] != "n" or not wnid[1:].isdecimal()):
            raise _malformed(path, number, f"a WordNet id like n01440764 is needed, found {wnid[:60]!r}")
        if wnid:
            wnids[wnid] = None
    present = [wnid for wnid in wnids if (folder / "train" / wnid).is_dir()]
    if missing := [wnid for wnid in wnids if wnid not in present]:
        _warn(f"{folder / 'train'} lacks {len(missing)} of {len(wnids)} classes: {choices(missing)}")
    rows = [
        (image.name, wnid, f"train/{wnid}/{image.name}")
        for wnid in present
        for image in _images(folder / "train" / wnid)
    ]
    return pd.DataFrame(rows, columns=["file_name", "class_id", "file_path"])


def _lfw(folder: Path) -> pd.DataFrame:
    """LFW: every image, sorted by person and file name."""
    people = folder / "images"
    if not people.is_dir():
        raise InputError(f"image folder not found: {people}; {_SEE}")
    names = sorted(path.name for path in people.iterdir() if path.is_dir())
    rows = [
        (image.name, name, f"images/{name}/{image.name}")
        for name in names
        for image in _images(people / name)
    ]
    return pd.DataFrame(rows, columns=["file_name", "person", "file_path"])


_REPEATING = ("facet",)  # a row a person: images repeat on purpose, with the labels of other people


def _check_repeats(table: pd.DataFrame, folder: Path) -> None:
    """Refuse an image that is listed twice with other labels; warn of those listed twice with the same."""
    paths = table["file_path"].astype(str)
    labels = table.drop(columns=["file_path", "file_name"], errors="ignore")
    for column in labels:
        if pair := contradiction(paths.tolist(), labels[column].tolist()):
            first, second = (table.index[row] for row in pair)
            values = [labels[column].iloc[row] for row in pair]
            raise InputError(
                f"label files in {folder}: {paths.iloc[pair[0]]} is listed twice, in line {first} with "
                f"'{column}' {values[0]} and in line {second} with {values[1]}; keep the right line"
            )
    if n := int(paths.duplicated().sum()):
        _warn(
            f"label files in {folder} list {n} image(s) more than once, the first: "
            f"{paths[paths.duplicated()].iloc[0]}; one image may then be in both parts of a fold"
        )


def contradiction(keys: Sequence[Any], values: Sequence[Any]) -> tuple[int, int] | None:
    """Return the first two positions with one key and different values; missing values count as one value."""
    seen: dict[Any, int] = {}
    for row, key in enumerate(keys):
        first = seen.setdefault(key, row)
        if values[first] != values[row] and not (pd.isna(values[first]) and pd.isna(values[row])):
            return first, row
    return None


BUILDERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "celeba": _celeba,
    "fairface": _fairface,
    "utkface": _utkface,
    "waterbirds": _waterbirds,
    "coco": _coco,
    "facet": _facet,
    "imagenet100": _imagenet100,
    "lfw": _lfw,
    "portraits": _portraits,
}


# --- metadata.feather ---------------------------------------------------------------------------------------


def build_metadata(dataset: str, folder: Path, *, rebuild: bool = False) -> pd.DataFrame:
    """Read a dataset's metadata, or make it from the dataset's own label files.

    Parameters
    ----------
    dataset : str
        Dataset name.
    folder : pathlib.Path
        Dataset folder; `metadata.feather` in it is used where it exists, else written.
    rebuild : bool
        Make it anew even so.

    Returns
    -------
    pandas.DataFrame
        One row an image (FACET: a person), with `file_name` and `file_path` (relative to `folder`).

    Raises
    ------
    InputError
        The folder or a label file is missing, lacks a column, has a malformed line (the error gives its
        number), or has no rows.
    """
    if not folder.is_dir():
        raise InputError(f"dataset folder not found: {folder}; {_SEE}")
    path = folder / METADATA
    if path.is_file() and not rebuild:
        return read_metadata(path)
    if dataset not in BUILDERS:
        raise InputError(
            f"{path} is missing, and there are no known label files of a dataset '{dataset}' (known: "
            f"{choices(list(BUILDERS))}): write metadata.feather with pandas, one row per image, with "
            f"the columns file_name ('a.jpg'), file_path ('images/a.jpg', from this folder) and one for each "
            f"label: pandas.DataFrame({{'file_name': names, 'file_path': paths, 'gender': labels}})"
            f".to_feather('{path}')"
        )
    table = BUILDERS[dataset](folder)
    if dataset not in _REPEATING:
        _check_repeats(table, folder)
    table = table.reset_index(drop=True)
    if table.empty:
        raise InputError(f"the label files in {folder} name no image; {_SEE}")
    write_metadata(path, table)
    (folder / SKIPPED).unlink(missing_ok=True)  # every image has its row again
    return table


def read_metadata(path: Path) -> pd.DataFrame:
    """Read `metadata.feather`.

    Raises
    ------
    InputError
        The file is missing, is not a feather table, or has a column twice.
    """
    if not path.is_file():
        raise InputError(f"metadata not found: {path}; precompute_embeddings.py makes it")
    try:
        table = pd.read_feather(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise InputError(f"metadata cannot be read: {path}: {error}") from None
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has the column '{twice[0]}' twice; keep one of them")
    return table


def write_metadata(path: Path, table: pd.DataFrame) -> None:
    """Write `metadata.feather` atomically."""
    with atomic_path(path) as temporary:
        table.to_feather(temporary)
