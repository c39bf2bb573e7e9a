"""The random choices behind a PRISM map: sentences of every sample, initial map, order of the samples.

Symbols: n samples, P bias classes (a sample's positives), Q target classes (its negatives), d embedding
dimension, W (d, d) the map.

A sentence is a scene with a description of a target class and one of a bias class, and is written as a
number: ``(scene · targets + target description) · biases + bias description``, where descriptions are
counted through all classes. So the sentences of a text set are in the order of
``itertools.product(scenes, target descriptions, bias descriptions)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from debiasing_methods.training.hyperparameters import SAMPLINGS


@dataclass(frozen=True)
class TextSetSizes:
    """How many texts of each kind a text set has.

    Attributes
    ----------
    scenes : int
        Scene descriptions.
    targets, biases : tuple of int
        Descriptions of each target class and of each bias class.
    """

    scenes: int
    targets: tuple[int, ...]
    biases: tuple[int, ...]

    def __post_init__(self) -> None:
        """Raise `ValueError` where a count is below what a training needs."""
        if min(self.scenes, *self.targets, *self.biases) < 1 or min(len(self.targets), len(self.biases)) < 2:
            raise ValueError(f"a text set has scenes, and two or more classes with descriptions; got {self}")

    @property
    def sentences(self) -> int:
        """Number of sentences that can be formed (some may read the same)."""
        return self.scenes * sum(self.targets) * sum(self.biases)


@dataclass(frozen=True, eq=False)
class PrismSamples:
    """The sentences of every sample, and the generator that the rest of the run is drawn from.

    Attributes
    ----------
    positives : LongTensor of shape (n, P)
        A sample's target description written with a description of each bias class.
    negatives : LongTensor of shape (n, Q)
        Its bias description written with a description of each target class.
    generator : torch.Generator
        As the choice of the sentences left it.
    epoch_seeds : bool
        Whether each epoch's order comes from a generator of its own, as in the published training.
    """

    positives: Tensor
    negatives: Tensor
    generator: torch.Generator
    epoch_seeds: bool

    def start(self, dim: int, epochs: int = 1) -> tuple[Tensor, Tensor]:
        """Draw the initial map and the order of the samples; the same at every call.

        Parameters
        ----------
        dim : int
            Embedding dimension d.
        epochs : int
            Passes over the samples.

        Returns
        -------
        w : Tensor of shape (dim, dim), float32
            Initialised as `torch.nn.Linear` does.
        order : LongTensor of shape (epochs, n)
            Permutations of the samples.
        """
        generator = self.generator.clone_state()
        w = torch.empty(dim, dim)
        torch.nn.init.kaiming_uniform_(w, a=math.sqrt(5), generator=generator)
        orders = [self._order(generator) for _ in range(epochs)]
        return w, torch.stack(orders)

    def _order(self, generator: torch.Generator) -> Tensor:
        if self.epoch_seeds:
            # The published progress bar opens its data loader twice, and a loader draws a number when it is
            # opened; the third number seeds the order.
            for _ in range(3):
                seed = int(torch.empty((), dtype=torch.int64).random_(generator=generator))
            generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.positives), generator=generator)


def published_sampling(sizes: TextSetSizes, num_samples: int, seed: int) -> PrismSamples:
    """Choose as the published training does: the generator starts anew before each of seven lists.

    The lists are scene, target and bias class of each sample; its target description; a description of every
    bias class; its bias description; a description of every target class. All of them read the same random
    words, and an index is ``word mod size``. So they hang together: with as many target as bias classes a
    sample's two classes are always the same number; with 20 scenes and 2 target classes each class meets half
    of the scenes. `independent_sampling` has none of this.

    Parameters
    ----------
    sizes : TextSetSizes
    num_samples : int
        n, at least 1.
    seed : int
        At least 0.

    Returns
    -------
    PrismSamples

    Notes
    -----
    Source: PRISM (Molahasani et al., ICCV 2025, arXiv:2507.08979), as published with SEM: with the same text
    embeddings the maps that its code trained come out. It trained for one epoch; here
    each of several seeds its order anew.
    """

    def draw(choices: Tensor) -> Tensor:  # (…): how many there are to choose from, entry by entry
        chosen = torch.empty_like(choices)
        for size in choices.unique().tolist():
            words = torch.randint(0, size, choices.shape, generator=torch.Generator().manual_seed(seed))
            chosen = torch.where(choices == size, words, chosen)
        return chosen

    # Where the seventh list leaves the generator: one word for each of its entries, whatever its size.
    generator = torch.Generator().manual_seed(seed)
    torch.randint(0, 2, (num_samples, len(sizes.targets)), generator=generator)
    return _samples(sizes, num_samples, draw, generator, epoch_seeds=True)


def independent_sampling(sizes: TextSetSizes, num_samples: int, seed: int) -> PrismSamples:
    """Choose everything independently and uniformly, from one generator.

    Parameters and result are those of `published_sampling`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(choices: Tensor) -> Tensor:
        shares = torch.rand(choices.shape, generator=generator, dtype=torch.float64)
        return (shares * choices).long()  # a share is below 1, so an index is below its number of choices

    return _samples(sizes, num_samples, draw, generator, epoch_seeds=False)


SAMPLERS: dict[str, Callable[[TextSetSizes, int, int], PrismSamples]] = dict(
    zip(SAMPLINGS, (published_sampling, independent_sampling), strict=True)
)


def _samples(
    sizes: TextSetSizes,
    n: int,
    draw: Callable[[Tensor], Tensor],
    generator: torch.Generator,
    *,
    epoch_seeds: bool,
) -> PrismSamples:
    """Draw the seven lists, in the published order, and put the sentences' numbers together."""
    targets, biases = torch.tensor(sizes.targets), torch.tensor(sizes.biases)
    scene, target, bias = (draw(torch.full((n,), k)) for k in (sizes.scenes, len(targets), len(biases)))
    first_target, first_bias = targets.cumsum(0) - targets, biases.cumsum(0) - biases
    its_target = first_target[target] + draw(targets[target])  # (n,)
    every_bias = first_bias + draw(biases.expand(n, -1))  # (n, P)
    its_bias = first_bias[bias] + draw(biases[bias])  # (n,)
    every_target = first_target + draw(targets.expand(n, -1))  # (n, Q)

    def sentence(target: Tensor, bias: Tensor) -> Tensor:
        return (scene[:, None] * targets.sum() + target) * biases.sum() + bias

    return PrismSamples(
        positives=sentence(its_target[:, None], every_bias),
        negatives=sentence(every_target, its_bias[:, None]),
        generator=generator,
        epoch_seeds=epoch_seeds,
    )
