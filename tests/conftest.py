"""Fixtures that several test folders share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from support.method_world import make_world  # noqa: F401 (a fixture)
from support.oracle import oracle_folder
from support.peers import peer_oracle  # noqa: F401 (a fixture)
from support.suite_world import suite_template, suite_world  # noqa: F401
from support.zsdebias_world import zsdebias_project  # noqa: F401

if TYPE_CHECKING:
    from bias_evaluation.grid.configs import Backbone

# A CLIP model of 400,000 parameters that is made here, so that no test needs weights from elsewhere.
TINY_DIM = 8
TINY_MODEL = {
    "embed_dim": TINY_DIM,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the contract be tested on a method of one's own."""
    parser.addoption("--methods-file", metavar="FILE", help="methods file whose classes are tested as well")


def pytest_configure(config: pytest.Config) -> None:
    """Register the classes before tests are collected for each method."""
    if config.getoption("--methods-file"):
        from support.method_world import OPTIONS

        from bias_evaluation.grid.configs import load_methods

        methods = load_methods(config.getoption("--methods-file"))
        OPTIONS.update({name: dict(method.options) for name, method in methods.items()})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say once, where it is seen, that the large oracle is not there."""
    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if "no oracle data" in str(r.longrepr)]
    if skipped:
        terminalreporter.write_line(
            f"NOTE: {len(skipped)} tests compare with the large oracle, which is not here; SEM_ORACLE_DIR is "
            f"its folder (see benchmarks/small_oracle.py). The small oracle in tests/oracle needs nothing.",
            yellow=True,
            bold=True,
        )


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Keep tiny products on one thread: on a busy machine more threads make them ten times slower."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def oracle_dir() -> Path:
    """Folder with published results and oracle data, which the project does not ship."""
    folder = oracle_folder()
    if not folder.is_dir():
        pytest.skip("no oracle data: set SEM_ORACLE_DIR to the folder that holds official/ and golden/")
    return folder


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


@pytest.fixture(scope="session")
def save_tiny_clip() -> Callable[..., None]:
    """Write a model config and a checkpoint: ``save_tiny_clip(config, checkpoint, seed=0, **changes)``."""

    def save(config: Path, checkpoint: Path, seed: int = 0, **changes: Any) -> None:
        import open_clip
        import torch

        config.write_text(json.dumps(TINY_MODEL | changes))
        open_clip.add_model_config(config)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = open_clip.create_model(config.stem)
        torch.save(model.state_dict(), checkpoint)

    return save


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory, save_tiny_clip: Callable[..., None]) -> Path:
    """Folder with a model of 400,000 parameters: ``tiny_test_clip.json`` and ``tiny.pt``; read only."""
    folder = tmp_path_factory.mktemp("tiny_clip")
    save_tiny_clip(folder / "tiny_test_clip.json", folder / "tiny.pt")
    return folder


@pytest.fixture(scope="session")
def make_backbone(tiny_clip: Path) -> Callable[..., Backbone]:
    """Make a backbone of the tiny model, with changes."""

    def make(**changes: Any) -> Backbone:
        from bias_evaluation.grid.configs import Backbone

        fields = {
            "name": "tiny",
            "stem": "tiny",
            "open_clip": str(tiny_clip / "tiny_test_clip.json"),
            "pretrained": None,
            "checkpoint": tiny_clip / "tiny.pt",
            "dim": TINY_DIM,
            "quick_gelu": True,
            "sae": None,
            "openai_name": "tiny",
        }
        return Backbone(**fields | changes)

    return make
