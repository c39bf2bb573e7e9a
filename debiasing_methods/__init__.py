"""Post-hoc debiasing of CLIP-like embeddings: embeddings in, embeddings out.

Nothing here knows CLIP, files of a dataset, or an evaluation; see `debiasing_methods.base` for the contract
and `debiasing_methods.registry` for the list.
"""
