#!/usr/bin/env bash
# Embed the sentences of the disentanglement study with all four backbones. What is there is kept.
#
#   bash disentanglement_study/precompute_all.sh
#   bash disentanglement_study/precompute_all.sh --device cuda
#
# Arguments go to disentanglement_study/precompute_dataset.py (--help lists them).
# PYTHON      interpreter (default: .venv/bin/python, else python3)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi
exec "$PYTHON" disentanglement_study/precompute_dataset.py "$@"
