#!/bin/sh
# Keycloak's own types and a compiler that checks deploy/keycloak/realm.json by them (tests/integration/test_deploy.py), in build/types.
# Once for each state of the pins. Node comes from the system (20 or newer), else from .venv-clients (tests/clients/install.sh).
set -e
cd "$(dirname "$0")/../.."
stamp="build/types/.$(cksum < tests/deploy/types/package-lock.json | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0
rm -rf build/types
mkdir -p build/types
cp tests/deploy/types/package.json tests/deploy/types/package-lock.json build/types/
PATH="$PATH:$PWD/.venv-clients/bin" npm ci --prefix build/types --no-audit --no-fund --silent
touch "$stamp"
