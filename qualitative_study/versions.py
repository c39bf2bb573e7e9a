"""The embeddings of the qualitative study: sentences about subjects, in several debiased versions.

Symbols: P subjects, B bias values, d embedding dimension. Every version is an array (B + 1, P, d) of unit
vectors: the sentences with each bias value and, last, the neutral ones.

A version is a text method by its result name, or ``sem-b-neutral``: SEM_b whose concept score is taken of the
neutral sentence of the same subject, while the latents that it modulates are the sentence's own. That is how
the published study uses SEM_b; ``sem-b`` is the method as the evaluation uses it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.grid import methods as method_names
from bias_evaluation.grid.configs import Backbone, DatasetConfig, load_dataset_config
from bias_evaluation.prompts.sentences import MethodPrompts, SettingPrompts
from bias_evaluation.prompts.setting_prompts import load_setting_prompts
from bias_evaluation.prompts.study_config import Qualitative, StudyConfig, load_study_config
from bias_evaluation.weights.build import build_method
from bias_evaluation.weights.find import sae_file
from bias_evaluation.weights.kinds import SAE
from bias_evaluation.weights.read import load_sae
from debiasing_methods.base import DebiasingMethod, QueryGroup
from debiasing_methods.linalg import unit
from debiasing_methods.registry import METHODS
from qualitative_study.options import NEUTRAL_CONCEPT
from safe_io.documents import choices, unknown
from safe_io.errors import InputError
from safe_io.files import sha256_file, sha256_json

_PROMPTS = {"spurious", "candidates", "paraphrases", "bias_prompts", "diverse"}  # that the study writes


def version_names() -> list[str]:
    """Versions that need nothing but text and an SAE: such methods, and the study's own way of SEM_b."""
    text = [
        name
        for name, method in METHODS.items()
        if (method.changes_text or name == "vanilla")
        and not method.needs_reference
        and method.weights in (None, SAE.name)
        and method.needs <= _PROMPTS
    ]
    return [*text, NEUTRAL_CONCEPT]


def display_name(version: str) -> str:
    """Name of a version in figures and tables."""
    if version == NEUTRAL_CONCEPT:
        return "SEM_b, neutral concept"
    return method_names.display_name(version)


@dataclass(frozen=True)
class Sentences:
    """The sentences of the study.

    Attributes
    ----------
    grid : tuple of tuple of str, (B + 1, P)
        With each bias value, last the neutral ones.
    paraphrases : dict
        Sentence → other wordings of it.
    """

    grid: tuple[tuple[str, ...], ...]
    paraphrases: dict[str, tuple[str, ...]]

    @classmethod
    def expand(cls, study: Qualitative, subjects: Sequence[str]) -> Sentences:
        """Expand the config's frames for all subjects."""
        grid = tuple(zip(*(study.wordings(study.query, subject) for subject in subjects), strict=True))
        paraphrases = {}
        for p, subject in enumerate(subjects):
            wordings = zip(*(study.wordings(frame, subject) for frame in study.paraphrases), strict=True)
            paraphrases |= {row[p]: tuple(own) for row, own in zip(grid, wordings, strict=True)}
        return cls(grid, paraphrases)


