#!/usr/bin/env bash
# The disentanglement study: four backbones × two bias attributes × CLIP and SAE features = 16 results, and the
# figure drawn from them. Results that are there are kept, so it can be run again after a cut.
#
#   bash disentanglement_study/precompute_all.sh       first: embeds the sentences
#   bash disentanglement_study/run_all_disentanglement_exps.sh
#
# Arguments go to every run of disentanglement_study/disentanglement_experiment.py, such as --overwrite.
# BACKBONES, BIASES, FEATURES  restrict the grid, e.g. BACKBONES="ViT-B-16"
# OUTPUT_DIR  folder of results and figure (default: study_output/disentanglement)
# PYTHON      interpreter (default: .venv/bin/python, else python3)
# After a failure the others still run, and the exit code is 2.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi
OUTPUT_DIR=${OUTPUT_DIR:-study_output/disentanglement}
read -ra backbones <<< "${BACKBONES:-ViT-B-16 ViT-L-14@336px RN50 RN101}"
read -ra biases <<< "${BIASES:-gender ethnicity}"
read -ra features <<< "${FEATURES:-clip sae}"

failed=()
for backbone in "${backbones[@]}"; do
    for bias in "${biases[@]}"; do
        for feature in "${features[@]}"; do
            code=0
            "$PYTHON" disentanglement_study/disentanglement_experiment.py --output-dir "$OUTPUT_DIR" \
                --backbone "$backbone" --bias-attr "$bias" --latent "$feature" "$@" || code=$?
            [ "$code" -eq 130 ] && exit 130  # Ctrl-C stops everything
            [ "$code" -ne 0 ] && failed+=("$backbone:$bias:$feature")
        done
    done
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "failed: ${failed[*]}" >&2
    exit 2
fi
exec "$PYTHON" disentanglement_study/generate_disentanglement_plot.py --results "$OUTPUT_DIR" --published
