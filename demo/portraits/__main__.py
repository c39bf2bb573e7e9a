"""Draw Portraits, the world of the demo: people with planted, known correlations.

``train/``
    Small pictures (``images.npy``, uint8 (n, 36, 36, 3)), whom they show (``people.csv``), and four captions
    of each (``captions.csv``), on which `demo.tiny_clip` trains. The first quarter is the *reading* stage:
    all attributes are independent, and captions describe appearance. The rest is the biased *world*.
``images/``, ``labels.csv``
    The evaluation part: all attributes are independent, so whatever skew a model shows is the model's.
``validation/``
    The same, drawn with another seed: for calibration, and as the unlabeled images of ZSDebias.
``texts.txt``
    Sentences about people of the fair world, one per line, on which the sparse autoencoder trains.

Usage::

    python -m demo.portraits --output-dir data/Portraits --seed 0
"""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from tqdm import tqdm

from safe_io.command_line import ArgumentParser
from safe_io.errors import InputError, run_main
from safe_io.files import read_json, write_json

if TYPE_CHECKING:
    from demo.portraits.world import World

VERSION = 1
MARKER = "done.json"
FOLDER = Path("data/Portraits")
STAGES = ("reading", "world")
READING_SHARE = 0.25  # of the training pictures, and of the training steps
N_TRAIN, N_HELD_OUT, N_TEXTS = 24_000, 3_000, 24_000
CAPTIONS_PER_PICTURE = 4
# Independent random streams of one seed.
_STREAMS = {"reading": 1, "world": 2, "captions": 3, "texts": 4, "evaluation": 5, "validation": 6}


def stream(seed: int, name: str) -> np.random.Generator:
    """Return the generator of one part."""
    return np.random.default_rng([seed, _STREAMS[name]])


def _words(seed: int, name: str) -> random.Random:
    """Return the generator of words of one part; `random.Random` draws single values ten times as fast."""
    return random.Random(int(stream(seed, name).integers(2**63)))


def _write_training_part(folder: Path, n: int, seed: int, world: World, tick: Callable[[], object]) -> None:
    import pandas as pd

    from demo.portraits.painter import Painter, halve
    from demo.portraits.world import draw_people

    n_reading = round(READING_SHARE * n)
    parts = [
        draw_people(size, stream(seed, stage), world, biased=stage == "world").assign(stage=stage)
        for stage, size in zip(STAGES, (n_reading, n - n_reading), strict=True)
    ]
    people = pd.concat(parts, ignore_index=True)
    folder.mkdir(parents=True)
    people.to_csv(folder / "people.csv", index=False)
    records = people.to_dict("records")
    _write_captions(folder / "captions.csv", records, seed, world)
    painter, rng = Painter(world), np.random.default_rng([seed, 7])
    pictures = np.empty((n, 36, 36, 3), dtype=np.uint8)
    for picture, person in zip(pictures, records, strict=True):
        picture[:] = halve(painter.draw(person, rng))
        tick()
    np.save(folder / "images.npy", pictures)


def _write_captions(path: Path, records: Sequence[Mapping[str, str]], seed: int, world: World) -> None:
    import pandas as pd

    from demo.portraits import captions

    rng = _words(seed, "captions")
    mentions = {"reading": captions.READING_MENTIONS, "world": world.mentions}
    rows = [
        (i, p["stage"], captions.write_caption(captions.choose_facts(p, mentions[p["stage"]], rng), rng))
        for i, p in enumerate(records)
        for _ in range(CAPTIONS_PER_PICTURE)
    ]
    pd.DataFrame(rows, columns=["picture", "stage", "caption"]).to_csv(path, index=False)


def _write_held_out_part(
    folder: Path, n: int, part: str, seed: int, world: World, tick: Callable[[], object]
) -> None:
    from demo.portraits.painter import Painter, crop
    from demo.portraits.world import draw_people

    rng = stream(seed, part)
    people = draw_people(n, rng, world, biased=False)
    people.insert(0, "file_name", [f"{i:05d}.png" for i in range(n)])
    people["blond"] = np.where(people["hair"] == "blond", "blond", "not blond")
    (folder / "images").mkdir(parents=True)
    painter = Painter(world)
    for person in people.to_dict("records"):
        picture = crop(painter.draw(person, rng), rng)
        Image.fromarray(picture).save(folder / "images" / person["file_name"], compress_level=1)
        tick()
    people.to_csv(folder / "labels.csv", index=False)