class VersionMaker:
    """Makes the versions of one backbone.

    Parameters
    ----------
    config : StudyConfig
    backbone : Backbone
    store : TextStore
        Text embeddings of the backbone.
    prompts : str
        Name of the prompt set that gives bias prompts and diverse prompts.
    sae : pathlib.Path, optional
        SAE weights, instead of those that SEM looks for.
    """

    def __init__(
        self, config: StudyConfig, backbone: Backbone, store: TextStore, prompts: str, sae: Path | None = None
    ) -> None:
        self.config, self.backbone, self.store = config, backbone, store
        self.study = config.qualitative
        self.sentences = Sentences.expand(self.study, config.subjects)
        self._dataset, self._prompts = _setting_prompts(config, prompts)
        self._sae = sae_file(config.root, prompts, backbone, sae)

    @property
    def bias_attribute(self) -> str:
        """Name of the bias attribute of the study's setting."""
        return self._dataset.settings[self.study.setting].bias_attribute

    def make(self, versions: Sequence[str]) -> dict[str, Tensor]:
        """Debias all sentences in some versions.

        Parameters
        ----------
        versions : sequence of str
            Names of `version_names`.

        Returns
        -------
        dict
            Name → Tensor of shape (B + 1, P, d), float32, unit rows.
        """
        for version in versions:
            _check_version(version)
        self.store.ensure(list(chain.from_iterable(self._needed(version) for version in versions)))
        return {version: self._version(version) for version in versions}

    def digests(self, versions: Sequence[str]) -> dict[str, str]:
        """Digests of what the versions are made from."""
        with_sae = any(_method(version).weights == SAE.name for version in versions)
        options = {version: self._options(version) for version in versions}
        return {
            "sentences": sha256_json([self._needed(version) for version in versions]),
            "options": sha256_json(options),
            "text": self.store.digest,
            "weights": sha256_file(self._sae.path) if with_sae else "",
        }

    def _options(self, version: str) -> dict[str, Any]:
        """Options of a version's method, as the evaluation uses them for the setting's bias attribute."""
        name = _method(version).name
        methods = self._dataset.methods
        return methods[name].options_for(self.bias_attribute) if name in methods else {}

    def _for_method(self, version: str) -> MethodPrompts:
        """Prompts of the dataset's setting; of these only the bias prompts are used."""
        method = _method(version)
        self._prompts.check_for(method.name, method.needs & {"bias_prompts", "diverse"})
        return self._prompts.groups[0].for_method(method.name, method.needs & {"bias_prompts"})

    def _needed(self, version: str) -> list[str]:
        needs = _method(version).needs
        found = list(chain.from_iterable(self.sentences.grid))
        found += self.study.spurious if "spurious" in needs else ()
        found += chain.from_iterable(self.sentences.paraphrases.values()) if "paraphrases" in needs else ()
        found += self._prompts.diverse if "diverse" in needs else ()
        return [*found, *self._for_method(version).sentences()]

    def _version(self, version: str) -> Tensor:
        cls, options = _method(version), self._options(version)
        with_sae = cls.weights == SAE.name
        method = build_method(
            cls,
            options,
            where=version,
            weights=load_sae(self._sae.path, dim=self.backbone.dim, make=self._sae.make)
            if with_sae
            else None,
            diverse=self.store.embed(self._prompts.diverse) if "diverse" in cls.needs else None,
        )
        grid = self.sentences.grid
        debiased = method.debias_text(self._groups(version))
        return unit(torch.cat(debiased)).reshape(len(grid), len(grid[0]), -1)

    def _groups(self, version: str) -> list[QueryGroup]:
        """One group a sentence, in the order of the grid; what groups share are the same tensors."""
        grid, needs, embed = self.sentences.grid, _method(version).needs, self.store.embed
        raw = torch.stack([embed(row) for row in grid])  # (B + 1, P, d)
        bias_prompts = tuple(embed(texts) for texts in self._for_method(version).bias_prompts.values())
        spurious = embed(self.study.spurious) if "spurious" in needs else None
        return [
            QueryGroup(
                queries=raw[b, p, None],
                name=sentence,
                spurious=spurious,
                candidates=raw[:-1, p] if "candidates" in needs else None,
                paraphrases=(embed(self.sentences.paraphrases[sentence]),) if "paraphrases" in needs else (),
                bias_prompts=bias_prompts,
                concepts=raw[-1, p, None] if version == NEUTRAL_CONCEPT else None,
            )
            for b, row in enumerate(grid)
            for p, sentence in enumerate(row)
        ]


def _method(version: str) -> type[DebiasingMethod]:
    return METHODS["sem-b" if version == NEUTRAL_CONCEPT else version]


def _check_version(version: str) -> None:
    names = version_names()
    if version in METHODS and version not in names:
        raise InputError(
            f"--versions: {version} needs more than text and an SAE (images, or maps trained for its "
            f"queries), so the study has no version of it; choose from: {choices(names)}"
        )
    if version not in names:
        raise unknown("version", version, names, "--versions")


def _setting_prompts(config: StudyConfig, prompts: str) -> tuple[DatasetConfig, SettingPrompts]:
    dataset = load_dataset_config(config.root / "config" / f"{config.qualitative.dataset}.yml")
    setting = config.qualitative.setting
    if setting not in dataset.settings:
        raise unknown("setting", setting, list(dataset.settings), str(config.path))
    return dataset, load_setting_prompts(dataset, dataset.settings[setting], prompts)


def open_maker(args: argparse.Namespace) -> VersionMaker:
    """Make a `VersionMaker` of what the command line names."""
    config = load_study_config(args.config)
    backbone = config.backbone(args.backbone or config.qualitative.backbone)
    cache = (args.data_root or config.root / "data") / "text_embeddings"
    store = TextStore(backbone, cache, device=args.device, given=args.text_embeddings)
    args.versions = list(dict.fromkeys(args.versions))
    return VersionMaker(config, backbone, store, args.prompts, args.sae)
