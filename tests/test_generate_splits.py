"""The command that draws folds, and the script that draws them for every dataset."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import generate_splits
from bias_evaluation.grid.configs import DATASETS, load_dataset_config
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

# Rows, and the first 16 hex digits of the SHA-256 of the two published index arrays' bytes.
PUBLISHED = {
    "CelebA": (202_599, "01ce9ade07d60097", "5de6ee0bf856d914"),
    "FairFace": (97_698, "65ada240cdee5df1", "ea645abf85268a09"),
    "UTKFace": (23_705, "8b795e161bdcfb48", "4eb7b64afe5cb5fc"),
    "Waterbirds": (11_788, "eb6a8f51273836ea", "4be63dbee56187fc"),
}


def dataset(folder: Path, rows: int) -> Path:
    folder.mkdir(parents=True)
    pd.DataFrame({"file_name": np.arange(rows)}).to_feather(folder / "metadata.feather")
    return folder


def digest(path: Path) -> str:
    array = np.load(path, allow_pickle=False)
    assert array.dtype == np.uint32
    return hashlib.sha256(array.tobytes()).hexdigest()[:16]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_indices_come_out(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, train, val = PUBLISHED[name]
    folder = dataset(tmp_path / name, rows)
    assert generate_splits.main(["--dataset-path", str(folder)]) == 0
    assert np.load(folder / "train_indices.npy").shape == (10, rows // 2)
    assert np.load(folder / "val_indices.npy").shape == (10, rows - rows // 2)
    assert digest(folder / "train_indices.npy") == train
    assert digest(folder / "val_indices.npy") == val
    assert (
        f"10 folds of {rows // 2} reference and {rows - rows // 2} evaluation rows" in capsys.readouterr().out
    )


@pytest.mark.parametrize("dash", ["_", "-"])
def test_options_in_either_spelling(tmp_path: Path, dash: str) -> None:
    folder = dataset(tmp_path / "small", 11)
    argv = ["--dataset_path", str(folder), "--k_folds", "3", "--fold_val_proportion", "0.25"]
    assert generate_splits.main([a.replace("_", dash) if a.startswith("--") else a for a in argv]) == 0
    train, val = (np.load(folder / f"{part}_indices.npy") for part in ("train", "val"))
    assert train.shape == (3, 8)
    assert val.shape == (3, 3)
    np.testing.assert_array_equal(np.sort(np.hstack([train, val]), axis=1), [np.arange(11)] * 3)
    assert len({row.tobytes() for row in train}) == 3


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--k_folds", "0"], "0 fold(s) of 4 images"),
        (["--fold_val_proportion", "1"], "strictly between 0 and 1, got 1.0"),
        (["--fold_val_proportion", "nan"], "strictly between 0 and 1, got nan"),
        (["--fold_val_proportion", "0.9"], "leave a part empty"),
    ],
)
def test_bad_options_write_nothing(tmp_path: Path, arguments: list[str], complaint: str) -> None:
    folder = dataset(tmp_path / "small", 4)
    with pytest.raises(InputError) as caught:
        generate_splits.main(["--dataset-path", str(folder), *arguments])
    assert complaint in str(caught.value)
    assert [path.name for path in folder.iterdir()] == ["metadata.feather"]


def test_missing_metadata_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(lambda: generate_splits.main(["--dataset-path", str(tmp_path)])) == 2
    assert capsys.readouterr().err == (
        f"error: metadata not found: {tmp_path / 'metadata.feather'}; precompute_embeddings.py makes it\n"
    )


# --- the scripts over all datasets --------------------------------------------------------------------------


def run_script(
    name: str, data_root: Path, *arguments: str, python: str | Path = sys.executable
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / name), *arguments],
        env=os.environ | {"DATA_ROOT": str(data_root), "PYTHON": str(python)},
        capture_output=True,
        text=True,
        check=False,
    )


def recorder(folder: Path, fate: str) -> Path:
    """Make a stand-in for Python that writes its arguments into `calls` and ends as the shell line says."""
    path = folder / "recorder"
    path.write_text(f'#!/bin/sh\necho "$@" >> "{folder}/calls"\n{fate}\n')
    path.chmod(0o755)
    return path


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_all_splits_skips_what_is_not_there_and_passes_options_on(tmp_path: Path) -> None:
    dataset(tmp_path / "Waterbirds", 20)
    done = run_script("generate_all_splits.sh", tmp_path, "--k_folds", "2")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "Waterbirds" / "val_indices.npy").shape == (2, 10)
    assert done.stderr.splitlines() == [
        f"skipped {name}: no folder {tmp_path}/{name} (see data/README.md)"
        for name in ("CelebA", "FairFace", "UTKFace")
    ]


def test_all_splits_goes_on_after_a_failure_and_says_so(tmp_path: Path) -> None:
    for name in PUBLISHED:
        (tmp_path / name).mkdir()
    python = recorder(tmp_path, 'case "$*" in *UTKFace*) exit 2;; esac')
    done = run_script("generate_all_splits.sh", tmp_path, python=python)
    assert done.returncode == 2
    assert calls(tmp_path) == [
        f"generate_splits.py --dataset-path {tmp_path}/{name}"
        for name in ("CelebA", "FairFace", "UTKFace", "Waterbirds")
    ]
    assert done.stderr == "failed: UTKFace\n"


def test_all_embeddings_asks_for_every_backbone_of_every_dataset(tmp_path: Path) -> None:
    for name in ("FairFace", "LFW"):
        (tmp_path / name).mkdir()
    python = recorder(tmp_path, 'case "$*" in *RN50*) exit 2;; esac')
    done = run_script(
        "precompute_all_clip_embeddings.sh",
        tmp_path,
        "--precision",
        "fp16",
        "--batch-size",
        "8",
        python=python,
    )
    assert done.returncode == 2
    assert calls(tmp_path) == [
        f"precompute_embeddings.py --backbone {backbone} --dataset-name {name.lower()} "
        f"--dataset-path {tmp_path}/{name} --precision fp16 --batch-size 8"
        for name in ("FairFace", "LFW")
        for backbone in ("ViT-B-16", "ViT-L-14@336px", "RN50", "RN101")
    ]
    assert done.stderr.splitlines()[-1] == "failed: FairFace:RN50 LFW:RN50"
    assert done.stderr.count("skipped ") == 6


def test_the_folders_of_the_scripts_are_those_of_configs_and_datasets(tmp_path: Path) -> None:
    configs = [load_dataset_config(ROOT / "config" / f"{name.lower()}.yml") for name in PUBLISHED]
    assert [config.folder for config in configs] == list(PUBLISHED)
    for name in (*PUBLISHED, "COCO", "FACET", "ImageNet100", "LFW"):
        (tmp_path / name).mkdir()
    done = run_script("precompute_all_clip_embeddings.sh", tmp_path, python=recorder(tmp_path, ""))
    assert done.returncode == 0
    assert done.stderr == ""
    names = [call.split("--dataset-name ")[1].split()[0] for call in calls(tmp_path)]
    assert list(dict.fromkeys(names)) == [name for name in DATASETS if name != "portraits"]
    assert len(names) == 4 * 8


@pytest.mark.parametrize("script", ["generate_all_splits.sh", "precompute_all_clip_embeddings.sh"])
def test_an_interrupt_stops_the_loop(tmp_path: Path, script: str) -> None:
    for name in ("CelebA", "FairFace"):
        (tmp_path / name).mkdir()
    done = run_script(script, tmp_path, python=recorder(tmp_path, "exit 130"))
    assert done.returncode == 130
    assert len(calls(tmp_path)) == 1
