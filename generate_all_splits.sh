#!/usr/bin/env bash
# Draw the folds of every evaluation dataset: train_indices.npy and val_indices.npy beside its metadata.
#
#   bash generate_all_splits.sh                     the paper's folds
#   bash generate_all_splits.sh --k-folds 5         arguments go to generate_splits.py
#
# DATA_ROOT   folder of the dataset folders (default: data, in the project)
# PYTHON      interpreter (default: .venv/bin/python, else python3)
# A dataset without a folder is skipped; after a failure the others still run, and the exit code is 2.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

DATA_ROOT=${DATA_ROOT:-data}
if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi

failed=()
for folder in CelebA FairFace UTKFace Waterbirds; do
    path=$DATA_ROOT/$folder
    if [ ! -d "$path" ]; then
        echo "skipped $folder: no folder $path (see data/README.md)" >&2
        continue
    fi
    echo "== $folder"
    code=0
    "$PYTHON" generate_splits.py --dataset-path "$path" "$@" || code=$?
    [ "$code" -eq 130 ] && exit 130  # Ctrl-C stops everything
    [ "$code" -ne 0 ] && failed+=("$folder")
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 2
fi
