"""The corpus of bad input: for each command, contents of its files that it must refuse.

A case is a command line and one file with other bytes than in the tiny project, where the command ends well.
"""

from __future__ import annotations

import copy
import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from fault_world import BIAS, DIM, N, World

EVALUATE = ("--settings", "shape_color", "--methods", "vanilla")
NEVER = "never"  # a folder of the working folder that a reader makes when it executes what it reads
RESULT = "toy_zs-classification_shape-color_clip-alpha_vanilla.json"


@dataclass(frozen=True)
class Bad:
    """A file's bad content, and the command that reads it."""

    name: str
    command: str
    path: str
    content: bytes
    more: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.command} {self.path}: {self.name}"


class Evil:
    """Makes a folder when a reader executes what it reads."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.marker,)


def as_npy(array: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def as_npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def as_feather(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_feather(buffer)
    return buffer.getvalue()


def as_torch(weights: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def damaged(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Break any file."""
    for share in (0.0, 0.02, 0.3, 0.7, 0.99):
        yield f"cut to {share:.0%}", good[: int(share * len(good))]
    yield "its second half", good[len(good) // 2 :]
    yield "zeros", bytes(len(good))
    yield "text", b"hello\n"
    yield "noise", np.random.default_rng(0).bytes(500)
    yield "a pickle", pickle.dumps(Evil(NEVER))
    yield "JSON", b'{"a": 1}'
    yield "a zip archive", as_npz(a=np.ones(3))


def npy_of(shape: str, descr: str = "'<f4'") -> bytes:
    """Give a header that promises what does not follow."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}"
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


HEADERS = {
    "a shape of 10^12 rows": npy_of("(1000000000000, 12)"),
    "a shape of 10^30 rows": npy_of("(10**30, 12)"),
    "a negative shape": npy_of("(-60, 12)"),
    "a shape of text": npy_of("('a', 12)"),
    "a dtype of objects": npy_of("(60, 12)", "'|O'"),
    "a dtype of no kind": npy_of("(60, 12)", "'<q99'"),
    "code for a shape": npy_of("(__import__('os').mkdir('never'),)"),
    "version 9": b"\x93NUMPY\x09\x00" + bytes(200),
}


def bad_embeddings(good: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Break image embeddings ``(N, d)``."""
    yield from damaged(as_npy(good))
    yield from HEADERS.items()
    for value in (np.nan, np.inf, -np.inf):
        for place in ((0, 0), (N - 1, -1), (slice(None), slice(None)), (7, slice(None))):
            array = good.copy()
            array[place] = value
            yield f"{value} at {place}", as_npy(array)
    zero = good.copy()
    zero[3] = 0
    yield "a row of zeros", as_npy(zero)
    yield "values beyond float32", as_npy(good.astype(np.float64) * 1e300)
    yield "values that float32 rounds to zero", as_npy(good.astype(np.float64) * 1e-300)
    for kind in ("i1", "u2", "i8", "?", "c8", "U8", "S8", "M8[s]", "V4"):
        yield f"dtype {kind}", as_npy(np.zeros(good.shape, kind))
    yield "objects", as_npy(good.astype(object), allow_pickle=True)
    yield "structured", as_npy(np.zeros(N, [("a", "f4", DIM)]))
    for shape in ((N * DIM,), (N, DIM, 1), (1, N, DIM), (DIM, N)):
        yield f"shape {shape}", as_npy(good.reshape(shape) if shape != (DIM, N) else good.T)
    for rows in (
        good[:-1],
        good[:0],
        np.vstack([good, good]),
        good[:, :-1],
        good[:, :0],
        np.hstack([good, good]),
    ):
        yield f"shape {rows.shape}", as_npy(rows)
    yield "a number", as_npy(np.float32(3))


def bad_folds(good: np.ndarray) -> Iterator[tuple[str, bytes]]:
    """Break the rows of one part of each fold."""
    yield from damaged(as_npy(good))
    yield from HEADERS.items()
    wrong = good.astype(np.int64)
    for name, value in (("negative", -1), ("out of range", N), ("huge", 2**62)):
        changed = wrong.copy()
        changed[1, 2] = value
        yield f"a row that is {name}", as_npy(changed)
    twice, other = wrong.copy(), wrong.copy()
    twice[0, 0] = twice[0, 1]
    other[1] = np.setdiff1d(np.arange(N), wrong[1])
    yield "a row twice", as_npy(twice)
    yield "rows of the other part", as_npy(other)
    for kind in ("f8", "f4", "?", "c8", "U3", "M8[s]"):
        yield f"dtype {kind}", as_npy(good.astype("i8").astype(kind))
    yield "objects", as_npy(good.astype(object), allow_pickle=True)
    for array in (good[0], good[None], good[:1], good[:0], good[:, :0], np.vstack([good, good])):
        yield f"shape {array.shape}", as_npy(array)


def bad_metadata(good: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Break the table of images."""
    yield from damaged(as_feather(good))
    for column in ("color", "shape"):
        yield f"no {column}", as_feather(good.drop(columns=column))
        for value in (None, "green", "Red", "red ", ""):
            table = good.copy()
            table.loc[11, column] = value
            yield f"{column} {value!r}", as_feather(table)
        for values in (
            range(N),
            [1.5] * N,
            [True] * N,
            [["red"]] * N,
            [b"red"] * N,
            [{"a": 1}] * N,
            [None] * N,
        ):
            yield f"{column} of {values[0]!r}", as_feather(good.assign(**{column: list(values)}))
    yield "a row less", as_feather(good[:-1])
    yield "a row more", as_feather(pd.concat([good, good[:1]], ignore_index=True))
    yield "no row", as_feather(good[:0])
    yield "no column", as_feather(pd.DataFrame(index=range(N)))
    yield "one class only", as_feather(good.assign(color="red"))


def bad_text(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Break text embeddings, an npz of `prompts` and `embeddings`."""
    yield from damaged(good)
    with np.load(io.BytesIO(good)) as arrays:
        prompts, rows = arrays["prompts"], arrays["embeddings"]
    for value in (np.nan, np.inf, 0.0):
        changed = rows.copy()
        changed[2] = value
        yield f"a row of {value}", as_npz(prompts=prompts, embeddings=changed)
    yield "no prompts", as_npz(embeddings=rows)
    yield "no embeddings", as_npz(prompts=prompts)
    yield "prompts of bytes", as_npz(prompts=prompts.astype("S"), embeddings=rows)
    yield "prompts of objects", as_npz(prompts=prompts.astype(object), embeddings=rows)
    yield "prompts in a matrix", as_npz(prompts=prompts[:, None], embeddings=rows)
    yield "a prompt twice", as_npz(prompts=np.append(prompts[:-1], prompts[0]), embeddings=rows)
    yield "a prompt less", as_npz(prompts=prompts[:-1], embeddings=rows)
    yield "prompts unknown", as_npz(prompts=np.char.add(prompts, "!"), embeddings=rows)
    for changed in (rows[:, :-1], rows[0], rows.astype(int), rows.astype(complex), rows.astype(object)):
        yield f"embeddings {changed.dtype} {changed.shape}", as_npz(prompts=prompts, embeddings=changed)
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("prompts.npy", as_npy(prompts))
        with archive.open("embeddings.npy", "w", force_zip64=True) as member:
            member.write(npy_of(f"({1 << 31}, 12)", "'<f4'")[:-64])
            for _ in range(1 << 10):
                member.write(bytes(1 << 20))
    yield "a bomb of a gigabyte", bomb.getvalue()


def bad_weights(good: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Break weights: a mapping of names to tensors, or to mappings of such."""
    content = as_torch(good)
    yield from damaged(content)
    for what in ([1, 2], torch.ones(3), "text", {}, {"model": {}}, {0: torch.ones(2)}, None):
        yield f"a {type(what).__name__} {str(what)[:20]}", as_torch(what)
    yield "code", as_torch({**good, "more": Evil(NEVER)})
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr("archive/data/99", bytes(1 << 26))
    yield "compressed", packed.getvalue()
    itself: dict[str, Any] = {}
    itself["itself"] = itself
    yield "a mapping of itself", as_torch(itself)
    for name, tensor, put in _tensors(good):
        for what, value in {
            "missing": None,
            "NaN": torch.full_like(tensor, torch.nan),
            "infinite": torch.full_like(tensor, torch.inf),
            "whole numbers": tensor.long(),
            "text": "text",
            "one dimension more": tensor[None],
            "of other size": torch.cat([tensor, tensor]),
            "empty": tensor[:0],
            "spread out": torch.zeros(()).expand(1 << 40),
            "sparse": tensor.to_sparse(),
            "without storage": tensor.to("meta"),
        }.items():
            yield f"{name} {what}", as_torch(put(value))


def _tensors(weights: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor, Callable[[Any], Any]]]:
    """Give each tensor with its name, and what puts another value in its place."""

    def put(path: tuple[str, ...], value: Any) -> Any:
        made = copy.deepcopy(weights)
        place = made
        for key in path[:-1]:
            place = place[key]
        if value is None:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return made

    for name, value in weights.items():
        parts = value.items() if isinstance(value, dict) else [(None, value)]
        for inner, tensor in parts:
            if isinstance(tensor, torch.Tensor):
                path = (name,) if inner is None else (name, inner)
                yield "/".join(path), tensor, lambda value, path=path: put(path, value)


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(b + 1)}: &{chr(b + 1)} [{', '.join([f'*{chr(b)}'] * 9)}]\n" for b in range(ord("a"), ord("l"))
)
YAML = {
    "empty": b"",
    "a list": b"- 1\n",
    "a number": b"3\n",
    "a tab": b"a:\n\t- 1\n",
    "not UTF-8": b"\xff\xfe\x00a",
    "a NUL": b"a: b\x00c\n",
    "code": b"!!python/object/apply:os.mkdir [never]\n",
    "code inside": b"dataset: !!python/object/apply:os.mkdir [never]\n",
    "a name": b"dataset: !!python/name:os.system\n",
    "a key twice": b"dataset: a\ndataset: b\n",
    "an alias of nothing": b"dataset: *a\n",
    "aliases of aliases": BOMB.encode(),
    "an alias of itself": b"dataset: &a [*a]\n",
    "depth": b"[" * 1200,
    "a number of 5000 digits": b"dataset: " + b"9" * 5000 + b"\n",
    "a list for a key": b"? [a, b]\n: 1\n",
    "two documents": b"a: 1\n---\nb: 2\n",
}
WRONG: tuple[Any, ...] = (
    None,
    [],
    {},
    "",
    "no such",
    -1,
    0,
    1e400,
    10**30,
    [[]],
    ["a", "a"],
    {"a": {}},
    "a\0b",
)


def nodes(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Give the place of every value of a document."""
    if path:
        yield path
    if isinstance(document, dict | list):
        for key, value in document.items() if isinstance(document, dict) else enumerate(document):
            yield from nodes(value, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    """Copy a document with another value in one place."""
    made = copy.deepcopy(document)
    place = made
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return made


RECORD_VALUES: tuple[Any, ...] = (None, [], {}, "", "x", -1.5, True, 10**400, [1], {"a": 1})


def bad_results(good: bytes) -> Iterator[tuple[str, bytes]]:
    """Break a result file: a list of records."""
    yield from damaged(good)
    records = json.loads(good)
    for content in (b"{}", b"[]", b"[1]", b"[null]", b"[[]]", b"null", b"NaN", b"9" * 5000, b"[" * 100_000):
        yield f"{content[:6]!r} of {len(content)}", content
    for field in ("dataset", "task", "backbone", "method", "normalize", "setting", "metric", "mean"):
        without = [{k: v for k, v in record.items() if k != field} for record in records]
        yield f"no {field}", json.dumps(without).encode()
        for value in RECORD_VALUES:
            if (field, value) not in (("mean", -1.5), ("normalize", True), ("metric", "x"), ("metric", "")):
                yield f"{field} {str(value)[:12]!r}", json.dumps(changed(records, (0, field), value)).encode()
    for field in ("folds", "digests", "digest", "ci", "seed"):
        for value in ([1], {"a": 1}, "x", [[]]):
            if (field, value) not in (("digest", "x"),):
                yield f"{field} {value}", json.dumps(changed(records, (0, field), value)).encode()
    for text in ("NaN", "Infinity", "1e999"):
        yield f"a mean of {text}", good.replace(b'"mean": ', f'"mean": {text}, "was": '.encode(), 1)
    yield "a metric twice", json.dumps([*records, records[0]]).encode()


def bad_tables(good: pd.DataFrame) -> Iterator[tuple[str, bytes]]:
    """Break the table of all results."""
    yield from damaged(as_feather(good))
    for column in ("dataset", "task", "backbone", "method", "setting", "metric", "mean"):
        yield f"no {column}", as_feather(good.drop(columns=column))
    for value in ("x", None, np.nan, np.inf, [1.0]):
        yield f"a mean of {value}", as_feather(good.assign(mean=[value] * len(good)))
    yield "no row", as_feather(good[:0])


def load(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)


def corpus(world: World) -> Iterator[Bad]:
    """Give every case of one bad file; `world` has been evaluated once."""
    rows = np.load(world.embeddings)
    sources: list[tuple[str, Path, Iterator[tuple[str, bytes]], tuple[str, ...]]] = [
        ("evaluate", world.embeddings, bad_embeddings(rows), EVALUATE),
        ("zsdebias", world.embeddings, islice(bad_embeddings(rows), 0, None, 3), ()),
        ("evaluate", world.data / "metadata.feather", bad_metadata(_metadata(world)), EVALUATE),
        ("evaluate", world.text, bad_text(world.text.read_bytes()), EVALUATE),
        ("prism", world.text, islice(bad_text(world.text.read_bytes()), 0, None, 3), ()),
        ("gather", world.results / RESULT, bad_results((world.results / RESULT).read_bytes()), ()),
    ]
    table = pd.read_feather(world.table)
    sources.append(("figures", world.table, bad_tables(table), ()))
    sources.append(("table", world.table, islice(bad_tables(table), len(list(bad_tables(table))) - 1), ()))
    for part in ("train", "val"):
        path = world.data / f"{part}_indices.npy"
        sources.append(("evaluate", path, bad_folds(np.load(path)), EVALUATE))
    for method, kind in (("sem-b", "sae"), ("prism", "prism"), ("zsdebias", "zsdebias")):
        path, more = world.weights(kind), ("--settings", "shape_color", "--methods", method)
        if kind == "prism":
            [path] = (world.root / "debiasing_methods").glob("prism_weights/mini/*setting=shape_color*.pth")
        sources.append(("evaluate", path, bad_weights(load(path)), more))
    for command, path, cases, more in sources:
        for what, content in cases:
            yield Bad(what, command, str(path.relative_to(world.root)), content, more)
    yield from documents(world)
    yield from searches(world)


def searches(world: World) -> Iterator[Bad]:
    """Break what the commands on search systems read: some of each kind for one, fewer for the other."""
    rows, text = np.load(world.embeddings), world.text.read_bytes()
    of_text = [case for case in bad_text(text) if case[0] != "a prompt less"]  # which these do not need
    metadata = [(what, content) for what, content in bad_metadata(_metadata(world)) if "shape" not in what]
    sources: list[tuple[str, Path, Iterator[tuple[str, bytes]]]] = [
        ("audit", world.embeddings, islice(bad_embeddings(rows), 0, None, 2)),
        ("audit", world.data / "metadata.feather", iter(metadata)),
        ("audit", world.text, iter(of_text)),
        ("audit", world.root / "bias.yml", bad_biases()),
        ("audit", world.root / "queries.csv", bad_queries()),
        ("audit", world.root / "ids.txt", bad_queries()),
        ("debias", world.embeddings, islice(bad_embeddings(rows), 0, None, 4)),
        ("debias", world.data / "metadata.feather", iter(metadata[:12])),
        ("debias", world.text, islice(of_text, 0, None, 4)),
        ("debias", world.root / "bias.yml", bad_biases()),
        ("debias", world.root / "queries.csv", bad_queries()),
        ("debias", world.sae, islice(bad_weights(load(world.sae)), 0, None, 3)),
    ]
    for kind in ("sae", "prism", "zsdebias"):
        path = world.weights(kind)
        sources.append(("audit", path, islice(bad_weights(load(path)), 0, None, 12)))
    for command, path, cases in sources:
        for what, content in cases:
            yield Bad(what, command, str(path.relative_to(world.root)), content)


def bad_biases() -> Iterator[tuple[str, bytes]]:
    """Break a bias file."""
    yield from YAML.items()
    good = yaml.safe_dump(BIAS)
    for what, line in {
        "a list of itself": "helpful: &a [*a]",
        "a mapping of itself": "own: &a {red: *a}",
        "a bomb": "harmful: &b0 [x]\n"
        + "".join(
            f"{kind}: &b{i + 1} [{', '.join([f'*b{i}'] * 99)}]\n"
            for i, kind in enumerate(("helpful", "spurious", "candidates", "augmentations", "own"))
        ),
        "no query": "candidates: {3: [a]}",
        "no list": "candidates: {a ball: a}",
        "a pair too few": "helpful: {a ball: [[a]]}",
    }.items():
        yield what, f"{good}{line}\n".encode()
    for key, value in (("classes", ["red"]), ("noun", 3), ("templates", ["{this}"]), ("like", "../..")):
        yield f"{key} {value}", yaml.safe_dump({**BIAS, key: value}).encode()


def bad_queries() -> Iterator[tuple[str, bytes]]:
    """Break a table of queries, or a list of ids."""
    yield from {
        "empty": b"",
        "a header": b"query\n",
        "blank": b"query\na\n\nb\n",
        "not UTF-8": b"query\nm\xe9dico\n",
        "more fields than the header": b"query\na ball,2\na ball,3\n",
        "unknown": b"query\nno such\n",
        "a NUL": b"query\na\x00ball\n",
    }.items()
    yield "a pickle", pickle.dumps(Evil(NEVER))


def documents(world: World) -> Iterator[Bad]:
    """Break the YAML files: their text, and every one of their values."""
    files = {"toy.yml": "evaluate", "methods.yml": "evaluate", "backbones.yml": "evaluate"}
    files |= {
        "prompts/mini/toy.yml": "evaluate",
        "prism_training.yml": "prism",
        "prism/mini/toy.yml": "prism",
    }
    files |= {"zsdebias/default.yml": "zsdebias"}
    for file, command in files.items():
        more = EVALUATE if command == "evaluate" else ()
        for what, content in YAML.items():
            yield Bad(what, command, f"config/{file}", content, more)


def _metadata(world: World) -> pd.DataFrame:
    return pd.read_feather(world.data / "metadata.feather")


def mutations(world: World) -> Iterator[Bad]:
    """Put every wrong value in every place of the YAML files; some of them happen to be allowed."""
    for bad in documents(world):
        if bad.name != "empty":
            continue
        document = yaml.safe_load((world.root / bad.path).read_text())
        for path in nodes(document):
            for value in WRONG:
                content = yaml.safe_dump(changed(document, path, value), sort_keys=False)
                place = ".".join(map(str, path))
                yield Bad(f"{place} = {str(value)[:12]!r}", bad.command, bad.path, content.encode(), bad.more)
