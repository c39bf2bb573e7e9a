"""The paper's twelve methods against the published implementation (bounds: the oracle's README)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.oracle import Oracle, as_tensor, deviation
from torch import Tensor, nn
from torch.nn.functional import normalize

from bias_evaluation.weights.read import load_prism_map, load_sae, load_zsdebias, sae_from_state_dict
from debiasing_methods.registry import PAPER
from debiasing_methods.zsdebias import ZSDebias, noise

SETTINGS = ("fairface_stereotype_race", "celeba_hair_gender", "celeba_blond_hair_gender", "waterbirds")
# zsdebias draws noise (below), and the oracle has no PRISM maps of the stereotype settings
ON_TEXT = [
    (setting, name)
    for setting in SETTINGS
    for name in PAPER
    if name != "zsdebias" and (setting, name) != ("fairface_stereotype_race", "prism")
]
ON_IMAGES = [(setting, name) for setting, name in ON_TEXT if name in ("roboshot", "prism-mini", "prism")]

BOUND = 1e-5  # relative to the largest entry
BOUNDS = {
    ("celeba_blond_hair_gender", "prism-mini"): 2e-3,  # the published inverse is ill-conditioned, in float32
    **{
        (s, m): 1e-4 for s in SETTINGS for m in ("bendvlm", "bendsem-bi")
    },  # the published solver is numerical
}
ILL_DEFINED = ("fairface_stereotype_race", "bendvlm")  # 15 arbitrary directions removed: cosine 0.95


@pytest.fixture(scope="session")
def oracles(oracle_dir: Path) -> dict[str, Oracle]:
    folder = oracle_dir / "golden"
    with np.load(folder / "common.npz") as common:
        weights = {name[4:]: as_tensor(common[name]) for name in common.files if name.startswith("sae/")}
        sae, diverse = sae_from_state_dict(weights, "common.npz"), as_tensor(common["diverse"])
    return {setting: Oracle(folder / f"{setting}.npz", sae, diverse) for setting in SETTINGS}


@pytest.mark.parametrize(("setting", "name"), ON_TEXT)
def test_text_is_the_published_text(setting, name, oracles):
    oracle = oracles[setting]
    method = oracle.method(name)
    results = method.debias_text(oracle.queries(name), oracle.reference() if method.needs_reference else None)
    if method.needs_reference:
        results = [result[0] for result in results]  # the oracle has fold 0
    for got, expected in zip(results, oracle.published(name, "text"), strict=True):
        if (setting, name) == ILL_DEFINED:
            assert float((normalize(got, dim=1) * normalize(expected, dim=1)).sum(dim=1).min()) >= 0.95
        else:
            assert deviation(got, expected) <= BOUNDS.get((setting, name), BOUND)


@pytest.mark.parametrize(("setting", "name"), ON_IMAGES)
def test_images_and_their_scores_are_the_published_ones(setting, name, oracles):
    oracle = oracles[setting]
    transform = oracle.method(name).image_transform(oracle.queries(name))
    text, published = oracle.published(name, "text"), oracle.published(name, "images")
    rows = oracle.data["val_indices"][0][: len(published[0])]
    scores = transform.scores(oracle.images[rows], text).split([len(t) for t in text], dim=1)
    bound = BOUNDS.get((setting, name), BOUND)
    for g, (expected, queries) in enumerate(zip(published, text, strict=True)):
        assert deviation(transform.apply(oracle.images[rows], g), expected) <= bound
        cosines = normalize(expected, dim=1) @ normalize(queries, dim=1).T
        assert float((scores[g] - cosines).abs().max()) <= bound


def test_weights_of_the_miniature_release_load_and_are_the_oracles(oracle_dir, oracles):
    folder = oracle_dir / "golden" / "world" / "debiasing_methods"
    sae = load_sae(next((folder / "sae_weights").glob("*.pth")), dim=512)
    expected = oracles["waterbirds"].sae.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in sae.state_dict().items())
    maps = {
        path.name.split("setting=")[1].split("_epochs")[0] + path.name.split("task=")[1][:2]: path
        for path in (folder / "prism_weights").glob("*.pth")
    }
    hair = oracles["celeba_hair_gender"]
    for q, color in enumerate(("blond", "black", "brown", "gray")):
        w = load_prism_map(maps[f"celeba_{color}_hair_genderre"], dim=512)
        assert torch.equal(w, hair.data[f"q{q}/prism_weight"])
    for setting in ("waterbirds", "celeba_blond_hair_gender"):
        w = load_prism_map(maps[f"{setting}zs"], dim=512)
        assert torch.equal(w, oracles[setting].data["q0/prism_weight"])


# --- zsdebias: random draws, so its parts are compared with the published architecture in torch.nn ---------


def _published_network(state: dict[str, Tensor], part: str) -> nn.Sequential:
    d_in, d_out = state[f"{part}.0.weight"].shape[1], state[f"{part}.4.weight"].shape[0]
    network = nn.Sequential(
        nn.Linear(d_in, d_in), nn.LayerNorm(d_in), nn.LeakyReLU(0.3), nn.Dropout(0.3), nn.Linear(d_in, d_out)
    )
    network.load_state_dict({name.removeprefix(f"{part}."): tensor for name, tensor in state.items()})
    return network.eval()


@pytest.mark.parametrize(("model", "setting"), [("human", "celeba_hair_gender"), ("animal", "waterbirds")])
@torch.no_grad()
def test_zsdebias_is_the_published_architecture(model, setting, oracle_dir, oracles):
    path = oracle_dir / f"golden/world/debiasing_methods/zsdebias_weights/ViT-B-16_{model}_zsdebias_0.pth"
    checkpoint = torch.load(path, weights_only=True)
    encoder, decoder = (_published_network(checkpoint[part], part) for part in ("encoder", "decoder"))
    oracle, method = oracles[setting], ZSDebias(vae=load_zsdebias(path, dim=512), seed=5)
    images, groups = oracle.data["images"], oracle.queries("zsdebias")

    mean, log_variance = encoder(images).chunk(2, dim=1)
    spread = torch.exp(0.5 * log_variance)
    prepared = method.prepare_images(images)
    assert deviation(prepared, torch.cat([mean[:, :256], spread[:, :256]], dim=1)) <= BOUND

    draws = noise(5, 2, 0, len(images), 512)
    z = torch.cat([mean[:, :256] + spread[:, :256] * draws[:, :256], draws[:, 256:]], dim=1)
    expected = normalize(decoder(z), dim=1)
    transform = method.image_transform(groups, fold=2)
    assert deviation(transform.apply(prepared), expected) <= BOUND
    text = method.debias_text(groups)
    assert all(torch.equal(t, normalize(group.queries, dim=1)) for t, group in zip(text, groups, strict=True))
    assert float((transform.scores(prepared, text) - expected @ torch.cat(text).T).abs().max()) <= BOUND


def test_zsdebias_classifies_as_the_published_code_does(oracle_dir, oracles):
    """The accuracy over all folds lies within four standard deviations, measured over noise seeds."""
    oracle, folder = oracles["waterbirds"], oracle_dir / "golden" / "world"
    published = json.loads(next((folder / "expected").glob("waterbirds*zsdebias-seed0.json")).read_text())
    figure = next(record["mean"] for record in published if record["metric"] == "Acc.")
    vae = load_zsdebias(folder / "debiasing_methods/zsdebias_weights/ViT-B-16_animal_zsdebias_0.pth", dim=512)
    accuracies = []
    for seed in range(8):
        method = ZSDebias(vae=vae, seed=seed)
        groups, prepared = oracle.queries("zsdebias"), method.prepare_images(oracle.data["images"])
        text, correct = method.debias_text(groups), []
        for fold, rows in enumerate(oracle.data["val_indices"]):
            scores = method.image_transform(groups, fold).scores(prepared[rows], text)
            correct.append(scores.argmax(dim=1) == oracle.data["target_label"][rows])
        accuracies.append(float(torch.cat(correct).double().mean()))
    assert np.std(accuracies, ddof=1) < 0.02
    assert abs(np.mean(accuracies) - figure) <= 4 * np.std(accuracies, ddof=1)
