"""The training behind `demo.tiny_clip`: data, loss, optimizer, and a run that resumes from its checkpoint."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from torch.nn import functional
from tqdm import tqdm

from demo.portraits.__main__ import READING_SHARE, STAGES
from safe_io.errors import InputError
from safe_io.files import load_weights, save_weights

MODEL_CONFIG = Path(__file__).with_name("tiny_clip.json")
MODEL_NAME = MODEL_CONFIG.stem
SIDE = 32  # of what the model sees: a crop of a training picture (36 x 36), shifted at random
WARMUP_STEPS = 30
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)
TOKEN_SCALE = 0.2  # standard deviation of the token embeddings at the start
CHECKPOINT_EVERY = 100


@dataclass(frozen=True)
class TrainingPart:
    """The pictures and captions of `demo.portraits`.

    Attributes
    ----------
    pictures : torch.Tensor of uint8, shape (n, 3, 36, 36)
    captions : list of str
        The same number for each picture, those of one picture next to each other.
    stages : numpy.ndarray of str, shape (n,)
        The stage of each picture, one of `demo.portraits.__main__.STAGES`.
    """

    pictures: torch.Tensor
    captions: list[str]
    stages: np.ndarray

    @property
    def captions_per_picture(self) -> int:
        """How many captions each picture has."""
        return len(self.captions) // len(self.pictures)


def load_training_part(data_dir: Path) -> TrainingPart:
    """Read ``train/images.npy`` and ``train/captions.csv``.

    Raises
    ------
    InputError
        A file is missing or damaged, a stage is empty, or pictures and captions do not fit together.
    """
    folder = data_dir / "train"
    again = "draw the dataset again: python -m demo.portraits --fresh"
    try:
        pictures = np.load(folder / "images.npy", allow_pickle=False)
        table = pd.read_csv(folder / "captions.csv", keep_default_na=False)
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename} not found; draw the dataset first: python -m demo.portraits"
        ) from None
    except (ValueError, EOFError) as error:
        raise InputError(f"{folder} is damaged ({error}); {again}") from None
    n, owner = len(pictures), table.get("picture", pd.Series(dtype=int)).to_numpy()
    each = len(table) // max(n, 1)
    if (
        not n
        or not {"caption", "stage"} <= set(table)
        or not np.array_equal(owner, np.repeat(np.arange(n), each))
    ):
        raise InputError(f"{folder}: captions.csv does not fit images.npy ({n} pictures); {again}")
    if missing := set(STAGES) - set(table["stage"]):
        raise InputError(
            f"{folder / 'captions.csv'} has no pictures of stage {', '.join(sorted(missing))}; {again}"
        )
    images = torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous()
    return TrainingPart(images, table["caption"].tolist(), table["stage"].to_numpy()[::each])


def make_normalizer(model: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the function that scales uint8 images as the model's own preprocessing does."""
    settings = open_clip.get_model_preprocess_cfg(model)
    mean = torch.tensor(settings["mean"]).view(1, 3, 1, 1)
    std = torch.tensor(settings["std"]).view(1, 3, 1, 1)
    return lambda images: (images.float() / 255 - mean) / std


def contrastive_loss(images: torch.Tensor, texts: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """Compute CLIP's symmetric cross entropy.

    Parameters
    ----------
    images, texts : torch.Tensor of shape (batch, d)
        Normalised embeddings; row i of one belongs to row i of the other.
    logit_scale : torch.Tensor
        Scalar that multiplies the cosines.

    Returns
    -------
    torch.Tensor
        The mean of the losses of both directions.
    """
    logits = logit_scale * images @ texts.T
    labels = torch.arange(len(logits))
    to_text, to_image = (functional.cross_entropy(x, labels) for x in (logits, logits.T))
    return (to_text + to_image) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Give the learning rate of a step: a linear warm-up, then a cosine to a hundredth of the peak."""
    if step < WARMUP_STEPS:
        return peak * (step + 1) / WARMUP_STEPS
    progress = (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def make_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    """Make AdamW with decay on weight matrices only, as CLIP does.

    Fused, a step over the table of 49,408 tokens takes 9 ms instead of about 100.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)


