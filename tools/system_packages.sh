#!/bin/sh
# Debian packages that some tests need: the C++ client's, a browser for the page, network namespaces.
# Without them those tests skip, each saying what it misses.
set -eu
packages="cmake g++ libzmq3-dev cppzmq-dev libmsgpack-cxx-dev doctest-dev chromium chromium-driver iproute2"
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
echo "installing:$missing"
# shellcheck disable=SC2086 - a list of names
apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing >/dev/null
