"""The grid as data: backbones, methods, and one file a dataset, parsed into checked, typed objects.

The folder that holds `config/` is the project root: `config/<dataset>.yml` finds `backbones.yml` and
`methods.yml` beside it, prompts in `config/prompts/`, weights in `<root>/debiasing_methods/<kind>_weights/`.
"""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bias_evaluation.grid.backbone import Backbone
from bias_evaluation.grid.direct_backbones import FORMS, describe_direct, is_direct
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from safe_io.checkout import CONFIG, IS_CHECKOUT
from safe_io.documents import Section, check_distinct, choices, describe, read_yaml, unknown
from safe_io.errors import InputError

if TYPE_CHECKING:
    from debiasing_methods.base import DebiasingMethod

TASKS = ("retrieval", "zs_classification")
DATASETS = (
    "celeba",
    "fairface",
    "utkface",
    "waterbirds",
    "coco",
    "facet",
    "imagenet100",
    "lfw",
    "portraits",
)
PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""Precision of a model, as commands and records name it → torch's name of the type."""
SEEDS: tuple[int, ...] = (0, 1, 2)
"""Seeds of the seeded methods in the paper's suite."""
PIXEL_KEYS = (
    "mean",
    "std",
    "interpolation",
    "resize_mode",
)  # how images become pixels, as open_clip calls it
# Constructor arguments that are weights or texts, not options of a config.
_NOT_OPTIONS = ("sae", "diverse", "maps", "vae", "seed")


@dataclass(frozen=True)
class MethodConfig:
    """A method with its options.

    Attributes
    ----------
    name : str
        Result name.
    options : mapping
        Keyword arguments of the method's constructor.
    by_bias_attribute : mapping
        Options that differ for some bias attributes.
    seeds : tuple of int
        Seeds of a trained method; empty for the others.
    sae : pathlib.Path or None
        File of the sparse autoencoder, where it is not to be looked for by its name.
    prism : PrismHyperparameters or None
        How PRISM's maps were trained, where it is not as ``prism_training.yml`` says.
    """

    name: str
    options: Mapping[str, Any]
    by_bias_attribute: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    sae: Path | None = None
    prism: PrismHyperparameters | None = None

    def options_for(self, bias_attribute: str) -> dict[str, Any]:
        """Options for a setting with this bias attribute."""
        return {**self.options, **self.by_bias_attribute.get(bias_attribute, {})}


@dataclass(frozen=True)
class Labels:
    """A metadata column and the values that stand for class 0, 1 and so on."""

    column: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Setting:
    """One task setting of a dataset.

    Attributes
    ----------
    name : str
        Name on the command line.
    task : str
        'retrieval' or 'zs_classification'.
    bias_attribute : str
        Name of the bias attribute.
    bias : Labels
        Bias classes in the metadata.
    prompts : str
        Name of the setting in the prompt files.
    target : Labels or None
        Target classes (classification).
    query_type : str or None
        What is queried (retrieval), for file names.
    query_labels : mapping
        For labelled queries, query class → (metadata column, value of a relevant image).
    zsdebias : str or None
        Which ZSDebias model serves the setting.
    """

    name: str
    task: str
    bias_attribute: str
    bias: Labels
    prompts: str
    target: Labels | None
    query_type: str | None
    query_labels: Mapping[str, tuple[str, Any]]
    zsdebias: str | None

    @property
    def file_part(self) -> str:
        """The setting's part of a result file's name."""
        if self.task == "retrieval":
            return f"retrieval_{self.query_type}_{self.bias_attribute}"
        return f"zs-classification_{self.name.replace('_', '-')}"

    def record_name(self, retrieval_k: int) -> str:
        """Name the setting as result records do."""
        if self.task == "retrieval":
            return f"query={self.query_type}|bias={self.bias_attribute}|K={retrieval_k}"
        return self.name


@dataclass(frozen=True)
class DatasetConfig:
    """A dataset, its settings, and the backbones and methods that it is evaluated with.

    Attributes
    ----------
    path : pathlib.Path
        The config file.
    dataset : str
        Dataset name, as in results.
    folder : str
        Folder under the data root, or an absolute path.
    retrieval_k : int
        K of retrieval.
    prompts : str
        Name of the prompt set.
    settings, backbones, methods : mapping
        Name → object, in file order.
    flat : pathlib.Path or None
        The flat config that restricts all this to one result; `path` is then the dataset's config.
    """

    path: Path
    dataset: str
    folder: str
    retrieval_k: int
    prompts: str
    settings: Mapping[str, Setting]
    backbones: Mapping[str, Backbone]
    methods: Mapping[str, MethodConfig]
    flat: Path | None = None

    @property
    def source(self) -> Path:
        """The file that the user named."""
        return self.flat or self.path

    @property
    def root(self) -> Path:
        """The project root: the folder that holds the config folder."""
        return project_root(self.path)


