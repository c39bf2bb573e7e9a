"""A published checkout in miniature: its files, and helpers of the tests that import it."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from bias_evaluation.grid.configs import load_backbones
from bias_evaluation.release.install import Imported, import_release
from safe_io.checkout import ROOT

BACKBONES = list(load_backbones(ROOT / "config" / "backbones.yml").values())
N, D = 6, 512  # images; width of RN101
PRISM = (
    "prism_clip=RN101_task=zs_classification_setting=waterbirds_epochs=1_num_bases=0_num_samples=500_seed=0_lr=0.1_"
    "batch_size=64_wd=0.0_init_weight=random.pth"
)
RESULT = "waterbirds_zs-classification_waterbirds_clip-ViT-L-14_sem-bi.json"
DIVERSE = ["a thing in a place", "another thing"]

QUERY_TEMPLATES = {
    "Gray_Hair": {
        "query": "hair?",
        "extra prompts": {
            "vanilla": {},
            "orth_proj": {"spurious prompts": ["one", "two"]},
            "roboshot": {"harmful prompts": [["a", "b"]], "helpful prompts": [["c", "d"]]},
            "sem": {"extra class prompts": [["e", "f"]], "bias prompts": {"Male": ["g"], "Female": ["h"]}},
        },
    }
}
CLASS_TEMPLATES = {
    "extra prompts": {
        "orth_cali": {"spurious prompts": ["x"], "candidate prompts": ["y", "z"], "S": [[0, 1]]}
    }
}
TEXT_SET = {
    "scene descriptions": ["<bird> before <background>"],
    "target classes": ["land bird", "water bird"],
    "bias classes": ["land", "water"],
    "target class descriptions": {"land bird": ["a hen"], "water bird": ["a duck"]},
    "bias class descriptions": {"land": ["grass"], "water": ["waves"]},
    "target placeholder": "<bird>",
    "bias placeholder": "<background>",
}
RECORD = {
    "dataset": "waterbirds",
    "task": "zs_classification",
    "backbone": "ViT-L-14@336px",
    "method": "sem",
    "normalize": True,
    "setting": "waterbirds",
    "metric": "Acc.",
    "mean": 0.75,
    "ci": 0.01,
}


def put(path: Path, content: object) -> Path:
    """Write bytes, text or JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def pth(weights: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def feather(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_feather(buffer)
    return buffer.getvalue()


def birds(n: int = N, first: str = "land bird") -> pd.DataFrame:
    kinds = [first, *(["land bird", "water bird"] * n)[: n - 1]]
    return pd.DataFrame({"file_path": [f"{i}.jpg" for i in range(n)], "bird type": kinds, "background": "x"})


SAE = {
    "bpre": torch.zeros(4),
    "encoder.weight": torch.ones(8, 4),
    "encoder.bias": torch.zeros(8),
    "decoder.weight": torch.ones(4, 8),
}
FOLDS = np.array([[0, 1, 2], [3, 4, 5]], np.uint32)

# path in a checkout of the published repository -> (content, path in the project)
FILES: dict[str, tuple[object, str]] = {
    "query_templates/hair_gender_query_templates.json": (
        QUERY_TEMPLATES,
        "config/prompts/official/query_templates/hair_gender_query_templates.json",
    ),
    "prompt_templates/waterbirds_prompt_templates.json": (
        CLASS_TEMPLATES,
        "config/prompts/official/prompt_templates/waterbirds_prompt_templates.json",
    ),
    "debiasing_methods/sem_data/diverse_prompts.py": (
        f"diverse_prompts = {DIVERSE!r}\n",
        "config/prompts/official/diverse_prompts.json",
    ),
    "debiasing_methods/prism_data/zs_classification/waterbirds.json": (
        TEXT_SET,
        "config/prism/official/zs_classification/waterbirds.json",
    ),
    "debiasing_methods/sae_weights/MSAE_small.pth": (
        pth(SAE),
        "debiasing_methods/sae_weights/MSAE_small.pth",
    ),
    f"debiasing_methods/prism_weights/{PRISM}": (
        pth({"transformer.weight": torch.eye(D)}),
        f"debiasing_methods/prism_weights/{PRISM}",
    ),
    "data/Waterbirds/metadata.feather": (feather(birds()), "data/Waterbirds/metadata.feather"),
    "data/Waterbirds/CLIP_RN101_embeddings.npy": (
        npy(np.ones((N, D), np.float16)),
        "data/Waterbirds/CLIP_RN101_embeddings.npy",
    ),
    "data/Waterbirds/train_indices.npy": (npy(FOLDS), "data/Waterbirds/train_indices.npy"),
    "data/Waterbirds/val_indices.npy": (npy(FOLDS[::-1]), "data/Waterbirds/val_indices.npy"),
    f"main_eval_output/{RESULT}": ([RECORD], f"main_eval_output/official/{RESULT}"),
}
OTHERS = {
    "main_eval.py": "raise SystemExit('executed')",
    "config/waterbirds.yaml": "a: b",
    ".git/config": "x",
}
TEMPLATES, DIVERSE_PY, TEXTS = (list(FILES)[i] for i in (0, 2, 3))
SAE_FILE, PRISM_FILE, METADATA, EMBEDDINGS, TRAIN, VAL, RESULT_FILE = list(FILES)[4:]


class Evil:
    """Creates a folder when it is unpickled by a reader that executes what it reads."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.marker),)


def run(checkout: Path, root: Path, *, overwrite: bool = False) -> Imported:
    return import_release(checkout, root, backbones=BACKBONES, overwrite=overwrite, progress=False)


def tree(root: Path) -> dict[str, bytes]:
    """Every file but the manifests of embeddings, which the import makes."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file() and not p.name.endswith(".manifest.json")]
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def refused(done: Imported, checkout: Path) -> dict[str, str]:
    return {str(path.relative_to(checkout)): why for path, why in done.refused}


def skipped(done: Imported, checkout: Path) -> dict[str, str]:
    return {str(path.relative_to(checkout)): why for path, why in done.skipped}
