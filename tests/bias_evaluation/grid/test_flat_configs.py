"""The published flat configs: what they say is checked, and they give the results that the grid gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import main_eval
from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.grid.flat_configs import load_configs
from bias_evaluation.grid.plan import Selection, plan
from debiasing_methods.registry import PAPER
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

SAE = "debiasing_methods/sae_weights/MSAE_ViT-B-16_512_16384_256x512_reverse.pth"

HAIR = {
    "dataset_name": "celeba",
    "dataset_path": "data/CelebA",
    "task": "retrieval",
    "model_ID": "ViT-B/16",
    "normalize": True,
    "retrieval_K": 500,
    "query_type": "hair",
    "bias_attribute": "gender",
}
RACE = HAIR | {
    "dataset_name": "utkface",
    "dataset_path": "data/UTKFace",
    "query_type": "stereotype",
    "bias_attribute": "race",
}
BIRDS = {
    "dataset_name": "waterbirds",
    "dataset_path": "data/Waterbirds",
    "task": "zs_classification",
    "model_ID": "ViT-B/16",
    "normalize": True,
    "class_setting": "waterbirds",
}
PRISM = {
    "method": "prism",
    "epochs": 1,
    "num_bases": 0,
    "num_samples": 500,
    "seed": 0,
    "lr": 0.1,
    "batch_size": 64,
    "wd": 0.0,
    "init_weight": "random",
}
HAIR_STEM = "celeba_retrieval_hair_gender_clip-ViT-B-16"
RACE_STEM = "utkface_retrieval_stereotype_race_clip-ViT-B-16"
BIRDS_STEM = "waterbirds_zs-classification_waterbirds_clip-ViT-B-16"
# File stem → document: the twelve methods as the release writes them.
FLAT: dict[str, dict[str, Any]] = {
    f"{HAIR_STEM}_vanilla": HAIR | {"method": "vanilla"},
    f"{HAIR_STEM}_roboshot": HAIR | {"method": "roboshot", "reject_harmful": True, "accept_helpful": True},
    f"{BIRDS_STEM}_sem-i": BIRDS | {"method": "sem", "sem_version": "SEM_i", "sae_weights_path": SAE},
    f"{HAIR_STEM}_orth-proj": HAIR | {"method": "orth_proj"},
    f"{BIRDS_STEM}_prism-mini": BIRDS | {"method": "prism_mini"},
    f"{RACE_STEM}_sem-b": RACE | {"method": "sem", "sem_version": "SEM_b", "sae_weights_path": SAE},
    f"{BIRDS_STEM}_zsdebias-seed0": BIRDS
    | {"method": "zsdebias", "normalize": False, "hidden_num": 2, "seed": 0},
    f"{BIRDS_STEM}_orth-cali": BIRDS | {"method": "orth_cali", "lam": 1000},
    f"{HAIR_STEM}_sem-bi": HAIR | {"method": "sem", "sem_version": "SEM_bi", "sae_weights_path": SAE},
    f"{BIRDS_STEM}_prism-seed0": BIRDS | PRISM,
    f"{BIRDS_STEM}_bendvlm": BIRDS | {"method": "bendvlm", "num_neighbors": 100},
    f"{RACE_STEM}_bendsem-bi": RACE
    | {"method": "bendsem", "sem_version": "SEM_bi", "sae_weights_path": SAE, "num_neighbors": 10},
}
SHOWN = pytest.mark.parametrize("stem", FLAT, ids=[stem.split("ViT-B-16_")[1] for stem in FLAT])


def save(folder: Path, stem: str, document: dict[str, Any]) -> Path:
    """Write a flat config."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.yml"
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return path


# --- what is read -----------------------------------------------------------------------------------------


