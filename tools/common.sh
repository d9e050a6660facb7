# Shared by tools/run and tools/test: the distribution's packages, and the Python packages in .venv.
# Everything here is quick when nothing is missing, and may run any number of times.

export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
export PYTHONPYCACHEPREFIX=$PWD/.venv/cache/python # no __pycache__ of root in the tree; pip compiles its own in place

say() { printf '\n\033[1m%s\033[0m\n' "$*" >&2; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# need COMMAND:PACKAGE… installs the package of every command that is not on PATH. Going by command leaves alone what
# came from elsewhere, such as a runc that belongs to another container engine's package.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair#*:}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    [ "$(id -u)" = 0 ] || fail "missing: ${missing[*]}. Run this as root, and it installs them."
    command -v apt-get >/dev/null || fail "missing: ${missing[*]}. Only Debian and Ubuntu are known here; install them by hand."
    say "Installing ${missing[*]}"
    without_services apt_install "${missing[@]}"
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    # Package lists may be old or not there at all: fetch them only if the installation fails without.
    apt-get install -y --no-install-recommends "$@" >/dev/null 2>&1 && return
    apt-get update -q >&2 && apt-get install -yq --no-install-recommends "$@" >&2 ||
        { printf 'apt-get could not install: %s\n' "$*" >&2; return 1; }
}

# A package may bring a daemon (docker-registry does). It must neither start now nor at the next boot.
without_services() {
    local policy=/usr/sbin/policy-rc.d mine=no rc=0 had_registry=no
    if [ ! -e $policy ]; then
        mine=yes
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod 755 $policy
    fi
    ! command -v docker-registry >/dev/null || had_registry=yes
    "$@" || rc=$?
    [ $mine = no ] || rm -f $policy
    if [ $had_registry = no ] && command -v docker-registry >/dev/null; then
        systemctl disable docker-registry >/dev/null 2>&1 || true
        update-rc.d docker-registry disable >/dev/null 2>&1 || true
    fi
    return $rc
}

# find_python prints a Python ≥ 3.11 that can make virtual environments.
find_python() {
    local python
    for python in "${PYTHON:-}" python3 /usr/bin/python3 python3.11 python3.12 python3.13 python3.14; do
        [ -n "$python" ] && command -v "$python" >/dev/null || continue
        "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        command -v "$python" && return
    done
    return 1
}

# python_packages run|test fills .venv with what pyproject.toml asks for: with the dev group for tests.
python_packages() {
    local kind=$1 python stamp want
    stamp=.venv/cache/installed-$kind
    if ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$(find_python) || { need /nonexistent:python3-venv; python=$(find_python); } ||
            fail "no Python 3.11 or later with the module venv was found"
        say "Making .venv with $python"
        rm -rf .venv && "$python" -m venv .venv
    fi
    want=$(sha256sum <pyproject.toml)
    grep -qsxF "$want" "$stamp" .venv/cache/installed-test && return # what tests need includes the rest
    say "Installing Python packages into .venv"
    mkdir -p .venv/cache
    # pip learnt to read dependency groups late; the pip of Debian 12 does not.
    .venv/bin/python - "$kind" >.venv/cache/requirements.txt <<'EOF'
import sys, tomllib
project = tomllib.load(open("pyproject.toml", "rb"))
groups = project["dependency-groups"]["dev"] if sys.argv[1] == "test" else []
print("\n".join(project["project"]["dependencies"] + groups))
EOF
    env -u PYTHONPYCACHEPREFIX .venv/bin/pip install -qq --disable-pip-version-check --root-user-action ignore -r .venv/cache/requirements.txt
    env -u PYTHONPYCACHEPREFIX .venv/bin/pip install -qq --disable-pip-version-check --root-user-action ignore --no-deps --editable .
    echo "$want" >"$stamp"
    [ -z "${SUDO_UID:-}" ] || chown -R --reference=pyproject.toml .venv ocid.egg-info
}
