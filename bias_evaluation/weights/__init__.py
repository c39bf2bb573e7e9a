"""Trained weights: the kinds there are, where their files lie, and how they are read."""

KIND_NAMES = ("sae", "prism", "zsdebias")
"""Names of `bias_evaluation.weights.kinds.KINDS`, for commands that only list them."""
FORMATS = ("pth", "safetensors")
"""File formats of weights that the trainers write, by suffix; the first is the release's."""
