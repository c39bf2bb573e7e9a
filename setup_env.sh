#!/usr/bin/env bash
# Makes .venv beside this file, or finds that it is up to date and returns at once.
#
#   bash setup_env.sh
#
# It installs requirements-dev.txt at the versions of requirements.lock, with uv where that is installed, else
# with `python3 -m venv` and pip. To start afresh, delete .venv.
#
#   PYTHON=python3.12 bash setup_env.sh
#       uses this interpreter (3.11, 3.12 or 3.13). Default: the one a finished .venv has, else the first that
#       fits of python3, python3.13, python3.12, python3.11.
#   TORCH_INDEX_URL=<address> bash setup_env.sh
#       takes torch and torchvision from this package index. On Linux the default build of torch brings several
#       GB of CUDA libraries along, of no use without an NVIDIA GPU; PyTorch's installation page names an index
#       of builds for the CPU alone. It counts when .venv is made; to change it later, delete .venv first.
#   WITH_RAY=1 bash setup_env.sh
#       adds Ray, which --engine ray needs. Where it cannot be installed, a line says so, and the rest is usable.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

venv=.venv
stamp=$venv/setup.stamp             # what was installed; written last
unfinished=$venv/setup.unfinished   # there while an installation runs, and after one that was cut off

say() { printf 'setup_env: %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

fits() {  # is "$1" a Python that the project supports?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' >/dev/null 2>&1
}

version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null || true; }

find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        fits "$PYTHON" || fail "PYTHON=$PYTHON is not a Python 3.11, 3.12 or 3.13 that runs (version:" \
            "$(version_of "$PYTHON" | grep . || echo none)); set PYTHON to one that is"
        command -v "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if fits "$candidate"; then command -v "$candidate"; return; fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found (looked for python3, python3.13, python3.12, python3.11;" \
        "python3 is: $(version_of python3 | grep . || echo missing)); install one or name it: PYTHON=/path/to/python"
}

wanted_stamp() {  # SHA-256 over the requirement files and the version of the Python "$1"
    "$1" - requirements.txt requirements-dev.txt requirements.lock <<'PYTHON'
import hashlib, pathlib, platform, sys
digest = hashlib.sha256(platform.python_version().encode())
for name in sys.argv[1:]:
    digest.update(b"\0" + name.encode() + b"\0" + pathlib.Path(name).read_bytes())
print(digest.hexdigest())
PYTHON
}

make_venv() {
    local python
    python=$(find_python)
    say "making $venv with Python $(version_of "$python")"
    if command -v uv >/dev/null 2>&1; then
        # the variable says --clear to every uv: old ones have no such option and clear unasked
        UV_VENV_CLEAR=1 uv venv --quiet --seed --python "$python" "$venv" || fail "'uv venv' failed (the lines above say why)"
    else
        "$python" -m venv --clear "$venv" || fail "'$python -m venv' failed (on Debian and Ubuntu it is in the package" \
            "python3-venv); install it, install uv, or name another Python: PYTHON=/path/to/python"
    fi
}

install() {  # arguments as for `pip install`
    local quiet=()
    [ -t 1 ] || quiet=(--quiet)
    if command -v uv >/dev/null 2>&1; then
        uv pip install ${quiet[@]+"${quiet[@]}"} --python "$venv/bin/python" "$@"
    else
        "$venv/bin/python" -m pip install --disable-pip-version-check ${quiet[@]+"${quiet[@]}"} "$@"
    fi || fail "installing the packages failed (the lines above say why); run this again, what was downloaded is kept"
}

install_packages() {
    say "installing the packages of requirements-dev.txt (once; several minutes, several GB with CUDA libraries)"
    if [ -n "${TORCH_INDEX_URL:-}" ]; then  # what these two need in turn comes with the rest
        install --no-deps --index-url "$TORCH_INDEX_URL" -c requirements.lock torch torchvision
    fi
    install -c requirements.lock -r requirements-dev.txt
}

usable() {  # can what is there be brought up to date, or must it be made anew?
    [ ! -e "$unfinished" ] && fits "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$venv/bin/python")" = "$(version_of "$PYTHON")" ]
}

up_to_date() {
    [ -f "$stamp" ] && [ ! -e "$unfinished" ] && fits "$venv/bin/python" || return 1
    [ -z "${PYTHON:-}" ] || [ "$(version_of "$venv/bin/python")" = "$(version_of "$PYTHON")" ] || return 1
    [ "$(cat "$stamp")" = "$(wanted_stamp "$venv/bin/python")" ]
}

has_extras() {
    [ -z "${WITH_RAY:-}" ] || "$venv/bin/python" -c \
        'import sys; from importlib.util import find_spec; sys.exit(find_spec("ray") is None)'
}

add_extras() {
    has_extras && return
    say "installing Ray"
    (install -c requirements.lock 'ray[data]') || say "Ray could NOT be installed: --engine ray is not usable," \
        "and its tests are skipped"
}

[ -z "${PYTHON:-}" ] || find_python >/dev/null  # a wrong PYTHON is an error even where .venv would do
if up_to_date && has_extras; then exit 0; fi

# Two at once must not install into one folder. The lock is taken on a file that is there anyway, opened to
# append (a network file system locks no file that is open for reading only); nothing is written to it.
if command -v flock >/dev/null 2>&1; then
    exec 9>>requirements.lock
    flock --nonblock 9 || { say "waiting for another setup_env.sh in this folder"; flock 9; }
fi

if up_to_date; then add_extras; exit 0; fi  # the other one has done it, or extras alone are missing
rm -f "$stamp"
usable || make_venv
: >"$unfinished"
install_packages
wanted_stamp "$venv/bin/python" >"$stamp.new"
mv "$stamp.new" "$stamp"
rm -f "$unfinished"
say "$venv is ready"
add_extras
