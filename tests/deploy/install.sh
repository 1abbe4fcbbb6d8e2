#!/bin/sh
# kubectl and promtool for tests/integration/test_deploy.py: the system's, else Debian's packages unpacked into $1 (nothing is installed).
folder=${1:?folder}
have() { command -v "$1" >/dev/null 2>&1 || [ -x "$folder/usr/bin/$1" ]; }
fetch() { # program package
  have "$1" && return 0
  echo "Fetching $1 for the tests of deploy/ …"
  work=$(mktemp -d) && chmod 755 "$work" && cd "$work" || exit 1
  apt-get download -qq "$2" >/dev/null 2>&1 || { [ "$(id -u)" = 0 ] && apt-get update -qq >/dev/null 2>&1; apt-get download -qq "$2" >/dev/null 2>&1; }
  for package in ./*.deb; do [ -f "$package" ] && mkdir -p "$folder" && dpkg -x "$package" "$folder"; done
  rm -rf "$work"
  have "$1" || echo "The tests of deploy/ need $1: install it (Debian: apt install $2). They fail without it."
}
fetch kubectl kubernetes-client
fetch promtool prometheus
exit 0
