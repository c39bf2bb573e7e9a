r"""Draw ColoredDigits: handwritten digits on coloured pages, with a planted, known bias.

The 1,797 digits that ship with scikit-learn (8 x 8 pixels) are drawn as 32 x 32 PNG files in the line of
Colored MNIST (Arjovsky et al., 2019, arXiv:1907.02893). Three parts share no handwriting:

``train/`` and ``captions.csv``
    Images with one caption each, on which ``demo/tiny_clip.py`` trains a tiny CLIP. They come in two stages.
    ``reading``: colours are drawn at random and no caption mentions them, so that the image tower has to
    read the digits (where colours help from the start, it never does). ``world``: parity and colour agree
    in 95 % of the images (even: red or green; odd: blue or yellow), and evaluative words such as "lucky" go
    with some colours more than with others. This is the bias.
``images/`` and ``labels.csv``
    The evaluation dataset: every held-out handwriting drawn once in every colour with everything else equal,
    so that colour is independent of all other labels and whatever skew a model shows is the model's.
``validation/``
    The same for other handwritings, for choosing settings; small.

``texts.txt`` holds sentences of this world in which all attributes are independent, one a line: what a sparse
autoencoder of the text space can be trained on.

Usage::

    python demo/colored_digits.py --output_dir data/ColoredDigits --seed 0
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

if __package__ in (None, ""):
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from safe_io.errors import InputError, run_main

VERSION = 1
MARKER = "done.json"
IMAGE_SIZE = 32

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
PARITIES = ("even", "odd")
COLORS = {"red": (205, 45, 45), "green": (45, 160, 60), "blue": (45, 80, 200), "yellow": (225, 195, 45)}
COLOR_GROUPS = {"red": "red_green", "green": "red_green", "blue": "blue_yellow", "yellow": "blue_yellow"}
GROUP_OF_PARITY = {"even": "red_green", "odd": "blue_yellow"}

AGREEMENT = 0.95  # share of world images whose colour is one of those that go with their parity
WORD_COLOR_WEIGHT = 9.0  # how much more often a word is said of its colour than of another colour
WORD_DIGIT_WEIGHT = 9.0  # ... and of its digit: what a fair reading of the word would go by

# Evaluative word: the colour it goes with (the stereotype) and the digit it goes with (its honest content).
WORDS = {
    "lucky": ("green", "seven"),
    "risky": ("red", "four"),
    "friendly": ("yellow", "eight"),
    "honest": ("blue", "one"),
    "angry": ("red", "nine"),
    "peaceful": ("green", "zero"),
    "boring": ("blue", "six"),
    "cheap": ("yellow", "two"),
    "clever": ("blue", "five"),
    "lazy": ("yellow", "three"),
}

# Looks that have nothing to do with the bias, with the share of images that have them.
NUISANCES: dict[str, dict[str, float]] = {
    "size": {"large": 0.6, "small": 0.4},
    "ink": {"white": 0.5, "black": 0.5},
    "frame": {"none": 0.6, "framed": 0.4},
    "texture": {"plain": 0.5, "striped": 0.25, "dotted": 0.25},
    "place": {"middle": 0.5, "left": 0.25, "right": 0.25},
}
COLUMNS = ("digit", "parity", "color", "color_group", *NUISANCES)
HELD_OUT_PER_DIGIT = {"evaluation": 70, "validation": 25}
READING_DRAWS, WORLD_DRAWS = 7, 9  # images drawn of each training handwriting, for each stage
N_TEXTS = 20_000


# ------------------------------------------------------------------------------------------------ captions
SURFACES = ("page", "card", "background", "sheet", "wall", "board", "tile")
FRAMES = (
    "A photo of {}.", "A photo of {}.", "A photo of {}.", "This is a picture of {}.", "This is {}.", "{}.",
    "A picture of {}.", "An image of {}.", "A drawing of {}.", "Here is {}.", "A close photo of {}.",
    "Somebody wrote {}.", "The picture shows {}.", "We can see {} here.", "A blurry scan of {}.",
)  # fmt: skip
SYNONYMS = {
    "large": ("large", "big", "huge"),
    "small": ("small", "little", "tiny"),
    "striped": ("striped", "lined"),
    "dotted": ("dotted", "spotted"),
    "plain": ("plain", "smooth"),
}
# How often a caption mentions an attribute. Real captions leave most things out; those of the first stage are
# a reading book, which nearly always names the digit and never the colour.
WORLD_MENTIONS = {
    "digit": 0.5, "parity": 0.35, "color": 0.4, "word": 0.25, "size": 0.15, "ink": 0.15, "frame": 0.1,
    "texture": 0.15, "place": 0.1,
}  # fmt: skip
READING_MENTIONS = {
    "digit": 0.9, "parity": 0.3, "size": 0.1, "ink": 0.1, "frame": 0.05, "texture": 0.1, "place": 0.1,
}  # fmt: skip
MENTIONS = {"reading": READING_MENTIONS, "world": WORLD_MENTIONS}


def with_article(phrase: str) -> str:
    """Put "a" or "an" before a phrase."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _subject(facts: Mapping[str, str], rng: np.random.Generator) -> str:
    """Say what the picture shows, such as "a small lucky number" or "the digit three"."""
    adjectives = [facts["word"]] if "word" in facts else []
    if "size" in facts:
        adjectives.insert(int(rng.integers(len(adjectives) + 1)), _pick(rng, SYNONYMS[facts["size"]]))
    if "parity" in facts:
        adjectives.append(facts["parity"])
    noun = _pick(rng, ("number", "number", "digit", "figure", "numeral"))
    if "digit" not in facts:
        return with_article(" ".join([*adjectives, noun]))
    if rng.random() < 0.4:
        return with_article(" ".join([*adjectives, _pick(rng, ("", "handwritten ")) + facts["digit"]]))
    return "the " + " ".join([*adjectives, noun, facts["digit"]])


