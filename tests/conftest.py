"""Fixtures that several test folders share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.method_world import make_world  # noqa: F401 (a fixture)
from support.oracle import oracle_folder
from support.peers import peer_oracle  # noqa: F401 (a fixture)
from support.result_rows import small_results  # noqa: F401
from support.study_world import study_world  # noqa: F401
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
