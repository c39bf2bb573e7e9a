"""Text sets that PRISM's maps are trained on: scenes, and descriptions of target and bias classes.

Two forms are read from a folder. The release's: `{retrieval,zs_classification}/<setting>.json`, one text set
a file. Ours: YAML files of families of settings, where each text stands once:

- `bias`: bias attribute → bias class → its descriptions.
- `families`: for each its `task`, the name of a `setting`, the `bias` attributes it is made for, `scenes`,
  the target `classes`, and `targets`: name → one list of descriptions a class. In the name of a setting and
  of a class `{target}` stands for the name under `targets` (in a setting with hyphens for spaces), and in
  the name of a setting `{bias}` for the attribute.

In a scene `{target}` and `{bias}` stand for a description of either class.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safe_io.documents import Section, as_strings, read_yaml, unknown
from safe_io.errors import InputError
from safe_io.files import read_json

TASKS = ("retrieval", "zs_classification")
_FOLDERS = " or ".join(f"{task}/" for task in TASKS)
Descriptions = Mapping[str, tuple[str, ...]]
_TARGET, _BIAS = "{target}", "{bias}"
_A_BEFORE_VOWEL = re.compile(r"\ba\s+(?=[aeiou])", re.IGNORECASE)


@dataclass(frozen=True)
class PrismTextSet:
    """What one setting's sentences are made of.

    Attributes
    ----------
    scene_descriptions : tuple of str
        Sentences that hold both placeholders.
    target_classes, bias_classes : tuple of str
        Class names, in the order of their indices.
    target_class_descriptions, bias_class_descriptions : mapping of str to tuple of str
        For each class, the words that stand for it in a scene; at least one.
    target_placeholder, bias_placeholder : str
        What a scene holds in their place.

    Raises
    ------
    InputError
        A scene does not hold each placeholder once, or the classes are fewer than two, not distinct, or not
        those that are described.
    """

    scene_descriptions: tuple[str, ...]
    target_classes: tuple[str, ...]
    bias_classes: tuple[str, ...]
    target_class_descriptions: Descriptions
    bias_class_descriptions: Descriptions
    target_placeholder: str
    bias_placeholder: str

    def __post_init__(self) -> None:
        """Check that scenes hold both placeholders and that every class is described."""
        for scene in self.scene_descriptions:
            for placeholder in (self.target_placeholder, self.bias_placeholder):
                if scene.count(placeholder) != 1:
                    raise InputError(f"the scene '{scene}' must hold {placeholder} once")
        for kind, classes, descriptions in (
            ("target", self.target_classes, self.target_class_descriptions),
            ("bias", self.bias_classes, self.bias_class_descriptions),
        ):
            if len(classes) < 2 or len(set(classes)) < len(classes) or set(classes) != set(descriptions):
                raise InputError(
                    f"{kind} classes must be two or more different names with descriptions for each, "
                    f"found the classes {list(classes)} and descriptions for {list(descriptions)}"
                )

    def sentences(self) -> list[str]:
        """All distinct sentences that the set can form, in a fixed order."""
        targets = [d for name in self.target_classes for d in self.target_class_descriptions[name]]
        biases = [d for name in self.bias_classes for d in self.bias_class_descriptions[name]]
        combinations = itertools.product(self.scene_descriptions, targets, biases)
        return list(dict.fromkeys(fill_scene(s, t, b, self) for s, t, b in combinations))


Named = tuple[tuple[str, str], str, PrismTextSet]  # (task, setting), where it is written, the set


def fill_scene(scene: str, target: str, bias: str, text_set: PrismTextSet) -> str:
    """Write a scene with a description of a target class and one of a bias class.

    Parameters
    ----------
    scene : str
        One of the set's scene descriptions.
    target, bias : str
        Descriptions that replace the placeholders.
    text_set : PrismTextSet
        Names the placeholders.

    Returns
    -------
    str
        The sentence. "a" before a, e, i, o, u has become "an" (lower case, also at the beginning), and white
        space single spaces, as in the published training.
    """
    filled = scene.replace(text_set.target_placeholder, target).replace(text_set.bias_placeholder, bias)
    return " ".join(_A_BEFORE_VOWEL.sub("an ", filled).split())


def load_text_sets(folder: Path) -> dict[tuple[str, str], PrismTextSet]:
    """Load all text sets of a folder, of both forms.

    Parameters
    ----------
    folder : pathlib.Path
        ``config/prism/<name>``.

    Returns
    -------
    dict
        (task, setting) → text set; tasks in the order of `TASKS`, then in the order of files and of their
        contents.

    Raises
    ------
    InputError
        The folder does not exist or holds no text set, a file is not well formed, or two sets have one name.
    """
    if not folder.is_dir():
        found = sorted(p.name for p in folder.parent.glob("*") if p.is_dir())
        raise unknown("PRISM text sets", folder.name, found, str(folder.parent))
    sets: dict[tuple[str, str], PrismTextSet] = {}
    for name, where, text_set in itertools.chain(_json_files(folder), _yaml_files(folder)):
        if name in sets:
            raise InputError(f"{where}: a second text set '{name[1]}' for {name[0]}")
        sets[name] = text_set
    if not sets:
        raise InputError(f"{folder} holds no PRISM text sets: no YAML file, and no JSON file in {_FOLDERS}")
    return {name: sets[name] for task in TASKS for name in sets if name[0] == task}


def _made(where: str, **parts: Any) -> PrismTextSet:
    """Make a text set; its complaint gets the file's name."""
    try:
        return PrismTextSet(**parts)
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _descriptions(section: Section) -> dict[str, tuple[str, ...]]:
    return {name: section.strings(name) for name in section}


