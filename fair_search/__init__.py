"""Audit and debias the embeddings of your own search system.

`load_debiaser` puts a debiasing method, a backbone and a bias attribute together; `Debiaser.debias` takes any
queries. It is a thin layer over `debiasing_methods` and `bias_evaluation`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bias_evaluation.embedding.text_store import TextStore
    from fair_search.backbones import find_backbone
    from fair_search.bias_files import BiasFile, load_bias
    from fair_search.debiaser import Debiaser
    from fair_search.loading import load_debiaser
    from fair_search.reference import MissingLabelWarning, reference_images
    from fair_search.transform_files import TransformFile, save_transform
    from fair_search.truncation import TruncatedTextWarning
    from safe_io.errors import InputError

# Imported when they are asked for: torch and pandas take seconds, and most modules need one name.
_MODULES = {
    "BiasFile": "fair_search.bias_files",
    "Debiaser": "fair_search.debiaser",
    "InputError": "safe_io.errors",
    "MissingLabelWarning": "fair_search.reference",
    "TextStore": "bias_evaluation.embedding.text_store",
    "TransformFile": "fair_search.transform_files",
    "TruncatedTextWarning": "fair_search.truncation",
    "find_backbone": "fair_search.backbones",
    "load_bias": "fair_search.bias_files",
    "load_debiaser": "fair_search.loading",
    "reference_images": "fair_search.reference",
    "save_transform": "fair_search.transform_files",
}

__all__ = [
    "BiasFile",
    "Debiaser",
    "InputError",
    "MissingLabelWarning",
    "TextStore",
    "TransformFile",
    "TruncatedTextWarning",
    "find_backbone",
    "load_bias",
    "load_debiaser",
    "reference_images",
    "save_transform",
]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
