"""Training of ZSDebias: loss, schedule, stopping, resuming, and the command with its files and errors."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.zsdebias_world import (  # noqa: F401
    DIM,
    N_SENTENCES,
    corpus,
    generator_of,
    images_of,
    write_dataset,
    zsdebias_arguments,
)
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from bias_evaluation.training_runs.zsdebias import TrainingData, run_training
from bias_evaluation.weights.read import load_zsdebias
from debiasing_methods import zsdebias_training
from debiasing_methods.training import zsdebias as optimization
from debiasing_methods.training.cka import alignments as cka
from debiasing_methods.training.hyperparameters import SHUFFLE_ORDERS, ZSDebiasTrainingConfig
from debiasing_methods.training.zsdebias import LossTerms, ZSDebiasTraining, beta, bias_targets, loss_terms
from debiasing_methods.training.zsdebias_network import Dropout, TrainableVAE
from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main
from safe_io.files import load_weights, save_weights

QUICK = ZSDebiasTrainingConfig(epochs=4, batch_size=32, lr=1e-2)


def _training(config: ZSDebiasTrainingConfig = QUICK, n: int = 120) -> ZSDebiasTraining:
    images = images_of(n)
    return ZSDebiasTraining(images, bias_targets(images, corpus()), config)


# --- model ------------------------------------------------------------------------------------------------


def test_model_has_the_release_names_and_starting_values():
    model = TrainableVAE(200, generator_of())
    state = model.state_dict()
    layers = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
    assert list(state) == [f"{part}.{layer}" for part in ("encoder", "decoder") for layer in layers]
    shapes = {
        "encoder.0": (200, 200),
        "encoder.4": (400, 200),
        "decoder.0": (200, 200),
        "decoder.4": (200, 200),
    }
    for name, shape in shapes.items():
        weight = state[f"{name}.weight"]
        assert weight.shape == shape
        assert float(weight.std()) == pytest.approx(math.sqrt(2 / 200), rel=0.02)  # Kaiming, fan-in, gain √2
        assert abs(float(weight.mean())) < 1e-3
        assert not state[f"{name}.bias"].any()
    assert [type(layer) for layer in model.encoder] == [
        nn.Linear,
        nn.LayerNorm,
        nn.LeakyReLU,
        Dropout,
        nn.Linear,
    ]
    assert model.encoder[2].negative_slope == model.encoder[3].p == 0.3


@pytest.mark.parametrize("dim", [7, 0])
def test_model_needs_an_even_width(dim):
    with pytest.raises(ValueError, match=f"even width.* got {dim}"):
        TrainableVAE(dim, generator_of())


def test_dropout():
    dropout, x = Dropout(0.3), torch.full((400, 100), 2.0, requires_grad=True)
    dropped = dropout(x)
    zero = dropped.detach() == 0
    assert float(zero.float().mean()) == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(dropped[~zero], torch.full_like(dropped[~zero], 2 / 0.7))
    (gradient,) = torch.autograd.grad(dropped.sum(), x)
    assert torch.equal(gradient == 0, zero)
    assert dropout.eval()(x) is x


# --- loss -------------------------------------------------------------------------------------------------


def test_bias_targets_are_means_of_the_nearest_sentences(monkeypatch):
    """b(x) of ZSDebias, the bias target."""
    monkeypatch.setattr(optimization, "IMAGE_ROWS", 7)  # 20 images: whole steps and a rest
    images, sentences = images_of(20), 3 * corpus()
    for x, b in zip(images, bias_targets(images, sentences), strict=True):
        nearest = sorted(
            range(len(sentences)), key=lambda i: -float(cosine_similarity(x, sentences[i], dim=0))
        )[:10]
        mean = torch.stack([sentences[i] / sentences[i].norm() for i in nearest]).mean(dim=0)
        torch.testing.assert_close(b, mean / mean.norm())
    with pytest.raises(ValueError, match=r"at least 10 sentences.*got 9"):
        bias_targets(images, sentences[:9])


def _naive_loss(model: TrainableVAE, x: Tensor, b: Tensor, order: str, kl_weight: float) -> float:
    """Evaluate the loss by its definition, sample by sample; draws as `loss_terms` does."""
    half = DIM // 2
    mean, log_variance = model.encoder(x)[:, :DIM], model.encoder(x)[:, DIM:]
    z = mean + torch.randn(len(x), DIM) * torch.exp(0.5 * log_variance)
    z_i, z_s = z[:, :half], z[:, half:]
    permutation = torch.randperm(len(x))
    reconstruction = shuffled = kl = 0.0
    for n, other in enumerate(permutation):
        if order == "published":
            mixed = torch.cat([z_s[other], z_i[n]]), torch.cat([z_s[n], z_i[other]])
        else:
            mixed = torch.cat([z_i[n], z_s[other]]), torch.cat([z_i[other], z_s[n]])
        reconstruction += float((model.decoder(z[n]) - x[n]).square().sum()) / len(x)
        shuffled += sum(float((model.decoder(m) - x[n]).square().sum()) for m in mixed) / len(x)
        terms = 1 + log_variance[n] - mean[n] ** 2 - log_variance[n].exp()
        kl += -0.5 * float(terms.sum()) / len(x)
    bias, image = cka([z_s, b, z_i], [(0, 1), (2, 0)]).tolist()
    alignments = -10 * bias + 10 * image
    return 100 * reconstruction + alignments + 10 * shuffled + kl_weight * kl


@pytest.mark.parametrize("order", SHUFFLE_ORDERS)
def test_loss_is_its_definition(order):
    """The loss L of ZSDebias: reconstruction, two CKA terms, two shuffle terms, β·KL."""
    model, x = TrainableVAE(DIM, generator_of()).eval(), images_of(25)
    b = bias_targets(x, corpus())
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(5)
        got = float(loss_terms(model, x, b, order).total(0.007))
        torch.manual_seed(5)
        assert got == pytest.approx(_naive_loss(model, x, b, order, 0.007), rel=1e-5)


def test_loss_of_the_published_models_is_what_their_files_say(oracle_dir):
    """Only the order of the halves that the published training has gives the stored validation losses.

    The rows of the published validation part are unknown, so all are used; the alignments, of which the
    corpus is unknown too, are at most 10 each.
    """
    world = oracle_dir / "golden" / "world"
    if not world.is_dir():
        pytest.skip(f"no golden world in {oracle_dir}")
    for name, folders, others in (
        ("human", ("FairFace", "UTKFace"), 0.1),
        ("animal", ("Waterbirds",), 0.005),
    ):
        stored = load_weights(
            world / f"debiasing_methods/zsdebias_weights/ViT-B-16_{name}_zsdebias_0.pth", make=""
        )
        model = TrainableVAE(512, generator_of()).eval()
        model.load_state_dict({**stored["encoder"], **stored["decoder"]})
        arrays = [np.load(world / "data" / f / "CLIP_ViT-B-16_embeddings.npy") for f in folders]
        x = torch.from_numpy(np.concatenate(arrays)).float()
        x = x[torch.randperm(len(x), generator=generator_of())]
        losses = {}
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(0)
            for order in SHUFFLE_ORDERS:
                batches = [loss_terms(model, part, part, order) for part in x.split(480)]
                losses[order] = float(torch.stack([t.total(beta(stored["epoch"])) for t in batches]).mean())
        assert losses["published"] == pytest.approx(stored["val_loss"], rel=0.005)
        assert losses["consistent"] < (1 - others) * stored["val_loss"]


def test_training_ends_where_the_published_training_ended(oracle_dir):
    """The same data and options (another split, other draws, another corpus): the same loss to 3 %."""
    world = oracle_dir / "golden" / "world"
    if not world.is_dir():
        pytest.skip(f"no golden world in {oracle_dir}")
    stored = load_weights(
        world / "debiasing_methods/zsdebias_weights/ViT-B-16_animal_zsdebias_0.pth", make=""
    )
    args = stored["args"]
    config = ZSDebiasTrainingConfig(
        epochs=args["epochs"], batch_size=args["bs"], lr=args["lr"], weight_decay=args["weight_decay"]
    )
    images = torch.from_numpy(np.load(world / "data" / "Waterbirds" / "CLIP_ViT-B-16_embeddings.npy")).float()
    with np.load(world / "text_embeddings.npz") as text:
        corpus = torch.from_numpy(text["embeddings"][:600]).float()
    training = ZSDebiasTraining(images, bias_targets(images, corpus), config)
    assert training.run().val_loss == pytest.approx(stored["val_loss"], rel=0.03)
    assert training.history[4]["val_loss"] > 1.03 * stored["val_loss"]  # no earlier


# --- schedule, split, stopping ----------------------------------------------------------------------------


def test_learning_rate_is_the_cosine_schedule():
    config = ZSDebiasTrainingConfig()
    optimizer = torch.optim.Adam([nn.Parameter(torch.zeros(1))], lr=1e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=500, eta_min=1e-8)
    for epoch in range(1, 501):
        assert config.learning_rate(epoch) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        scheduler.step()
    assert config.learning_rate(1) == 1e-4
    assert config.learning_rate(251) == pytest.approx((1e-4 + 1e-8) / 2)


def test_beta_rises_in_cycles_of_50_epochs():
    assert [beta(epoch) for epoch in (1, 51, 101)] == [0, 0, 0]
    assert [beta(epoch) for epoch in (50, 100)] == [0.01, 0.01]
    assert beta(15) == pytest.approx(0.01 * 14 / 49)


def test_split_and_batches():
    training = _training(n=123)
    train, val = training.training_rows.tolist(), training.validation_rows.tolist()
    assert len(train) == 86  # 70 %
    assert sorted(train + val) == list(range(123))
    assert train != sorted(train)
    assert train != _training(replace(QUICK, seed=1), n=123).training_rows.tolist()
    training.take_epoch()
    [first, *_] = training._optimizer.state.values()
    assert int(first["step"]) == 2  # 86 = 32 + 32 + 22; the short batch is dropped


def test_fewer_rows_than_a_batch_are_one_batch():
    training = _training(replace(QUICK, batch_size=1024), n=50)
    training.take_epoch()
    [first, *_] = training._optimizer.state.values()
    assert int(first["step"]) == 1
    assert training.batch_size == 35


class FakeLoss:
    """In place of `loss_terms`: notes the batches; the loss of each comes from a function."""

    def __init__(self, loss: Callable[[TrainableVAE, Tensor], float]) -> None:
        self.loss = loss
        self.batches: list[tuple[bool, Tensor]] = []

    def __call__(self, model: TrainableVAE, x: Tensor, b: Tensor, order: str) -> LossTerms:
        self.batches.append((model.training, x))
        zero = 0 * model.encoder[0].bias.sum()
        return LossTerms(zero + self.loss(model, x), zero, zero, zero, zero)


def test_an_epoch_sees_each_row_at_most_once_and_validates_on_the_others(monkeypatch):
    fake = FakeLoss(lambda model, x: float(len(x)))
    monkeypatch.setattr(optimization, "loss_terms", fake)
    training = _training(n=123)
    training.take_epoch()
    assert [(mode, len(x)) for mode, x in fake.batches] == [(True, 32), (True, 32), (False, 32), (False, 5)]
    images = images_of(123)
    seen = torch.cat([x for mode, x in fake.batches if mode])
    matches = (seen[:, None] == images[training.training_rows]).all(dim=2)
    assert matches.any(dim=0).sum() == 64
    assert torch.equal(
        torch.cat([x for mode, x in fake.batches if not mode]), images[training.validation_rows]
    )
    # the mean over batches: a short one counts as much as the others
    assert training.history[0]["val_loss"] == 100 * (32 + 5) / 2
    training.take_epoch()
    assert not torch.equal(torch.cat([x for mode, x in fake.batches[4:6]]), seen)  # another order


def test_stops_when_the_validation_loss_stays(monkeypatch):
    """Equal is not better: the first of the equal epochs is kept."""
    val_losses = iter([5.0, 4.0, 4.0, 4.5, 3.0, 3.0, 3.1, 9.0, 1.0])
    current = {"loss": 0.0}

    def loss(model: TrainableVAE, x: Tensor) -> float:
        if model.training:
            current["loss"] = 0.0
            return 7.0
        current["loss"] = current["loss"] or next(val_losses)
        return current["loss"]

    monkeypatch.setattr(optimization, "loss_terms", FakeLoss(loss))
    training = _training(replace(QUICK, epochs=50, patience=3))
    best = training.run()
    assert best.epoch == 5
    assert best.val_loss == 300
    assert training.epoch == 8
    assert [record["train_loss"] for record in training.history] == [700] * 8


def test_runs_to_the_last_epoch_without_a_stop():
    training = _training()
    training.run()
    assert training.epoch == 4
    assert [r["learning_rate"] for r in training.history] == [QUICK.learning_rate(e) for e in (1, 2, 3, 4)]
    assert [r["beta"] for r in training.history] == [beta(e) for e in (1, 2, 3, 4)]
    assert training._optimizer.param_groups[0]["lr"] == QUICK.learning_rate(4)


def test_gradient_is_clipped():
    images = 1000 * images_of(120)
    training = ZSDebiasTraining(images, bias_targets(images, corpus()), QUICK)
    training.take_epoch()
    norm = torch.stack([p.grad.norm() for p in training.model.parameters()]).norm()
    assert float(norm) == pytest.approx(1, rel=1e-4)


def test_weight_decay_shrinks_the_weights():
    norms = []
    for decay in (0.0, 100.0):
        training = _training(replace(QUICK, epochs=20, weight_decay=decay))
        training.run()
        norms.append(float(training.model.encoder[0].weight.detach().norm()))
    assert norms[1] < 0.7 * norms[0]


def test_divergence_is_an_error():
    training = _training(replace(QUICK, lr=1e30))
    with pytest.raises(ValueError, match=r"not finite in epoch 1.*smaller lr"):
        training.run()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"batch_size": 1}, "batch_size must be at least 2"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"lr": 0.0}, "lr must be a number above 0"),
        ({"lr": math.nan}, "lr must be a number above 0, got nan"),
        ({"weight_decay": -1e-5}, "weight_decay must be a number of at least 0"),
        ({"shuffle_order": "any"}, "shuffle_order must be one of published, consistent"),
    ],
)
def test_config_is_checked(change, message):
    with pytest.raises(ValueError, match=message):
        replace(QUICK, **change)


# --- runs -------------------------------------------------------------------------------------------------


def test_training_lowers_the_validation_loss_and_aligns_the_bias_half():
    training = _training(replace(QUICK, epochs=40, batch_size=64), n=600)
    training.run()
    first, best = training.history[0], training.history[training.best.epoch - 1]
    assert best["val_loss"] < 0.3 * first["val_loss"]
    assert best["val_reconstruction"] < 0.3 * first["val_reconstruction"]
    assert best["val_bias_alignment"] > 0.3


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_the_same_seed_repeats_and_another_differs():
    with torch.random.fork_rng():
        torch.manual_seed(1)
        once = _training().run()
        state = torch.get_rng_state()
        torch.manual_seed(2)
        again = _training().run()
        other = _training(replace(QUICK, seed=1)).run()
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)  # training leaves torch's own generator alone
    assert once.val_loss == again.val_loss
    assert _same(once.weights, again.weights)
    assert not _same(once.weights, other.weights)


def test_shuffle_order_matters():
    assert not _same(
        _training().run().weights, _training(replace(QUICK, shuffle_order="consistent")).run().weights
    )


def test_goes_on_bit_for_bit_from_any_epoch(tmp_path):
    whole = _training(replace(QUICK, epochs=6))
    whole.run()
    for cut in (1, 3, 5):
        first = _training(replace(QUICK, epochs=6))
        for _ in range(cut):
            first.take_epoch()
        save_weights(tmp_path / "state", first.state_dict())
        second = _training(replace(QUICK, epochs=6))
        second.load_state_dict(load_weights(tmp_path / "state", make=""))
        second.run()
        assert second.history == whole.history
        assert _same(second.model.state_dict(), whole.model.state_dict())
        assert (second.best.epoch, second.best.val_loss) == (whole.best.epoch, whole.best.val_loss)
        assert _same(second.best.weights, whole.best.weights)


def test_an_interrupted_run_gives_the_same_files(tmp_path, monkeypatch):
    data = TrainingData(images_of(120), corpus(), {})
    run_training(data, tmp_path / "whole" / "m.pth", QUICK)
    take, calls = ZSDebiasTraining.take_epoch, []

    def cut(self: ZSDebiasTraining) -> None:
        calls.append(self.epoch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        take(self)

    with monkeypatch.context() as patch:
        patch.setattr(ZSDebiasTraining, "take_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            run_training(data, tmp_path / "cut" / "m.pth", QUICK, checkpoint_seconds=0)
    assert [p.name for p in (tmp_path / "cut").iterdir()] == ["m.pth.checkpoint"]
    run_training(data, tmp_path / "cut" / "m.pth", QUICK)
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")


FILES = ["zsdebias.save_weights", "zsdebias.write_losses", "zsdebias.plot_losses", "run.write_json"]


@pytest.mark.parametrize("last", FILES)
def test_a_run_cut_off_between_its_files_goes_on(last, tmp_path, monkeypatch):
    """Also where no checkpoint was due before the end, and in place of a file of another run."""
    data = TrainingData(images_of(120), corpus(), {})
    run_training(data, tmp_path / "whole" / "m.pth", QUICK)
    run_training(data, tmp_path / "cut" / "m.pth", replace(QUICK, seed=9))

    def stop(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"bias_evaluation.training_runs.{last}", stop)
        with pytest.raises(KeyboardInterrupt):
            run_training(data, tmp_path / "cut" / "m.pth", QUICK, overwrite=True)
    run_training(data, tmp_path / "cut" / "m.pth", QUICK)
    assert _files(tmp_path / "cut") == _files(tmp_path / "whole")


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- the command ------------------------------------------------------------------------------------------


@pytest.fixture
def project(zsdebias_project: Path) -> Path:
    return zsdebias_project


WEIGHTS = Path("debiasing_methods") / "zsdebias_weights" / "default"


def test_command_writes_the_release_form(project, capsys):
    assert zsdebias_training.main(zsdebias_arguments(project, "--seed", 2)) == 0
    folder = project / WEIGHTS
    stem = "tiny_color_zsdebias_2"
    endings = ("pth", "losses.csv", "losses.png", "report.json")
    assert sorted(p.name for p in folder.iterdir()) == sorted(f"{stem}.{ending}" for ending in endings)
    model = torch.load(folder / f"{stem}.pth", weights_only=True)
    assert list(model) == ["encoder", "decoder", "args", "epoch", "val_loss"]
    for part in ("encoder", "decoder"):
        layers = ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias")
        assert list(model[part]) == [f"{part}.{layer}" for layer in layers]
    expected = {
        "dataset_paths": ["A", "B"],
        "bias_attribute": "color",
        "clip_model": "Ti/ny",
        "hidden_num": 2,
    }
    expected |= {"normalize_embeddings": False, "bs": 32, "epochs": 4, "patience": 3, "lr": 0.01, "seed": 2}
    assert {name: model["args"][name] for name in expected} == expected

    with (folder / f"{stem}.losses.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    losses = [float(row["val_loss"]) for row in rows]
    assert model["val_loss"] == min(losses)
    assert model["epoch"] == 1 + losses.index(min(losses))
    assert {"train_loss", "val_loss", "val_bias_alignment", "val_half_alignment", "learning_rate"} <= set(
        rows[0]
    )
    assert (folder / f"{stem}.losses.png").read_bytes().startswith(b"\x89PNG")

    report = json.loads((folder / f"{stem}.report.json").read_text(encoding="utf-8"))
    assert report["rows"] == {"training": 84, "validation": 36}
    assert report["best"]["val_loss"] == model["val_loss"]
    assert str(folder / f"{stem}.pth") in capsys.readouterr().out


def test_files_are_what_inference_loads(project):
    """In both formats, and the model for inference does what the trained one does without dropout."""
    for file_format in ("pth", "safetensors"):
        zsdebias_training.main(zsdebias_arguments(project, "--format", file_format))
    folder = project / WEIGHTS
    vaes = [load_zsdebias(folder / f"tiny_color_zsdebias_0.{f}", dim=DIM) for f in ("pth", "safetensors")]
    stored = torch.load(folder / "tiny_color_zsdebias_0.pth", weights_only=True)
    model = TrainableVAE(DIM, generator_of()).eval()
    model.load_state_dict({**stored["encoder"], **stored["decoder"]})
    x = images_of(9, seed=3)
    with torch.no_grad():
        mean, log_variance = model.moments(x)
        half = DIM // 2
        moments = torch.cat([mean[:, :half], (log_variance[:, :half] / 2).exp()], dim=1)
        for vae in vaes:
            torch.testing.assert_close(vae.kept_moments(x), moments)
            torch.testing.assert_close(vae.decode(x), model.decode(x))
            assert not vae.tanh


def test_seeds_prompts_and_output_folder(project):
    zsdebias_training.main(zsdebias_arguments(project, "--seeds", 0, 1, "--prompts", "mine"))
    folder = project / "debiasing_methods" / "zsdebias_weights" / "mine"
    assert sorted(p.name for p in folder.glob("*.pth")) == [f"tiny_color_zsdebias_{k}.pth" for k in (0, 1)]
    one, two = ((folder / f"tiny_color_zsdebias_{k}.pth").read_bytes() for k in (0, 1))
    assert one != two
    zsdebias_training.main(zsdebias_arguments(project, "--output-dir", project / "here"))
    assert (project / "here" / "tiny_color_zsdebias_0.pth").read_bytes() == one


def test_what_is_there_is_kept_or_replaced_when_asked(project, capsys):
    path = project / WEIGHTS / "tiny_color_zsdebias_0.pth"
    zsdebias_training.main(zsdebias_arguments(project))
    before = path.stat().st_mtime_ns, path.read_bytes()
    capsys.readouterr()
    zsdebias_training.main(zsdebias_arguments(project))
    assert "kept" in capsys.readouterr().out
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before
    with pytest.raises(
        InputError, match=r"tiny_color_zsdebias_0\.pth exists and was not made from.*--overwrite"
    ):
        zsdebias_training.main(zsdebias_arguments(project, "--lr", 2e-2))
    assert path.read_bytes() == before[1]
    zsdebias_training.main(zsdebias_arguments(project, "--lr", 2e-2, "--overwrite"))
    assert path.read_bytes() != before[1]


def test_a_checkpoint_of_another_run_is_not_taken(project, monkeypatch):
    def stop(self: ZSDebiasTraining) -> bool:
        if self.epoch == 1:
            raise KeyboardInterrupt
        return False

    with monkeypatch.context() as patch:
        patch.setattr(ZSDebiasTraining, "finished", property(stop))
        with pytest.raises(KeyboardInterrupt):
            zsdebias_training.main(zsdebias_arguments(project, "--checkpoint-seconds", 0))
    checkpoint = project / WEIGHTS / "tiny_color_zsdebias_0.pth.checkpoint"
    assert checkpoint.is_file()
    with pytest.raises(InputError, match="unfinished run with other data or options"):
        zsdebias_training.main(zsdebias_arguments(project, "--epochs", 5))
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(InputError, match=r"checkpoint cannot be read|checkpoint is damaged"):
        zsdebias_training.main(zsdebias_arguments(project))
    zsdebias_training.main(zsdebias_arguments(project, "--epochs", 5, "--overwrite"))
    assert not checkpoint.exists()


def test_small_data_is_said(project, capsys):
    zsdebias_training.main(zsdebias_arguments(project, "--bs", 1024))
    assert "note: 84 training rows are fewer than a batch of 1024" in capsys.readouterr().out


def test_killed_run_goes_on_bit_for_bit(project):
    """A process that is killed at work; its successor writes what an undisturbed run writes."""
    arguments = zsdebias_arguments(project, "--epochs", 120, "--patience", 120)
    killed = project / "killed"
    command = [sys.executable, str(ROOT / "debiasing_methods" / "zsdebias_training.py"), *arguments]
    command += ["--checkpoint-seconds", "0", "--output-dir", str(killed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, cwd=project)
    checkpoint = killed / "tiny_color_zsdebias_0.pth.checkpoint"
    deadline = time.monotonic() + 60
    while not checkpoint.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.is_file()
    assert not list(killed.glob("tiny_color*.pth"))
    done = len(load_weights(checkpoint, make="")["state"]["history"])
    assert 1 <= done < 120
    for left in killed.glob(".partial-*"):  # of the write that was under way
        left.unlink()
    zsdebias_training.main([*arguments, "--output-dir", str(killed)])
    zsdebias_training.main([*arguments, "--output-dir", str(project / "whole")])
    assert _files(killed) == _files(project / "whole")


def _break(project: Path, what: str) -> None:
    folder = project / "data" / "B"
    path = folder / "CLIP_tiny_embeddings.npy"
    if what == "missing embeddings":
        path.unlink()
    elif what == "missing metadata":
        (folder / "metadata.feather").unlink()
    elif what == "other width":
        np.save(path, np.ones((40, DIM + 2), np.float32))
    elif what == "other rows":
        np.save(path, np.ones((39, DIM), np.float32))
    elif what == "NaN":
        images = np.load(path)
        images[3, 5] = np.nan
        np.save(path, images)
    elif what == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    ("broken", "more", "message"),
    [
        ("missing embeddings", (), r"embeddings not found: .*B/CLIP_tiny_embeddings\.npy; precompute"),
        ("missing metadata", (), r"metadata not found: .*B/metadata\.feather"),
        ("other width", (), r"B/CLIP_tiny_embeddings\.npy has width 14, but the backbone has width 12"),
        (
            "other rows",
            (),
            r"B/CLIP_tiny_embeddings\.npy has 39 rows, but metadata\.feather beside it has 40",
        ),
        ("NaN", (), r"B/CLIP_tiny_embeddings\.npy: 1 of .*the first: row 3"),
        ("pickle", (), r"B/CLIP_tiny_embeddings\.npy"),
        ("", ("--bias-attribute", "colour"), "unknown bias corpus 'colour'.*did you mean 'color'"),
        ("", ("--bias-attribute", "few"), "the bias corpus has 9 sentences; at least 10 are needed"),
        ("", ("--bias-attribute", "ten"), "the same sentences of the bias corpus are nearest to every image"),
        ("", ("--bias-attribute", "unknown"), r"40 prompt\(s\) have no embedding in .*text\.npz"),
        ("", ("--corpus", "nowhere.yml"), r"bias corpora not found: nowhere\.yml"),
        ("", ("--backbone", "tinny"), "unknown backbone 'tinny'.*did you mean 'tiny'"),
        ("", ("--text-embeddings", "nowhere.npz"), r"text embeddings not found: nowhere\.npz"),
        ("", ("--lr", "-1"), r"lr must be a number above 0, got -1\.0"),
        ("", ("--bs", "1"), "batch_size must be at least 2"),
        ("", ("--seeds", "0", "-1"), "seed must be at least 0, got -1"),
        ("", ("--checkpoint-seconds", "-1"), "--checkpoint-seconds must be at least 0"),
    ],
)
def test_bad_input_is_one_line(project, capsys, broken, more, message):
    _break(project, broken)
    arguments = zsdebias_arguments(project, *more)
    assert run_main(lambda: zsdebias_training.main(arguments)) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    with pytest.raises(InputError, match=message):
        zsdebias_training.main(arguments)
    assert not (project / "debiasing_methods").exists()


def test_too_few_rows_and_doubled_folders(project):
    write_dataset(project / "data" / "C", images_of(9))
    with pytest.raises(InputError, match="9 image embeddings are too few to train on; give at least 10"):
        zsdebias_training.main(zsdebias_arguments(project, datasets=("C",)))
    with pytest.raises(InputError, match="names a folder twice"):
        zsdebias_training.main(zsdebias_arguments(project, datasets=("A", "B", "A")))


def test_cuda_is_refused_where_there_is_none(project, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=r"--device cuda.*use --device cpu"):
        zsdebias_training.main(zsdebias_arguments(project, "--device", "cuda"))


def _lines(script: str, environment: dict[str, str]) -> list[str]:
    run: Any = subprocess.run(
        ["bash", str(ROOT / script), "--device", "cuda"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **environment},
    )
    return [line for line in run.stdout.splitlines() if not line.startswith("==")]


def test_script_trains_24_models():
    lines = _lines("train_zsdebias.sh", {"PYTHON": "echo", "DATA_ROOT": "/my data"})
    parsed = [zsdebias_training.build_parser().parse_args(_split(line)) for line in lines]
    models = {(args.backbone, args.bias_attribute, seed) for args in parsed for seed in args.seeds}
    assert len(models) == 24
    assert {kind for _, kind, _ in models} == {"human", "animal"}
    assert {seed for *_, seed in models} == {0, 1, 2}
    by_kind = {args.bias_attribute: [path.name for path in args.dataset_paths] for args in parsed}
    assert by_kind == {"human": ["LFW", "UTKFace", "FACET"], "animal": ["ImageNet100", "COCO"]}
    assert all(args.device == "cuda" for args in parsed)


def _split(line: str) -> list[str]:
    """Arguments of an echoed command; the data root has a space, as folders may."""
    return [word.replace("\0", " ") for word in line.replace("/my data", "/my\0data").split(" ")[1:]]