def _json_files(folder: Path) -> Iterator[Named]:
    """Every text set in the release's form."""
    for task in TASKS:
        for path in sorted((folder / task).glob("*.json")):
            yield (task, path.stem), str(path), read_text_set(path)


def read_text_set(path: Path) -> PrismTextSet:
    """Read one file in the release's form; raises as `load_text_sets` does."""
    top = Section(read_json(path, "PRISM text set"), str(path))
    parts = {
        "scene_descriptions": top.strings("scene descriptions"),
        "target_classes": top.strings("target classes"),
        "bias_classes": top.strings("bias classes"),
        "target_class_descriptions": _descriptions(top.section("target class descriptions")),
        "bias_class_descriptions": _descriptions(top.section("bias class descriptions")),
        "target_placeholder": top.take("target placeholder", str),
        "bias_placeholder": top.take("bias placeholder", str),
    }
    top.finish()
    return _made(str(path), **parts)


def _yaml_files(folder: Path) -> Iterator[Named]:
    """Every text set of the families in YAML files."""
    for path in sorted(folder.glob("*.yml")):
        top = Section(read_yaml(path, "PRISM text sets"), str(path))
        attributes, families = top.section("bias"), top.section("families")
        biases = {name: _descriptions(attributes.section(name)) for name in attributes}
        top.finish()
        for family in families:
            yield from _family(families.section(family), biases)


def _family(section: Section, biases: Mapping[str, Descriptions]) -> Iterator[Named]:
    """Every target of a family with every bias attribute."""
    task, setting = section.choice("task", TASKS), section.take("setting", str)
    scenes, classes = section.strings("scenes"), section.strings("classes")
    attributes = section.strings("bias")
    targets = section.section("targets")
    lists = {name: _lists(targets, name, classes) for name in targets}
    section.finish()
    for target, attribute in itertools.product(lists, attributes):
        if attribute not in biases:
            raise unknown("bias attribute", attribute, list(biases), section.where)
        names = tuple(name.replace(_TARGET, target) for name in classes)
        where = f"{section.where}: '{target}'"
        text_set = _made(
            where,
            scene_descriptions=scenes,
            target_classes=names,
            bias_classes=tuple(biases[attribute]),
            target_class_descriptions=dict(zip(names, lists[target], strict=True)),
            bias_class_descriptions=biases[attribute],
            target_placeholder=_TARGET,
            bias_placeholder=_BIAS,
        )
        name = setting.replace(_TARGET, target.replace(" ", "-")).replace(_BIAS, attribute)
        yield (task, name), where, text_set


def _lists(targets: Section, name: str, classes: tuple[str, ...]) -> list[tuple[str, ...]]:
    """One list of descriptions a class."""
    where = f"{targets.where}: '{name}'"
    lists = targets.take(name, list)
    if len(lists) != len(classes):
        raise InputError(f"{where}: one list a class is needed ({', '.join(classes)}), found {len(lists)}")
    return [as_strings(entry, where) for entry in lists]
