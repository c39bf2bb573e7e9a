"""Files that would make a folder if any reader executed what it reads, through every entry point."""

from __future__ import annotations

import contextlib
import io
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pytest
import torch
from fault_inputs import Evil, as_npy, as_npz, as_torch
from fault_world import World, call
from fault_zygote import COMMANDS
from support.world_parts import tree

from bias_evaluation.uncertainty.factors import read_factors
from safe_io.checkout import ROOT
from safe_io.errors import InputError


def yaml_tags(marker: str) -> dict[str, bytes]:
    """YAML that a careless loader obeys."""
    return {
        "apply": f"!!python/object/apply:os.mkdir [{marker!r}]\n".encode(),
        "new": f"a: !!python/object/new:os.mkdir [{marker!r}]\n".encode(),
        "apply in a list": f"- !!python/object/apply:os.mkdir\n  args: [{marker!r}]\n".encode(),
    }


def python_files(marker: str) -> dict[str, bytes]:
    """Python modules that a careless reader imports."""
    call = f"__import__('os').mkdir({marker!r})"
    return {
        "call": f"{call}\ndiverse_prompts = ['a']\n".encode(),
        "call in the list": f"diverse_prompts = ['a', {call}]\n".encode(),
        "default": f"def f(a={call}): pass\ndiverse_prompts = ['a']\n".encode(),
        "comprehension": f"diverse_prompts = [{call} for _ in 'a']\n".encode(),
        "f-string": f"diverse_prompts = [f'{{{call}}}']\n".encode(),
    }


def pickles(marker: str) -> dict[str, bytes]:
    """Pickles, bare and in the clothes of other formats."""
    evil = np.array([Evil(marker)], dtype=object)
    legacy = io.BytesIO()
    torch.save({"bpre": Evil(marker)}, legacy, _use_new_zipfile_serialization=False)
    inside = io.BytesIO()
    with zipfile.ZipFile(inside, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Evil(marker), protocol=2))
        archive.writestr("archive/version", "3\n")
    return {
        "bare": pickle.dumps(Evil(marker)),
        "protocol 0": pickle.dumps(Evil(marker), protocol=0),
        "npy": as_npy(evil, allow_pickle=True),
        "npz": as_npz(prompts=evil, embeddings=evil),
        "torch": as_torch({"bpre": Evil(marker), "transformer.weight": Evil(marker)}),
        "torch, nested": as_torch({"encoder": {"encoder.0.weight": Evil(marker)}}),
        "torch, old format": legacy.getvalue(),
        "torch, by hand": inside.getvalue(),
    }


