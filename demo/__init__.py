"""Portraits: a small world in which the whole pipeline runs on a laptop, offline, in minutes."""
