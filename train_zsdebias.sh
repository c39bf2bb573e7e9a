#!/usr/bin/env bash
# Train ZSDebias: 4 backbones × 2 bias types × 3 seeds = 24 models. Models that are there are kept, and a run
# that was cut off goes on, so it can be run again.
#
#   bash train_zsdebias.sh
#   bash train_zsdebias.sh --device cuda
#
# Arguments go to debiasing_methods/zsdebias_training.py.
# DATA_ROOT   folder of the dataset folders (default: data, in the project)
# PYTHON      interpreter (default: .venv/bin/python, else python3)
# After a failure the others still run, and the exit code is 2.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

DATA_ROOT=${DATA_ROOT:-data}
if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi

BACKBONES=(ViT-B-16 ViT-L-14@336px RN50 RN101)
human=(LFW UTKFace FACET)  # gender and race
animal=(ImageNet100 COCO)  # background

failed=()
for backbone in "${BACKBONES[@]}"; do
    for type in human animal; do
        [ "$type" = human ] && folders=("${human[@]}") || folders=("${animal[@]}")
        echo "== $backbone, $type (${folders[*]})"
        code=0
        "$PYTHON" debiasing_methods/zsdebias_training.py --dataset-paths "${folders[@]/#/$DATA_ROOT/}" \
            --bias-attribute "$type" --backbone "$backbone" --seeds 0 1 2 "$@" || code=$?
        [ "$code" -eq 130 ] && exit 130  # Ctrl-C stops everything
        [ "$code" -ne 0 ] && failed+=("$backbone:$type")
    done
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 2
fi
