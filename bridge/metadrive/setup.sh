#!/bin/sh
# Builds .venv-metadrive beside this clone, installs MetaDrive into it and renders one frame.
# Called by `make metadrive`. PYTHON chooses the interpreter, which must be a Python 3.11.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
environment="$root/.venv-metadrive"
python=${PYTHON:-python3.11}
libraries="libegl1 libgl1 libgl1-mesa-dri"

fail() {
    echo "make metadrive: $1" >&2
    exit 1
}

missing_libraries() {
    for library in $libraries; do
        dpkg-query -W -f '${Status}' "$library" 2>/dev/null | grep -q 'install ok installed' ||
            printf '%s ' "$library"
    done
}

install_libraries() {
    command -v dpkg-query >/dev/null || {
        echo "not a Debian system: needed are EGL, GL and Mesa's software driver" >&2
        return
    }
    missing=$(missing_libraries)
    [ -n "$missing" ] || return 0
    [ "$(id -u)" -eq 0 ] || fail "as root: apt-get install $missing"
    apt-get update -qq
    # shellcheck disable=SC2086  # a list of names
    apt-get install -y -qq --no-install-recommends $missing
}

install_packages() {
    command -v "$python" >/dev/null || fail "$python is not here; set PYTHON to a Python 3.11"
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
        fail "$python is not a Python 3.11, which the pinned wheels are for"
    [ -x "$environment/bin/python" ] || "$python" -m venv "$environment"
    "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
        -r "$here/requirements.txt"
}

install_libraries
install_packages
echo "smoke check: one frame (the first start takes 10 to 20 s)"
"$environment/bin/python" "$here/worker.py" --size-px 128 --smoke ||
    fail "the smoke check failed; see above"