class Extension(pa.ExtensionType):
    """A column type that pickles itself into the table."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "evil")

    def __arrow_ext_serialize__(self) -> bytes:
        return pickle.dumps(Evil("never"))

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Extension:
        return cls()


def tables(good: pd.DataFrame, marker: str) -> dict[str, bytes]:
    """Feather tables with pickles where pandas and pyarrow keep notes for themselves."""
    evil = pickle.dumps(Evil(marker))
    table = pa.Table.from_pandas(good)
    notes = {
        b"ARROW:extension:name": b"arrow.py_extension_type",  # which pyarrow once unpickled
        b"ARROW:extension:metadata": evil,
    }
    field = pa.field("color", pa.string(), metadata=notes)
    column = table.column("color").cast(pa.string())
    with_type = table.set_column(table.column_names.index("color"), field, column)
    with_notes = table.replace_schema_metadata({b"pandas": evil, b"PandasAttrs": evil})
    with_own = pa.table({"color": pa.ExtensionArray.from_storage(Extension(), pa.array(["red"]))})
    found = {"bare": evil}
    for name, made in (("type", with_type), ("notes", with_notes), ("own type", with_own)):
        buffer = io.BytesIO()
        pyarrow.feather.write_feather(made, buffer)
        found[name] = buffer.getvalue()
    return found


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def plants(world: World, marker: Path) -> Iterator[tuple[str, str, Path, bytes]]:
    """Give command, kind, file and planted content."""
    mark = str(marker)
    folder = world.root / "config"
    bad_table = tables(pd.read_feather(world.data / "metadata.feather"), mark)
    checkpoints = [world.root / "made" / name for name in ("sae.pth", "alpha_color_zsdebias_0.pth")]
    by_command: list[tuple[str, dict[str, bytes], list[Path]]] = [
        ("evaluate", pickles(mark), [world.embeddings, world.text, *world.data.glob("*_indices.npy")]),
        ("evaluate", pickles(mark), [world.weights(kind) for kind in ("sae", "prism", "zsdebias")]),
        ("encode", pickles(mark), [world.root / "tiny.pt"]),
        ("embed", pickles(mark), [world.root / "tiny.pt", world.pictures / "images" / "00.png"]),
        ("evaluate", bad_table, [world.data / "metadata.feather"]),
        ("zsdebias", bad_table | pickles(mark), [world.data / "metadata.feather", world.embeddings]),
        ("splits", bad_table, [world.pictures / "metadata.feather"]),
        ("embed", bad_table, [world.pictures / "metadata.feather"]),
        ("sae", pickles(mark), [world.text, checkpoints[0], Path(f"{checkpoints[0]}.checkpoint")]),
        ("zsdebias", pickles(mark), [checkpoints[1], Path(f"{checkpoints[1]}.checkpoint")]),
        (
            "evaluate",
            yaml_tags(mark),
            [world.config, *folder.glob("*s.yml"), folder / "prompts/mini/toy.yml"],
        ),
        ("prism", yaml_tags(mark), [folder / "prism_training.yml", folder / "prism/mini/toy.yml"]),
        ("prism", pickles(mark), [world.text]),
        ("zsdebias", yaml_tags(mark), [folder / "zsdebias" / "default.yml"]),
        ("gather", pickles(mark), [world.results / "toy_retrieval_word_color_clip-alpha_vanilla.json"]),
        ("table", bad_table | pickles(mark), [world.table]),
        ("figures", bad_table | pickles(mark), [world.table]),
        ("prompts", yaml_tags(mark), [world.config, folder / "prompts/mini/toy.yml"]),
        ("unpack", pickles(mark), [world.root / "sae.zip"]),
        ("import", pickles(mark), sorted((world.root / "release" / "data" / "UTKFace").glob("*.npy"))),
        ("import", pickles(mark), sorted((world.root / "release").rglob("*.pth"))),
        ("import", bad_table, [world.root / "release" / "data" / "UTKFace" / "metadata.feather"]),
        ("import", python_files(mark), [world.root / "release" / "diverse_prompts.py"]),
        ("audit", yaml_tags(mark), [world.root / "bias.yml"]),
        ("audit", pickles(mark), [world.embeddings, world.text, world.root / "queries.csv"]),
        ("audit", pickles(mark), [world.weights(kind) for kind in ("sae", "prism", "zsdebias")]),
        ("audit", bad_table | pickles(mark), [world.data / "metadata.feather"]),
        ("audit", pickles(mark), [world.root / "ids.txt"]),
        ("debias", yaml_tags(mark), [world.root / "bias.yml"]),
        ("debias", pickles(mark), [world.embeddings, world.text, world.root / "queries.csv", world.sae]),
        ("debias", bad_table, [world.data / "metadata.feather"]),
    ]
    for command, contents, paths in by_command:
        for path in paths:
            for kind, content in contents.items():
                yield command, kind, path, content


def archives(mark: str) -> Iterator[bytes]:
    """Give archives of weights, each with a pickle in another form for a member."""
    for content in pickles(mark).values():
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("sae_weights/MSAE_small.pth", content)
        yield buffer.getvalue()


def restore(root: Path, before: dict[str, bytes]) -> None:
    """Undo what a command has done: else the next ones of its kind find their work done, and open nothing."""
    for name, content in tree(root).items():
        path = root / name
        if name not in before:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
        elif content != before[name]:
            path.write_bytes(before[name])
    for name in before.keys() - tree(root).keys():
        path = root / name
        path.mkdir(parents=True, exist_ok=True) if name.endswith("/") else path.write_bytes(before[name])


CARELESS: dict[str, Callable[[io.BytesIO], Any]] = {
    "bare": pickle.load,
    "protocol 0": pickle.load,
    "npy": lambda file: np.load(file, allow_pickle=True),
    "torch": lambda file: torch.load(file, weights_only=False),
    "torch, nested": lambda file: torch.load(file, weights_only=False),
    "torch, old format": lambda file: torch.load(file, weights_only=False),
}


@pytest.mark.parametrize("form", CARELESS)
def test_a_careless_reader_would_have_made_the_marker(form: str, marker: Path) -> None:
    """The planted files do what they threaten where somebody lets them."""
    with contextlib.suppress(FileExistsError):  # some hold it twice
        CARELESS[form](io.BytesIO(pickles(str(marker))[form]))
    assert marker.is_dir()


def test_nothing_executes(world: World, marker: Path) -> None:
    world.results.mkdir(exist_ok=True)
    cases, before = list(plants(world, marker)), tree(world.root)
    assert len(cases) >= 150
    for command, kind, path, content in cases:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        more = ("--source", f"sae={path}") if command == "unpack" else ()
        code, err = call(world, command, *more)
        assert not marker.exists(), (command, kind, path)
        assert code in (0, 2), (command, kind, path, err)
        restore(world.root, before)


def test_members_of_archives_do_not_execute(world: World, marker: Path) -> None:
    for content in archives(str(marker)):
        (world.root / "sae.zip").write_bytes(content)
        code, err = call(world, "unpack", "--source", f"sae={world.root / 'sae.zip'}")
        assert code == 2, err
        assert not marker.exists()
        assert not (world.root / "debiasing_methods" / "sae_weights" / "MSAE_small.pth").exists()


def test_entry_points_are_all_here() -> None:
    """Every script of the project that reads files is among the commands above."""
    scripts = {path.stem for path in ROOT.glob("*.py")}
    apart = {"hessian_estimation"}  # reads a table of captions and its own factors: the test below
    assert scripts - apart <= set(COMMANDS.values())


def test_factors_of_uncertainty_do_not_execute(marker: Path, tmp_path: Path) -> None:
    for form, content in pickles(str(marker)).items():
        (tmp_path / "factors.npz").write_bytes(content)
        with pytest.raises(InputError):
            read_factors(tmp_path / "factors.npz")
        assert not marker.exists(), form