def load_dataset_config(path: Path | str) -> DatasetConfig:
    """Read a dataset's config with the backbones and methods beside it.

    Parameters
    ----------
    path : path-like
        ``config/<dataset>.yml``.

    Returns
    -------
    DatasetConfig

    Raises
    ------
    InputError
        A file is missing or not YAML; a key is unknown, missing, of the wrong type or does not apply. The
        line names the key, the file and the choices.
    """
    path = Path(path).resolve()
    top = Section(read_yaml(path, "config"), str(path))
    folder = path.parent
    config = DatasetConfig(
        path=path,
        dataset=_file_name(top, "dataset"),
        folder=top.take("folder", str),
        retrieval_k=top.positive("retrieval_k", 500),
        prompts=top.take("prompts", str, "default"),
        settings=_settings(top.section("settings")),
        backbones=_select(
            load_backbones(folder / "backbones.yml"), top.strings("backbones"), "backbone", str(path)
        ),
        methods=load_methods(folder / "methods.yml"),
    )
    top.finish()
    _check_attributes(config)
    _check_distinct("settings", {n: s.file_part for n, s in config.settings.items()}, str(path))
    stems = {name: backbone.stem for name, backbone in config.backbones.items()}
    _check_distinct("backbones (by their 'stem')", stems, str(folder / "backbones.yml"))
    return config


def _file_name(section: Section, key: str) -> str:
    """Take a name that stands in file names, where "_" and "-" have their meaning only between parts."""
    name = section.take(key, str)
    if not re.fullmatch(r"[a-z0-9][a-z0-9_]*", name):
        raise InputError(
            f"{section.where}: '{key}' must be of lower-case letters, digits and '_', found '{name}'"
        )
    return name


def _check_attributes(config: DatasetConfig) -> None:
    """Raise where the method file misspells a bias attribute of the configs beside it.

    An attribute that is like none of theirs may be that of a config elsewhere: method files are copied.
    """
    known = {setting.bias_attribute for setting in config.settings.values()}
    path = config.path.parent / "methods.yml"
    for method in config.methods.values():
        for attribute in method.by_bias_attribute:
            if attribute in known or attribute in (known := known | _attributes_beside(config.path)):
                continue
            if difflib.get_close_matches(attribute.lower(), [name.lower() for name in known]):
                where = f"{path}: {method.name}: by_bias_attribute"
                raise unknown("bias attribute", attribute, sorted(known), where)


def _attributes_beside(path: Path) -> set[str]:
    """Bias attributes of the dataset configs in the folder of one, as far as they can be read."""
    found: set[str] = set()
    for other in path.parent.glob("*.yml"):
        try:
            settings = read_yaml(other, "config")["settings"].values()
            found |= {str(setting["bias"]["attribute"]) for setting in settings}
        except (InputError, OSError, LookupError, TypeError, AttributeError):
            continue  # it is no dataset config; if it is used as one, that is when its mistakes are told
    return found


def _check_distinct(kind: str, file_parts: Mapping[str, str], where: str) -> None:
    """Raise where two settings or backbones would write one result file."""
    owner: dict[str, str] = {}
    for name, part in file_parts.items():
        if part in owner:
            raise InputError(
                f"{where}: the {kind} '{owner[part]}' and '{name}' would both write results named '{part}'"
            )
        owner[part] = name


def _select(available: Mapping[str, Any], names: tuple[str, ...], kind: str, where: str) -> dict[str, Any]:
    for name in names:
        if name not in available:
            raise unknown(kind, name, list(available), where)
    return {name: available[name] for name in names}


def project_root(config_file: Path) -> Path:
    """Return the folder that holds the config folder of a file; for an installed file, the current folder."""
    folder = config_file.resolve().parent.parent
    return folder if IS_CHECKOUT or folder != CONFIG.parent else Path.cwd()


def load_backbones(path: Path | str) -> dict[str, Backbone]:
    """Read the backbone file.

    Parameters
    ----------
    path : path-like
        ``config/backbones.yml``; checkpoint and model config paths in it are relative to the folder above
        its own.

    Returns
    -------
    dict
        Name → `Backbone`, in file order.

    Raises
    ------
    InputError
        As for `load_dataset_config`.
    """
    path = Path(path).resolve()
    top = Section(read_yaml(path, "backbone file"), str(path))
    return {name: _backbone(name, top.section(name), project_root(path)) for name in top}


