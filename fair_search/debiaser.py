"""One method, one backbone, one bias attribute: arbitrary queries in, debiased embeddings out.

Symbols: Q queries, n images, d embedding dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from bias_evaluation.embedding.text_store import TextStore
from bias_evaluation.prompts.sentences import GroupEmbedder
from bias_evaluation.scoring.fold_scores import NothingLeftWarning
from bias_evaluation.scoring.top_k import check_scores
from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.chunks import IMAGE_ROWS, chunks
from debiasing_methods.linalg import unit
from debiasing_methods.prism import Prism
from fair_search.bias_files import BiasFile
from fair_search.checks import check_images, check_query_embeddings
from fair_search.reference import reference_images
from fair_search.truncation import Truncation
from safe_io.errors import InputError

Queries = Sequence[str] | np.ndarray | Tensor
Reference = ReferenceImages | tuple[np.ndarray, ArrayLike]

# Name of the one PRISM map that serves all queries.
ALL_QUERIES = "all queries"

# Kinds of prompts that are written with the query: methods that need one cannot work on embeddings alone.
_WITH_THE_QUERY = frozenset({"candidates", "augmentations", "paraphrases", "helpful"})
_BATCH = 1024  # queries that are embedded together with all their sentences


class Debiaser:
    """Debiases arbitrary queries; `load_debiaser` makes one.

    Parameters
    ----------
    method : DebiasingMethod
        With its options and weights.
    text : TextStore or None
        Where embeddings of sentences come from; None where queries come as embeddings and the method needs no
        prompts.
    bias : BiasFile or None
        Where prompts come from; None where the method needs none.
    device : str
        Where the tensors are.
    params : mapping, optional
        What `get_params` returns.
    """

    def __init__(
        self,
        method: DebiasingMethod,
        *,
        text: TextStore | None = None,
        bias: BiasFile | None = None,
        device: str = "cpu",
        params: dict[str, Any] | None = None,
    ) -> None:
        self.method = method
        self.text = text
        self.bias = bias
        self.device = device
        self._params = {"method": method.name} if params is None else params

    def get_params(self) -> dict[str, Any]:
        """Return the parameters that it was loaded with."""
        return dict(self._params)

    def __repr__(self) -> str:
        """Write it as it was loaded, without what was left at its default."""
        given = {name: value for name, value in self._params.items() if value is not None}
        return f"Debiaser({', '.join(f'{name}={value!r}' for name, value in given.items())})"

    # queries

    def groups(self, queries: Queries) -> list[QueryGroup]:
        """Embed queries with all prompts that the method needs.

        Parameters
        ----------
        queries : sequence of str, or array of shape (Q, d)
            Texts in any script; or raw text embeddings, for methods whose prompts do not depend on the query.

        Returns
        -------
        list of QueryGroup
            One a query, in order; groups share the tensors of shared prompts.

        Raises
        ------
        ValueError
            A query is blank (then an `InputError`), embeddings are no finite matrix of the right width, or
            the method needs the queries' text.

        Warns
        -----
        TruncatedTextWarning
            Texts are too long for the model; the warning counts them.
        """
        groups, truncation = self._groups(queries)
        truncation.warn(stacklevel=2)
        return groups

    def _groups(self, queries: Queries) -> tuple[list[QueryGroup], Truncation]:
        if isinstance(queries, (np.ndarray, Tensor)):
            return self._from_embeddings(torch.as_tensor(queries)), Truncation()
        return self._from_text(queries)

    def _from_text(self, queries: Sequence[str]) -> tuple[list[QueryGroup], Truncation]:
        if isinstance(queries, str) or not all(isinstance(query, str) for query in queries):
            raise ValueError("queries must be a sequence of texts, or a matrix of embeddings")
        if self.text is None:
            raise InputError(
                "queries are texts, but there is neither a backbone nor text embeddings to encode them"
            )
        distinct = list(dict.fromkeys(queries))
        if not distinct:
            return [], Truncation()
        blank = next((i for i, query in enumerate(queries) if not query.strip()), None)
        if blank is not None:
            raise InputError(f"query {blank + 1} of {len(queries)} is blank; every query needs text")
        make = self._with_prompts if self.method.needs else self._without_prompts
        found, derived = make(distinct)
        truncation = Truncation(
            self.text.too_long(distinct), len(distinct), self.text.too_long(derived), len(derived)
        )
        named = self._renamed(found)
        return [named[query] for query in queries], truncation

    def _without_prompts(self, queries: list[str]) -> tuple[dict[str, QueryGroup], list[str]]:
        rows = self._embed(queries)
        return {query: QueryGroup(rows[query][None], name=query) for query in queries}, []

    def _with_prompts(self, queries: list[str]) -> tuple[dict[str, QueryGroup], list[str]]:
        """Embed queries and prompts; return the groups, and the sentences that were made from the queries."""
        name, needs = self.method.name, self.method.needs
        prompts = self._bias_file.prompts(queries)
        fixed = self._fixed_sentences()
        derived = [
            sentence
            for group in prompts.groups
            for sentence in group.for_method(name, needs).sentences()
            if sentence not in fixed
        ]
        derived = list(dict.fromkeys(derived))
        rows = self._embed([*queries, *derived]) | self._embed(fixed, keep=True)
        embedder = GroupEmbedder(lambda sentences: torch.stack([rows[s] for s in sentences]))
        return {group.name: embedder.group(group, name, needs) for group in prompts.groups}, derived

    def _embed(self, sentences: Iterable[str], *, keep: bool = False) -> dict[str, Tensor]:
        """Embed distinct sentences together; those that belong to no query are to be kept."""
        distinct = list(dict.fromkeys(sentences))
        rows = self.text.embed(distinct, keep=keep).to(self.device)
        return dict(zip(distinct, rows, strict=True))

    def _fixed_sentences(self) -> dict[str, None]:
        """Sentences that are the same for every query."""
        [group] = self._bias_file.prompts([ALL_QUERIES]).groups
        fixed = self.method.needs - _WITH_THE_QUERY
        return dict.fromkeys(group.for_method(self.method.name, fixed).sentences())

    def _from_embeddings(self, queries: Tensor) -> list[QueryGroup]:
        if needed := sorted(self.method.needs & _WITH_THE_QUERY):
            raise ValueError(
                f"{self.method.name} writes {', '.join(needed)} with the query's text; give texts"
            )
        check_query_embeddings(queries, self._width)
        queries = queries.to(self.device, torch.float32)
        shared = self._shared_group() if self.method.needs else None
        rows = [row[None] for row in queries]
        return [
            QueryGroup(row, ALL_QUERIES) if shared is None else replace(shared, queries=row) for row in rows
        ]

    def _shared_group(self) -> QueryGroup:
        """Return some group with the prompts that do not depend on the query."""
        return self._with_prompts([ALL_QUERIES])[0][ALL_QUERIES]

    def _renamed(self, groups: dict[str, QueryGroup]) -> dict[str, QueryGroup]:
        """Name groups as PRISM's one map is called, where one serves all."""
        if isinstance(self.method, Prism) and set(self.method.maps) == {ALL_QUERIES}:
            return {query: replace(group, name=ALL_QUERIES) for query, group in groups.items()}
        return groups

    @property
    def _width(self) -> int | None:
        return self.text.dim if self.text else None

    @property
    def _bias_file(self) -> BiasFile:
        if self.bias is None:
            raise InputError(
                f"{self.method.name} needs a bias file, which its prompts or the names of the classes come "
                f"from; give bias="
            )
        return self.bias

    # what comes out

    def debias(self, queries: Queries, reference: Reference | None = None) -> np.ndarray:
        """Debias queries.

        Parameters
        ----------
        queries : sequence of str, or array of shape (Q, d)
            As for `groups`.
        reference : (images, labels) or ReferenceImages, optional
            Labelled images, for the methods that take them (`takes_labelled_images`): embeddings (N, d) and N
            class names.

        Returns
        -------
        ndarray of shape (Q, d), float32
            Unit rows, or zero where nothing is left of a query. For methods that change images, images must
            go through `image_transform` as well.

        Raises
        ------
        ValueError
            As for `groups`; or labelled images are needed and missing, or are in several folds.

        Warns
        -----
        TruncatedTextWarning
            As for `groups`.
        NothingLeftWarning
            Queries lie in the bias that the method removes; their rows are zero.
        """
        reference = self.labelled(reference)
        parts, truncation = [], Truncation()
        for batch in _batches(queries):
            groups, cut = self._groups(batch)
            text = self.method.debias_text(groups, reference if self.method.needs_reference else None)
            parts.append(unit(torch.cat([rows[0] if rows.ndim == 3 else rows for rows in text])).cpu())
            check_scores(parts[-1])
            truncation += cut
        if not parts:
            raise ValueError("there are no queries; at least one is needed")
        truncation.warn(stacklevel=2)
        debiased = torch.cat(parts)
        if empty := int((debiased == 0).all(dim=1).sum()):
            warnings.warn(
                f"{empty} of {len(debiased)} queries lie in the bias itself, so that nothing is left of "
                f"them: their rows are zero, and similar to nothing",
                NothingLeftWarning,
                stacklevel=2,
            )
        return debiased.numpy()

    def labelled(self, reference: Reference | None) -> ReferenceImages | None:
        """Put labelled images together as the methods take them; None for a method that takes none.

        Where `debias` and `image_transform` are both called, one object spares a second fit.

        Raises
        ------
        ValueError
            Labelled images are needed and missing, or are in several folds; or as `reference_images` does.
        """
        if not self.method.takes_labelled_images():
            return None
        if reference is None:
            raise ValueError(f"{self.method.name} needs labelled images; give reference=(embeddings, labels)")
        if isinstance(reference, tuple):
            check_images(reference[0], self._width)
            return reference_images(*reference, self._bias_file.classes, device=self.device)
        if len(reference.folds) != 1:
            raise ValueError(f"reference images must be in one fold, got {len(reference.folds)}")
        return reference

    def image_transform(self, queries: Queries, reference: Reference | None = None) -> ImageTransform:
        """Make the image transform of each query.

        Parameters
        ----------
        queries : sequence of str, or array of shape (Q, d)
            As for `groups`.
        reference : (images, labels) or ReferenceImages, optional
            As for `debias`; for the methods that fit images on them.

        Returns
        -------
        ImageTransform
            Group g is query g. It takes what `prepare_images` gives; the identity for methods that change
            text alone.
        """
        if not self.method.changes_images:
            return self.method.image_transform(())
        if self.method.fits_images:
            return self.method.image_transform((), 0, self.labelled(reference))
        return self.method.image_transform(self._groups(queries)[0])  # `debias` warns of long queries

    def prepare_images(self, images: np.ndarray | Tensor) -> Tensor:
        """Turn image embeddings ``(n, d)``, as stored, into what the image transform takes."""
        rows = torch.as_tensor(np.asarray(images)) if isinstance(images, np.ndarray) else images
        check_images(rows, self._width)
        rows = rows.to(self.device, torch.float32)
        return self.method.prepare_images(unit(rows) if self.method.normalize else rows)

    def scores(self, images: np.ndarray, queries: Queries, reference: Reference | None = None) -> np.ndarray:
        """Cosine of every debiased image with every debiased query.

        Parameters
        ----------
        images : ndarray of shape (n, d)
            Image embeddings as stored; may be memory-mapped.
        queries : sequence of str, or array of shape (Q, d)
            As for `groups`.
        reference : (images, labels) or ReferenceImages, optional
            As for `debias`.

        Returns
        -------
        ndarray of shape (n, Q), float32

        Raises
        ------
        ValueError
            As for `debias`; or images are of another width than the queries.
        """
        reference = self.labelled(reference)
        text = list(torch.from_numpy(self.debias(queries, reference)).to(self.device)[:, None])
        transform = self.image_transform(queries, reference)
        parts = [
            transform.scores(self.prepare_images(np.array(images[rows])), text, first_row=rows.start)
            for rows in chunks(len(images), IMAGE_ROWS)
        ]
        scores = torch.cat(parts)
        check_scores(scores.T)
        return scores.cpu().numpy()


def _batches(queries: Queries) -> Iterator[Queries]:
    """Give queries that are embedded together, with all their sentences."""
    return (queries[rows] for rows in chunks(len(queries), _BATCH))
