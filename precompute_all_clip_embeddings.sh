#!/usr/bin/env bash
# Embed every dataset with every backbone. Embeddings that are there are kept, so it can be run again.
#
#   bash precompute_all_clip_embeddings.sh
#   bash precompute_all_clip_embeddings.sh --device cuda --precision fp16 --batch-size 256
#
# Arguments go to precompute_embeddings.py.
# DATA_ROOT   folder of the dataset folders (default: data, in the project)
# PYTHON      interpreter (default: .venv/bin/python, else python3)
# A dataset without a folder is skipped; after a failure the others still run, and the exit code is 2.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

DATA_ROOT=${DATA_ROOT:-data}
if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi

BACKBONES=(ViT-B-16 ViT-L-14@336px RN50 RN101)
# The first four are evaluated; ZSDebias trains on the others and on UTKFace.
FOLDERS=(CelebA FairFace UTKFace Waterbirds COCO FACET ImageNet100 LFW)  # lower case: the dataset names

failed=()
for folder in "${FOLDERS[@]}"; do
    path=$DATA_ROOT/$folder
    if [ ! -d "$path" ]; then
        echo "skipped $folder: no folder $path (see data/README.md)" >&2
        continue
    fi
    name=$(printf '%s' "$folder" | tr '[:upper:]' '[:lower:]')
    for backbone in "${BACKBONES[@]}"; do
        echo "== $folder, $backbone"
        code=0
        "$PYTHON" precompute_embeddings.py --backbone "$backbone" --dataset-name "$name" \
            --dataset-path "$path" "$@" || code=$?
        [ "$code" -eq 130 ] && exit 130  # Ctrl-C stops everything
        [ "$code" -ne 0 ] && failed+=("$folder:$backbone")
    done
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 2
fi