@SHOWN
def test_a_flat_config_is_one_result_of_the_datasets_config(tmp_path: Path, stem: str) -> None:
    """Two folders below nothing: the dataset's config is the project's."""
    path = save(tmp_path, stem, FLAT[stem])
    [config] = load_configs([path])
    [key] = plan(config, Selection())
    assert key.stem == stem
    grid = load_dataset_config(ROOT / "config" / f"{key.dataset}.yml")
    assert (config.path, config.source, config.root) == (grid.path, path, ROOT)
    assert config.folder == str(ROOT / "data" / grid.folder)
    assert (config.prompts, config.retrieval_k) == (grid.prompts, 500)
    [same] = [other for other in plan(grid, Selection()) if other.stem == stem]
    assert (key.setting, key.backbone, key.seed) == (same.setting, same.backbone, same.seed)
    attribute = key.setting.bias_attribute
    for option, value in same.method.options_for(attribute).items():
        assert key.method.options_for(attribute)[option] == value
    sem = FLAT[stem]["method"] in ("sem", "bendsem")
    assert key.method.sae == (ROOT / SAE if sem else None)
    assert key.method.prism == (PrismHyperparameters(500, 0.1) if "prism-seed" in stem else None)


def test_values_of_its_own(tmp_path: Path) -> None:
    stem = "celeba_retrieval_hair_gender_clip-ViT-L-14_bendsem-bi"
    document = HAIR | {"method": "bendsem", "sem_version": "SEM_bi", "sae_weights_path": "/else/where.pth"}
    document |= {"model_ID": "ViT-L/14@336px", "num_neighbors": 7, "retrieval_K": 20, "prompts": "official"}
    [config] = load_configs([save(tmp_path, stem, document | {"dataset_path": "/mnt/faces"})])
    assert (config.folder, config.retrieval_k, config.prompts) == ("/mnt/faces", 20, "official")
    [key] = plan(config, Selection())
    assert key.stem == stem
    assert key.backbone.name == "ViT-L-14@336px"
    assert key.method.options_for("gender") == {"num_neighbors": 7}
    assert key.method.sae == Path("/else/where.pth")


@pytest.mark.parametrize("folder", ["config", "config/flat"])
def test_the_datasets_config_beside_it_comes_first(tmp_path: Path, folder: str) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("prompts", "prism"))
    stem = f"{BIRDS_STEM}_prism-mini"
    [config] = load_configs([save(tmp_path / folder, stem, FLAT[stem])])
    assert config.path == tmp_path / "config" / "waterbirds.yml"
    assert config.folder == str(tmp_path / "data" / "Waterbirds")


def test_both_forms_together(tmp_path: Path) -> None:
    flat = save(tmp_path, f"{HAIR_STEM}_vanilla", FLAT[f"{HAIR_STEM}_vanilla"])
    waterbirds = ROOT / "config" / "waterbirds.yml"
    configs = load_configs([flat, waterbirds, str(flat)])
    assert [config.source for config in configs] == [flat, waterbirds]
    assert [len(plan(config, Selection(methods=list(PAPER)))) for config in configs] == [1, 64]


# --- what is refused --------------------------------------------------------------------------------------

VANILLA = FLAT[f"{HAIR_STEM}_vanilla"]
SEM = FLAT[f"{HAIR_STEM}_sem-bi"]
BENDSEM = FLAT[f"{RACE_STEM}_bendsem-bi"]
BENDVLM = FLAT[f"{BIRDS_STEM}_bendvlm"]
ZSDEBIAS = FLAT[f"{BIRDS_STEM}_zsdebias-seed0"]
ORTH_CALI = FLAT[f"{BIRDS_STEM}_orth-cali"]
ROBOSHOT = FLAT[f"{HAIR_STEM}_roboshot"]
BIRDS_PRISM = FLAT[f"{BIRDS_STEM}_prism-seed0"]