def text_corpus(n: int, seed: int, world: World) -> list[str]:
    """Write `n` different sentences about people of the fair world.

    Parameters
    ----------
    n : int
        Number of sentences.
    seed : int
        Seed of the generator.
    world : World
        What captions mention, and how often.

    Returns
    -------
    list of str
        The sentences in the order in which they were drawn.
    """
    from demo.portraits import captions
    from demo.portraits.world import draw_people

    people, words = stream(seed, "texts"), _words(seed, "texts")
    sentences: dict[str, None] = {}
    while len(sentences) < n:
        for person in draw_people(n, people, world, biased=False).to_dict("records"):
            facts = captions.choose_facts(person, world.mentions, words)
            sentences[captions.write_caption(facts, words)] = None
    return list(sentences)[:n]


def write_dataset(folder: Path, *, seed: int, limit: int | None, world: World) -> None:
    """Draw all parts into a folder that does not exist yet.

    Parameters
    ----------
    folder : pathlib.Path
        The folder to make.
    seed : int
        Seed of everything.
    limit : int or None
        At most so many pictures and texts of each part (for tests).
    world : World
        Strengths of the planted correlations.
    """
    train, held_out, texts = (min(n, limit or n) for n in (N_TRAIN, N_HELD_OUT, N_TEXTS))
    with tqdm(total=train + 2 * held_out, desc="drawing Portraits", unit="picture") as bar:
        _write_held_out_part(folder, held_out, "evaluation", seed, world, bar.update)
        _write_held_out_part(folder / "validation", held_out, "validation", seed, world, bar.update)
        _write_training_part(folder / "train", train, seed, world, bar.update)
    (folder / "texts.txt").write_text("\n".join(text_corpus(texts, seed, world)) + "\n", encoding="utf-8")


def is_done(folder: Path, settings: Mapping[str, object], *, fresh: bool) -> bool:
    """Say whether a folder already holds the dataset drawn with these settings.

    Parameters
    ----------
    folder : pathlib.Path
        The dataset folder.
    settings : mapping
        What decides the pictures.
    fresh : bool
        Whether an existing dataset is to be replaced.

    Returns
    -------
    bool
        True if there is nothing to do.

    Raises
    ------
    InputError
        The folder holds files that are not this dataset (never replaced), or the dataset drawn with other
        settings (replaced only with `fresh`).
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if not marker.is_file():
        raise InputError(
            f"{folder} exists but is not a finished Portraits folder (no {MARKER}); remove it or choose "
            "another --output-dir"
        )
    if fresh:
        return False
    found = read_json(marker, "record of the drawn dataset")
    if found != dict(settings):
        raise InputError(f"{folder} was drawn with other settings (see {marker}); --fresh draws it again")
    return True


def _replace_folder(new: Path, target: Path) -> None:
    """Replace a folder by a finished one in as few steps as the file system allows."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def build_parser() -> ArgumentParser:
    """Build the command line parser."""
    parser = ArgumentParser(
        prog="python -m demo.portraits",
        description="Draw Portraits, the demo's small world: drawn people with planted, known correlations.",
    )
    parser.add_argument("--output-dir", type=Path, default=FOLDER, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="seed of people, pictures, and captions")
    parser.add_argument("--limit", type=int, help="most pictures and texts of each part (for tests)")
    parser.add_argument("--fresh", action="store_true", help="draw again even if the dataset exists")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the dataset unless it exists."""
    args = build_parser().parse_args(argv)

    from demo.portraits.world import World

    if args.limit is not None and args.limit < 8:
        raise InputError(f"--limit must be at least 8, not {args.limit}")
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, not {args.seed}")
    target, world = args.output_dir, World()
    settings = {"seed": args.seed, "limit": args.limit, "version": VERSION, "world": asdict(world)}
    if is_done(target, settings, fresh=args.fresh):
        print(f"{target} is complete; nothing to do (--fresh draws it again)")
        return 0
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_dataset(partial, seed=args.seed, limit=args.limit, world=world)
    write_json(partial / MARKER, settings)
    _replace_folder(partial, target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
