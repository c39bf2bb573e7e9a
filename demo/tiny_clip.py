r"""Train the demo's tiny CLIP on ColoredDigits with the ordinary contrastive loss.

The model is built by open_clip from ``demo/tiny_clip.json`` (a small ResNet for images, a small transformer
for captions). The result is a plain state dict, so that anyone can use it like any other open_clip model::

    open_clip.add_model_config("demo/tiny_clip.json")
    model = open_clip.create_model("tiny_clip", pretrained="data/ColoredDigits/tiny_clip.pt")

Training goes through the stages of ``captions.csv`` in order: first ``reading``, where colours are random and
no caption mentions them, then ``world``, where colour and parity go together. Without the first stage the
model finds the colours, which are easier, and never learns to read.

A run that is stopped goes on from its last checkpoint and ends with the same weights. One thread by default:
the number of threads changes the order of floating-point sums, so weights would depend on the machine; and at
this size more threads gain little, and lose much where other programs use the cores.

Usage::

    python demo/tiny_clip.py --data_dir data/ColoredDigits --output data/ColoredDigits/tiny_clip.pt
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import open_clip
import pandas as pd
import torch
from PIL import Image
from torch.nn import functional
from tqdm import tqdm

from safe_io.errors import InputError, run_main
from safe_io.files import load_weights, read_json, save_weights, write_text

MODEL_CONFIG = Path(__file__).with_name("tiny_clip.json")
MODEL_NAME = MODEL_CONFIG.stem
STAGES = ("reading", "world")
READING_SHARE = 0.3  # of the steps
WARMUP_STEPS = 30
WEIGHT_DECAY = 0.05
MAX_LOGIT_SCALE = math.log(100)
TOKEN_SCALE = 0.2  # standard deviation of the token embeddings at the start
CHECKPOINT_EVERY = 100


def load_captions(data_dir: Path) -> pd.DataFrame:
    """Read ``captions.csv``.

    Parameters
    ----------
    data_dir : Path
        The ColoredDigits folder.

    Returns
    -------
    pandas.DataFrame
        One row a training image, with at least ``file_name``, ``caption`` and ``stage``.

    Raises
    ------
    InputError
        If the file is not there, or a stage has no images.
    """
    path = data_dir / "captions.csv"
    if not path.is_file():
        raise InputError(f"{path} not found; draw the dataset first: python demo/colored_digits.py")
    table = pd.read_csv(path)
    missing = set(STAGES) - set(table["stage"])
    if missing:
        raise InputError(f"{path} has no images of stage {', '.join(sorted(missing))}")
    return table


def load_images(folder: Path, names: Sequence[str]) -> torch.Tensor:
    """Read PNG files into one uint8 tensor (n, 3, height, width)."""
    pixels = [np.asarray(Image.open(folder / name).convert("RGB")) for name in names]
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()


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
    """Make AdamW with decay on weight matrices only, as CLIP does."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6)


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
    captions : pandas.DataFrame
        The table that `load_captions` reads.
    images : torch.Tensor of uint8, shape (n, 3, 32, 32)
        The images of its rows.
    steps, batch_size : int
        Length of the training.
    lr : float
        Peak learning rate.
    seed : int
        Seeds the initial weights and the batches.
    """

    def __init__(
        self,
        captions: pd.DataFrame,
        images: torch.Tensor,
        *,
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
    ) -> None:
        torch.manual_seed(seed)
        open_clip.add_model_config(MODEL_CONFIG)
        self.model = open_clip.create_model(MODEL_NAME).to(memory_format=torch.channels_last)
        prepare_for_short_training(self.model)
        self.optimizer = make_optimizer(self.model)
        self.generator = torch.Generator().manual_seed(seed)
        self.images = images
        self.tokens = open_clip.get_tokenizer(MODEL_NAME)(captions["caption"].tolist())
        self.rows = {s: torch.from_numpy(np.flatnonzero(captions["stage"] == s)) for s in STAGES}
        self.normalize = make_normalizer(self.model)
        self.steps, self.batch_size, self.lr, self.step = steps, batch_size, lr, 0

    def train_step(self) -> float:
        """Train on one batch and return its loss."""
        rows = self.rows["reading" if self.step < READING_SHARE * self.steps else "world"]
        batch = rows[torch.randint(len(rows), (self.batch_size,), generator=self.generator)]
        self.model.train()
        output = self.model(self.normalize(self.images[batch]), self.tokens[batch])
        loss = contrastive_loss(*output[:3])
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


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Collect what decides the weights: options, model config and training data."""
    digest = hashlib.sha256(MODEL_CONFIG.read_bytes())
    digest.update((args.data_dir / "captions.csv").read_bytes())
    options = {name: getattr(args, name) for name in ("steps", "batch_size", "lr", "seed", "threads")}
    return {**options, "data": digest.hexdigest()[:16]}


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


