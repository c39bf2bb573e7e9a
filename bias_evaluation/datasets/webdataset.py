"""Tar files in the form that img2dataset writes, sample by sample: `NNNNN.tar`, `NNNNN.parquet` beside.

Members of a sample stand together and share a key: ``000000012.jpg``, ``000000012.txt`` (caption),
``000000012.json`` (metadata). Listing reads the headers, captions and metadata, and passes over the images,
of which it keeps place and size; `tar_images` reads them there. Nothing is unpacked, and
members that could do harm elsewhere (links, devices, paths that lead out, huge ones) are refused.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from tqdm import tqdm

from bias_evaluation.datasets.metadata import METADATA, read_metadata, write_metadata
from bias_evaluation.datasets.tar_images import SOURCE
from safe_io.documents import check_utf8
from safe_io.errors import InputError
from safe_io.files import read_json, write_json

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
MOST_BYTES = {"image": 1 << 26, "text": 1 << 20}  # of a member: 64 MiB and 1 MiB
_KEY = "key"
_OWN = ("file_name", "file_path", _KEY, "tar", "tar_offset", "tar_size")  # what no metadata can override


def expand_pattern(pattern: str) -> list[Path]:
    """List the tar files that a pattern with one range in braces names, ``DIR/{00000..00009}.tar``.

    Raises
    ------
    InputError
        The range runs backwards, or a file is missing.
    """
    found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}([^/]*)", pattern)
    if found is None:
        paths = [Path(pattern)]
    else:
        before, first, last, after = found.groups()
        numbers = range(int(first), int(last) + 1)
        if "/" in after or not numbers:
            raise InputError(
                f"--webdataset {pattern}: give a file, or a range such as 'DIR/{{00000..00009}}.tar'"
            )
        paths = [Path(f"{before}{number:0{len(first)}d}{after}") for number in numbers]
    if missing := [path for path in paths if not path.is_file()]:
        more = f", and {len(missing) - 1} more" if missing[1:] else ""
        raise InputError(f"tar file not found: {missing[0]}{more}; the range is 'DIR/{{00000..00009}}.tar'")
    return paths


def build_tar_metadata(pattern: str, folder: Path, *, rebuild: bool = False) -> pd.DataFrame:
    """List the images of tar files, and keep the list as the metadata of a dataset folder.

    Parameters
    ----------
    pattern : str
        As for `expand_pattern`.
    folder : pathlib.Path
        Dataset folder, made where it is missing; `metadata.feather` in it is used where it is there.
    rebuild : bool
        Make it anew even so.

    Returns
    -------
    pandas.DataFrame
        One row an image: `file_name`, `file_path` (tar and member), `key`, `caption` (where there are
        captions), the columns of `tar_images.TAR_COLUMNS`, and those of the Parquet files,
        else the plain values of the JSON members.

    Raises
    ------
    InputError
        A tar file is missing, damaged or hostile, or the folder's metadata are of other images.
    """
    paths = expand_pattern(pattern)
    source = {
        "folder": str(paths[0].resolve().parent),
        "tars": {path.name: path.stat().st_size for path in paths},
    }
    kept, table_path = folder / SOURCE, folder / METADATA
    if table_path.is_file() and not rebuild:
        if not kept.is_file() or read_json(kept, "list of tar files") != source:
            raise InputError(
                f"{table_path} was not made from these tar files; give another --dataset-path, or pass "
                f"--rebuild-metadata"
            )
        return read_metadata(table_path)
    tables = [_table(path) for path in tqdm(paths, desc="listing", unit="tar")]
    table = pd.concat(tables, ignore_index=True)
    if table.empty:
        raise InputError(f"the tar files of {pattern} hold no image")
    folder.mkdir(parents=True, exist_ok=True)
    table_path.unlink(missing_ok=True)  # so that it never stands beside the list of other tar files
    write_json(kept, source)
    try:
        write_metadata(table_path, table)
    except (ValueError, TypeError) as error:  # pyarrow: a column of several kinds
        raise InputError(f"the metadata of {pattern} do not go together: {error}") from None
    return table


# --- one tar file -----------------------------------------------------------------------------------------


def _table(path: Path) -> pd.DataFrame:
    """List a tar file as a table."""
    samples = pd.DataFrame(list(read_samples(path)))
    beside = path.with_suffix(".parquet")
    if samples.empty or not beside.is_file():
        return samples
    own = [*_OWN, *(["caption"] if "caption" in samples else [])]
    more = _read_parquet(beside)
    if absent := sorted(set(samples[_KEY]) ^ set(more[_KEY])):
        raise InputError(
            f"{path} and {beside.name} do not name the same samples, the first: '{absent[0]}' (a tar that "
            f"was cut off?); get both anew"
        )
    more = more.drop(columns=[column for column in own if column != _KEY and column in more])
    return samples[own].merge(more, on=_KEY, how="left", validate="one_to_one")


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read the metadata of a tar file's samples: of those that img2dataset could download."""
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise InputError(f"metadata cannot be read: {path}: {error}") from None
    if _KEY not in table or table[_KEY].duplicated().any():
        raise InputError(f"{path} needs a column '{_KEY}', with each key once")
    table = table.astype({_KEY: str})
    return table[table["status"] == "success"] if "status" in table else table


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """List the samples of a tar file, in its order.

    Parameters
    ----------
    path : pathlib.Path

    Yields
    ------
    dict
        `file_name`, `file_path`, `key`, `tar`, `tar_offset`, `tar_size`; `caption` and the plain values of
        the JSON member where the sample has them.

    Raises
    ------
    InputError
        The file is damaged, has a member that is refused, or a sample without an image, or twice.
    """
    seen: set[str] = set()
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(path, "r:") as tar:  # plain: a compressed one could be a bomb, and has no places
            for member in tar:
                if member.isdir():
                    continue
                key, suffix = _check_member(path, member)
                if not key:
                    continue
                if key != sample.get(_KEY):
                    yield from _finished(path, sample)
                    if key in seen:
                        raise InputError(f"{path}: the members of sample '{key}' do not stand together")
                    seen.add(key)
                    sample = {_KEY: key}
                _add(path, sample, tar, member, suffix)
            yield from _finished(path, sample)
    except (tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is damaged or no plain tar file ({error}); get it anew") from None


def _check_member(path: Path, member: tarfile.TarInfo) -> tuple[str, str]:
    """Return key and suffix of a member; refuse what is no plain file of a plain name and size.

    The key is empty for hidden files (``._x`` and ``.DS_Store``, which macOS adds), which are no samples.
    """
    check_utf8(member.name, f"{path}: member")
    name = PurePosixPath(member.name)
    if not member.isreg() or member.issparse():
        raise InputError(f"{path}: member '{member.name}' is a link, device or the like, which is refused")
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise InputError(f"{path}: member '{member.name}' leads out of the archive, which is refused")
    if not name.name or name.name.startswith("."):
        return "", ""
    stem, _, suffix = name.name.partition(".")
    suffix = f".{suffix.lower()}"
    most = MOST_BYTES["image" if suffix in IMAGE_SUFFIXES else "text"]
    if suffix in (*IMAGE_SUFFIXES, ".txt", ".json") and member.size > most:
        raise InputError(f"{path}: member '{member.name}' has {member.size} bytes; at most {most} are read")
    return str(name.with_name(stem)), suffix


def _add(
    path: Path, sample: dict[str, Any], tar: tarfile.TarFile, member: tarfile.TarInfo, suffix: str
) -> None:
    """Note what a member says of its sample; members of other kinds are passed over."""
    if suffix in IMAGE_SUFFIXES:
        if "tar" in sample:
            raise InputError(f"{path}: sample '{sample[_KEY]}' has two images")
        sample |= {"file_name": PurePosixPath(member.name).name, "file_path": f"{path.name}/{member.name}"}
        sample |= {"tar": path.name, "tar_offset": member.offset_data, "tar_size": member.size}
    elif suffix in (".txt", ".json"):
        content = tar.extractfile(member).read()
        try:
            if suffix == ".txt":
                sample["caption"] = content.decode("utf-8")
            else:
                plain = json.loads(content).items()
                known = {*_OWN, *sample}
                sample |= {k: v for k, v in plain if k not in known and not isinstance(v, (list, dict))}
        except (ValueError, AttributeError, RecursionError):
            what = "UTF-8 text" if suffix == ".txt" else "a JSON mapping"
            raise InputError(f"{path}: member '{member.name}' is not {what}") from None


def _finished(path: Path, sample: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if sample and "tar" not in sample:
        raise InputError(f"{path}: sample '{sample[_KEY]}' has no image ({', '.join(IMAGE_SUFFIXES)})")
    if sample:
        yield sample