def create_model() -> torch.nn.Module:
    """Create the untrained model, without open_clip's warning that it has no pretrained weights."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return open_clip.create_model(MODEL_NAME).to(memory_format=torch.channels_last)
    finally:
        logger.setLevel(level)


def prepare_for_short_training(model: torch.nn.Module) -> None:
    """Change the initial values that open_clip chose for long training of deep towers.

    Residual branches of the image tower start at zero there, and words hardly differ: each costs a tower as
    small as this a hundred steps, which is a fifth of all it gets.
    """
    for name, parameter in model.visual.named_parameters():
        if name.startswith("layer") and name.endswith("bn3.weight"):
            torch.nn.init.ones_(parameter)
    torch.nn.init.normal_(model.token_embedding.weight, std=TOKEN_SCALE)


class Trainer:
    """Model, optimizer, data and random state of one training run.

    Parameters
    ----------
    part : TrainingPart
        Pictures and captions.
    steps, batch_size : int
        Length of the training.
    lr : float
        Peak learning rate.
    seed : int
        Seeds the initial weights and the batches.
    """

    def __init__(self, part: TrainingPart, *, steps: int, batch_size: int, lr: float, seed: int) -> None:
        torch.manual_seed(seed)
        open_clip.add_model_config(MODEL_CONFIG)
        self.model = create_model()
        prepare_for_short_training(self.model)
        self.optimizer = make_optimizer(self.model)
        self.generator = torch.Generator().manual_seed(seed)
        self.part = part
        self.tokens = open_clip.get_tokenizer(MODEL_NAME)(part.captions)
        self.rows = {s: torch.from_numpy(np.flatnonzero(part.stages == s)) for s in STAGES}
        self.normalize = make_normalizer(self.model)
        self.steps, self.batch_size, self.lr, self.step = steps, batch_size, lr, 0

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw pictures (batch, 3, 32, 32), shifted and perhaps mirrored together, and a caption of each."""
        rows = self.rows["reading" if self.step < READING_SHARE * self.steps else "world"]
        chosen = rows[self._random_integers(len(rows), self.batch_size)]
        pictures = self.part.pictures[chosen]
        top, left = self._random_integers(pictures.shape[-1] - SIDE + 1, 2).tolist()
        pictures = pictures[:, :, top : top + SIDE, left : left + SIDE]
        if self._random_integers(2, 1).item():
            pictures = pictures.flip(3)
        each = self.part.captions_per_picture
        return pictures, self.tokens[chosen * each + self._random_integers(each, self.batch_size)]

    def _random_integers(self, high: int, n: int) -> torch.Tensor:
        return torch.randint(high, (n,), generator=self.generator)

    def train_step(self) -> float:
        """Train on one batch and return its loss."""
        pictures, tokens = self.next_batch()
        self.model.train()
        pixels = self.normalize(pictures).contiguous(memory_format=torch.channels_last)
        loss = contrastive_loss(*self.model(pixels, tokens)[:3])
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.steps, self.lr)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.model.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        self.step += 1
        return float(loss.detach())

    def state_dict(self) -> dict[str, Any]:
        """Give all that a later run needs to go on from here."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "batches": self.generator.get_state(),
            "random": torch.get_rng_state(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `state_dict` gave."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["batches"])
        torch.set_rng_state(state["random"])
        self.step = state["step"]


@contextlib.contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Compute with so many threads and deterministic algorithms; put everything back afterwards."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.get_rng_state()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        torch.set_rng_state(before[2])


def train(trainer: Trainer, checkpoint: Path, settings: Mapping[str, Any]) -> None:
    """Train to the end, from the checkpoint if one of the same settings is there.

    Parameters
    ----------
    trainer : Trainer
        A run at its start.
    checkpoint : Path
        Where the state is kept every `CHECKPOINT_EVERY` steps.
    settings : mapping
        What decides the weights; a checkpoint of other settings is ignored.
    """
    if checkpoint.is_file():
        state = load_weights(checkpoint, make="start over with --fresh")
        if state.get("settings") == dict(settings):
            trainer.load_state_dict(state)
    with tqdm(total=trainer.steps, initial=trainer.step, desc="training tiny CLIP", unit="step") as bar:
        while trainer.step < trainer.steps:
            loss = trainer.train_step()
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)
            bar.update()
            if trainer.step % CHECKPOINT_EVERY == 0 and trainer.step < trainer.steps:
                save_weights(checkpoint, {**trainer.state_dict(), "settings": dict(settings)})
