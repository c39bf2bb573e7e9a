"""A small project in which the studies run without a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest


@dataclass(frozen=True)
class StudyWorld:
    """A small project with configs, text embeddings and an SAE, in which the studies run without a model."""

    root: Path
    embeddings: Path
    sae: Path

    @property
    def config(self) -> Path:
        return self.root / "config" / "studies" / "toy.yml"

    @property
    def text(self) -> tuple[str, ...]:
        """Arguments of the commands that take text embeddings."""
        return "--config", str(self.config), "--text-embeddings", str(self.embeddings)


_TOY = {
    "backbones.yml": "toy: {open_clip: ViT-B-16, pretrained: openai, dim: 24, quick_gelu: true}\n",
    "methods.yml": "{vanilla: {}, orth-proj: {}, sem-b: {}, sem-bi: {}, orth-cali: {lam: 10.0}}\n",
    "toy.yml": """
dataset: toy
folder: Toy
backbones: [toy]
settings:
  words_side:
    task: retrieval
    query_type: words
    bias: {attribute: side, values: [left, right]}
""",
    "prompts/default/toy.yml": """
bias:
  side:
    classes: [left, right]
    templates: ["A thing on the {bias}.", "The {bias} side.", "Look to the {bias}.", "{a_bias} turn."]
settings:
  words_side:
    bias: side
    queries: [baker, pilot, painter]
    query: A photo of {a_query}.
    paraphrases: ["A picture of {a_query}.", "This is {a_query}."]
diverse:
  words: {thing: [tree, house, river, cup, road, bird], place: [field, town, wood]}
  frames: ["A {thing} in the {place}.", "The {thing} of a {place}."]
""",
    "studies/toy.yml": """
backbones: [toy]
subject: job
subjects: [baker, pilot, painter, actor, judge, cook]
disentanglement:
  biases: {side: [left, right], height: [low, middle, high]}
  templates:
    - A {subject} on the {bias}.
    - The {bias} {subject} waits.
    - Here is {a_bias} {subject}.
    - We saw the {subject} there, {bias} of us.
    - A picture of {a_subject}, {bias}.
qualitative:
  backbone: toy
  dataset: toy
  setting: words_side
  biases: [left, right]
  query: A photo of {a_described}.
  described: {biased: "{bias} {subject}", neutral: "{subject}"}
  spurious: [The left side., The right side.]
  paraphrases: ["A picture of {a_described}.", "This is {a_described}."]
""",
}


def _word_sums(sentences: Sequence[str], dim: int) -> np.ndarray:
    """Embed sentences as sums of random word vectors, so that what they say can be read from them."""
    rng, words = np.random.default_rng(0), {}
    rows = []
    for sentence in sentences:
        parts = sentence.lower().replace(".", " ").replace(",", " ").split()
        rows.append(sum(words.setdefault(w, rng.standard_normal(dim)) for w in parts) + 0.5)
    return np.array(rows, dtype=np.float32)


@pytest.fixture(scope="session")
def study_world(tmp_path_factory: pytest.TempPathFactory) -> StudyWorld:
    """Make the small project of the studies."""
    import torch

    from bias_evaluation.embedding.text_store import write_text_embeddings
    from bias_evaluation.prompts.sentences import load_prompts
    from bias_evaluation.prompts.study_config import load_study_config
    from bias_evaluation.weights.read import save_sae
    from debiasing_methods.registry import METHODS
    from debiasing_methods.sae import SparseAutoencoder
    from qualitative_study.versions import Sentences

    root = tmp_path_factory.mktemp("studies")
    for name, text in _TOY.items():
        path = root / "config" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    config = load_study_config(root / "config" / "studies" / "toy.yml")
    prompts = load_prompts(root / "config" / "prompts" / "default", "toy", "words_side")
    wordings = Sentences.expand(config.qualitative, config.subjects)
    sentences = [s for bias in config.biases for s in config.probe_sentences(bias).sentences]
    sentences += [s for row in wordings.grid for s in row]
    sentences += [s for own in wordings.paraphrases.values() for s in own]
    sentences += [*config.qualitative.spurious, *prompts.sentences("sem-bi", METHODS["sem-bi"].needs)]
    sentences = list(dict.fromkeys(sentences))
    rows = torch.from_numpy(_word_sums(sentences, 24))
    write_text_embeddings(root / "toy.npz", sentences, rows)
    generator = torch.Generator().manual_seed(0)
    encoder = torch.randn(96, 24, generator=generator) / 24**0.5
    center = rows.mean(0)
    fit = torch.linalg.lstsq(torch.relu((rows - center) @ encoder.T), rows - center).solution
    sae = root / "debiasing_methods" / "sae_weights" / "default" / "MSAE_toy.pth"
    save_sae(sae, SparseAutoencoder(encoder, torch.zeros(96), fit.T.contiguous(), center))
    return StudyWorld(root, root / "toy.npz", sae)
