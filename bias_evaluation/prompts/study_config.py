"""The configs of the two studies, `config/studies/*.yml`, and the sentences that they expand to.

In a sentence `{subject}` stands for what it is about (a profession, a digit) and `{bias}` for a value of a
bias attribute; `{a_subject}` and `{a_bias}` put "a" or "an" before the words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bias_evaluation.grid.configs import Backbone, choose_backbone, load_backbones, project_root
from bias_evaluation.prompts.sentences import expand_frames
from safe_io.documents import Section, read_yaml, unknown
from safe_io.errors import InputError

_SLOT = re.compile(r"\{(?:a_)?(\w+)\}")


@dataclass(frozen=True)
class ProbeSentences:
    """The sentences of the disentanglement study for one bias attribute: template → bias value → subject.

    Attributes
    ----------
    sentences : tuple of str
    subjects, biases : tuple of int
        For each sentence the codes of its subject and bias value.
    """

    sentences: tuple[str, ...]
    subjects: tuple[int, ...]
    biases: tuple[int, ...]


@dataclass(frozen=True)
class Qualitative:
    """What the qualitative study asks for.

    Attributes
    ----------
    backbone : str
        Name of the backbone, where the command line names no other.
    dataset, setting : str
        The dataset config and setting whose bias prompts and diverse prompts the SEM methods use.
    biases : tuple of str
        Values of the bias attribute.
    query : str
        The sentence, with `{described}`.
    biased, neutral : str
        What stands for `{described}`, with a bias value and without one.
    spurious, paraphrases : tuple of str
        Spurious prompts as they are; other wordings of the sentence, with `{described}`.
    """

    backbone: str
    dataset: str
    setting: str
    biases: tuple[str, ...]
    query: str
    biased: str
    neutral: str
    spurious: tuple[str, ...]
    paraphrases: tuple[str, ...]

    def wordings(self, frame: str, subject: str) -> tuple[str, ...]:
        """One frame about a subject: with each bias value, and last the neutral one."""
        described = [next(_fill(self.biased, subject=subject, bias=bias)) for bias in self.biases] + [
            next(_fill(self.neutral, subject=subject))
        ]
        return tuple(next(_fill(frame, described=words)) for words in described)


@dataclass(frozen=True)
class StudyConfig:
    """A world of sentences for the studies.

    Attributes
    ----------
    path : pathlib.Path
        The config file: ``<root>/config/studies/<name>.yml``.
    backbones : mapping
        Name → `Backbone`.
    subject : str
        What the subjects are, such as "profession".
    subjects : tuple of str
    biases : mapping
        Bias attribute → its values (disentanglement study).
    templates : tuple of str
        Sentences with a slot for the subject and one for the bias value.
    qualitative : Qualitative
    """

    path: Path
    backbones: Mapping[str, Backbone]
    subject: str
    subjects: tuple[str, ...]
    biases: Mapping[str, tuple[str, ...]]
    templates: tuple[str, ...]
    qualitative: Qualitative

    @property
    def root(self) -> Path:
        """The project root: the folder that holds `config/`."""
        return project_root(self.path.parent)

    def backbone(self, name: str) -> Backbone:
        """Find a backbone of this config, or one that needs no entry (`grid.configs.choose_backbone`)."""
        return choose_backbone(name, self.backbones, str(self.path))

    def probe_sentences(self, bias: str) -> ProbeSentences:
        """Every template with every value of a bias attribute and every subject."""
        if bias not in self.biases:
            raise unknown("bias attribute", bias, list(self.biases), str(self.path))
        rows = [
            (next(_fill(template, subject=subject, bias=value)), s, b)
            for template in self.templates
            for b, value in enumerate(self.biases[bias])
            for s, subject in enumerate(self.subjects)
        ]
        sentences, subjects, biases = zip(*rows, strict=True)
        if len(set(sentences)) < len(sentences):
            double = next(s for i, s in enumerate(sentences) if s in sentences[:i])
            raise InputError(
                f"{self.path}: the sentence '{double}' comes about twice; reword a template or a name"
            )
        return ProbeSentences(sentences, subjects, biases)


def _fill(template: str, **words: str) -> Iterator[str]:
    """Expand one template with one word for each slot."""
    section = {"frames": [template], "words": {name: [word] for name, word in words.items()}}
    return expand_frames(Section(section, f"template '{template}'"))


def load_study_config(path: Path | str) -> StudyConfig:
    """Read the config of a world for the studies.

    Parameters
    ----------
    path : path-like
        ``config/studies/<name>.yml``.

    Returns
    -------
    StudyConfig

    Raises
    ------
    InputError
        The file is missing or not YAML; a key is unknown or missing; a name stands twice; a bias attribute
        has fewer than two values; a template lacks a slot.
    """
    path = Path(path).resolve()
    top = Section(read_yaml(path, "study config"), str(path))
    available = load_backbones(path.parent.parent / "backbones.yml")
    names = top.strings("backbones")
    for name in names:
        if name not in available:
            raise unknown("backbone", name, list(available), str(path))
    subject, subjects = top.take("subject", str), _distinct(top, "subjects")
    probes = top.section("disentanglement")
    attributes = probes.section("biases")
    templates = _distinct(probes, "templates")
    config = StudyConfig(
        path=path,
        backbones={name: available[name] for name in names},
        subject=subject,
        subjects=subjects,
        biases={name: _distinct(attributes, name) for name in attributes},
        templates=templates,
        qualitative=_qualitative(top.section("qualitative")),
    )
    probes.finish()
    top.finish()
    for template in templates:
        _need_slots(template, {"subject", "bias"}, probes.where)
    return config


def _distinct(section: Section, key: str) -> tuple[str, ...]:
    """Take a list of at least two texts, no two the same."""
    values = section.strings(key)
    double = next((v for i, v in enumerate(values) if v in values[:i]), None)
    if double is not None:
        raise InputError(f"{section.where}: '{double}' stands twice in '{key}'")
    if len(values) < 2:
        raise InputError(f"{section.where}: '{key}' needs at least two values, found one: {values[0]}")
    return values


def _need_slots(template: str, slots: set[str], where: str) -> None:
    """Raise where a template does not have exactly these slots."""
    if set(_SLOT.findall(template)) != slots:
        needed = " and ".join(f"{{{slot}}}" for slot in sorted(slots))
        raise InputError(f"{where}: '{template}' must have {needed}, or the same with a_, and no other slot")


def _qualitative(section: Section) -> Qualitative:
    described = section.section("described")
    found = Qualitative(
        backbone=section.take("backbone", str),
        dataset=section.take("dataset", str),
        setting=section.take("setting", str),
        biases=_distinct(section, "biases"),
        query=section.take("query", str),
        biased=described.take("biased", str),
        neutral=described.take("neutral", str),
        spurious=section.strings("spurious"),
        paraphrases=section.strings("paraphrases"),
    )
    described.finish()
    section.finish()
    for frame in (found.query, *found.paraphrases):
        _need_slots(frame, {"described"}, section.where)
    _need_slots(found.biased, {"subject", "bias"}, described.where)
    _need_slots(found.neutral, {"subject"}, described.where)
    return found
