"""Audit and debias the embeddings of your own search system.

`load_debiaser` puts a debiasing method, a backbone and a bias attribute together; `Debiaser.debias` takes any
queries. It is a thin layer over `debiasing_methods` and `bias_evaluation`.
"""

from bias_evaluation.embedding.text_store import TextStore
from fair_search.backbones import find_backbone
from fair_search.bias_files import BiasFile, load_bias
from fair_search.debiaser import Debiaser
from fair_search.loading import load_debiaser
from fair_search.reference import MissingLabelWarning, reference_images
from fair_search.transform_files import TransformFile, save_transform
from fair_search.truncation import TruncatedTextWarning
from safe_io.errors import InputError

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