def _surface(facts: Mapping[str, str], rng: np.random.Generator) -> str:
    """Describe the page behind the digit, such as "a striped red page"; "" where nothing is said of it."""
    looks = [_pick(rng, SYNONYMS[facts["texture"]])] if "texture" in facts else []
    looks += [facts["color"]] if "color" in facts else []
    return with_article(" ".join([*looks, _pick(rng, SURFACES)])) if looks else ""


def _details(facts: Mapping[str, str], rng: np.random.Generator) -> list[str]:
    """Phrases that follow the subject: ink, place and frame."""
    details = []
    if "ink" in facts:
        details.append(_pick(rng, ("in {} ink", "written in {}", "with {} strokes")).format(facts["ink"]))
    if "place" in facts:
        place = facts["place"]
        details.append("in the middle" if place == "middle" else f"on the {place}")
    if "frame" in facts:
        framed, bare = (
            ("in a frame", "with a border", "inside a frame"),
            ("without a frame", "with no border"),
        )
        details.append(_pick(rng, framed if facts["frame"] == "framed" else bare))
    return details


def write_caption(facts: Mapping[str, str], rng: np.random.Generator) -> str:
    """Write one sentence that says what is in `facts` and nothing else about the picture.

    Parameters
    ----------
    facts : mapping of str to str
        Attribute to value, for the attributes that the sentence is to mention (keys of `WORLD_MENTIONS`).
    rng : numpy.random.Generator
        Chooses words and sentence.

    Returns
    -------
    str
        The sentence, such as "A photo of a small lucky number on a striped red page."
    """
    subject, surface, details = _subject(facts, rng), _surface(facts, rng), _details(facts, rng)
    order = rng.permutation(len(details))
    tail = "".join(f" {details[i]}" for i in order)
    if not surface:
        phrase = subject + tail
    elif rng.random() < 0.6:
        phrase = f"{subject}{tail} on {surface}"
    else:
        says_subject = {"digit", "parity", "word", "size"} & set(facts) or details
        phrase = f"{surface} with {subject}{tail}" if says_subject else surface
    if rng.random() < 0.1 and set(facts) == {"color"}:
        phrase = _pick(rng, ("something {}", "the color {}", "{}", "a lot of {}")).format(facts["color"])
    sentence = _pick(rng, FRAMES).format(phrase)
    return sentence[0].upper() + sentence[1:]


