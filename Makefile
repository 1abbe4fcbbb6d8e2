# Two commands: `make run` and `make test`. Both need only Python 3.11+ and make.
PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3.13 python3 2>/dev/null))
VENV := .venv
PY := $(VENV)/bin/python
.PHONY: run test bench chaos soak fuzz clean-venv check-python

run: $(VENV)/.run
	@exec $(PY) manage.py up

test: $(VENV)/.test
	@$(PY) -m pytest

bench: $(VENV)/.test
	@$(PY) -m bench

chaos: $(VENV)/.test
	@$(PY) -m bench.chaos

soak: $(VENV)/.test
	@$(PY) -m bench.soak

fuzz: $(VENV)/.test
	@$(PY) -m bench.fuzz

check-python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (https://www.python.org/downloads/)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is too old: Python 3.11 or newer is needed; name one with make PYTHON=…"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "this Python lacks venv; on Debian: apt install python3-venv"; exit 1; }

$(PY): | check-python
	@echo "Making the virtual environment $(VENV) …"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.txt | $(PY)
	@echo "Installing requirements (about 150 packages; a minute or two the first time) …"
	@$(PY) -m pip install --disable-pip-version-check -q --progress-bar on -r requirements.txt
	@touch $@

$(VENV)/.test: requirements/test.txt requirements/clients.txt $(VENV)/.run
	@sh tests/browser/install.sh
	@sh tests/clients/install.sh $(PYTHON)
	@sh tests/deploy/install.sh $(CURDIR)/$(VENV)/tools
	@sh tests/deploy/types.sh
	@echo "Installing test requirements …"
	@$(PY) -m pip install --disable-pip-version-check -q --progress-bar on -r requirements/test.txt
	@touch $@

-include tools/embedded_models/models.mk
-include voice/engines/vllm.mk
