"""Files on disk, for the whole project: atomic writes, locks, checked reading of YAML, JSON and arrays.

Imports nothing else of the project.
"""
