"""The release's prompt files, installed as a prompt set: read as they are.

A set in this form has the folders `query_templates/` and `prompt_templates/` and the file
`diverse_prompts.json`. Keys of methods and kinds are the release's.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bias_evaluation.grid.methods import published_name
from bias_evaluation.prompts.sentences import (
    MethodPrompts,
    PromptGroup,
    SettingPrompts,
    with_attribute_prompts,
)
from debiasing_methods.registry import METHODS
from safe_io.documents import Section, as_strings, describe, unknown
from safe_io.errors import InputError
from safe_io.files import read_json

DIVERSE = "diverse_prompts.json"


def is_official(folder: Path) -> bool:
    """Whether a prompt set has the release's form."""
    return (folder / "query_templates").is_dir() or (folder / "prompt_templates").is_dir()


def load_official(folder: Path, setting: str) -> SettingPrompts:
    """Load one setting of the release.

    Parameters
    ----------
    folder : pathlib.Path
        The prompt set.
    setting : str
        ``<query type>_<bias>`` of a query template, or the class setting of a prompt template.

    Returns
    -------
    SettingPrompts

    Raises
    ------
    InputError
        A file is missing, is not JSON or lacks a key.
    """
    path = folder / DIVERSE  # only some methods need it: they say so where it is missing
    diverse = as_strings(read_json(path, "diverse prompts"), str(path)) if path.is_file() else ()
    queries = folder / "query_templates" / f"{setting}_query_templates.json"
    classes = folder / "prompt_templates" / f"{setting}_prompt_templates.json"
    if queries.is_file():
        return SettingPrompts(read_query_templates(queries), diverse, str(queries))
    if classes.is_file():
        return SettingPrompts((read_class_templates(classes, setting),), diverse, str(classes))
    raise InputError(
        f"prompt set '{folder.name}' has no setting '{setting}': neither {queries} nor {classes} exists"
    )


def read_query_templates(path: Path) -> tuple[PromptGroup, ...]:
    """Read a query template file, one group a query; raises as `load_official` does."""
    entries = Section(read_json(path, "query templates"), str(path))
    groups = [_retrieval_group(name, entries.section(name)) for name in entries]
    if not groups:
        raise InputError(f"{path} has no query")
    return with_attribute_prompts(groups)


def read_class_templates(path: Path, setting: str) -> PromptGroup:
    """Read the prompt template file of a class setting; raises as `load_official` does."""
    group = _class_group(setting, Section(read_json(path, "prompt templates"), str(path)))
    [group] = with_attribute_prompts([group])
    return group


def _retrieval_group(name: str, section: Section) -> PromptGroup:
    query = section.take("query", str)
    return PromptGroup(name, (query,), MethodPrompts(), _by_method(section.section("extra prompts")))


def _class_group(setting: str, section: Section) -> PromptGroup:
    """Make the one group of a zero-shot classification; its class prompts are part of the protocol."""
    if setting not in CLASS_PROMPTS:
        raise unknown("class setting", setting, list(CLASS_PROMPTS), section.where)
    overrides = _by_method(section.section("extra prompts"))
    return PromptGroup(setting, CLASS_PROMPTS[setting], MethodPrompts(), overrides)


# The release's files leave the class prompts out; they are the protocol's (see docs).
CLASS_PROMPTS = {
    "celeba_blond_hair_gender": (
        "A photo of a celebrity with dark hair.",
        "A photo of a celebrity with blond hair.",
    ),
    "waterbirds": ("This is a picture of a landbird.", "This is a picture of a waterbird."),
}


# Methods that the release does not have take its prompts of the same kind: method → kind → lender.
_BORROWED = {
    "cfd": {"augmentations": "bendvlm", "bias_prompts": "sem-b"},
    "leace": {"bias_prompts": "sem-b"},
    "sfid": {"bias_prompts": "sem-b"},
    "debiaslens-e": {"bias_prompts": "sem-b"},
}


def _by_method(section: Section) -> dict[str, dict[str, Any]]:
    """Kinds of prompts for every result name, from the release's key of the method."""
    published = {key: _kinds(section.section(key)) for key in section}
    spelled = {name: published_name(name).method for name in METHODS}
    found = {name: published[key] for name, key in spelled.items() if key in published}
    borrowed = {
        method: {kind: found[lender][kind] for kind, lender in kinds.items() if kind in found.get(lender, {})}
        for method, kinds in _BORROWED.items()
    }
    return found | {method: kinds for method, kinds in borrowed.items() if kinds}


def _kinds(section: Section) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for key, kind in (
        ("spurious prompts", "spurious"),
        ("candidate prompts", "candidates"),
        ("augmentations", "augmentations"),
    ):
        if key in section:
            kinds[kind] = section.strings(key)
    if "S" in section:
        kinds["candidate_pairs"] = tuple(_pair(p, int, section.where) for p in section.take("S", list))
    for key, kind in (("harmful prompts", "harmful"), ("helpful prompts", "helpful")):
        if key in section:
            kinds[kind] = tuple(_pair(p, str, section.where) for p in section.take(key, list))
    if "extra class prompts" in section:
        lists = section.take("extra class prompts", list)
        kinds["paraphrases"] = tuple(
            as_strings(entry, f"{section.where}: extra class prompts") for entry in lists
        )
    if "bias prompts" in section:
        kinds["bias_prompts"] = _strings_by_class(section.take("bias prompts", dict), section.where)
    section.finish()
    return kinds


def _pair(value: Any, kind: type, where: str) -> tuple[Any, Any]:
    if not isinstance(value, list) or [type(entry) for entry in value] != [kind, kind]:
        what = "texts" if kind is str else "whole numbers"
        raise InputError(f"{where}: pairs of {what} are needed, found {describe(value)}")
    return value[0], value[1]


def _strings_by_class(value: Mapping[str, Any], where: str) -> dict[str, tuple[str, ...]]:
    return {
        str(name): as_strings(prompts, f"{where}: bias prompts of '{name}'")
        for name, prompts in value.items()
    }