CHANGES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    # missing and unknown keys, and keys of another task or method
    (VANILLA, {"retrieval_K": None}, "the key 'retrieval_K' is missing"),
    (VANILLA, {"dataset_path": None}, "the key 'dataset_path' is missing"),
    (VANILLA, {"normalize": None}, "the key 'normalize' is missing"),
    (BIRDS_PRISM, {"batch_size": None}, "the key 'batch_size' is missing"),
    (SEM, {"sae_weights_path": None}, "the key 'sae_weights_path' is missing"),
    (VANILLA, {"retreival_K": 500}, "unknown key 'retreival_K'; choose from: "),
    (VANILLA, {"lam": 1.0}, "'lam' does not apply to the method vanilla, only to orth_cali"),
    (SEM, {"num_neighbors": 3}, "'num_neighbors' does not apply to the method sem, only to bendvlm, bendsem"),
    (VANILLA, {"seed": 0}, "'seed' does not apply to the method vanilla, only to prism, zsdebias"),
    (
        VANILLA,
        {"class_setting": "waterbirds"},
        "'class_setting' does not apply to the task retrieval, only to zs_classification",
    ),
    (BENDVLM, {"retrieval_K": 5}, "'retrieval_K' does not apply to the task zs_classification, only to retr"),
    # names
    (VANILLA, {"dataset_name": "celebA"}, "unknown 'dataset_name' 'celebA'; choose from: celeba, fairface, "),
    (VANILLA, {"dataset_name": "lfw"}, "the dataset 'lfw' has no config: there is no lfw.yml in "),
    (VANILLA, {"task": "ranking"}, "unknown 'task' 'ranking'; choose from: retrieval, zs_classification"),
    (VANILLA, {"model_ID": "ViT-B-16"}, "unknown 'model_ID' 'ViT-B-16'; choose from: ViT-B/16, ViT-L/14@336"),
    (
        VANILLA,
        {"method": "sem-b"},
        "unknown 'method' 'sem-b'; choose from: vanilla, roboshot, sem, orth_proj",
    ),
    (SEM, {"sem_version": "SEM_x"}, "unknown 'sem_version' 'SEM_x'; choose from: SEM_i, SEM_b, SEM_bi"),
    (BENDSEM, {"sem_version": "SEM_b"}, "unknown 'sem_version' 'SEM_b'; choose from: SEM_bi"),
    (BENDVLM, {"class_setting": "birds"}, "unknown 'class_setting' 'birds'; choose from: waterbirds"),
    (BENDVLM, {"task": "retrieval"}, "waterbirds has no setting of the task 'retrieval' in "),
    (
        VANILLA,
        {"bias_attribute": "race"},
        "celeba has no retrieval with the query_type 'hair' and the bias_attribute 'race'; it has: "
        "stereotype and gender, hair and gender",
    ),
    # values
    (VANILLA, {"retrieval_K": 0}, "'retrieval_K' must be at least 1, found 0"),
    (VANILLA, {"retrieval_K": "500"}, "'retrieval_K' must be a whole number, found '500'"),
    (VANILLA, {"normalize": False}, "'normalize' must be true, found false: vanilla is defined so"),
    (ZSDEBIAS, {"normalize": True}, "'normalize' must be false, found true: zsdebias is defined so"),
    (ZSDEBIAS, {"hidden_num": 3}, "'hidden_num' must be 2, found 3: ZSDebias has two parts of latents"),
    (ZSDEBIAS, {"seed": -1}, "'seed' must be at least 0, found -1"),
    (BENDVLM, {"num_neighbors": 0}, "'num_neighbors' must be at least 1, found 0"),
    (BENDSEM, {"num_neighbors": 0}, "'num_neighbors' must be at least 1, found 0"),
    (ORTH_CALI, {"lam": -1}, "lam must be a finite number of at least 0, got -1.0"),
    (ORTH_CALI, {"lam": True}, "'lam' must be a number, found True"),
    (ROBOSHOT, {"accept_helpful": 1}, "'accept_helpful' must be true or false, found 1"),
    (BIRDS_PRISM, {"num_bases": 4}, "'num_bases' must be 0, found 4: PRISM's maps are trained whole"),
    (BIRDS_PRISM, {"init_weight": "eye"}, """'init_weight' must be "random", found "eye": """),
    (BIRDS_PRISM, {"epochs": 0}, "epochs must be at least 1, got 0"),
    (BIRDS_PRISM, {"lr": 0}, "lr must be above 0 and wd at least 0, got lr 0.0 and wd 0.0"),
]


