#!/usr/bin/env bash
# Lint, formatting, imports and tests, in that order, up to the first that fails; sets .venv up first.
#
#   bash run_tests.sh                        everything
#   bash run_tests.sh -k metrics -x          arguments go to pytest
#   WITH_RAY=1 bash run_tests.sh             with Ray, without which the tests of --engine ray are skipped
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

step() {  # run the command "$2…" and say which step failed
    local name=$1 code=0
    shift
    printf -- '-- %s\n' "$name"
    "$@" || code=$?
    if [ "$code" -ne 0 ]; then
        printf 'run_tests: FAILED at: %s (exit code %s)\n' "$name" "$code" >&2
        exit "$code"
    fi
}

step "environment" bash setup_env.sh
step "lint (ruff check)" .venv/bin/python -m ruff check .
step "formatting (ruff format --check)" .venv/bin/python -m ruff format --check .
step "imports (lint-imports)" .venv/bin/lint-imports
step "tests (pytest)" .venv/bin/python -m pytest -q "$@"
