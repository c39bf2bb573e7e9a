"""Files of the release into the project: `import_release.py` and what it calls."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from support.release_files import (
    CLASS_TEMPLATES,
    DIVERSE,
    DIVERSE_PY,
    EMBEDDINGS,
    FILES,
    FOLDS,
    METADATA,
    PRISM,
    PRISM_FILE,
    RECORD,
    RESULT,
    RESULT_FILE,
    SAE,
    SAE_FILE,
    TEMPLATES,
    TEXT_SET,
    TEXTS,
    TRAIN,
    VAL,
    D,
    Evil,
    N,
    birds,
    feather,
    npy,
    pth,
    put,
    refused,
    run,
    skipped,
    tree,
)

import import_release as command
import main_eval
import process_json_outputs
from bias_evaluation.datasets.folder import load_rows, open_embeddings
from bias_evaluation.datasets.metadata import read_metadata
from bias_evaluation.embedding.image_embeddings import find_embeddings
from bias_evaluation.grid.configs import Backbone, load_dataset_config
from bias_evaluation.prompts.official import load_official
from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.release.files import read_diverse_prompts
from bias_evaluation.weights.read import load_prism_map
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main

# --- what is taken ------------------------------------------------------------------------------------------


def test_a_checkout_goes_to_where_the_scripts_look(checkout: Path, root: Path) -> None:
    done = run(checkout, root)
    assert sorted(tree(root)) == sorted(target for _, target in FILES.values())
    assert len(done.taken) == len(FILES)
    assert (done.kept, done.refused, done.skipped, done.others) == ([], [], [], 2)
    for name, (_, target) in FILES.items():
        if name != DIVERSE_PY:
            assert (root / target).read_bytes() == (checkout / name).read_bytes()
    prompts = load_official(root / "config" / "prompts" / "official", "hair_gender")
    assert prompts.diverse == tuple(DIVERSE)
    assert load_official(root / "config" / "prompts" / "official", "waterbirds").groups[0].overrides
    assert load_text_sets(root / "config" / "prism" / "official")["zs_classification", "waterbirds"]
    assert load_prism_map(root / FILES[PRISM_FILE][1], dim=D).shape == (D, D)
    assert len(open_embeddings(load_rows(root / "data" / "Waterbirds"), "RN101", D).metadata) == N


def test_imported_embeddings_are_known_for_what_they_are(
    checkout: Path, root: Path, make_backbone: Callable[..., Backbone]
) -> None:
    """They are kept where the rows are those of the metadata, and refused where they are not."""
    run(checkout, root)
    folder, backbone = root / "data" / "Waterbirds", make_backbone(name="RN101", dim=D)
    metadata = read_metadata(folder / "metadata.feather")
    assert find_embeddings(backbone, folder, metadata) == root / FILES[EMBEDDINGS][1]
    with pytest.raises(InputError, match="exists and was not made from this model"):
        find_embeddings(backbone, folder, metadata[::-1])
    metadata[::-1].reset_index(drop=True).to_feather(folder / "metadata.feather")
    with pytest.raises(InputError, match="lists other images, or in another order"):
        open_embeddings(load_rows(folder), "RN101", D)


def test_a_second_run_changes_nothing(checkout: Path, root: Path) -> None:
    run(checkout, root)
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    done = run(checkout, root)
    assert (len(done.taken), len(done.kept), done.refused) == (0, len(FILES), [])
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == times


def test_a_flat_folder(checkout: Path, root: Path, tmp_path: Path) -> None:
    """Only names that repeat need a folder: a dataset's, or a PRISM task's."""
    for name in FILES:
        parent = Path(name).parent.name
        keep = parent if parent in ("Waterbirds", "zs_classification") else ""
        put(tmp_path / "flat" / keep / Path(name).name, (checkout / name).read_bytes())
    done = run(tmp_path / "flat", root)
    assert sorted(tree(root)) == sorted(target for _, target in FILES.values())
    assert done.refused == done.skipped == []


def test_spellings_of_dataset_folders(checkout: Path, root: Path) -> None:
    (checkout / "data" / "Waterbirds").rename(checkout / "data" / "water_birds")
    run(checkout, root)
    assert (root / "data" / "Waterbirds" / "metadata.feather").is_file()


def test_the_same_file_twice_is_taken_once(checkout: Path, root: Path) -> None:
    put(checkout / "copy" / Path(TEMPLATES).name, (checkout / TEMPLATES).read_bytes())
    put(checkout / "copy" / "diverse_prompts.json", json.dumps(DIVERSE, indent=4))
    assert len(run(checkout, root).taken) == len(FILES)


def test_two_different_files_for_one_place(checkout: Path, root: Path) -> None:
    put(checkout / "old" / RESULT, [RECORD | {"mean": 0.5}])
    with pytest.raises(InputError) as caught:
        run(checkout, root)
    assert f"two different files belong into main_eval_output/official/{RESULT}: " in str(caught.value)
    assert str(checkout / "old" / RESULT) in str(caught.value)
    assert tree(root) == {}


def test_the_project_is_passed_by_where_it_lies_in_the_folder(checkout: Path) -> None:
    root = checkout / "our project"
    put(root / "main_eval_output" / RESULT, [RECORD | {"mean": 0.5}])
    done = run(checkout, root)
    assert len(done.taken) == len(FILES)
    assert done.refused == []


# --- what is refused ----------------------------------------------------------------------------------------

RAGGED = {"Gray_Hair": {"query": "hair?", "extra prompts": {"roboshot": {"harmful prompts": [["a"]]}}}}
BAD = {
    "no JSON": (TEMPLATES, "{", "is not valid JSON"),
    "another form": (TEMPLATES, {"Gray_Hair": {"text": "hair?"}}, "the key 'query' is missing"),
    "pairs that are none": (TEMPLATES, RAGGED, "roboshot: pairs of texts are needed"),
    "no queries": (TEMPLATES, {}, "has no query"),
    "a text set without scenes": (TEXTS, TEXT_SET | {"scene descriptions": []}, "at least one text"),
    "a text set without a placeholder": (
        TEXTS,
        TEXT_SET | {"scene descriptions": ["<bird>"]},
        "must hold <background>",
    ),
    "truncated weights": (SAE_FILE, pth(SAE)[:-100], "cannot be read as weights"),
    "weights of another shape": (SAE_FILE, pth(SAE | {"bpre": torch.zeros(3)}), "needs encoder.bias"),
    "weights of another width": (
        PRISM_FILE,
        pth({"transformer.weight": torch.eye(4)}),
        "has width 4, but RN101",
    ),
    "a result of another setting": (
        RESULT_FILE,
        [RECORD | {"setting": "celeba"}],
        "the file name says setting",
    ),
    "a result without records": (RESULT_FILE, [], "must hold a JSON list with one record a metric"),
    "metadata that is none": (METADATA, b"ARROW1", "metadata cannot be read"),
    "metadata without labels": (
        METADATA,
        feather(birds()[["file_path"]]),
        "needed are rows, and the columns bird",
    ),
    "metadata without rows": (METADATA, feather(birds()[:0]), "it has 0 rows"),
    "embeddings of other rows": (
        EMBEDDINGS,
        npy(np.ones((N + 1, D))),
        f"has {N + 1} rows, but metadata.feather",
    ),
    "embeddings of another width": (
        EMBEDDINGS,
        npy(np.ones((N, 4))),
        "has width 4, but the backbone has width 512",
    ),
    "whole numbers": (EMBEDDINGS, npy(np.ones((N, D), int)), "a float matrix (rows, width) is needed"),
    "truncated embeddings": (EMBEDDINGS, npy(np.ones((N, D)))[:-8], "embeddings cannot be read"),
    "folds out of range": (TRAIN, npy(FOLDS + 1), "names rows 1 to 6, but there are 6 images"),
    "folds that repeat": (VAL, npy(FOLDS * 0), "names a row twice"),
    "another number of folds": (VAL, npy(FOLDS[:1]), "2 and 1 folds do not belong together"),
    "a single number": (VAL, npy(np.array(3)), "whole numbers (folds, rows) are needed"),
}
TOGETHER = {METADATA: {METADATA, EMBEDDINGS}, TRAIN: {TRAIN, VAL}, VAL: {TRAIN, VAL}}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_and_the_rest_is_taken(checkout: Path, root: Path, case: str) -> None:
    name, content, complaint = BAD[case]
    put(checkout / name, content)
    done = run(checkout, root)
    reasons = refused(done, checkout)
    assert complaint in reasons[name]
    assert set(reasons) == TOGETHER.get(name, {name})
    assert len(done.taken) == len(FILES) - len(reasons)
    assert set(tree(root)) == {target for file, (_, target) in FILES.items() if file not in reasons}


@pytest.mark.parametrize(
    ("gone", "complaint"), [(METADATA, "to say which image each row is"), (TRAIN, "one is missing")]
)
def test_files_that_lack_their_company(checkout: Path, root: Path, gone: str, complaint: str) -> None:
    (checkout / gone).unlink()
    [(name, why)] = refused(run(checkout, root), checkout).items()
    assert name == {METADATA: EMBEDDINGS, TRAIN: VAL}[gone]
    assert complaint in why


def test_folds_without_metadata_are_checked_by_themselves(checkout: Path, root: Path) -> None:
    for name in (METADATA, EMBEDDINGS):
        (checkout / name).unlink()
    assert run(checkout, root).refused == []
    put(checkout / TRAIN, npy(FOLDS + 1))
    assert "but there are 6 images" in refused(run(checkout, root, overwrite=True), checkout)[TRAIN]
    put(checkout / TRAIN, npy(FOLDS))
    put(root / FILES[METADATA][1], feather(birds(5)))
    assert "but there are 5 images" in refused(run(checkout, root), checkout)[TRAIN]


def test_unknown_class_settings_and_huge_texts(checkout: Path, root: Path) -> None:
    strange = put(checkout / "prompt_templates" / "moons_prompt_templates.json", CLASS_TEMPLATES)
    huge = put(checkout / "query_templates" / "huge_gender_query_templates.json", b"[")
    with huge.open("rb+") as file:
        file.truncate((64 << 20) + 1)
    reasons = refused(run(checkout, root), checkout)
    assert "unknown class setting 'moons'" in reasons[str(strange.relative_to(checkout))]
    assert "the release's text files have at most" in reasons[str(huge.relative_to(checkout))]


# --- nothing executes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos.mkdir({marker!r})\ndiverse_prompts = ['a']\n",
        "diverse_prompts = [__import__('os').mkdir({marker!r})]\n",
        "diverse_prompts = ['a']\n__import__('os').mkdir({marker!r})\n",
        "diverse_prompts = [f'{{__import__(\"os\").mkdir({marker!r})}}']\n",
        "diverse_prompts = other = [p for p in [__import__('os').mkdir({marker!r})]]\n",
        "(diverse_prompts := __import__('os').mkdir({marker!r}))\n",
        "@__import__('os').mkdir({marker!r})\ndef diverse_prompts(): pass\n",
        "prompts = ['a']\n",
        "diverse_prompts: list = ['a']\n",
        "diverse_prompts = other = ['a']\n",
        "diverse_prompts = ['a'] * 3\n",
        "diverse_prompts = [\n",
        "diverse_prompts = 'a'\n",
        "diverse_prompts = []\n",
        "diverse_prompts = ['a', 3]\n",
        "diverse_prompts = " + "[" * 5000 + "]" * 5000,
        "diverse_prompts = ['\0']\n",
    ],
)
def test_a_module_that_is_more_than_a_list_is_read_not_executed(
    checkout: Path, root: Path, tmp_path: Path, text: str
) -> None:
    marker = tmp_path / "executed"
    put(
        checkout / DIVERSE_PY,
        text.replace("{{", "{").replace("}}", "}").replace("{marker!r}", repr(str(marker))),
    )
    reasons = refused(run(checkout, root), checkout)
    assert set(reasons) == {DIVERSE_PY}
    assert "\n" not in reasons[DIVERSE_PY]
    assert not marker.exists()
    assert not (root / FILES[DIVERSE_PY][1]).exists()


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        (
            '"""Prompts."""\n# neutral\ndiverse_prompts = [\n    "a b",  # first\n    \'c\',\n]\n',
            ["a b", "c"],
        ),
        ('diverse_prompts = ["a" " b", "é"]', ["a b", "é"]),
    ],
)
def test_lists_as_people_write_them(tmp_path: Path, text: str, prompts: list[str]) -> None:
    path = tmp_path / "diverse_prompts.py"
    path.write_text(text, encoding="utf-8")
    assert read_diverse_prompts(path) == prompts


def test_a_module_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "diverse_prompts.py"
    path.write_bytes(b"diverse_prompts = ['\xff']")
    with pytest.raises(InputError, match="it was read, not executed"):
        read_diverse_prompts(path)


@pytest.mark.parametrize("name", [SAE_FILE, PRISM_FILE, EMBEDDINGS, TRAIN, METADATA])
def test_pickles_are_not_loaded(checkout: Path, root: Path, tmp_path: Path, name: str) -> None:
    marker = tmp_path / "executed"
    evil = {"transformer.weight": Evil(marker)} if name.endswith(".pth") else np.array([Evil(marker)], object)
    put(checkout / name, pth(evil) if name.endswith(".pth") else npy(evil))
    assert name in refused(run(checkout, root), checkout)
    assert not marker.exists()
    assert not (root / FILES[name][1]).exists()


# --- what is passed by --------------------------------------------------------------------------------------


def test_files_that_have_no_place(checkout: Path, root: Path) -> None:
    put(checkout / "debiasing_methods" / "prism_weights" / "default" / PRISM, b"trained here")
    put(checkout / "sae_weights.zip", b"PK")
    put(checkout / "somewhere" / "train_indices.npy", npy(FOLDS))
    own = RESULT.replace("sem-bi", "sem-i")
    put(checkout / "main_eval_output" / own, [RECORD | {"digest": "abc", "digests": {"folds": "x"}}])
    (checkout / "link").mkdir()
    (checkout / "link" / "hair_race_query_templates.json").symlink_to(checkout / TEMPLATES)
    done = run(checkout, root)
    assert skipped(done, checkout) == {
        f"debiasing_methods/prism_weights/default/{PRISM}": (
            "weights in a sub-folder of prism_weights belong to the prompt set 'default', not to the release"
        ),
        "sae_weights.zip": "an archive; python download_release.py --source sae=FILE takes it",
        "somewhere/train_indices.npy": (
            "its folder does not say which dataset it is of; name the folder one of: CelebA, FairFace, "
            "UTKFace, Waterbirds, COCO, FACET, ImageNet100, LFW"
        ),
        f"main_eval_output/{own}": "a result of this project, since it records what it was made from",
        "link/hair_race_query_templates.json": "it is a link; give the folder that it points into",
    }
    assert len(done.taken) == len(FILES)
    assert done.refused == []


def test_links_to_folders_are_not_followed(checkout: Path, root: Path, tmp_path: Path) -> None:
    shutil.move(checkout / "query_templates", tmp_path / "elsewhere")
    (checkout / "query_templates").symlink_to(tmp_path / "elsewhere")
    run(checkout, root)
    assert FILES[TEMPLATES][1] not in tree(root)


def test_folders_that_cannot_be_meant(checkout: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder not found: .*absent"):
        run(tmp_path / "absent", root)
    with pytest.raises(InputError, match=r"folder not found: .*absent"):
        run(checkout, tmp_path / "absent")
    with pytest.raises(InputError, match="is the project itself"):
        run(root, root / ".." / "project")
    put(tmp_path / "empty" / "notes.txt", "x")
    with pytest.raises(InputError, match=r"holds no file of the release \(1 other files\)"):
        run(tmp_path / "empty", root)
    assert tree(root) == {}


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_says_what_it_did(checkout: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(checkout / "sae_weights.zip", b"PK")
    assert command.main(["--from", str(checkout), "--to", str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "took        1 results -> main_eval_output/official" in lines
    assert "took        2 fold indices -> data/Waterbirds" in lines
    assert any(line.startswith("skipped  sae_weights.zip: an archive; ") for line in lines)
    assert lines[-1] == (
        f"{len(FILES)} file(s) taken, 0 there already, 1 skipped, 0 refused; 2 others are not the release's"
    )
    put(checkout / TEMPLATES, "{")
    assert command.main(["--from", str(checkout), "--to", str(root)]) == 2
    captured = capsys.readouterr()
    assert "kept        1 results -> main_eval_output/official\n" in captured.out
    [line] = [line for line in captured.err.splitlines() if line.startswith("refused")]
    assert line.startswith(f"refused  {TEMPLATES}: query templates is not valid JSON")


def test_like_refusals_take_one_line(checkout: Path, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for method in ("sem-b", "sem-i"):
        put(checkout / "main_eval_output" / RESULT.replace("sem-bi", method), [RECORD])
        put(root / "main_eval_output" / "official" / RESULT.replace("sem-bi", method), "mine")
    assert command.main(["--from", str(checkout), "--to", str(root)]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("refused")]
    assert line.endswith(
        "_sem-b.json and 1 more beside it: another file is there already; --overwrite replaces it"
    )


def test_bad_input_is_one_line_and_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = tmp_path / "absent"
    assert run_main(lambda: command.main(["--from", str(absent)])) == 2
    assert capsys.readouterr().err == f"error: folder not found: {absent}\n"


# --- the real thing -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imported(oracle_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Return a project with the published prompts, text sets and results, and what the command said."""
    root = tmp_path_factory.mktemp("imported")
    shutil.copytree(ROOT / "config", root / "config", ignore=shutil.ignore_patterns("prompts", "prism"))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert command.main(["--from", str(oracle_dir / "official"), "--to", str(root)]) == 0
    return root, said.getvalue()


