# Each target makes its own environment: nothing is needed but Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Modules are compiled when they are first imported, and kept: pip takes half of its time to compile all of them.
PIP := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile
unexport PYTHONDONTWRITEBYTECODE
# One thread a process, two processes; a file stays in one, because its tests share runs.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test check stress docs format clean

demo: $(VENV)/installed # the 2 x 2 ablation of the README on synthetic digits
	$(BIN)/python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true data=synthetic trainer=demo trainer.max_epochs=8 study=demo
	$(BIN)/python src/train.py experiment=digits data=synthetic optimizer.lr=4e-3 trainer.max_epochs=12 study=demo

test: $(VENV)/tests # everything but stress
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(PYTEST)

check: $(VENV)/tests # what takes 2 1/2 minutes: the tests that start no process
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(PYTEST) -m 'not process'

stress: $(VENV)/tests # the long proofs: killed, interrupted, out of disk, fuzzed
	$(BIN)/python tests/stress/full_size.py
	set -e; for proof in kill faults fuzz; do OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/stress/$$proof.py; done

docs: $(VENV)/documentation # site/index.html
	$(BIN)/mkdocs build --strict

format: $(VENV)/tests
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/tests: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[test]'
	touch $(VENV)/installed $@

$(VENV)/documentation: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'mkdocs>=1.6'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache site
