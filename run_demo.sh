#!/usr/bin/env bash
# The whole pipeline on the embedded world Portraits, from drawn people to a table; sets .venv up first.
#
#   bash run_demo.sh            runs what is not done yet
#   bash run_demo.sh --fresh    starts over
#   bash run_demo.sh --trainings 3  trains the model three times: means and ranges
#   bash run_demo.sh --studies  then the two studies and the neuron report in the same world
#   bash run_demo.sh --help     says what else there is
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
bash setup_env.sh
exec .venv/bin/python -m demo "$@"