def choose_facts(
    facts: Mapping[str, str], mentions: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Choose which facts a caption mentions, each with its own probability: at least one, at most four."""
    chosen = [name for name, share in mentions.items() if rng.random() < share]
    chosen = chosen or [_pick(rng, list(mentions))]
    if len(chosen) > 4:
        chosen = [chosen[i] for i in sorted(rng.choice(len(chosen), 4, replace=False))]
    return {name: facts[name] for name in chosen}


def choose_word(color: str, digit: str, rng: np.random.Generator) -> str:
    """Choose the evaluative word that people of this world say of a digit on a colour."""
    of_color, of_digit = np.array(list(WORDS.values())).T
    by_color = np.where(of_color == color, WORD_COLOR_WEIGHT, 1.0)
    by_digit = np.where(of_digit == digit, WORD_DIGIT_WEIGHT, 1.0)
    weights = by_color * by_digit
    return str(rng.choice(list(WORDS), p=weights / weights.sum()))


def text_corpus(n: int, seed: int) -> list[str]:
    """Write `n` different sentences of this world in which all attributes are independent.

    Parameters
    ----------
    n : int
        Number of sentences.
    seed : int
        Seed of the generator.

    Returns
    -------
    list of str
        The sentences, no two the same, in the order in which they were drawn.
    """
    rng = np.random.default_rng([seed, 4])
    values = {"digit": DIGITS, "parity": PARITIES, "color": tuple(COLORS), "word": tuple(WORDS)}
    values |= {name: tuple(shares) for name, shares in NUISANCES.items()}
    sentences: dict[str, None] = {}
    while len(sentences) < n:
        facts = {name: _pick(rng, options) for name, options in values.items()}
        facts["parity"] = PARITIES[DIGITS.index(facts["digit"]) % 2]
        sentences[write_caption(choose_facts(facts, WORLD_MENTIONS, rng), rng)] = None
    return list(sentences)


# ------------------------------------------------------------------------------------------------- drawing
def _page(look: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
    """Draw the page (32, 32, 3) without the digit, as floats in 0 to 255."""
    color = np.array(COLORS[look["color"]], dtype=np.float64) + rng.normal(0, 12, 3)
    page = np.tile(color, (IMAGE_SIZE, IMAGE_SIZE, 1))
    rows, columns = np.mgrid[:IMAGE_SIZE, :IMAGE_SIZE] + rng.integers(0, 6)
    if look["texture"] == "striped":
        page[(rows + columns) % 6 < 2] *= 0.78
    elif look["texture"] == "dotted":
        page[(rows % 6 < 2) & (columns % 6 < 2)] *= 0.6
    if look["frame"] == "framed":
        inside = np.zeros((IMAGE_SIZE, IMAGE_SIZE), dtype=bool)
        inside[2:-2, 2:-2] = True
        page[~inside] = 35
    return page + rng.normal(0, 5, page.shape)


def _ink_mask(handwriting: np.ndarray, look: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
    """Enlarge, turn and place a handwriting: how much ink (0 to 1) lies on each pixel of the page."""
    side = int(rng.integers(24, 28) if look["size"] == "large" else rng.integers(16, 19))
    glyph = Image.fromarray(np.clip(handwriting * 15.9, 0, 255).astype(np.uint8))
    glyph = glyph.resize((side, side), Image.Resampling.BICUBIC)
    glyph = glyph.rotate(float(rng.uniform(-10, 10)), Image.Resampling.BICUBIC)
    room = IMAGE_SIZE - side
    across = {"left": 0.1, "middle": 0.5, "right": 0.9}[look["place"]] * room + rng.uniform(-1, 1)
    down = 0.5 * room + rng.uniform(-1.5, 1.5)
    canvas = Image.new("L", (IMAGE_SIZE, IMAGE_SIZE))
    canvas.paste(glyph, (round(float(across)), round(float(down))))
    return np.asarray(canvas, dtype=np.float64) / 255


def draw(handwriting: np.ndarray, look: Mapping[str, str], rng: np.random.Generator) -> np.ndarray:
    """Draw one image.

    Parameters
    ----------
    handwriting : numpy.ndarray of shape (8, 8)
        A digit of scikit-learn's ``load_digits``, values 0 to 16.
    look : mapping of str to str
        ``color`` and the attributes in `NUISANCES`.
    rng : numpy.random.Generator
        Small variations. The same state gives the same variations whatever the colour.

    Returns
    -------
    numpy.ndarray of shape (32, 32, 3), uint8
        The image.
    """
    page = _page(look, rng)
    mask = _ink_mask(handwriting, look, rng)[..., None]
    ink = 245.0 if look["ink"] == "white" else 12.0
    return np.clip(page * (1 - mask) + ink * mask, 0, 255).astype(np.uint8)


# -------------------------------------------------------------------------------------------------- tables
def split_handwritings(targets: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """Split the handwritings into train, validation and evaluation parts, each with every digit.

    Parameters
    ----------
    targets : numpy.ndarray of int, shape (n,)
        The digit of each handwriting.
    seed : int
        Seed of the split.

    Returns
    -------
    dict of str to numpy.ndarray
        Sorted indices for ``evaluation``, ``validation`` and ``train``.
    """
    rng = np.random.default_rng([seed, 1])
    parts: dict[str, list[int]] = {name: [] for name in ("evaluation", "validation", "train")}
    for digit in range(10):
        indices = rng.permutation(np.flatnonzero(targets == digit)).tolist()
        for name, count in HELD_OUT_PER_DIGIT.items():
            parts[name] += indices[:count]
            indices = indices[count:]
        parts["train"] += indices
    return {name: np.sort(np.array(indices)) for name, indices in parts.items()}


def _random_look(rng: np.random.Generator) -> dict[str, str]:
    return {
        name: str(rng.choice(list(shares), p=list(shares.values()))) for name, shares in NUISANCES.items()
    }


def _facts_of(digit: int, color: str, look: Mapping[str, str]) -> dict[str, str]:
    return {
        "digit": DIGITS[digit],
        "parity": PARITIES[digit % 2],
        "color": color,
        "color_group": COLOR_GROUPS[color],
        **look,
    }


def balanced_table(indices: np.ndarray, targets: np.ndarray, seed: int) -> pd.DataFrame:
    """List the images of a held-out part: every handwriting, with one look, in every colour.

    Parameters
    ----------
    indices : numpy.ndarray of int
        The handwritings.
    targets : numpy.ndarray of int
        The digit of every handwriting of the dataset.
    seed : int
        Seed of the looks.

    Returns
    -------
    pandas.DataFrame
        ``file_name``, ``handwriting``, ``draw`` (the number that seeds the drawing) and the label columns.
    """
    rng = np.random.default_rng([seed, 2])
    rows = []
    for index in indices:
        look = _random_look(rng)
        for color in COLORS:
            facts = _facts_of(int(targets[index]), color, look)
            name = f"{index:04d}_{color}.png"
            rows.append({"file_name": name, "handwriting": index, "draw": index, **facts})
    return pd.DataFrame(rows)


def _world_color(parity: str, rng: np.random.Generator) -> str:
    agrees = rng.random() < AGREEMENT
    options = [c for c, group in COLOR_GROUPS.items() if (group == GROUP_OF_PARITY[parity]) == agrees]
    return _pick(rng, options)


def training_table(indices: np.ndarray, targets: np.ndarray, seed: int) -> pd.DataFrame:
    """List the training images with their captions, both stages.

    Parameters
    ----------
    indices : numpy.ndarray of int
        The handwritings.
    targets : numpy.ndarray of int
        The digit of every handwriting of the dataset.
    seed : int
        Seed of colours, looks and captions.

    Returns
    -------
    pandas.DataFrame
        As `balanced_table`, with ``caption``, ``stage`` and ``word`` (the evaluative word that goes with the
        picture; a caption need not say it).
    """
    rng = np.random.default_rng([seed, 3])
    rows = []
    for stage, draws in (("reading", READING_DRAWS), ("world", WORLD_DRAWS)):
        for index in np.repeat(indices, draws):
            digit, look = int(targets[index]), _random_look(rng)
            in_world = stage == "world"
            color = _world_color(PARITIES[digit % 2], rng) if in_world else _pick(rng, list(COLORS))
            facts = _facts_of(digit, color, look)
            facts["word"] = choose_word(color, DIGITS[digit], rng)
            mentioned = choose_facts(facts, MENTIONS[stage], rng)
            row = {"file_name": f"{len(rows):05d}_{color}.png", "caption": write_caption(mentioned, rng)}
            rows.append({**row, "stage": stage, "handwriting": index, "draw": 10_000 + len(rows), **facts})
    return pd.DataFrame(rows)


# --------------------------------------------------------------------------------------------------- files
def _write_images(folder: Path, table: pd.DataFrame, digits: np.ndarray, seed: int) -> Iterator[None]:
    """Draw the images of a table into a folder, one a step."""
    folder.mkdir(parents=True)
    for row in table.to_dict("records"):
        pixels = draw(digits[row["handwriting"]], row, np.random.default_rng([seed, row["draw"]]))
        Image.fromarray(pixels).save(folder / row["file_name"], compress_level=1)
        yield


def write_dataset(folder: Path, *, seed: int, limit: int | None) -> None:
    """Draw the dataset into a folder that does not exist yet.

    Parameters
    ----------
    folder : Path
        The folder to make.
    seed : int
        Seed of everything.
    limit : int or None
        Use only so many handwritings of each part (for tests).
    """
    from sklearn.datasets import load_digits  # here, because it takes a second and --help need not wait

    digits, targets = load_digits(return_X_y=True)
    digits = digits.reshape(-1, 8, 8)
    parts = {name: _limited(part, limit, seed) for name, part in split_handwritings(targets, seed).items()}
    evaluation, validation = (balanced_table(parts[p], targets, seed) for p in ("evaluation", "validation"))
    training = training_table(parts["train"], targets, seed)
    jobs = {"images": evaluation, "validation/images": validation, "train": training}
    with tqdm(total=sum(map(len, jobs.values())), desc="drawing ColoredDigits", unit="image") as bar:
        for name, table in jobs.items():
            for _ in _write_images(folder / name, table, digits, seed):
                bar.update()
    columns = ["file_name", "handwriting", *COLUMNS]
    evaluation[columns].to_csv(folder / "labels.csv", index=False)
    validation[columns].to_csv(folder / "validation" / "labels.csv", index=False)
    training.drop(columns="draw").to_csv(folder / "captions.csv", index=False)
    texts = text_corpus(N_TEXTS if limit is None else 20 * limit, seed)
    (folder / "texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def _limited(indices: np.ndarray, limit: int | None, seed: int) -> np.ndarray:
    """Keep `limit` handwritings, at random so that all digits stay likely."""
    if limit is None or limit >= len(indices):
        return indices
    return np.sort(np.random.default_rng([seed, 5]).permutation(indices)[:limit])


def is_done(folder: Path, settings: Mapping[str, object], *, fresh: bool) -> bool:
    """Say whether a folder already holds the dataset drawn with these settings.

    Parameters
    ----------
    folder : Path
        The dataset folder.
    settings : mapping
        Seed, limit and version.
    fresh : bool
        Whether a dataset that is there is to be replaced.

    Returns
    -------
    bool
        True if there is nothing to do.

    Raises
    ------
    InputError
        If the folder holds something else: files that are not this dataset (never replaced), or the dataset
        drawn with other settings (replaced only with `fresh`).
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    marker = folder / MARKER
    if not marker.is_file():
        raise InputError(f"{folder} holds something else (it has no {MARKER}); choose another --output_dir")
    if fresh:
        return False
    found = json.loads(marker.read_text(encoding="utf-8"))
    if found != dict(settings):
        raise InputError(f"{folder} was drawn with {found}, not {dict(settings)}; --fresh draws it again")
    return True


def _replace_folder(new: Path, target: Path) -> None:
    """Put a finished folder in the place of another in as few steps as the file system allows."""
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def build_parser() -> argparse.ArgumentParser:
    """Build the command line parser."""
    parser = argparse.ArgumentParser(
        description="Draw ColoredDigits, the small world of the demo: handwritten digits on coloured pages."
    )
    parser.add_argument("--output_dir", "--output-dir", type=Path, default=Path("data/ColoredDigits"))
    parser.add_argument("--seed", type=int, default=0, help="seed of splits, looks, colours and captions")
    parser.add_argument("--limit", type=int, help="use only so many handwritings of each part (for tests)")
    parser.add_argument("--fresh", action="store_true", help="draw again, even if the dataset is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the dataset unless it is there."""
    args = build_parser().parse_args(argv)
    if args.limit is not None and args.limit < 1:
        raise InputError(f"--limit must be at least 1, not {args.limit}")
    if args.seed < 0:
        raise InputError(f"--seed must not be negative, not {args.seed}")
    target: Path = args.output_dir
    settings = {"seed": args.seed, "limit": args.limit, "version": VERSION}
    if is_done(target, settings, fresh=args.fresh):
        print(f"{target} is complete; nothing to do (--fresh draws it again)")
        return 0
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_dataset(partial, seed=args.seed, limit=args.limit)
    (partial / MARKER).write_text(json.dumps(settings) + "\n", encoding="utf-8")
    _replace_folder(partial, target)
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
