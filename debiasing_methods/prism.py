"""PRISM: a trained linear map of text and images.

Symbols: W (d, d) the map, q a query, x a unit image, n(x) = x/‖x‖₂. Vectors are rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from debiasing_methods.base import DebiasingMethod, ImageTransform, QueryGroup, ReferenceImages
from debiasing_methods.linalg import unit
from debiasing_methods.transforms import LinearTransform


class Prism(DebiasingMethod):
    """PRISM: map text and images so that what differs by the bias alone falls together.

    Source: PRISM, Molahasani et al., ICCV 2025, arXiv:2507.08979. Training minimises its
    ``L_pos + L_neg`` over sentences of the setting
    (`debiasing_methods.training.prism.prism_loss`); here the map is only used.

    Parameters
    ----------
    maps : mapping of str to Tensor of shape (d, d)
        W of each group, by the group's name: the query class in a retrieval, the setting in a classification.

    Notes
    -----
    Text ``n(q) Wᵀ``, images ``x Wᵀ``, cosine ``(x·Wᵀt) / ‖Wx‖`` for a unit mapped query t: the mapped images
    are not made, and groups that share one map tensor share the norms. A linear map can separate bias from
    target only where the text embeddings do so linearly; nothing is promised of images, on which W is not
    trained.
    """

    name = "prism"
    display_name = "PRISM"
    group = "both-prompts"
    seeded = True
    weights = "prism"
    changes_text = True
    changes_images = True

    def __init__(self, *, maps: Mapping[str, Tensor]) -> None:
        for name, w in maps.items():
            if w.ndim != 2 or w.shape[0] != w.shape[1]:
                raise ValueError(f"the PRISM map of '{name}' must be (d, d), got {tuple(w.shape)}")
        self.maps = dict(maps)

    def debias_text(
        self, groups: Sequence[QueryGroup], reference: ReferenceImages | None = None
    ) -> list[Tensor]:
        """Map the unit queries; the result is not normalised again."""
        self.check(groups)
        return [unit(group.queries) @ self.maps[group.name].to(group.queries).T for group in groups]

    def image_transform(
        self, groups: Sequence[QueryGroup], fold: int = 0, reference: ReferenceImages | None = None
    ) -> ImageTransform:
        """Make the map of unit images of each group; its result is not normalised."""
        self.check(groups)
        return LinearTransform([self.maps[group.name] for group in groups])

    def check(self, groups: Sequence[QueryGroup]) -> None:
        """Raise `ValueError` where a group has no map, or one of another width."""
        super().check(groups)
        for group in groups:
            if group.name not in self.maps:
                raise ValueError(
                    f"prism has no map for '{group.name}', only for: {', '.join(self.maps) or 'nothing'}"
                )
            width, dim = self.maps[group.name].shape[0], group.queries.shape[1]
            if width != dim:
                raise ValueError(
                    f"the PRISM map of '{group.name}' has width {width}, but the queries have width {dim}"
                )
