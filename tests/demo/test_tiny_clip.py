"""Training of the tiny CLIP: the loss, the stages, a training that was cut off, and bad input."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from demo import tiny_clip_training
from demo.portraits.__main__ import main as draw
from demo.tiny_clip import main
from demo.tiny_clip_training import contrastive_loss, learning_rate, load_training_part
from safe_io.errors import InputError


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "Portraits"
    draw(["--output-dir", str(folder), "--limit", "80"])
    return folder


def train(folder: Path, output: Path, *options: str, steps: int = 6) -> int:
    return main(
        [
            "--data-dir",
            str(folder),
            "--output",
            str(output),
            "--steps",
            str(steps),
            "--batch-size",
            "8",
            *options,
        ]
    )


def test_loss_is_the_mean_of_both_directions() -> None:
    """CLIP's loss (Radford et al. 2021): cross entropy of each picture over texts, and of each text."""
    rng = torch.Generator().manual_seed(0)
    images, texts = (torch.nn.functional.normalize(torch.randn(5, 4, generator=rng), dim=1) for _ in range(2))
    logits = 3.0 * images @ texts.T
    expected = sum(
        -0.5 / 5 * (rows[i, i] - rows[i].exp().sum().log()) for rows in (logits, logits.T) for i in range(5)
    )
    torch.testing.assert_close(contrastive_loss(images, texts, torch.tensor(3.0)), expected)


def test_learning_rate_rises_then_falls_to_a_hundredth() -> None:
    rates = [learning_rate(step, 100, 1.0) for step in range(100)]
    assert rates[:30] == pytest.approx([(i + 1) / 30 for i in range(30)])
    assert all(a >= b for a, b in itertools.pairwise(rates[29:]))
    assert learning_rate(100, 100, 1.0) == pytest.approx(0.01)


def test_batches_come_from_the_stage_of_the_step(drawn: Path) -> None:
    part = load_training_part(drawn)
    trainer = tiny_clip_training.Trainer(part, steps=8, batch_size=16, lr=1e-3, seed=0)
    wanted = {caption: i // 4 for i, caption in enumerate(part.captions)}
    decode = {tuple(t.tolist()): i // 4 for i, t in enumerate(trainer.tokens)}
    assert len(wanted) > 100
    for step in range(8):
        trainer.step = step
        pictures, tokens = trainer.next_batch()
        assert pictures.shape == (16, 3, 32, 32)
        stages = {part.stages[decode[tuple(t.tolist())]] for t in tokens}
        assert stages == {"reading" if step < 2 else "world"}


def test_a_batch_pairs_pictures_with_their_captions(drawn: Path) -> None:
    part = load_training_part(drawn)
    trainer = tiny_clip_training.Trainer(part, steps=4, batch_size=16, lr=1e-3, seed=0)
    trainer.step = 3
    pictures, tokens = trainer.next_batch()
    for picture, token in zip(pictures, tokens, strict=True):
        owners = {i // 4 for i, t in enumerate(trainer.tokens) if torch.equal(t, token)}
        crops = [
            part.pictures[o][:, y : y + 32, x : x + 32] for o in owners for y in range(5) for x in range(5)
        ]
        assert any(torch.equal(picture, c) or torch.equal(picture, c.flip(2)) for c in crops)


def test_a_training_that_was_cut_off_ends_with_the_same_weights(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny_clip_training, "CHECKPOINT_EVERY", 2)
    assert train(drawn, tmp_path / "whole.pt") == 0
    original, calls = tiny_clip_training.Trainer.train_step, iter(range(100))

    def interrupted(self: tiny_clip_training.Trainer) -> float:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(tiny_clip_training.Trainer, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(drawn, tmp_path / "cut.pt")
    assert not (tmp_path / "cut.pt").exists()
    seen = []
    monkeypatch.setattr(
        tiny_clip_training.Trainer, "train_step", lambda self: (seen.append(self.step), original(self))[1]
    )
    assert train(drawn, tmp_path / "cut.pt") == 0
    assert seen == [4, 5]  # from the checkpoint, not from the start
    whole, cut = (torch.load(tmp_path / f"{n}.pt", weights_only=True) for n in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert not (tmp_path / "cut.pt.checkpoint").exists()


def test_finished_weights_are_kept_and_others_refused(drawn: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "clip.pt"
    train(drawn, output)
    before = output.read_bytes()
    assert train(drawn, output) == 0
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"was trained with other settings \(seed\); --fresh"):
        train(drawn, output, "--seed", "1")
    assert output.read_bytes() == before
    train(drawn, output, "--seed", "1", "--fresh")
    assert output.read_bytes() != before


def test_the_optimizer_is_fused_and_decays_matrices_only(drawn: Path) -> None:
    trainer = tiny_clip_training.Trainer(load_training_part(drawn), steps=4, batch_size=8, lr=1e-3, seed=0)
    matrices, others = trainer.optimizer.param_groups
    assert matrices["fused"]
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.05, 0.0)
    assert {p.ndim >= 2 for p in matrices["params"]} == {True}
    assert {p.ndim >= 2 for p in others["params"]} == {False}


def test_training_lowers_the_loss(drawn: Path) -> None:
    trainer = tiny_clip_training.Trainer(load_training_part(drawn), steps=40, batch_size=16, lr=1e-3, seed=0)
    losses = [trainer.train_step() for _ in range(40)]
    assert np.mean(losses[-8:]) < math.log(16) - 0.15


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "images.npy").unlink(), r"images\.npy not found; draw the dataset first"),
        (lambda f: (f / "captions.csv").unlink(), r"captions\.csv not found; draw the dataset first"),
        (lambda f: (f / "images.npy").write_bytes(b"half"), "is damaged .* draw the dataset again"),
        (
            lambda f: (f / "images.npy").write_bytes((f / "images.npy").read_bytes()[:5000]),
            "is damaged .* draw the dataset again",
        ),
        (
            lambda f: pd.read_csv(f / "captions.csv")[:-1].to_csv(f / "captions.csv", index=False),
            r"captions\.csv does not fit images\.npy \(8 pictures\)",
        ),
        (
            lambda f: (
                pd.read_csv(f / "captions.csv").assign(stage="world").to_csv(f / "captions.csv", index=False)
            ),
            "has no pictures of stage reading",
        ),
    ],
    ids=["no pictures", "no captions", "not an array", "half an array", "a row less", "no reading"],
)
def test_a_damaged_world_is_one_line(tmp_path: Path, damage, message: str) -> None:
    draw(["--output-dir", str(tmp_path / "P"), "--limit", "8"])
    damage(tmp_path / "P" / "train")
    with pytest.raises(InputError, match=message) as error:
        train(tmp_path / "P", tmp_path / "clip.pt")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "clip.pt").exists()


@pytest.mark.parametrize("name", ["steps", "batch-size", "threads"])
def test_bad_options_are_one_line(drawn: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"--{name} must be at least 1, not 0"):
        main(["--data-dir", str(drawn), "--output", str(tmp_path / "c.pt"), f"--{name}", "0"])
