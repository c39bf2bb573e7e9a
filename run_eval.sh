#!/usr/bin/env bash
# The paper's benchmark: 8 settings × 4 backbones × 16 = 512 results, one JSON each in main_eval_output/. Results
# that are there and were made from the same inputs are kept, so it can be run again after a cut.
#
#   bash run_eval.sh --dry-run                     the whole grid, with the state of each result
#   bash run_eval.sh                               all of it; says what is missing before it computes anything
#   bash run_eval.sh --skip-missing                all for which everything is there
#   bash run_eval.sh --prompts official            with the release's prompts, once they are imported
#   bash run_eval.sh --settings waterbirds --backbone ViT-B-16 --methods vanilla sem-bi
#   bash run_eval.sh --methods cfd leace           methods beyond the paper's (config/methods.yml lists all)
#
# Arguments go to main_eval.py (--help lists them); they select from all four datasets together.
# PYTHON      interpreter (default: .venv/bin/python, else python3)
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

if [ -z "${PYTHON:-}" ]; then
    [ -x .venv/bin/python ] && PYTHON=.venv/bin/python || PYTHON=python3
fi
exec "$PYTHON" main_eval.py \
    --config config/celeba.yml config/fairface.yml config/utkface.yml config/waterbirds.yml \
    --methods vanilla roboshot sem-i orth-proj prism-mini sem-b zsdebias orth-cali sem-bi prism bendvlm bendsem-bi \
    "$@"