def test_the_published_files_are_taken(imported: tuple[Path, str]) -> None:
    root, said = imported
    assert "took      512 results -> main_eval_output/official" in said
    assert "took       79 PRISM text sets -> config/prism/official/retrieval" in said
    assert "took        2 PRISM text sets -> config/prism/official/zs_classification" in said
    assert "600 file(s) taken, 0 there already, 0 skipped, 0 refused" in said
    assert len(json.loads((root / "config/prompts/official/diverse_prompts.json").read_text())) == 328


def test_the_published_results_become_one_table(imported: tuple[Path, str], tmp_path: Path) -> None:
    folder = imported[0] / "main_eval_output" / "official"
    assert process_json_outputs.main(["--input-dir", str(folder), "--output-dir", str(tmp_path)]) == 0
    table = pd.read_feather(tmp_path / "all_results.feather")
    assert len(table) == 1088
    assert table["file"].nunique() == 512


@pytest.mark.parametrize("dataset", ["celeba", "fairface", "utkface", "waterbirds"])
def test_the_published_prompts_serve_every_setting(imported: tuple[Path, str], dataset: str) -> None:
    folder = imported[0] / "config" / "prompts" / "official"
    for setting in load_dataset_config(ROOT / "config" / f"{dataset}.yml").settings.values():
        prompts = load_official(folder, setting.prompts)
        assert len(prompts.diverse) == 328
        assert len(prompts.groups) == {"stereotype": 25, "hair": 4, None: 1}[setting.query_type]


def test_a_release_in_miniature_can_be_evaluated(
    imported: tuple[Path, str], oracle_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Data, weights and prompts of the golden world, installed, leave nothing missing."""
    root, world = tmp_path / "project", oracle_dir / "golden" / "world"
    shutil.copytree(imported[0], root)
    for part in ("data", "debiasing_methods"):
        assert command.main(["--from", str(world / part), "--to", str(root)]) == 0
    capsys.readouterr()
    for dataset in ("celeba", "waterbirds"):
        argv = [
            "--config",
            str(root / "config" / f"{dataset}.yml"),
            "--prompts",
            "official",
            "--backbone",
            "ViT-B-16",
        ]
        argv += ["--text-embeddings", str(world / "text_embeddings.npz"), "--methods", "vanilla", "sem-bi"]
        assert main_eval.main([*argv, "--dry-run"]) == 0
        rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(dataset)]
        assert rows
        assert all(line.endswith("to do") for line in rows)
    assert len(read_metadata(root / "data" / "UTKFace" / "metadata.feather")) == 2400
