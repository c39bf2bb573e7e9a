"""Bad input by the hundred: one clear line and exit code 2; no traceback, no hang, nothing overwritten."""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from fault_inputs import EVALUATE, NEVER, Bad, as_npy, changed, corpus, mutations, nodes
from fault_world import DIM, N, World, call
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

SCALE = int(os.environ.get("SEM_FAULTS", "1"))
SECONDS = 10
QUICK = settings(
    max_examples=15 * SCALE,
    deadline=SECONDS * 1000,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def evaluated(template: World, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Copy the project, with one result."""
    world = template.copy(tmp_path_factory.mktemp("bad") / "project")
    assert call(world, "evaluate", *EVALUATE)[0] == 0
    assert call(world, "gather", "--output-dir", str(world.root))[0] == 0
    return world


@contextlib.contextmanager
def replaced(path: Path, content: bytes) -> Iterator[None]:
    """Put other bytes into a file for a while."""
    good = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(good)


def stamps(root: Path) -> dict[Path, tuple[int, int]]:
    """Every file → its size and time of change; cheap enough for every case."""
    found = {path: path.stat() for path in root.rglob("*") if path.is_file()}
    return {path: (facts.st_size, facts.st_mtime_ns) for path, facts in found.items()}


def complaint(world: World, bad: Bad, *, may_pass: bool = False) -> str:
    """Say what is wrong with a command's answer to bad input; empty where nothing is."""
    more = (*bad.more, "--overwrite") if bad.command == "evaluate" else bad.more
    started = time.monotonic()
    with replaced(world.root / bad.path, bad.content), warnings.catch_warnings():
        warnings.simplefilter("error")  # a warning is more than the one line
        before = stamps(world.root)
        try:
            code, err = call(world, bad.command, *more)
        except BaseException as error:
            return f"{type(error).__name__}: {error}"
        if may_pass and code == 0:
            return ""
        if stamps(world.root) != before:
            return "files have changed"
    if "allow_pickle" in err or "weights_only" in err:
        return f"advice to load unsafely: {err[-500:]!r}"
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    if code != 2 or len(lines) != 1 or not err.endswith(lines[0] + "\n"):
        return f"exit code {code}, {err[-500:]!r}"
    return "" if time.monotonic() - started < SECONDS else "it took too long"


def complaints(world: World, cases: Iterable[Bad]) -> list[str]:
    """Try cases; gives what is wrong, a line each."""
    return [f"{bad}: {what}" for bad in cases if (what := complaint(world, bad))]


def test_every_case_is_refused_in_one_line(
    evaluated: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where whatever is executed leaves a mark
    cases = list(corpus(evaluated))
    assert len(cases) >= 500
    assert len(set(map(str, cases))) == len(cases)
    assert complaints(evaluated, cases) == []
    assert not (tmp_path / NEVER).exists()


def test_any_value_anywhere_in_the_yaml_files(evaluated: World) -> None:
    """A sample of thousands of changes; what is allowed after all is no error, and the rest is one line."""
    cases = list(mutations(evaluated))
    sample = random.Random(0).sample(cases, min(len(cases), 120 * SCALE))
    found = {str(bad): complaint(evaluated, bad, may_pass=True) for bad in sample}
    assert {bad: what for bad, what in found.items() if what} == {}


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    PLAIN, lambda part: st.lists(part, max_size=3) | st.dictionaries(PLAIN, part, max_size=3), max_leaves=6
)


@QUICK
@given(data=st.data())
@pytest.mark.parametrize("file", ["toy.yml", "methods.yml", "backbones.yml", "prompts/mini/toy.yml"])
def test_random_documents(evaluated: World, file: str, data: st.DataObject) -> None:
    path = f"config/{file}"
    document = yaml.safe_load((evaluated.root / path).read_text())
    place = data.draw(st.sampled_from(list(nodes(document))))
    content = yaml.safe_dump(changed(document, place, data.draw(VALUES)), allow_unicode=True).encode()
    assert complaint(evaluated, Bad("random", "evaluate", path, content, EVALUATE), may_pass=True) == ""


@QUICK
@given(content=st.binary(max_size=300), data=st.data())
def test_random_bytes(evaluated: World, content: bytes, data: st.DataObject) -> None:
    files = [evaluated.embeddings, evaluated.text, *evaluated.data.glob("*_indices.npy")]
    path = data.draw(st.sampled_from([*files, evaluated.data / "metadata.feather"]))
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good)))
    for made in (content, good[:place] + content):  # too short for what its header says
        name = str(path.relative_to(evaluated.root))
        short = made[: len(good) - 1]
        assert complaint(evaluated, Bad("random", "evaluate", name, short, EVALUATE)) == ""


@QUICK
@given(
    array=npst.arrays(
        npst.floating_dtypes(endianness="?") | npst.integer_dtypes() | npst.complex_number_dtypes(),
        st.just((N, DIM)) | npst.array_shapes(max_dims=3, max_side=4),
        elements={"allow_nan": True, "allow_infinity": True},
        fill=st.just(1),
    )
)
def test_random_embeddings(evaluated: World, array: np.ndarray) -> None:
    """Whatever is a finite float matrix with no zero row is taken, everything else refused."""
    with np.errstate(all="ignore"):
        narrow = array.astype(np.float32) if array.dtype.kind == "f" else np.zeros(1)
        norms = np.linalg.norm(narrow.astype(np.float32), axis=-1)
    good = array.shape == (N, DIM) and array.dtype.kind == "f" and np.isfinite(norms).all() and norms.all()
    path = str(evaluated.embeddings.relative_to(evaluated.root))
    bad = Bad("random", "evaluate", path, as_npy(array), EVALUATE)
    assert (complaint(evaluated, bad) == "") == (not good)


ORDERS = {
    "Fortran order": lambda rows: np.asfortranarray(rows),
    "big-endian": lambda rows: rows.astype(">f4"),
    "double precision": lambda rows: rows.astype(np.float64),
    "big-endian doubles in Fortran order": lambda rows: np.asfortranarray(rows.astype(">f8")),
}


@pytest.mark.parametrize("form", ORDERS)
def test_the_same_numbers_in_another_form_give_the_same_figures(world: World, form: str) -> None:
    assert call(world, "evaluate")[0] == 0
    before = figures(world)
    np.save(world.embeddings, ORDERS[form](np.load(world.embeddings)))
    assert call(world, "evaluate", "--overwrite")[0] == 0
    assert figures(world) == before


def figures(world: World) -> dict[str, list[float]]:
    found = {path.name: json.loads(path.read_text()) for path in world.results.glob("*.json")}
    return {name: [record["mean"] for record in records] for name, records in found.items()}


def test_metadata_in_another_order_than_the_embeddings(world: World) -> None:
    """Embeddings that we made say which image each row is."""
    assert call(world, "embed")[0] == 0
    metadata = world.pictures / "metadata.feather"
    pd.read_feather(metadata)[::-1].reset_index(drop=True).to_feather(metadata)
    arguments = ["--dataset-paths", str(world.pictures), "--backbone", "tiny"]
    code, err = call(world, "zsdebias", *arguments)
    assert code == 2
    assert "metadata.feather lists other images, or in another order, than CLIP_tiny_embeddings.npy" in err
