#!/usr/bin/env bash
# Run all checks: style, types, tests. Sets itself up on a machine that has only Python 3.11 or later.
#   bash tests/run.sh              everything
#   bash tests/run.sh tests/data   only some tests (arguments go to pytest)
set -euo pipefail
cd "$(dirname "$0")/.."
source ./environment.sh
prepare_environment test

# Tests of the report run in a real browser. It is no Python package, so it is only installed where that is possible.
has_browser() { [ -n "${BROWSER_FOR_TESTS:-}" ] || command -v chromium chromium-browser google-chrome >/dev/null; }
install_browser() { apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium; }
if ! has_browser && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing Chromium for the tests of the report (once) ..." >&2
    DEBIAN_FRONTEND=noninteractive install_browser >/dev/null 2>&1 ||
        echo "It could not be installed; the tests of the report in a browser are not run." >&2
fi

# The tests start several processes; more threads each would only get into each other's way.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [ $# -eq 0 ]; then
    "$PY" -m ruff check .
    "$PY" -m ruff format --check .
    "$PY" -m mypy deepmedic deepmedic_run.py
fi
exec "$PY" -m pytest -n "${TEST_PROCESSES:-2}" --dist worksteal "$@"
