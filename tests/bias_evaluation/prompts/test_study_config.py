"""The configs of the studies: those that are shipped, and mistakes in others."""

from __future__ import annotations

import pytest

from bias_evaluation.prompts.study_config import StudyConfig, load_study_config
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIGS = ROOT / "config" / "studies"


@pytest.fixture(scope="module")
def people() -> StudyConfig:
    return load_study_config(CONFIGS / "people.yml")


def test_the_study_has_the_papers_size(people: StudyConfig) -> None:
    assert len(people.templates) == 20
    assert len(people.subjects) == 100
    assert set(people.backbones) == {"ViT-B-16", "ViT-L-14@336px", "RN50", "RN101"}
    for bias, size in (("gender", 4_000), ("ethnicity", 14_000)):
        found = people.probe_sentences(bias)
        assert len(set(found.sentences)) == len(found.sentences) == size
        assert set(found.subjects) == set(range(100))
        assert set(found.biases) == set(range(len(people.biases[bias])))


def test_every_sentence_says_its_labels(people: StudyConfig) -> None:
    found = people.probe_sentences("ethnicity")
    for sentence, subject, bias in zip(found.sentences, found.subjects, found.biases, strict=True):
        assert people.subjects[subject] in sentence
        assert people.biases["ethnicity"][bias] in sentence
        assert not any(wrong in sentence for wrong in (" a East", " a Indian", " an Black", "{", "}"))


def test_the_sentences_of_the_qualitative_study(people: StudyConfig) -> None:
    study = people.qualitative
    assert study.wordings(study.query, "actor") == (
        "A photo of a female actor.",
        "A photo of a male actor.",
        "A photo of an actor.",
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[low, middle, high]", "[low]", r"biases: 'height' needs at least two values, found one: low"),
        ("[low, middle, high]", "[low, low]", r"'low' stands twice in 'height'"),
        ("The {bias} {subject} waits.", "The {subject} waits.", r"must have \{bias\} and \{subject\}"),
        ("The {bias} {subject} waits.", "A {subject} on the {bias}.", r"stands twice in 'templates'"),
        ("[baker, pilot, painter, actor, judge, cook]", "[baker]", r"'subjects' needs at least two values"),
        ("backbones: [toy]", "backbones: [tiny]", r"unknown backbone 'tiny'; choose from: toy"),
        ("subject: job", "subject: job\nsubjekt: x", r"unknown key 'subjekt'"),
        ("query: A photo of {a_described}.", "query: A photo.", r"must have \{described\}"),
    ],
)
def test_mistakes_are_one_line_that_names_them(
    study_world, tmp_path, old: str, new: str, message: str
) -> None:
    folder = tmp_path / "config"
    (folder / "studies").mkdir(parents=True)
    (folder / "backbones.yml").write_text((study_world.root / "config" / "backbones.yml").read_text())
    text = study_world.config.read_text()
    assert old in text
    (folder / "studies" / "toy.yml").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        load_study_config(folder / "studies" / "toy.yml")
    assert "\n" not in str(error.value)


def test_two_ways_to_one_sentence_are_an_error(study_world, tmp_path) -> None:
    folder = tmp_path / "config"
    (folder / "studies").mkdir(parents=True)
    (folder / "backbones.yml").write_text((study_world.root / "config" / "backbones.yml").read_text())
    text = study_world.config.read_text().replace("baker, pilot", "low baker, baker")
    text = text.replace("[low, middle, high]", "[low, low low]").replace(
        "The {bias} {subject} waits.", "'{bias} {subject}'"
    )
    (folder / "studies" / "toy.yml").write_text(text)
    with pytest.raises(InputError, match="the sentence 'low low baker' comes about twice"):
        load_study_config(folder / "studies" / "toy.yml").probe_sentences("height")
