"""ZSDebias bias corpora: what is shipped, and how a corpus expands."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bias_evaluation.grid.configs import load_dataset_config
from bias_evaluation.prompts.bias_corpora import load_corpus
from safe_io.checkout import ROOT
from safe_io.errors import InputError

CONFIG = ROOT / "config"
SHIPPED = CONFIG / "zsdebias" / "default.yml"


def words(kind: str) -> dict[str, list[str]]:
    return yaml.safe_load(SHIPPED.read_text())[kind]["words"]


def test_the_shipped_file_has_the_corpora_that_settings_name() -> None:
    names = ("celeba", "fairface", "utkface", "waterbirds")
    configs = [load_dataset_config(CONFIG / f"{name}.yml") for name in names]
    kinds = {setting.zsdebias for config in configs for setting in config.settings.values()}
    assert kinds == {"human", "animal"}
    assert all(load_corpus(SHIPPED, kind) for kind in kinds)


def test_human_corpus_is_prefixes_by_terms_with_and_without_an_article() -> None:
    corpus, parts = load_corpus(SHIPPED, "human"), words("human")
    terms = parts["gender"] + [f"{a} {p}" for a in parts["ancestry"] for p in parts["person"]]
    an = {term: ("an " if term[0] in "aeiouAEIOU" else "a ") + term for term in terms}
    expected = {f"{prefix} {t}" for prefix in parts["prefix"] for term in terms for t in (term, an[term])}
    assert len(corpus) == len(set(corpus)) == 2 * len(parts["prefix"]) * len(terms)
    assert set(corpus) == expected


def test_human_corpus_covers_every_class_of_the_datasets() -> None:
    corpus = [f" {sentence.lower()} " for sentence in load_corpus(SHIPPED, "human")]
    for dataset in ("celeba", "fairface", "utkface"):
        for setting in load_dataset_config(CONFIG / f"{dataset}.yml").settings.values():
            for value in setting.bias.values:
                name = "hispanic" if value.lower().startswith("latino") else value.lower()
                assert any(f" {name} " in sentence for sentence in corpus), value


def test_animal_corpus_is_prefixes_by_backgrounds_as_written_and_lower_cased() -> None:
    corpus, parts = load_corpus(SHIPPED, "animal"), words("animal")
    written = [f"{prefix} {place}" for prefix in parts["prefix"] for place in parts["background"]]
    assert corpus == written + [sentence.lower() for sentence in written]
    assert len(set(corpus)) == len(corpus)


def test_a_corpus_holds_each_sentence_once(tmp_path: Path) -> None:
    path = tmp_path / "corpora.yml"
    path.write_text(
        "pet:\n  also_lower_case: true\n  words: {pet: [cat, ape]}\n"
        "  frames: ['a {pet}', '{a_pet}', 'A {pet}']\n"
    )
    assert load_corpus(path, "pet") == ["a cat", "a ape", "an ape", "A cat", "A ape"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("animal: {frames: [x]}", "unknown bias corpus 'pet'; choose from: animal"),
        ("pet: {words: {pet: [cat]}}", "pet: the key 'frames' is missing"),
        ("pet: {frames: ['{dog}'], words: {pet: [cat]}}", "unknown placeholder 'dog'; choose from: pet"),
        ("pet: {frames: [x], also_lower_case: yes please}", "'also_lower_case' must be true or false"),
        ("pet: {frames: [x], lower: true}", "unknown key 'lower'"),
        ("pet: [x]", "pet: a mapping is needed"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "corpora.yml"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_corpus(path, "pet")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"bias corpora not found: .*gone\.yml"):
        load_corpus(tmp_path / "gone.yml", "human")
