# Sourced by examples/quickstart.sh and tests/run.sh: sets PY to a Python with the pinned packages.
#
#   prepare_environment EXTRA [WELCOME]     two of the extras of pyproject.toml: one that is needed, and one that is
#                                           installed with it where that is possible, but that nothing fails without
#
# PYTHON=python3.12   chooses the interpreter; one that already satisfies the pins (a conda environment, say) is used as it is
# WHEELHOUSE=FOLDER   installs from the wheels in FOLDER, without any network
# The environment is made once in .venv beside this file and made again when the pins change.

ENVIRONMENT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

_say() { printf '%s\n' "$*" >&2; }

_find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    _say "Python 3.11 or later is needed; tried: ${PYTHON:-python3 python3.13 python3.12 python3.11 python}."
    _say "Install it (Debian/Ubuntu: apt-get install python3.11, conda: conda create -n deepmedic python=3.12) or name one: PYTHON=/path/to/python."
    return 1
}

# True when every package that EXTRA needs is there in the pinned version (a local build such as 2.13.0+cpu counts).
_satisfies_pins() {
    "$1" - "$ENVIRONMENT_ROOT" "$2" <<'PYTHON_CODE' 2>/dev/null
import pathlib, re, sys
from importlib import metadata

import tomllib

root, extra = pathlib.Path(sys.argv[1]), sys.argv[2]
project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
lines = (line.split("#")[0].strip() for line in (root / "constraints.txt").read_text().splitlines())
pins = dict(line.lower().split("==") for line in lines if "==" in line)  # names of packages ignore case: Jinja2, jinja2
wanted, queue = set(), [extra]
for requirement in project["dependencies"]:
    wanted.add(re.match(r"[\w.-]+", requirement).group())
while queue:
    for requirement in project["optional-dependencies"][queue.pop()]:
        nested = re.match(r"deepmedic\[(.*)\]", requirement)
        if nested:
            queue += nested.group(1).split(",")
        else:
            wanted.add(re.match(r"[\w.-]+", requirement).group())
sys.exit(any(metadata.version(name).split("+")[0] != pins[name.lower()] for name in wanted))
PYTHON_CODE
}

_install() {
    local offline=()
    if [ -n "${WHEELHOUSE:-}" ]; then
        [ -d "$WHEELHOUSE" ] || { _say "WHEELHOUSE=$WHEELHOUSE is not a folder."; return 1; }
        offline=(--no-index --find-links "$WHEELHOUSE")
    fi
    local pip=("$PY" -m pip --disable-pip-version-check --quiet install -c "$ENVIRONMENT_ROOT/constraints.txt" "${offline[@]}")
    "${pip[@]}" "setuptools>=77" && "${pip[@]}" --no-build-isolation --editable "$ENVIRONMENT_ROOT[$1]"
}

prepare_environment() {
    local extra="$1" welcome="${2:-}" python stamp folder="$ENVIRONMENT_ROOT/.venv"
    python="$(_find_python)" || return 1
    export PYTHONPATH="$ENVIRONMENT_ROOT${PYTHONPATH:+:$PYTHONPATH}"
    if _satisfies_pins "$python" "$extra"; then
        PY="$python"
        return 0
    fi
    PY="$folder/bin/python"
    stamp="$("$python" -c 'import hashlib, sys; print(hashlib.sha256(b"".join(open(p, "rb").read() for p in sys.argv[1:])).hexdigest())' \
        "$ENVIRONMENT_ROOT/constraints.txt" "$ENVIRONMENT_ROOT/pyproject.toml")"
    if [ -x "$PY" ] && [ "$(cat "$folder/installed-$extra${welcome:+-$welcome}" 2>/dev/null)" = "$stamp" ]; then
        return 0
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        _say "$python lacks the venv module. Debian/Ubuntu: apt-get install python3-venv; or name another Python: PYTHON=/path/to/python."
        return 1
    fi
    [ -x "$PY" ] || "$python" -m venv "$folder" || return 1
    _say "Installing the pinned packages into $folder (once; a few minutes) ..."
    if ! _install "$extra"; then
        _say "The installation failed; the message above says why. Without network: WHEELHOUSE=folder-with-wheels (see documentation/installation.md)."
        return 1
    fi
    if [ -n "$welcome" ] && ! _install "$welcome"; then
        _say "Going on without the extra $welcome, which could not be installed: everything works, some of it slower."
    fi
    printf '%s\n' "$stamp" > "$folder/installed-$extra${welcome:+-$welcome}"
}
