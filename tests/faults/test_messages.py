"""Error lines that say what to do: quotes in YAML, commands that run as printed, and nothing unsafe."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from fault_world import World, call

import main_eval
from bias_evaluation.datasets.metadata import build_metadata
from bias_evaluation.embedding.open_clip_model import _reason
from safe_io.arrays import load_array, load_arrays
from safe_io.documents import Section, as_strings, check_distinct, read_yaml
from safe_io.errors import InputError

# --- YAML -------------------------------------------------------------------------------------------------


def parsed(tmp_path: Path, text: str) -> object:
    path = tmp_path / "a.yml"
    path.write_text(text)
    return read_yaml(path, "config")


@pytest.mark.parametrize("text", ["no: 1", "on: 1", "010: 1", "10:30: 1", "2020-01-01: 1", "~: 1", "1.5: 1"])
def test_a_key_that_yaml_reads_as_something_else_gets_a_hint_to_quote(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"key .* is not text; YAML reads .* put it in quotes"):
        Section(parsed(tmp_path, text), "a.yml")


@pytest.mark.parametrize("value", ["no", "010", "10:30", "2020-01-01", "1e3", "{bias}", "", "~"])
def test_a_value_that_yaml_reads_as_something_else_gets_a_hint_to_quote(tmp_path: Path, value: str) -> None:
    section = Section(parsed(tmp_path, f"name: {value}"), "a.yml")
    if section.take_any("name") == "1e3":  # which YAML 1.1 reads as text
        return
    with pytest.raises(InputError, match=r"'name' must be text, found .*; YAML reads .* put it in quotes"):
        Section(parsed(tmp_path, f"name: {value}"), "a.yml").take("name", str)
    with pytest.raises(
        InputError, match=r"'names' must hold texts only, found .*; YAML reads .* put it in quotes"
    ):
        as_strings(parsed(tmp_path, f"- {value}"), "'names'")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("templates: [A {bias} page.]", "templates: [A ^{bias} page.]"),
        ("a: 'it's'", "a: 'it'^s'"),
        ("a: @home", "a: ^@home"),
        ("a: b: c", "a: b^: c"),
        ("a: *b", "a: ^*b"),
        ("a: %b", "a: ^%b"),
    ],
)
def test_a_yaml_error_shows_its_place_with_a_caret_and_a_hint_to_quote(
    tmp_path: Path, text: str, shown: str
) -> None:
    with pytest.raises(InputError) as error:
        parsed(tmp_path, f"x: 1\n{text}\n")
    line = str(error.value)
    assert f"at the caret: {shown}" in line
    assert 'in "quotes"' in line
    assert "line 2" in line
    assert "\n" not in line


# --- classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "classes", [("Red", "red "), ("light skin", "light_skin"), (1, "1"), ("ﬁre", "fire")]
)
def test_classes_that_read_alike_are_refused(classes: tuple[object, ...]) -> None:
    with pytest.raises(InputError, match=r"x: .* and .* read alike; keep one of them"):
        check_distinct(("blue", *classes), "x")
    check_distinct(("blue", "red", -1, 1), "x")


def test_configs_and_bias_files_refuse_classes_that_read_alike(world: World) -> None:
    good = world.config.read_text()
    world.config.write_text(good.replace("- blue", "- RED", 1))
    code, err = call(world, "prompts")
    assert code == 2
    assert "'red' and 'RED' read alike" in err
    world.config.write_text(good)
    bias = world.root / "bias.yml"
    bias.write_text(bias.read_text().replace("- blue", "- 'Red '", 1))
    code, err = call(world, "audit")
    assert code == 2
    assert "'red' and 'Red ' read alike" in err


# --- what loads arrays ------------------------------------------------------------------------------------


def test_advice_to_load_unsafely_never_reaches_a_user(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{}, None], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", prompts=np.array([{}], dtype=object), embeddings=np.ones(1))
    lines = []
    for read in (
        lambda: load_array(path, "rows", "x"),
        lambda: load_arrays(tmp_path / "a.npz", "text", ("prompts",)),
    ):
        with pytest.raises(InputError) as error:
            read()
        lines.append(str(error.value))
    torch.save({"x": Path}, tmp_path / "a.pt")
    try:
        torch.load(tmp_path / "a.pt", weights_only=True)
    except Exception as error:
        lines.append(_reason(error))
    assert len(lines) == 3
    for line in lines:
        assert "allow_pickle" not in line
        assert "weights_only" not in line
    for line in lines[1:]:
        assert "which are not loaded since that would execute code" in line


# --- what is missing --------------------------------------------------------------------------------------


def test_missing_lines_name_files_and_commands_that_run_as_printed(world: World) -> None:
    (world.data / "val_indices.npy").unlink()
    code, err = call(world, "evaluate", "--methods", "vanilla")
    assert code == 2
    [line] = [line for line in err.splitlines() if line.startswith("missing: ")]
    assert Path(line.removeprefix("missing: ").split(" (")[0]).parent.is_dir()
    command = shlex.split(line.split("`")[1])
    assert command[:2] == ["python", "generate_splits.py"]
    import generate_splits

    assert generate_splits.main(command[2:]) == 0
    assert call(world, "evaluate", "--methods", "vanilla")[0] == 0


def test_many_missing_lines_are_grouped_by_what_makes_them() -> None:
    lines = [f"a/{i}.pth (train it with `python train.py --seed {i}`)" for i in range(40)]
    found = main_eval.grouped_by_kind(
        [*lines, "prompts of x are missing", "y (make it with `python split.py`)"]
    )
    assert found[:4] == lines[:4]
    assert found[4:] == [
        "36 more that train.py makes",
        "prompts of x are missing",
        "y (make it with `python split.py`)",
    ]
    assert main_eval.grouped_by_kind(lines[:5]) == lines[:5]


def test_skip_missing_with_nothing_to_compute_is_no_success(world: World) -> None:
    for path in (world.data).glob("*_indices.npy"):
        path.unlink()
    code, err = call(world, "evaluate", "--skip-missing")
    assert code == 2
    assert "nothing can be computed: all " in err
    assert not world.results.exists()


def test_a_folder_of_images_without_metadata_is_told_what_to_write(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError) as error:
        build_metadata("holidays", tmp_path)
    line = str(error.value)
    assert "write metadata.feather" in line
    assert "file_name ('a.jpg'), file_path ('images/a.jpg', from this folder)" in line
    names = paths = ["a.jpg"]
    code = line.split("label: ")[1].replace("'gender': labels", "'gender': ['x']")
    import pandas

    exec(code, {"pandas": pandas, "names": names, "paths": paths})  # it runs as printed
    assert build_metadata("holidays", tmp_path)["file_path"].tolist() == ["a.jpg"]
