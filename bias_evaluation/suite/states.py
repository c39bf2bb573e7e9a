"""Where results stand: what they are made from, and what they lack."""

from __future__ import annotations

import inspect
import shlex
from dataclasses import asdict
from itertools import chain
from pathlib import Path

from bias_evaluation.embedding.text_store import describe_missing
from bias_evaluation.grid.configs import option_defaults
from bias_evaluation.grid.plan import ResultKey, State
from bias_evaluation.results.records import REVISION, differences
from bias_evaluation.suite.inputs import Inputs
from bias_evaluation.suite.reranking import digest_parts
from bias_evaluation.suite.trained_methods import TrainedMethods
from bias_evaluation.suite.uncertainty import digest_of, needed_files
from debiasing_methods import base
from debiasing_methods.registry import get_method
from safe_io.checkout import ROOT
from safe_io.errors import InputError
from safe_io.files import sha256_file, sha256_json


class States:
    """States of the results of one dataset and backbone.

    Parameters
    ----------
    inputs : Inputs
    methods : TrainedMethods
        Which know the files of trained weights.
    """

    def __init__(self, inputs: Inputs, methods: TrainedMethods) -> None:
        self.inputs, self.methods = inputs, methods

    def of(self, key: ResultKey) -> State:
        """Find out where a result stands; nothing is computed or written.

        Files are digested only for a result that is there: the digests of a new one wait until it is made.
        """
        if missing := self.lacks(key):
            return State("lacks", ", ".join(missing), tuple(chain.from_iterable(missing.values())))
        path = key.path(self.inputs.options.output_dir)
        if not path.is_file():
            return State("to do")
        changed = differences(path, self.digests(key))
        return State("stale", f"made from another {', '.join(changed)}") if changed else State("done")

    def digests(self, key: ResultKey) -> dict[str, str]:
        """Component → digest of everything that a result is made from."""
        inputs, method = self.inputs, get_method(key.method.name)
        setting = {k: v for k, v in asdict(key.setting).items() if k != "name"}
        options = option_defaults(method.name) | key.method.options_for(key.setting.bias_attribute)
        k = inputs.options.retrieval_k if key.setting.task == "retrieval" else None
        files = self.methods.files(key)
        after = [parts] if (parts := digest_parts(inputs, key)) else []
        return {
            "revision": _revision(method),
            "config": sha256_json(
                [setting, key.method.name, options, key.seed, k, inputs.backbone.dim, *after]
            ),
            "prompts": sha256_json(inputs.prompts(key.setting).used_by(method.name, inputs.needs(key))),
            "weights": inputs.digest(file.path for file in files) if files else "",
            "text": inputs.text.digest,
            **{component: inputs.digest(paths) for component, paths in inputs.files.items()},
            **({"uncertainty": digest_of(inputs)} if inputs.options.uncertainty else {}),
        }

    def lacks(self, key: ResultKey) -> dict[str, list[str]]:
        """Component → what is missing of it for a result and how to get it; empty where nothing is."""
        found = {
            component: [
                f"{path} (make it with `{self._maker(component)}`)" for path in paths if not path.is_file()
            ]
            for component, paths in self.inputs.files.items()
        }
        for component, look in (
            ("prompts", self._missing_prompts),
            ("weights", self._missing_weights),
            ("text", self._missing_text),
            ("uncertainty", self._missing_uncertainty),
        ):
            try:
                lines = look(key)
            except InputError as error:
                lines = [str(error)]
            known = set(chain.from_iterable(found.values()))  # without prompts, nothing can say which weights
            found[component] = [line for line in lines if line not in known]
        return {component: lines for component, lines in found.items() if lines}

    def _maker(self, component: str) -> str:
        """Return the command that makes a file of the dataset's folder."""
        folder = shlex.quote(str(self.inputs.folder))
        if component == "folds":
            return f"python generate_splits.py --dataset-path {folder}"
        alone = " --metadata-only" if component == "metadata" else ""  # the same whatever the backbone
        backbone = next(iter(self.inputs.config.backbones)) if alone else self.inputs.backbone.name
        return (
            f"python precompute_embeddings.py --backbone {shlex.quote(backbone)} --dataset-name "
            f"{self.inputs.config.dataset} --dataset-path {folder}{alone}{self._own_backbones()}"
        )

    def _own_backbones(self) -> str:
        """Name the backbone file to a command, unless it is the project's."""
        path = self.inputs.config.path.parent / "backbones.yml"
        return "" if path == ROOT / "config" / path.name else f" --backbones-file {shlex.quote(str(path))}"

    def _missing_prompts(self, key: ResultKey) -> list[str]:
        self.inputs.prompts(key.setting).check_for(key.method.name, self.inputs.needs(key))
        digest_parts(self.inputs, key)  # raises if labels are to be predicted without a prompt for each class
        return []

    def _missing_weights(self, key: ResultKey) -> list[str]:
        lost = [file for file in self.methods.files(key) if not file.path.is_file()]
        more = f", and {len(lost) - 1} more of its kind" if lost[1:] else ""
        return [f"{file.path}{more} ({file.make})" for file in lost[:1]]

    def _missing_uncertainty(self, key: ResultKey) -> list[str]:
        wanted = needed_files(self.inputs) if self.inputs.options.uncertainty else {}
        return [f"{path} ({make} makes it)" for path, make in wanted.items() if not path.is_file()]

    def _missing_text(self, key: ResultKey) -> list[str]:
        text = self.inputs.text  # opening it checks the checkpoint or the given file
        if not text.given:
            return []  # what is missing will be encoded
        absent = text.missing(self.inputs.sentences(key))
        return [describe_missing(absent, text.given)] if absent else []


def _revision(method: type[base.DebiasingMethod]) -> str:
    """Revision of the code that decides figures; of a class of the user's own also the digest of its file."""
    if method.__module__.startswith(f"{base.__package__}."):
        return str(REVISION)
    return f"{REVISION}, {method.__qualname__} of {sha256_file(Path(inspect.getfile(method)))}"
