"""Bias corpora of ZSDebias: sentences about a bias attribute, from frames and words in a YAML file."""

from __future__ import annotations

from pathlib import Path

from bias_evaluation.prompts.sentences import expand_frames
from safe_io.documents import Section, read_yaml, unknown


def load_corpus(path: Path, kind: str) -> list[str]:
    """Expand one corpus.

    Parameters
    ----------
    path : pathlib.Path
        ``config/zsdebias/<name>.yml``.
    kind : str
        Name of the corpus in the file: 'human' or 'animal'.

    Returns
    -------
    list of str
        Distinct sentences: every frame with every combination of its words, in the order of the file; where
        the corpus says ``also_lower_case``, then the same in lower case.

    Raises
    ------
    InputError
        The file or the corpus does not exist, or a key, list or placeholder is wrong.
    """
    top = Section(read_yaml(path, "bias corpora"), str(path))
    if kind not in top:
        raise unknown("bias corpus", kind, list(top), str(path))
    section = top.section(kind)
    also_lower = section.take("also_lower_case", bool, False)
    sentences = list(expand_frames(section))
    if also_lower:
        sentences += [sentence.lower() for sentence in sentences]
    return list(dict.fromkeys(sentences))
