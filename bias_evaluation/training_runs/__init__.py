"""A training run on disk: inputs, checkpoints, weights and report."""
