"""Files of the release where the project has files already: what is kept, replaced or refused."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.release_files import (
    DIVERSE,
    DIVERSE_PY,
    EMBEDDINGS,
    FILES,
    FOLDS,
    METADATA,
    PRISM_FILE,
    RESULT_FILE,
    SAE_FILE,
    TEMPLATES,
    TEXTS,
    TRAIN,
    VAL,
    D,
    N,
    birds,
    feather,
    npy,
    put,
    refused,
    run,
    tree,
)


@pytest.mark.parametrize("name", [TEMPLATES, DIVERSE_PY, TEXTS, SAE_FILE, PRISM_FILE, RESULT_FILE])
def test_a_file_that_differs_stays(checkout: Path, root: Path, name: str) -> None:
    target = put(root / FILES[name][1], "mine")
    done = run(checkout, root)
    assert refused(done, checkout) == {name: "another file is there already; --overwrite replaces it"}
    assert len(done.taken) == len(FILES) - 1
    assert target.read_text() == "mine"
    assert run(checkout, root, overwrite=True).refused == []
    assert target.read_bytes() != b"mine"


def test_diverse_prompts_that_say_the_same_are_kept(checkout: Path, root: Path) -> None:
    target = put(root / FILES[DIVERSE_PY][1], json.dumps(DIVERSE))
    before = target.read_bytes()
    assert run(checkout, root).refused == []
    assert target.read_bytes() == before


def test_metadata_that_differ_keep_the_embeddings_out(checkout: Path, root: Path) -> None:
    """Else embeddings would number other rows than the metadata beside them."""
    mine = feather(birds(first="water bird"))
    put(root / FILES[METADATA][1], mine)
    done = run(checkout, root)
    why = "metadata.feather differs from the one that is there; --overwrite replaces it and the embeddings"
    assert refused(done, checkout) == {METADATA: why, EMBEDDINGS: why}
    assert tree(root / "data" / "Waterbirds")["metadata.feather"] == mine
    assert not (root / FILES[EMBEDDINGS][1]).exists()
    assert (root / FILES[TRAIN][1]).is_file()  # they depend on the number of rows alone


def test_overwriting_replaces_metadata_and_embeddings_together(checkout: Path, root: Path) -> None:
    put(root / FILES[METADATA][1], feather(birds(first="water bird")))
    target = put(root / FILES[EMBEDDINGS][1], npy(np.zeros((N, D), np.float32)))
    manifest = put(target.with_suffix(".manifest.json"), {"digest": "of what was there"})
    done = run(checkout, root, overwrite=True)
    assert done.refused == []
    assert (root / FILES[METADATA][1]).read_bytes() == (checkout / METADATA).read_bytes()
    assert target.read_bytes() == (checkout / EMBEDDINGS).read_bytes()
    assert "digest" not in json.loads(manifest.read_text())


@pytest.mark.parametrize("there", ["other rows", "no metadata"])
def test_embeddings_of_other_rows_are_not_left_beside_new_metadata(
    checkout: Path, root: Path, there: str
) -> None:
    if there == "other rows":
        put(root / FILES[METADATA][1], feather(birds(first="water bird")))
    other = put(root / "data" / "Waterbirds" / "CLIP_RN50_embeddings.npy", npy(np.ones((N, 1024))))
    before = tree(root / "data")
    done = run(checkout, root, overwrite=True)
    assert set(refused(done, checkout)) == {METADATA, EMBEDDINGS}
    assert f"{other}, made with other rows, would stay; move it away" in refused(done, checkout)[EMBEDDINGS]
    assert {name: data for name, data in tree(root / "data").items() if "indices" not in name} == before


def test_damaged_embeddings_do_not_let_their_metadata_overwrite(checkout: Path, root: Path) -> None:
    put(root / FILES[METADATA][1], feather(birds(first="water bird")))
    put(root / FILES[EMBEDDINGS][1], npy(np.zeros((N, D), np.float32)))
    put(checkout / EMBEDDINGS, b"damaged")
    before = tree(root / "data")
    done = run(checkout, root, overwrite=True)
    assert set(refused(done, checkout)) == {METADATA, EMBEDDINGS}
    assert {name: data for name, data in tree(root / "data").items() if "indices" not in name} == before


def test_the_same_table_in_other_bytes_is_kept(checkout: Path, root: Path) -> None:
    buffer = io.BytesIO()
    birds().to_feather(buffer, compression="uncompressed")
    assert buffer.getvalue() != (checkout / METADATA).read_bytes()
    target = put(root / FILES[METADATA][1], buffer.getvalue())
    done = run(checkout, root)
    assert done.refused == []
    assert target.read_bytes() == buffer.getvalue()
    assert (root / FILES[EMBEDDINGS][1]).is_file()


def test_other_embeddings_of_the_same_rows_stay_beside(checkout: Path, root: Path) -> None:
    put(root / FILES[METADATA][1], (checkout / METADATA).read_bytes())
    mine = put(root / FILES[EMBEDDINGS][1], npy(np.zeros((N, D), np.float32)))
    done = run(checkout, root)
    assert refused(done, checkout) == {EMBEDDINGS: "another file is there already; --overwrite replaces it"}
    assert np.load(mine).dtype == np.float32


def test_folds_must_fit_the_metadata_that_stay(checkout: Path, root: Path) -> None:
    put(root / FILES[METADATA][1], feather(birds(5)))
    reasons = refused(run(checkout, root), checkout)
    assert set(reasons) == {METADATA, EMBEDDINGS, TRAIN, VAL}
    assert "but there are 5 images" in reasons[TRAIN]


def test_one_dataset_in_two_folders(checkout: Path, root: Path) -> None:
    """Archives of embeddings and a checkout may lie side by side, each with the same metadata."""
    other = checkout / "unpacked" / "Waterbirds"
    put(other / "metadata.feather", (checkout / METADATA).read_bytes())
    shutil.move(checkout / EMBEDDINGS, other / Path(EMBEDDINGS).name)
    assert run(checkout, root).refused == []
    assert (root / FILES[EMBEDDINGS][1]).is_file()


def test_folds_are_replaced_in_pairs(checkout: Path, root: Path) -> None:
    put(root / FILES[VAL][1], npy(FOLDS))
    done = run(checkout, root)
    assert set(refused(done, checkout)) == {TRAIN, VAL}
    assert not (root / FILES[TRAIN][1]).exists()
    assert run(checkout, root, overwrite=True).refused == []
    np.testing.assert_array_equal(np.load(root / FILES[VAL][1]), FOLDS[::-1])