def get_backbone(name: str, path: Path | str) -> Backbone:
    """Find a backbone by its name, its name in result files, its OpenAI name, or what its name says.

    Parameters
    ----------
    name : str
        A name of the backbone file; or a model that needs no entry in it
        (`bias_evaluation.grid.direct_backbones`). If an entry has the same model and tag, it is that entry.
    path : path-like
        The backbone file.

    Returns
    -------
    Backbone

    Raises
    ------
    InputError
        As for `load_backbones` and `describe_direct`; or there is no such backbone.
    """
    return choose_backbone(name, load_backbones(path), str(path))


def choose_backbone(name: str, entries: Mapping[str, Backbone], where: str) -> Backbone:
    """Find a backbone among entries by any of its names, or by what its name says."""
    for backbone in entries.values():
        if name in (backbone.name, backbone.stem, backbone.openai_name):
            return backbone
    if not is_direct(name):
        error = unknown("backbone", name, list(entries), where)
        raise InputError(f"{error}; without an entry: {FORMS}")
    found = describe_direct(name)
    for backbone in entries.values():
        same = (backbone.open_clip, backbone.pretrained) == (found.open_clip, found.pretrained)
        if same and found.pretrained is not None:
            return backbone
    return found


def add_direct_backbones(
    configs: Sequence[DatasetConfig], names: Sequence[str] | None
) -> tuple[list[DatasetConfig], list[str] | None]:
    """Add backbones that need no entry to dataset configs; flat configs, of one result each, are left alone.

    Parameters
    ----------
    configs : sequence of DatasetConfig
    names : sequence of str or None
        Backbones that are asked for; those of `bias_evaluation.grid.direct_backbones` are added.

    Returns
    -------
    configs : list of DatasetConfig
    names : list of str or None
        The same backbones by the names that they have in the configs.

    Raises
    ------
    InputError
        As for `get_backbone`.
    """
    found = list(configs)
    plain = None if names is None else list(names)
    for i, name in enumerate(names or ()):
        if not is_direct(name) or any(name in config.backbones for config in configs):
            continue
        backbone = get_backbone(name, configs[0].path.parent / "backbones.yml")
        plain[i] = backbone.name
        found = [
            config
            if config.flat
            else replace(config, backbones={**config.backbones, backbone.name: backbone})
            for config in found
        ]
    return found, plain


def _backbone(name: str, section: Section, root: Path) -> Backbone:
    open_clip = section.take("open_clip", str)
    if open_clip.endswith(".json"):
        open_clip = str(root / open_clip)
    checkpoint = section.take("checkpoint", str, None)
    pretrained = section.take("pretrained", str, None)
    if (checkpoint is None) == (pretrained is None):
        raise InputError(
            f"{section.where}: give either 'pretrained' (a tag of open_clip) or 'checkpoint' (a local file)"
        )
    backbone = Backbone(
        name=name,
        stem=section.take("stem", str, name),
        open_clip=open_clip,
        pretrained=pretrained,
        checkpoint=None if checkpoint is None else root / checkpoint,
        dim=section.positive("dim"),
        quick_gelu=section.take("quick_gelu", bool),
        sae=section.take("sae", str, None),
        openai_name=section.take("openai_name", str, name),
        pixels=_pixels(section),
        resize_positions=section.take("resize_positions", bool, False),
    )
    section.finish()
    return backbone


def _pixels(section: Section) -> tuple[tuple[str, Any], ...]:
    """Take the pixel settings that an entry gives."""
    found = {key: _three(section, key) for key in ("mean", "std")}
    found["interpolation"] = section.choice("interpolation", ("bicubic", "bilinear"), None)
    found["resize_mode"] = section.choice("resize_mode", ("shortest", "longest", "squash"), None)
    return tuple((key, value) for key, value in found.items() if value is not None)


def _three(section: Section, key: str) -> tuple[float, ...] | None:
    """Take three numbers, one for each of red, green and blue."""
    values = section.take(key, list, None)
    if values is None:
        return None
    plain = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if len(values) != 3 or not plain or not all(0 < value <= 1 for value in values):
        raise InputError(
            f"{section.where}: '{key}' must be three numbers between 0 and 1 (red, green, blue), found "
            f"{describe(values)}"
        )
    return tuple(map(float, values))


def load_methods(path: Path | str) -> dict[str, MethodConfig]:
    """Read the method file: name → options; every option must be one of the method's own.

    Raises
    ------
    InputError
        As for `load_dataset_config`.
    """
    from debiasing_methods.registry import METHODS

    path = Path(path).resolve()
    top = Section(read_yaml(path, "method file"), str(path))
    methods = {}
    for name in top:
        section = top.section(name)
        if "class" in section:
            _import_class(name, section)
        elif name not in METHODS:
            raise unknown("method", name, list(METHODS), str(path))
        methods[name] = _method(name, section)
    if not methods:
        raise InputError(f"{path}: at least one method is needed")
    return methods