@pytest.mark.parametrize(
    ("document", "changes", "expected"),
    CHANGES,
    ids=[f"{k}-{next(iter(c[1]))}" for k, c in enumerate(CHANGES)],
)
def test_mistakes_are_one_line_that_names_the_file(
    tmp_path: Path,
    document: dict[str, Any],
    changes: dict[str, Any],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed = {key: value for key, value in (document | changes).items() if value is not None}
    path = save(tmp_path, next(stem for stem in FLAT if FLAT[stem] is document), changed)
    assert run_main(lambda: main_eval.main(["--config", str(path), "--dry-run"])) == 2
    captured = capsys.readouterr()
    [line] = captured.err.splitlines()
    assert line.startswith(f"error: {path}: {expected}")
    assert captured.out == ""


@pytest.mark.parametrize(
    ("changes", "content"),
    [
        ({"model_ID": "RN50"}, "celeba_retrieval_hair_gender_clip-RN50_vanilla"),
        ({"query_type": "stereotype"}, "celeba_retrieval_stereotype_gender_clip-ViT-B-16_vanilla"),
        ({"method": "orth_proj"}, f"{HAIR_STEM}_orth-proj"),
    ],
)
def test_name_and_content_must_agree(tmp_path: Path, changes: dict[str, Any], content: str) -> None:
    path = save(tmp_path, f"{HAIR_STEM}_vanilla", VANILLA | changes)
    with pytest.raises(InputError) as error:
        load_configs([path])
    assert str(error.value) == (
        f"{path}: its content is the result '{content}', but its name says '{HAIR_STEM}_vanilla'; rename the "
        f"file, or mend what it says"
    )


def test_seeds_are_part_of_the_name(tmp_path: Path) -> None:
    path = save(tmp_path, f"{BIRDS_STEM}_prism-seed0", BIRDS_PRISM | {"seed": 2})
    with pytest.raises(InputError, match=r"is the result '.*_prism-seed2', but its name says '.*seed0'"):
        load_configs([path])


def test_a_dataset_config_must_be_that_datasets(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "config", tmp_path / "config", ignore=shutil.ignore_patterns("prompts", "prism"))
    other = tmp_path / "config" / "celeba.yml"
    shutil.copy(tmp_path / "config" / "fairface.yml", other)
    path = save(tmp_path / "config", f"{HAIR_STEM}_vanilla", VANILLA)
    with pytest.raises(InputError) as error:
        load_configs([path])
    assert str(error.value) == f"{path}: {other} is the config of 'fairface', not of 'celeba'"


# --- evaluation -------------------------------------------------------------------------------------------


@pytest.fixture
def project(oracle_dir: Path, tmp_path: Path) -> Path:
    """Lay the miniature release out as a project."""
    golden = oracle_dir / "golden" / "world"
    if not golden.is_dir():
        pytest.skip(f"no golden world in {oracle_dir}")
    root = tmp_path / "project"
    (root / "config" / "prompts").mkdir(parents=True)
    for path in (ROOT / "config").glob("*.yml"):
        shutil.copy(path, root / "config")
    (root / "config" / "prompts" / "official").symlink_to(oracle_dir / "official")
    for name in ("data", "debiasing_methods"):
        (root / name).symlink_to(golden / name)
    return root


@pytest.fixture
def evaluate(project: Path, oracle_dir: Path) -> Callable[..., int]:
    """Run main_eval on some configs of the project: ``evaluate(*paths, more=[…])``."""

    def run(*paths: Path, more: list[str] = ()) -> int:
        text = oracle_dir / "golden" / "world" / "text_embeddings.npz"
        arguments = ["--config", *map(str, paths), "--text-embeddings", str(text), "--prompts", "official"]
        return run_main(lambda: main_eval.main([*arguments, *more]))

    return run


def records(path: Path) -> dict[str, dict[str, Any]]:
    """Metric → record of a result file."""
    return {record["metric"]: record for record in json.loads(path.read_text(encoding="utf-8"))}


def test_all_methods_give_the_published_figures(
    project: Path, oracle_dir: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [save(project / "config" / "flat", stem, FLAT[stem]) for stem in FLAT]
    assert evaluate(*paths) == 0
    assert "12 of 12 results computed" in capsys.readouterr().out
    made = project / "main_eval_output"
    assert sorted(path.stem for path in made.iterdir()) == sorted(FLAT)
    for stem, document in FLAT.items():
        ours = records(made / f"{stem}.json")
        theirs = records(oracle_dir / "golden" / "world" / "expected" / f"{stem}.json")
        assert ours.keys() == theirs.keys()
        for metric, record in theirs.items():
            if "zsdebias" not in stem:  # whose published noise is not seeded
                assert ours[metric]["mean"] == pytest.approx(record["mean"], rel=0, abs=1e-3), (stem, metric)
            for field in ("dataset", "task", "backbone", "setting", "normalize"):
                assert ours[metric][field] == record[field], (stem, metric, field)
            assert ours[metric]["seed"] == document.get("seed")
    for name in ("celeba", "utkface", "waterbirds"):  # the grid takes them for its own
        more = ["--backbone", "ViT-B-16", "--seeds", "0", "--dry-run"]
        assert evaluate(project / "config" / f"{name}.yml", more=more) == 0
    done = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.endswith("  done")}
    assert done == set(FLAT)


@pytest.mark.parametrize(
    ("stem", "changes"),
    [
        (f"{BIRDS_STEM}_orth-cali", {"lam": 1}),
        (f"{HAIR_STEM}_roboshot", {"reject_harmful": False}),
        (f"{HAIR_STEM}_vanilla", {"retrieval_K": 20}),
    ],
)
def test_options_decide_the_figures(
    project: Path, evaluate: Callable[..., int], stem: str, changes: dict[str, Any], capsys
) -> None:
    path = save(project / "config" / "flat", stem, FLAT[stem])
    assert evaluate(path) == 0
    first = records(project / "main_eval_output" / f"{stem}.json")
    save(path.parent, stem, FLAT[stem] | changes)
    assert evaluate(path) == 2  # made from another config
    assert f"are there but made from another config, the first: {stem}.json" in capsys.readouterr().err
    assert evaluate(path, more=["--overwrite"]) == 0
    second = records(project / "main_eval_output" / f"{stem}.json")
    assert all(second[metric]["mean"] != first[metric]["mean"] for metric in first if metric != "precision")
    if "hair" in stem:
        assert second["kl"]["setting"] == f"query=hair|bias=gender|K={changes.get('retrieval_K', 500)}"


def test_weights_are_those_it_names(
    project: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    flat = project / "config" / "flat"
    sem, prism = f"{HAIR_STEM}_sem-bi", f"{BIRDS_STEM}_prism-seed0"
    paths = [
        save(flat, sem, FLAT[sem] | {"sae_weights_path": "mine/sae.pth"}),
        save(flat, prism, FLAT[prism] | {"num_samples": 200, "epochs": 2}),
    ]
    assert evaluate(*paths) == 2
    about_sae, about_prism, _ = capsys.readouterr().err.splitlines()
    assert about_sae.startswith(f"missing: {project / 'mine' / 'sae.pth'} (train it with `python ")
    assert f"--output {project / 'mine' / 'sae.pth'} --prompts FILE`" in about_sae
    assert "_setting=waterbirds_epochs=2_num_bases=0_num_samples=200_seed=0_lr=0.1_" in about_prism
    assert "--num-samples 200 --lr 0.1 --epochs 2 --batch-size 64 --wd 0.0`" in about_prism
    (project / "mine").mkdir()
    shutil.copy(project / SAE, project / "mine" / "sae.pth")
    assert evaluate(paths[0]) == 0


def test_a_data_root_holds_the_folder_of_its_name(
    project: Path, evaluate: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = save(project / "config" / "flat", f"{HAIR_STEM}_vanilla", VANILLA | {"dataset_path": "no/CelebA"})
    assert evaluate(path, more=["--dry-run"]) == 0
    assert "  lacks embeddings, metadata, folds" in capsys.readouterr().out
    assert evaluate(path, more=["--dry-run", "--data-root", str(project / "data")]) == 0
    assert "  to do" in capsys.readouterr().out
