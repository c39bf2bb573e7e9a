r"""Train the demo's tiny CLIP on Portraits with the ordinary contrastive loss.

The model is built by open_clip from ``demo/tiny_clip.json`` (a small ResNet for images, a small transformer
for captions). The result is a plain state dict, so it can be used like any other open_clip model::

    open_clip.add_model_config("demo/tiny_clip.json")
    model = open_clip.create_model("tiny_clip", pretrained="data/Portraits/tiny_clip_0.pt")

Training goes through the stages of ``captions.csv`` in order: first ``reading``, where all attributes are
independent and captions describe appearance, then the biased ``world``. Without the first stage the short
training ends before the model can tell a woman from a man.

A run that is stopped continues from its last checkpoint and ends with the same weights. One thread by
default: the number of threads changes the order of floating-point sums, so the weights would depend on the
machine.

Usage::

    python -m demo.tiny_clip --data-dir data/Portraits --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main
from safe_io.files import read_json, save_weights, sha256_file, write_text

if TYPE_CHECKING:
    import torch


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Collect what decides the weights: options, model config and training data."""
    from demo.tiny_clip_training import MODEL_CONFIG

    files = (MODEL_CONFIG, args.data_dir / "train" / "captions.csv", args.data_dir / "train" / "images.npy")
    digest = hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()
    options = {name: getattr(args, name) for name in ("steps", "batch_size", "lr", "seed", "threads")}
    return {**options, "data": digest[:16]}


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
    import open_clip
    import torch

    versions = {"torch": torch.__version__, "open_clip": open_clip.__version__}
    record = json.dumps({"settings": dict(settings), "versions": versions}, indent=1)
    # The weights last: while they are missing, the run counts as unfinished.
    output.unlink(missing_ok=True)
    write_text(output.with_suffix(".json"), record + "\n")
    save_weights(output, {name: tensor.contiguous() for name, tensor in model.state_dict().items()})


def build_parser() -> ArgumentParser:
    """Build the command line parser."""
    parser = ArgumentParser(
        prog="python -m demo.tiny_clip", description="Train the demo's tiny CLIP on Portraits."
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data/Portraits"))
    parser.add_argument("--output", type=Path, help="weights to write (default: DATA_DIR/tiny_clip_SEED.pt)")
    parser.add_argument("--steps", type=int, default=1150)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="another number gives slightly other weights")
    parser.add_argument("--fresh", action="store_true", help="train from the start, replacing what exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train the model unless its weights exist."""
    args = build_parser().parse_args(argv)

    from demo.tiny_clip_training import Trainer, load_training_part, reproducible, train

    for name in ("steps", "batch_size", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(args, name)}")
    output: Path = args.output or args.data_dir / f"tiny_clip_{args.seed}.pt"
    part = load_training_part(args.data_dir)
    settings = settings_of(args)
    checkpoint = output.with_name(output.name + ".checkpoint")
    if args.fresh:
        checkpoint.unlink(missing_ok=True)
    elif is_done(output, settings):
        print(f"{output} is trained; nothing to do (--fresh trains it again)")
        return 0
    options = {name: getattr(args, name) for name in ("steps", "batch_size", "lr", "seed")}
    output.parent.mkdir(parents=True, exist_ok=True)
    with reproducible(args.threads):
        trainer = Trainer(part, **options)
        train(trainer, checkpoint, settings)
    write_weights(trainer.model, output, settings)
    checkpoint.unlink(missing_ok=True)
    print(f"wrote {output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
