"""Every command shows its help without importing what takes seconds, and spells its options with hyphens."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safe_io.checkout import ROOT

RUN_AS_MODULES = (
    "benchmarks",
    "bias_evaluation",
    "demo",
    "reproduce_tables",
)  # the other commands run by path
SLOW = {"torch", "pandas", "sklearn", "open_clip", "matplotlib", "scipy", "ray", "faiss", "torchvision"}


def find_commands() -> list[str]:
    """Paths of all files that run as a command; a package's and a package's module by name."""
    files = [
        *ROOT.glob("*.py"),
        *(
            f
            for f in ROOT.glob("*/**/*.py")
            if (ROOT / f.relative_to(ROOT).parts[0] / "__init__.py").is_file()
            or f.parent == ROOT / "benchmarks"  # no package; nor is what an environment in .venv holds
        ),
    ]
    found = []
    for file in sorted(files):
        path = file.relative_to(ROOT)
        if path.parts[0] == "tests" or '__name__ == "__main__"' not in file.read_text(encoding="utf-8"):
            continue
        name = ".".join(path.with_suffix("").parts).removesuffix(".__main__")
        by_name = path.name == "__main__.py" or path.parts[0] in RUN_AS_MODULES
        found.append(name if by_name else str(path))
    return found


COMMANDS = find_commands()
PUBLISHED = {  # how the published commands are called
    "precompute_embeddings": "--model_id B --dataset_name celeba --dataset_path D --batch_size 2",
    "generate_splits": "--dataset_path D --k_folds 3 --fold_val_proportion 0.5",
    "main_eval": "--config C --backbones B",
    "debiasing_methods.prism_training": "--CLIP_model B --task retrieval --setting S --num_samples 9 --wd 0",
    "debiasing_methods.zsdebias_training": "--clip_model B --dataset_paths D --bias_attribute human",
    "disentanglement_study.disentanglement_experiment": "--clip_model B --bias_attr gender --latent clip",
    "disentanglement_study.precompute_dataset": "--backbones B",
}


@pytest.fixture(scope="module")
def helps() -> dict[str, dict[str, Any]]:
    script = Path(__file__).parent / "support" / "help_texts.py"
    done = subprocess.run(
        [sys.executable, script, *COMMANDS], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_all_published_commands_are_tested() -> None:
    published = {"main_eval.py", "precompute_embeddings.py", "generate_splits.py", "process_json_outputs.py"}
    trainers = {f"debiasing_methods/{name}_training.py" for name in ("prism", "zsdebias", "sae")}
    assert published | trainers | {"reproduce_tables", "demo"} <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_slow(helps: dict[str, dict[str, Any]], command: str) -> None:
    shown = helps[command]
    assert shown["code"] == 0, shown["text"]
    assert "usage:" in shown["text"]
    assert not SLOW.intersection(shown["imported"])


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_spelled_with_hyphens(helps: dict[str, dict[str, Any]], command: str) -> None:
    """The published spellings are accepted (`safe_io.command_line`), but only one spelling is shown."""
    assert not re.findall(r"--\w+_\w+", helps[command]["text"])
    assert not re.findall(
        r"--(?:CLIP.model|clip.model|model.id|model|backbones)(?![\w-])", helps[command]["text"]
    )


@pytest.mark.parametrize(("module", "line"), PUBLISHED.items())
def test_published_spellings_are_accepted(module: str, line: str) -> None:
    args = importlib.import_module(module).build_parser().parse_args(line.split())
    assert getattr(args, "backbone", "B") in ("B", ["B"])
    options = [word.lower() for word in line.split() if word.startswith("--")]
    names = {name.strip("-") for name in options} - {"model_id", "clip_model", "backbones"}
    assert names <= set(vars(args))
