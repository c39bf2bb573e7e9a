#!/usr/bin/env bash
# Train PRISM: 81 settings × 4 backbones × 3 seeds = 972 maps, from text alone. The dataset configs say which
# settings and backbones, config/methods.yml which seeds. Maps that are there are kept, so it can be run again.
#
#   bash train_all_prism.sh
#   bash train_all_prism.sh --device cuda          encodes the sentences on a GPU
#   bash train_all_prism.sh --prompts official     trains on the release's text sets, once they are imported
#
# Arguments go to debiasing_methods/prism_training.py.
# PYTHON      interpreter (default: .venv/bin/python, else python3)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi
exec "$PYTHON" debiasing_methods/prism_training.py \
    --config config/celeba.yml config/fairface.yml config/utkface.yml config/waterbirds.yml "$@"
