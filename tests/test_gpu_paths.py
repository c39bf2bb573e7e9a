"""Every path that `--device cuda` takes, on a pretended GPU: no tensor is left on the wrong device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.pretended_gpu import GPU, GpuTensor, pretended_gpu
from torch import Tensor

from bias_evaluation.datasets.stored_images import StoredImages
from bias_evaluation.embedding.encoder import Encoder
from bias_evaluation.scoring.fold_scores import fold_scores
from bias_evaluation.scoring.retrieval import evaluate_retrieval
from debiasing_methods.registry import METHODS
from debiasing_methods.training.hyperparameters import SaeTrainingConfig, ZSDebiasTrainingConfig
from debiasing_methods.training.prism import overall_loss, train_maps
from debiasing_methods.training.sae import SaeTraining
from debiasing_methods.training.zsdebias import ZSDebiasTraining, bias_targets


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let 'cuda' be the pretended GPU."""
    with pretended_gpu(monkeypatch):
        yield


def _moved(value: Any, device: torch.device | str) -> Any:
    """Copy tensors, and what holds them, to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(part, device) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    if is_dataclass(value):
        moved = {f.name: _moved(getattr(value, f.name), device) for f in fields(value) if f.init}
        return replace(value, **moved)
    return value


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- the pretended GPU itself -----------------------------------------------------------------------------


@pytest.mark.usefixtures("gpu")
def test_it_computes_and_stays_where_it_is() -> None:
    x = torch.arange(6.0).view(2, 3).to("cuda")
    made = torch.ones(2, 3, device=x.device)
    for result in (x + made, x @ made.T, x[0], x.new_zeros(2), x.sum(), torch.tensor([1.0], device="cuda")):
        assert isinstance(result, GpuTensor)
        assert result.device == GPU
    assert type(x.cpu()) is Tensor
    assert (x + made).tolist() == [[1, 2, 3], [4, 5, 6]]
    x[0, 1] = 9
    assert float(x.max()) == 9
    w = torch.ones(3, 1, device="cuda", requires_grad=True)
    (x @ w).square().sum().backward()
    torch.testing.assert_close(w.grad.cpu(), 2 * x.cpu().T @ x.cpu() @ torch.ones(3, 1))


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.ones(2, 3) @ x,
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.ones(3)[x.long()],
        lambda x: x.index_select(0, torch.tensor([0])),
        lambda x: x.add_(torch.ones(3)),
        lambda x: torch.randn(3, generator=torch.Generator(), device="cuda"),
        lambda x: x.numpy(),
        lambda x: np.asarray(x),
        lambda x: torch.nn.Linear(3, 2)(x),
    ],
)
def test_what_fails_on_a_gpu_fails(wrong: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"device|cuda"):
        wrong(torch.ones(3, device="cuda"))


# --- methods and scoring ----------------------------------------------------------------------------------


def _scores(world: Any, name: str, device: torch.device | str, k: int = 20) -> tuple[list[Tensor], Any]:
    """Scores of each fold and the metrics made from them, all inputs on a device."""
    moved = _moved(world, device)
    method = moved.method(name)
    val = np.stack([np.setdiff1d(np.arange(len(world.images)), f) for f in world.reference.folds.numpy()])
    images = StoredImages(world.images.numpy(), Path("images.npy"), str(device))
    assert images.rows.device == torch.device(device)

    def scores() -> Any:
        return fold_scores(method, moved.groups, images, val, lambda: moved.reference)

    records = evaluate_retrieval(scores(), val, world.reference.labels.numpy(), (0, 1, 2), k)
    folds = list(scores())
    assert all(fold.device == torch.device(device) for fold in folds)
    return [fold.cpu() for fold in folds], records


@pytest.mark.parametrize("name", METHODS)
def test_every_method_scores_there(
    name: str, make_world: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world()
    expected, expected_records = _scores(world, name, "cpu")
    with pretended_gpu(monkeypatch):
        scores, records = _scores(world, name, GPU)
    for mine, other in zip(scores, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)
    assert repr(records) == repr(expected_records)


# --- training ---------------------------------------------------------------------------------------------


def test_sae_training(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SaeTrainingConfig(n_latents=24, levels=(4, 8), batch_size=16, epochs=2)

    def train(device: str) -> list[Tensor]:
        training = SaeTraining(_draw(64, 12), config, device=device)
        training.run()
        assert all(p.device.type == device for p in training.parameters)
        return [p.detach().cpu() for p in training.parameters]

    expected = train("cpu")
    with pretended_gpu(monkeypatch):
        for mine, other in zip(train("cuda"), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


def test_zsdebias_training(monkeypatch: pytest.MonkeyPatch) -> None:
    images, corpus = _draw(80, 8), _draw(12, 8, seed=1)

    def train(device: str) -> ZSDebiasTraining:
        x = images.to(device)
        config = ZSDebiasTrainingConfig(epochs=2, batch_size=16)
        training = ZSDebiasTraining(x, bias_targets(x, corpus.to(device)), config)
        training.run()
        assert all(p.device.type == device for p in training.model.parameters())
        assert all(t.device.type == "cpu" for t in training.best.weights.values())
        resumed = ZSDebiasTraining(x, training._b, config)
        resumed.load_state_dict(copy.deepcopy(training.state_dict()))
        assert resumed.finished
        return training

    expected = train("cpu")
    with pretended_gpu(monkeypatch):
        history = train("cuda").history
    assert [e["val_loss"] for e in history] == pytest.approx(
        [e["val_loss"] for e in expected.history], rel=1e-4
    )


def test_prism_training(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.nn.functional.normalize(_draw(20, 6), dim=1)
    positives, negatives = (torch.randint(20, (2, 9, n), generator=generator) for n in (3, 4))
    orders = torch.stack([torch.randperm(9, generator=generator) for _ in range(4)]).view(2, 2, 9)

    def train(device: str) -> list[Tensor]:
        inputs = [
            t.to(device) for t in (torch.eye(6).repeat(2, 1, 1), embeddings, positives, negatives, orders)
        ]
        maps, losses = train_maps(*inputs, lr=0.01, batch_size=4)
        return [
            maps.cpu(),
            losses.cpu(),
            overall_loss(maps[0], *(t[0] if t.ndim == 3 else t for t in inputs[1:4])).cpu(),
        ]

    expected = train("cpu")
    with pretended_gpu(monkeypatch):
        for mine, other in zip(train("cuda"), expected, strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-4)


# --- towers -----------------------------------------------------------------------------------------------


# Where half precision rounds depends on how attention is computed.
@pytest.mark.parametrize(("precision", "atol"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 4e-2)])
def test_text_and_images_are_encoded_there(
    precision: str, atol: float, make_backbone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, images = ["a photo of a nurse", "an owl", "a photo of a thief"], _draw(2, 3, 16, 16)

    def encode(device: str) -> list[Tensor]:
        encoder = Encoder(make_backbone(), device=device, precision=precision)
        assert all(p.device.type == device for p in encoder.model.parameters())
        encoder.too_long(prompts)
        return [encoder.encode_text(prompts), encoder.encode_images(images)]

    expected = encode("cpu")
    with pretended_gpu(monkeypatch):
        for mine, other in zip(encode("cuda"), expected, strict=True):
            assert type(mine) is Tensor
            torch.testing.assert_close(mine, other, rtol=0, atol=atol)