def register_own_methods(path: Path | None) -> None:
    """Register the classes that a method file names (``class: package.module:Class``).

    Parameters
    ----------
    path : pathlib.Path or None
        None takes the project's own file, if there is one.
    """
    if path is None and not (path := CONFIG / "methods.yml").is_file():
        return
    load_methods(path)


def _import_class(name: str, section: Section) -> type[DebiasingMethod]:
    """Import and register the class that a method's entry names, ``class: package.module:Class``."""
    from debiasing_methods.registry import import_method

    try:
        cls = import_method(section.take("class", str))
    except ValueError as error:
        raise InputError(f"{section.where}: class: {error}") from None
    except Exception as error:  # it is the user's module: what goes wrong in it is one line too
        raise InputError(
            f"{section.where}: class: importing it failed: {type(error).__name__}: {error}"
        ) from error
    if cls.name != name:
        raise InputError(
            f"{section.where}: class: its attribute 'name' is '{cls.name}'; the entry must have the same name"
        )
    return cls


def _method(name: str, section: Section) -> MethodConfig:
    from debiasing_methods.registry import get_method

    seeds = ()
    if get_method(name).seeded:
        seeds = tuple(section.take("seeds", list))
        whole = all(isinstance(s, int) and not isinstance(s, bool) and s >= 0 for s in seeds)
        if not seeds or not whole or len(set(seeds)) != len(seeds):
            raise InputError(
                f"{section.where}: 'seeds' must be a list of different whole numbers from 0, "
                f"found {describe(list(seeds))}"
            )
    special = section.section("by_bias_attribute", {})
    by_attribute = {a: _options(name, special.section(a)) for a in special}
    return MethodConfig(name, _options(name, section), by_attribute, seeds)


def option_types(method: str) -> dict[str, type]:
    """Options of a method: the keyword arguments of its constructor that are plain values."""
    from debiasing_methods.registry import get_method

    signature = inspect.signature(get_method(method).__init__, eval_str=True)
    return {
        name: parameter.annotation
        for name, parameter in signature.parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _NOT_OPTIONS
    }


def option_defaults(method: str) -> dict[str, Any]:
    """Options of a method that need not be given → their values then."""
    from debiasing_methods.registry import get_method

    parameters = inspect.signature(get_method(method).__init__).parameters
    found = {name: parameters[name].default for name in option_types(method)}
    return {name: value for name, value in found.items() if value is not inspect.Parameter.empty}


def _options(method: str, section: Section) -> dict[str, Any]:
    types = option_types(method)
    options = {key: section.take(key, types[key]) for key in section if key in types}
    for key in section:
        raise InputError(
            f"{section.where}: '{key}' is no option of {method}; its options: {choices(list(types))}"
        )
    return options


def _settings(section: Section) -> dict[str, Setting]:
    if not list(section):
        raise InputError(f"{section.where}: at least one setting is needed")
    return {name: _setting(name, section.section(name)) for name in section}


def _setting(name: str, section: Section) -> Setting:
    task = section.choice("task", TASKS)
    retrieval = task == "retrieval"
    bias = section.section("bias")
    attribute = bias.take("attribute", str)
    setting = Setting(
        name=name,
        task=task,
        bias_attribute=attribute,
        bias=_labels(bias, attribute),
        prompts=section.take("prompts", str, name),
        target=None if retrieval else _labels(section.section("target")),
        query_type=section.take("query_type", str) if retrieval else None,
        query_labels=_query_labels(section.section("labels", {})) if retrieval else {},
        zsdebias=section.take("zsdebias", str, None),
    )
    section.finish()
    return setting


def _labels(section: Section, column: str | None = None) -> Labels:
    column = section.take("column", str, *([column] if column else []))
    values = section.take("values", list)
    if len(values) < 2 or not all(map(_is_plain, values)) or len(set(values)) != len(values):
        raise InputError(
            f"{section.where}: 'values' must be a list of at least two different values (texts, numbers, "
            f"true, false), found {describe(values)}"
        )
    section.finish()
    check_distinct(values, f"{section.where}: 'values'")
    return Labels(column, tuple(values))


def _is_plain(value: Any) -> bool:
    """Whether a value can stand in a metadata column and be compared with it."""
    return isinstance(value, (str, int, float))


def _query_labels(section: Section) -> dict[str, tuple[str, Any]]:
    labels = {}
    for query in section:
        entry = section.take_any(query)
        if not isinstance(entry, Mapping) or len(entry) != 1 or not all(map(_is_plain, entry.values())):
            raise InputError(
                f"{section.where}: '{query}' must be one pair {{column: value}}, found {describe(entry)}"
            )
        [(column, value)] = entry.items()
        labels[query] = (str(column), value)
    return labels
