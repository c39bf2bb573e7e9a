"""Cut the small oracle that ships with the tests out of the large one.

    python -m benchmarks.small_oracle --oracle-dir DIR

The large oracle (``DIR/golden``) holds arrays that runs of the published code gave, 60 MB in all. The small
one, ``tests/oracle``, keeps in `published.npz` one query of one setting (CelebA's hair colors, bias attribute
gender) with all that the methods need for it: the reference images of fold 0, a few evaluation images, the
embeddings of the prompts, PRISM's map, and the latents of the SAE that the query or its paraphrases activate.
Other latents contribute nothing to the query's debiased embedding, so the published outputs hold for the cut
SAE too; `tests/debiasing_methods/test_published.py` compares every method with them.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from safe_io.checkout import ROOT
from safe_io.errors import InputError, run_main
from safe_io.files import atomic_path, sha256_file, write_json

OUTPUT = ROOT / "tests" / "oracle"
SETTING, QUERY, FOLD = "celeba_hair_gender", "q0", 0
# File of the further methods → beginnings of the names of its arrays that are kept (the same setting, C = 2).
PEERS = {
    "cfd": ("hair/q0_0/", "edge/"),
    "inlp": ("2/tight/", "2/definition/"),
    "leace": ("2/",),
    "sfid": ("2/indices", "2/importances", "2/text_"),
    "clip_clip": ("2/",),
    "rerank": ("2/", "hand/", "pbm"),
}
MOST_BYTES = 6_000_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--oracle-dir", type=Path, required=True, metavar="DIR", help="folder with golden/")
    parser.add_argument("--output-dir", type=Path, default=OUTPUT, metavar="DIR")
    args = parser.parse_args(argv)
    golden = args.oracle_dir / "golden"
    setting, common = _arrays(golden / f"{SETTING}.npz"), _arrays(golden / "common.npz")
    arrays = cut_setting(setting) | cut_sae(setting, common) | {"diverse": common["diverse"]}
    path = args.output_dir / "published.npz"
    write(path, arrays)
    write(path.with_name("peers.npz"), cut_peers(golden, setting))
    facts = json.loads((golden / f"{SETTING}.json").read_text(encoding="utf-8"))
    write_json(path.with_suffix(".json"), {
        "setting": SETTING, "query": QUERY, "fold": FOLD, "num_neighbors": facts["num_neighbors"],
        "cut from": {name: sha256_file(golden / name) for name in (f"{SETTING}.npz", "common.npz")},
    })  # fmt: skip
    size = sum(file.stat().st_size for file in args.output_dir.iterdir())
    if size > MOST_BYTES:
        raise InputError(
            f"{args.output_dir}: {size} bytes, more than the {MOST_BYTES} that the repository takes"
        )
    return 0


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays compressed and say how large they are."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
    print(f"written: {path}, {path.stat().st_size / 1e6:.2f} MB, {len(arrays)} arrays")


def _arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


def cut_setting(setting: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep the arrays of one query, the reference images of one fold, and the stored evaluation images."""
    kept = {name: array for name, array in setting.items() if name.startswith(f"{QUERY}/")}
    shown = len(kept[f"{QUERY}/out/prism/images"])
    reference, evaluation = setting["train_indices"][FOLD], setting["val_indices"][FOLD][:shown]
    rows = np.concatenate([reference, evaluation])
    n = len(reference)
    return kept | {
        "images": setting["images"][rows],
        "bias_label": setting["bias_label"][rows],
        "train_indices": np.arange(n)[None],
        "val_indices": np.arange(n, n + shown)[None],
    }


def cut_peers(golden: Path, setting: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep what the published code of the further methods gave for the setting; rows are those of the cut."""
    kept = {}
    for name, beginnings in PEERS.items():
        for key, array in _arrays(golden / "peers" / f"{name}.npz").items():
            if key.startswith(beginnings):
                kept[f"{name}/{key}"] = _cut_rows(array, setting) if key.endswith("out_rows") else array
    return kept


def _cut_rows(rows: np.ndarray, setting: Mapping[str, np.ndarray]) -> np.ndarray:
    """Rows of evaluation images in `cut_setting`, for rows in the setting."""
    evaluation = setting["val_indices"][FOLD].tolist()
    return np.array([len(setting["train_indices"][FOLD]) + evaluation.index(row) for row in rows.tolist()])


def cut_sae(setting: Mapping[str, np.ndarray], common: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Keep the latents that the query or one of its paraphrases activates."""
    texts = np.concatenate([setting[f"{QUERY}/query"], *setting[f"{QUERY}/paraphrases"]]).astype(np.float64)
    encoder, bias, center = (common[f"sae/{name}"] for name in ("encoder.weight", "encoder.bias", "bpre"))
    active = ((texts - center) @ encoder.T + bias > 0).any(axis=0)
    return {
        "sae/encoder.weight": encoder[active],
        "sae/encoder.bias": bias[active],
        "sae/decoder.weight": common["sae/decoder.weight"][:, active],
        "sae/bpre": center,
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
