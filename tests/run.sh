#!/usr/bin/env bash
# Run all checks: style, types, tests. Sets itself up on a machine that has only Python 3.11 or later.
#   bash tests/run.sh              everything
#   bash tests/run.sh tests/data   only some tests (arguments go to pytest)
set -euo pipefail
cd "$(dirname "$0")/.."
source ./environment.sh
prepare_environment test

# The tests start several processes; more threads each would only get into each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ $# -eq 0 ]; then
    "$PY" -m ruff check .
    "$PY" -m ruff format --check .
    "$PY" -m mypy deepmedic deepmedic_run.py
fi
exec "$PY" -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal "$@"