def is_done(output: Path, settings: Mapping[str, Any]) -> bool:
    """Say whether the weights are there; the settings they were trained with lie in a file beside them.

    Parameters
    ----------
    output : Path
        The weights.
    settings : mapping
        What `settings_of` gave.

    Returns
    -------
    bool
        True if there is nothing to do.

    Raises
    ------
    InputError
        If the weights there were trained with other settings.
    """
    if not output.is_file():
        return False
    record = output.with_suffix(".json")
    document = read_json(record, "record of a training") if record.is_file() else {}
    found = document.get("settings", {}) if isinstance(document, dict) else {}
    differing = [name for name, value in settings.items() if found.get(name) != value]
    if differing:
        raise InputError(
            f"{output} was trained with other settings ({', '.join(differing)}); --fresh trains it again"
        )
    return True


def write_weights(model: torch.nn.Module, output: Path, settings: Mapping[str, Any]) -> None:
    """Write the state dict and, beside it, what it was trained with."""
    versions = {"torch": torch.__version__, "open_clip": open_clip.__version__}
    record = json.dumps({"settings": dict(settings), "versions": versions}, indent=1)
    # The weights last: while they are missing, the run counts as unfinished.
    output.unlink(missing_ok=True)
    write_text(output.with_suffix(".json"), record + "\n")
    save_weights(output, {name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def build_parser() -> argparse.ArgumentParser:
    """Build the command line parser."""
    parser = argparse.ArgumentParser(description="Train the demo's tiny CLIP on ColoredDigits.")
    parser.add_argument("--data_dir", "--data-dir", type=Path, default=Path("data/ColoredDigits"))
    parser.add_argument("--output", type=Path, help="weights to write (default: DATA_DIR/tiny_clip.pt)")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--batch_size", "--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number gives slightly other weights")
    parser.add_argument("--fresh", action="store_true", help="train from the start, whatever is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train the model unless its weights are there."""
    args = build_parser().parse_args(argv)
    for name in ("steps", "batch_size", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} must be at least 1, not {getattr(args, name)}")
    output: Path = args.output or args.data_dir / "tiny_clip.pt"
    captions = load_captions(args.data_dir)
    settings = settings_of(args)
    checkpoint = output.with_name(output.name + ".checkpoint")
    if args.fresh:
        checkpoint.unlink(missing_ok=True)
    elif is_done(output, settings):
        print(f"{output} is trained; nothing to do (--fresh trains it again)")
        return 0
    images = load_images(args.data_dir / "train", captions["file_name"].tolist())
    options = {name: getattr(args, name) for name in ("steps", "batch_size", "lr", "seed")}
    output.parent.mkdir(parents=True, exist_ok=True)
    with reproducible(args.threads):
        trainer = Trainer(captions, images, **options)
        train(trainer, checkpoint, settings)
    write_weights(trainer.model, output, settings)
    checkpoint.unlink(missing_ok=True)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
