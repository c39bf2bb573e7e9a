"""The versions of the qualitative study, the table and the figure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.decomposition import PCA

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.prompts.study_config import load_study_config
from bias_evaluation.weights.read import load_sae, save_sae
from debiasing_methods.linalg import unit
from debiasing_methods.sem import Percentiles, bias_scores
from qualitative_study import compute_cp_and_bn, pca
from qualitative_study.options import NEUTRAL_CONCEPT
from qualitative_study.versions import VersionMaker, version_names
from safe_io.errors import InputError


@pytest.fixture(scope="module")
def maker(study_world) -> VersionMaker:
    config = load_study_config(study_world.config)
    backbone = config.backbone("toy")
    store = TextStore(backbone, study_world.root / "cache", given=study_world.embeddings)
    return VersionMaker(config, backbone, store, "default")


@pytest.fixture(scope="module")
def made(maker: VersionMaker) -> dict[str, torch.Tensor]:
    return maker.make(version_names())


def test_every_version_is_a_grid_of_unit_vectors(made) -> None:
    assert {"vanilla", "orth-proj", "sem-b", NEUTRAL_CONCEPT, "sem-bi", "orth-cali"} <= set(made)
    for version in made.values():
        assert version.shape == (3, 6, 24)
        assert torch.allclose(version.norm(dim=-1), torch.ones(3, 6), atol=1e-5)


def test_base_is_raw_clip(made, maker: VersionMaker) -> None:
    raw = maker.store.embed(["A photo of a right baker.", "A photo of a baker."])
    assert torch.allclose(made["vanilla"][1:, 0], unit(raw))


def test_orth_proj_loses_the_spurious_prompts(made, maker: VersionMaker) -> None:
    spurious = unit(maker.store.embed(["The left side.", "The right side."]))
    assert (made["orth-proj"] @ spurious.T).abs().max() < 1e-5


@pytest.mark.parametrize("version", ["sem-b", NEUTRAL_CONCEPT])
def test_sem_b_by_its_definition(made, maker: VersionMaker, study_world, version: str) -> None:
    sae, embed = load_sae(study_world.sae, dim=24), maker.store.embed
    diverse = sae.encode(embed(maker._prompts.diverse))
    prompts = maker._prompts.groups[0].common.bias_prompts.values()
    bias = bias_scores(Percentiles(diverse), [sae.encode(embed(p)) for p in prompts])
    neutral = diverse.sort(dim=0).values[(len(diverse) - 1) // 2]
    h = sae.encode(embed(["A photo of a left pilot."]))[0]
    concept_of = "A photo of a pilot." if version == NEUTRAL_CONCEPT else "A photo of a left pilot."
    concept = (diverse < sae.encode(embed([concept_of]))).float().mean(0)
    w = (1 + concept - bias) ** 2
    expected = unit(sae.decode((w * h + (1 - w) * neutral)[None]))[0]
    assert torch.allclose(made[version][0, 1], expected, atol=1e-5)


def test_both_concept_scores_agree_on_neutral_sentences_alone(made) -> None:
    assert torch.allclose(made["sem-b"][-1], made[NEUTRAL_CONCEPT][-1])
    assert (made["sem-b"][:-1] - made[NEUTRAL_CONCEPT][:-1]).abs().max() > 1e-3


def test_content_preservation_and_bias_neutralisation_by_hand() -> None:
    z = unit(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)))
    base = unit(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)))
    cp = [float(z[g, p] @ base[2, p]) for g in (0, 1) for p in range(5)]
    bn = [float(z[0, p] @ z[1, p]) for p in range(5)]
    assert compute_cp_and_bn.content_preservation(z, base) == pytest.approx(np.mean(cp), abs=1e-6)
    assert compute_cp_and_bn.bias_neutralisation(z) == pytest.approx(np.mean(bn), abs=1e-6)
    four = unit(torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(2)))
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = np.mean([float(four[i, p] @ four[j, p]) for i, j in pairs for p in range(5)])
    assert compute_cp_and_bn.bias_neutralisation(four) == pytest.approx(expected, abs=1e-6)


def test_the_table_is_printed_and_saved(study_world, made, tmp_path, capsys) -> None:
    arguments = [*study_world.text, "--output-dir", str(tmp_path)]
    assert compute_cp_and_bn.main(arguments) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(first) == {"cp_bn_toy.csv", "cp_bn_toy.md", "cp_bn_toy.json"}
    table = pd.read_csv(tmp_path / "cp_bn_toy.csv", index_col="version")
    assert list(table.index) == ["vanilla", "orth-proj", "sem-b", NEUTRAL_CONCEPT]
    expected = compute_cp_and_bn.bias_neutralisation(made["sem-b"])
    assert table.loc["sem-b", "BN"] == pytest.approx(expected, abs=6e-4)
    assert f"| Base CLIP | {table.loc['vanilla', 'CP']:.3f} |" in capsys.readouterr().out
    record = json.loads(first["cp_bn_toy.json"])
    assert record["digests"]["weights"]
    assert compute_cp_and_bn.main(arguments) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first


def test_other_text_methods_by_name(study_world, tmp_path) -> None:
    arguments = [*study_world.text, "--output-dir", str(tmp_path), "--versions", "sem-bi", "orth-cali"]
    assert compute_cp_and_bn.main(arguments) == 0
    assert list(pd.read_csv(tmp_path / "cp_bn_toy.csv")["version"]) == ["sem-bi", "orth-cali"]


def test_options_are_those_of_the_settings_bias_attribute(
    maker: VersionMaker, made, study_world, tmp_path
) -> None:
    shutil.copytree(study_world.root / "config", tmp_path / "config")
    own = "orth-cali: {lam: 10.0, by_bias_attribute: {side: {lam: 0.5}}}"
    path = tmp_path / "config" / "methods.yml"
    path.write_text(path.read_text().replace("orth-cali: {lam: 10.0}", own))
    config = load_study_config(tmp_path / "config" / "studies" / "toy.yml")
    other = VersionMaker(config, maker.backbone, maker.store, "default", study_world.sae)
    found = other.make(["vanilla", "orth-cali"])
    assert torch.equal(found["vanilla"], made["vanilla"])
    assert (found["orth-cali"] - made["orth-cali"]).abs().max() > 1e-3
    first, second = (m.digests(["orth-cali"]) for m in (maker, other))
    assert {name for name in first if first[name] != second[name]} == {"options"}


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("sem-c", r"unknown version 'sem-c'; choose from: .*sem-b-neutral"),
        ("bendvlm", r"bendvlm needs more than text and an SAE.*choose from: vanilla"),
        ("prism", r"prism needs more than text and an SAE"),
    ],
)
def test_versions_that_there_are_not(study_world, tmp_path, version: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pca.main([*study_world.text, "--output-dir", str(tmp_path), "--versions", version])


def test_an_sae_of_another_width_is_named(study_world, tmp_path) -> None:
    from debiasing_methods.sae import SparseAutoencoder

    path = tmp_path / "other.pth"
    save_sae(path, SparseAutoencoder(torch.ones(4, 7), torch.zeros(4), torch.ones(7, 4), torch.zeros(7)))
    with pytest.raises(InputError, match="width 7, but the backbone has width 24"):
        pca.main([*study_world.text, "--output-dir", str(tmp_path), "--sae", str(path)])


def test_the_figure_has_a_panel_a_version_with_a_pca_of_its_own(study_world, made, tmp_path) -> None:
    arguments = [*study_world.text, "--output-dir", str(tmp_path)]
    assert pca.main(arguments) == 0
    assert (tmp_path / "pca_job_side.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "pca_job_side.png").stat().st_size > 0
    table = pd.read_csv(tmp_path / "pca_job_side.csv")
    assert len(table) == 4 * 3 * 6
    rows = made["orth-proj"].reshape(-1, 24).double().numpy()
    expected = PCA(n_components=2, random_state=42).fit_transform(rows)
    found = table[table["version"] == "orth-proj"]
    np.testing.assert_allclose(found[["x", "y"]], expected, atol=1e-5)
    assert list(found["value"].iloc[[0, 6, 12]]) == ["left", "right", "neutral"]


def test_another_backbone_than_the_configs_is_named(maker: VersionMaker) -> None:
    assert pca.file_stem(maker) == "pca_job_side"
    study = replace(maker.study, backbone="other")
    backbones = {**maker.config.backbones, "other": replace(maker.backbone, name="other", stem="other")}
    config = replace(maker.config, backbones=backbones, qualitative=study)
    changed = VersionMaker(config, maker.backbone, maker.store, "default")
    assert pca.file_stem(changed) == "pca_job_side_toy"


@pytest.mark.parametrize("number", [2, 7, 8, 20])
def test_any_number_of_values_is_drawn_each_in_its_own_style(number: int) -> None:
    values = [f"value {i}" for i in range(number)]
    planes = {"vanilla": pca.project(torch.randn(number + 1, 5, 4))}
    figure = pca.draw_figure(planes, values)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*values, "neutral"]
    assert len(set(pca._styles(values))) == number


def test_panels_share_their_axes(made) -> None:
    planes = {name: pca.project(made[name]) for name in ("vanilla", "orth-proj", "sem-b")}
    figure = pca.draw_figure(planes, ["left", "right"])
    limits = {(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes}
    assert len(figure.axes) == 3
    assert len(limits) == 1
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["left", "right", "neutral"]
