"""Result files to one table: what is read, what must agree, and every refusal by its message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from bias_evaluation.grid.methods import published_name
from bias_evaluation.results.aggregation import (
    COLUMNS,
    ResultName,
    backbone_stem,
    collect_results,
    setting_name,
)
from debiasing_methods.registry import METHODS, PAPER
from safe_io.errors import InputError

RETRIEVAL = "fairface_retrieval_stereotype_race_clip-ViT-B-16_"
CLASSIFICATION = "celeba_zs-classification_celeba-blond-hair-gender_clip-RN50_"


def retrieval(method: str = "vanilla", **changes: Any) -> dict[str, Any]:
    record = {
        "dataset": "fairface",
        "task": "retrieval",
        "backbone": "ViT-B-16",
        "method": method,
        "normalize": True,
        "setting": "query=stereotype|bias=race|K=500",
        "metric": "kl",
        "mean": 0.25,
        "ci": 0.01,
    }
    return record | changes


def classification(method: str = "vanilla", **changes: Any) -> dict[str, Any]:
    specific = {
        "dataset": "celeba",
        "task": "zs_classification",
        "backbone": "RN50",
        "setting": "celeba_blond_hair_gender",
        "metric": "Acc.",
    }
    return retrieval(method, **specific) | changes


def write(folder: Path, name: str, *records: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(list(records)))
    return path


def ours(method: str, number: str = "a", **digests: str) -> dict[str, Any]:
    components = {"config": "c", "text": "t", "embeddings": "e", "metadata": "m", "folds": "f"} | digests
    fields = {
        "seed": None,
        "folds": 10,
        "versions": {"torch": "2.14.1"},
        "digests": components,
        "digest": number,
    }
    return retrieval(method, **fields)


def test_published_files_get_result_name_variant_and_seed_from_their_names(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}sem-bi.json", retrieval("sem"), retrieval("sem", metric="max_skew"))
    write(tmp_path, f"{RETRIEVAL}orth-proj.json", retrieval("orth_proj"))
    write(tmp_path, f"{CLASSIFICATION}prism-seed2.json", classification("prism"))
    table, warnings = collect_results(tmp_path)
    assert warnings == []
    assert list(table.columns) == list(COLUMNS)
    assert list(table["method"]) == [
        "prism",
        "orth-proj",
        "sem-bi",
        "sem-bi",
    ]  # in the order of the file names
    assert list(table["seed"].isna()) == [False, True, True, True]
    assert table["seed"].iloc[0] == 2
    assert table["variant"].iloc[2] == "SEM_bi"
    assert list(table["metric"]) == ["Acc.", "kl", "kl", "max_skew"]
    assert table["digest"].isna().all()


@pytest.mark.parametrize("method", list(METHODS.values()), ids=list(METHODS))
def test_every_method_reads_in_both_spellings(tmp_path: Path, method: Any) -> None:
    seed = "-seed0" if method.seeded else ""
    for spelling in (method.name, published_name(method.name).method):
        write(tmp_path, f"{RETRIEVAL}{method.name}{seed}.json", retrieval(spelling))
        table, _ = collect_results(tmp_path)
        assert list(table["method"]) == [method.name]


def test_fields_of_ours_become_columns(tmp_path: Path) -> None:
    record = ours("sem-b") | {"variant": "SEM_b", "ci_bootstrap": 0.02, "per_class": {"thief": 0.1}, "odd": 1}
    write(tmp_path, f"{RETRIEVAL}sem-b.json", record)
    write(tmp_path, f"{RETRIEVAL}vanilla.json", ours("vanilla") | {"odd": "text"})
    table, warnings = collect_results(tmp_path)
    assert warnings == []
    row = table.iloc[0]
    assert (row["digest_text"], row["digest"], row["folds"], row["version_torch"]) == ("t", "a", 10, "2.14.1")
    assert row["ci_bootstrap"] == 0.02
    assert json.loads(row["per_class"]) == {"thief": 0.1}
    assert pd.isna(row["digest_weights"])
    table.to_feather(tmp_path / "all.feather")  # mixed kinds in one column must not get in the way
    pd.testing.assert_frame_equal(pd.read_feather(tmp_path / "all.feather"), table)


def test_a_figure_without_an_interval_is_read(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval(ci=None))
    table, _ = collect_results(tmp_path)
    assert (table["mean"][0], pd.isna(table["ci"][0])) == (0.25, True)


def test_methods_of_the_users_own_are_read(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}my-method-seed7.json", retrieval("my_method"))
    table, _ = collect_results(tmp_path)
    assert (table["method"][0], table["seed"][0]) == ("my-method", 7)
    assert pd.isna(table["variant"][0])


def test_sub_folders_and_half_written_files_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval())
    (tmp_path / "official").mkdir()
    write(tmp_path / "official", f"{RETRIEVAL}roboshot.json", retrieval("roboshot"))
    (tmp_path / ".partial-x.json").write_text("[")
    table, _ = collect_results(tmp_path)
    assert len(table) == 1


def test_a_backbones_name_may_stand_in_full_or_without_its_size(tmp_path: Path) -> None:
    for stem in ("ViT-L-14", "ViT-L-14@336px"):
        folder = tmp_path / stem
        folder.mkdir()
        name = f"fairface_retrieval_stereotype_race_clip-{stem}_vanilla.json"
        write(folder, name, retrieval(backbone="ViT-L-14@336px"))
        assert collect_results(folder)[0]["backbone"].tolist() == ["ViT-L-14@336px"]


@pytest.mark.parametrize(
    "name",
    [
        f"{RETRIEVAL}sem-b.json",
        f"{CLASSIFICATION}prism-seed12.json",
        "portraits_retrieval_lucky_number_color_clip-tiny_clip_bendsem-bi.json",
        "waterbirds_zs-classification_waterbirds_clip-ViT-L-14_zsdebias-seed0.json",
    ],
)
def test_names_are_read_and_written_alike(name: str) -> None:
    assert ResultName.parse(Path("folder") / name).file_name == name


def test_parts_of_names() -> None:
    name = ResultName.parse(Path(f"{CLASSIFICATION}prism-seed12.json"))
    assert name == ResultName("celeba", "zs_classification", "celeba-blond-hair-gender", "RN50", "prism", 12)
    assert backbone_stem("ViT-L-14@336px") == "ViT-L-14"
    assert setting_name("retrieval", "query=hair|bias=gender|K=20") == "hair_gender"
    assert setting_name("zs_classification", "waterbirds") == "waterbirds"


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("notes", retrieval(), r"notes\.json is not named like a result .*move other files out"),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(dataset="utkface"),
            "name says dataset 'fairface', the record says 'utkface'",
        ),
        (
            f"{RETRIEVAL}vanilla",
            classification(dataset="fairface"),
            "name says task 'retrieval', the record says 'zs_",
        ),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(setting="query=stereotype|bias=gender|K=500"),
            "name says setting 'stereotype_race', the record says 'query=stereotype.bias=gender.K=500'",
        ),
        (
            f"{CLASSIFICATION}vanilla",
            classification(setting="waterbirds"),
            "says setting 'celeba-blond-hair-gender', the",
        ),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(backbone="RN101"),
            "name says backbone 'ViT-B-16', the record says 'RN101'",
        ),
        (f"{RETRIEVAL}sem-b", retrieval("bendsem"), "name says method 'sem-b', the record says 'bendsem'"),
        (
            f"{RETRIEVAL}my-method",
            retrieval("other"),
            "name says method 'my-method', the record says 'other'",
        ),
        (f"{RETRIEVAL}prism-seed1", retrieval("prism", seed=2), "name says seed 1, the record says 2"),
        (f"{RETRIEVAL}prism-seed1", retrieval("prism", seed=None), "name says seed 1, the record says None"),
        (
            f"{RETRIEVAL}sem-b",
            retrieval("sem", variant="SEM_i"),
            "name says variant 'SEM_b', the record says 'SEM_i'",
        ),
        (
            f"{RETRIEVAL}sem",
            retrieval("sem"),
            "'sem' in the file name does not say which .*: sem-i, sem-b, sem-bi",
        ),
        (
            f"{RETRIEVAL}prism",
            retrieval("prism"),
            r"'prism' is trained with seeds; .* must end in -seed<k>\.json",
        ),
        (f"{RETRIEVAL}sem-b-seed0", retrieval("sem"), "'sem-b' has no seeds, but the file name says seed 0"),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(task="ranking"),
            "'task' is 'ranking'; allowed: retrieval, zs_classification",
        ),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(setting="stereotype"),
            "record 1: 'setting' is 'stereotype'; retrieval needs",
        ),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(mean=float("nan")),
            "record 1: 'mean' is nan; a finite number is needed",
        ),
        (f"{RETRIEVAL}vanilla", retrieval(ci="0.1"), "record 1: 'ci' is '0.1'; a finite number is needed"),
        (f"{RETRIEVAL}vanilla", retrieval(mean=True), "record 1: 'mean' is True; a finite number is needed"),
        (f"{RETRIEVAL}vanilla", retrieval(normalize="yes"), "'normalize' is 'yes'; true or false is needed"),
        (f"{RETRIEVAL}vanilla", retrieval(metric=3), "'metric' is 3; a string is needed"),
        (f"{RETRIEVAL}vanilla", retrieval(folds="ten"), "'folds' is 'ten'; a whole number is needed"),
        (f"{RETRIEVAL}vanilla", retrieval(digest=5), "'digest' is 5; a string is needed"),
        (
            f"{RETRIEVAL}vanilla",
            retrieval(digests={"text": 5}),
            "'digests' is .*; an object of strings is needed",
        ),
        (
            f"{RETRIEVAL}vanilla",
            {"mean": 1.0},
            "record 1 lacks dataset, task, backbone, method, normalize, setting, metric",
        ),
        (f"{RETRIEVAL}vanilla", "text", "record 1 is a str, not an object with dataset, task"),
    ],
)
def test_contradictions_and_wrong_values(tmp_path: Path, name: str, record: Any, message: str) -> None:
    write(tmp_path, f"{name}.json", record)
    with pytest.raises(InputError, match=message) as caught:
        collect_results(tmp_path)
    assert f"{name}.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "result file is not valid JSON"),
        ("{}", "must hold a JSON list with one record a metric"),
        ("[]", "must hold a JSON list with one record a metric"),
    ],
)
def test_unreadable_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / f"{RETRIEVAL}vanilla.json").write_text(text)
    with pytest.raises(InputError, match=message):
        collect_results(tmp_path)


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder of result files not found: .*nowhere; run main_eval\.py"):
        collect_results(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no result files \(\*\.json\) directly in"):
        collect_results(tmp_path)


def test_one_metric_twice_in_a_file(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval(), retrieval(mean=0.5))
    with pytest.raises(InputError, match="record 2: a second value of 'kl' for one result"):
        collect_results(tmp_path)


def test_two_files_for_one_result(tmp_path: Path) -> None:
    for setting in ("celeba-blond-hair-gender", "celeba_blond_hair_gender"):
        write(tmp_path, f"celeba_zs-classification_{setting}_clip-RN50_vanilla.json", classification())
    with pytest.raises(
        InputError, match=r"two files for one result: celeba_.*-blond-.* and celeba_.*_blond_"
    ):
        collect_results(tmp_path)


def test_two_values_of_k_for_one_setting(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}roboshot.json", retrieval("roboshot"))
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval(setting="query=stereotype|bias=race|K=100"))
    message = (
        r"two values of K for fairface stereotype_race: K=500 in \S+roboshot.json, K=100 in \S+vanilla.json"
    )
    with pytest.raises(InputError, match=message):
        collect_results(tmp_path)


def test_two_values_of_k_in_one_file(tmp_path: Path) -> None:
    other = retrieval(setting="query=stereotype|bias=race|K=100", metric="max_skew")
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval(), other)
    with pytest.raises(InputError, match="two values of K for fairface stereotype_race"):
        collect_results(tmp_path)


def test_settings_may_differ_in_k(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval())
    other = retrieval(setting="query=stereotype|bias=gender|K=100")
    write(tmp_path, "fairface_retrieval_stereotype_gender_clip-ViT-B-16_vanilla.json", other)
    assert len(collect_results(tmp_path)[0]) == 2


@pytest.mark.parametrize("component", ["text", "embeddings", "metadata", "folds"])
def test_results_from_different_inputs_give_a_warning(tmp_path: Path, component: str) -> None:
    write(tmp_path, f"{RETRIEVAL}roboshot.json", ours("roboshot", "a"))
    write(tmp_path, f"{RETRIEVAL}sem-b.json", ours("sem-b", "a"))
    write(tmp_path, f"{RETRIEVAL}vanilla.json", ours("vanilla", "b", **{component: "0123456789abcdef"}))
    _, warnings = collect_results(tmp_path)
    assert len(warnings) == 1
    assert f"were made from different {component}: " in warnings[0]
    assert f"0123456789ab (1 files, e.g. {RETRIEVAL}vanilla.json)" in warnings[0]
    assert f"(2 files, e.g. {RETRIEVAL}roboshot.json)" in warnings[0]
    assert warnings[0].endswith("run the outdated ones again with main_eval.py --overwrite")


def test_what_belongs_to_a_method_differs_between_methods_without_a_warning(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}sem-b.json", ours("sem-b", "a", weights="w", prompts="p", config="c"))
    write(tmp_path, f"{RETRIEVAL}vanilla.json", ours("vanilla", "b", weights="x", prompts="q", config="d"))
    assert collect_results(tmp_path)[1] == []


def test_seeds_of_one_method_from_different_prompts_give_a_warning(tmp_path: Path) -> None:
    for seed, prompts in enumerate("pq"):
        write(
            tmp_path,
            f"{RETRIEVAL}prism-seed{seed}.json",
            ours("prism", "a", prompts=prompts) | {"seed": seed},
        )
    _, warnings = collect_results(tmp_path)
    assert len(warnings) == 1
    assert (
        "query=stereotype|bias=race|K=500 prism: results to be compared were made from different prompts"
        in warnings[0]
    )


def test_published_files_among_ours_give_a_warning(tmp_path: Path) -> None:
    write(tmp_path, f"{RETRIEVAL}sem-b.json", ours("sem-b"))
    write(tmp_path, f"{RETRIEVAL}vanilla.json", retrieval())
    _, warnings = collect_results(tmp_path)
    assert len(warnings) == 1
    assert f"1 of 2 files record no digest (e.g. {RETRIEVAL}vanilla.json)" in warnings[0]


def test_the_published_results_are_one_table(oracle_dir: Path) -> None:
    folder = oracle_dir / "official" / "main_eval_output"
    table, warnings = collect_results(folder)
    assert warnings == []
    assert (len(table), table["file"].nunique()) == (1088, 512)
    assert table.groupby("method")["file"].nunique().to_dict() == {
        name: 96 if METHODS[name].seeded else 32 for name in PAPER
    }
    assert sorted(table["seed"].dropna().unique()) == [0, 1, 2]
    assert table["seed"].isna().sum() == 1088 * 10 / 16
    for name, rows in table.groupby("file"):
        records = json.loads((folder / name).read_text())
        assert rows["mean"].tolist() == [record["mean"] for record in records]
        assert rows["ci"].tolist() == [record["ci"] for record in records]
