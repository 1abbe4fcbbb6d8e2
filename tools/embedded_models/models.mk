# Training and evaluation of the embedded models. Training needs requirements/train.txt in an environment of its own.
TRAIN := .venv-train/bin/python
.PHONY: train-stt train-llm eval-models samples

$(TRAIN): requirements/train.txt | check-python
	@$(PYTHON) -m venv .venv-train
	@$(TRAIN) -m pip install --disable-pip-version-check -q --progress-bar on -r requirements/train.txt

train-stt: $(TRAIN)
	@$(TRAIN) tools/embedded_models/train_stt.py

train-llm: $(TRAIN)
	@$(TRAIN) tools/embedded_models/train_llm.py

samples: $(TRAIN)
	@$(TRAIN) tools/embedded_models/make_samples.py

eval-models: $(VENV)/.run
	@$(PY) tools/embedded_models/evaluate.py --json tools/embedded_models/logs/evaluation.json
