"""Trained weights: the kinds there are, where their files lie, and how they are read."""
