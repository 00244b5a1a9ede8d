# `make demo` and `make test` make their own environment; nothing is needed but Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test stress lint clean

demo: $(VENV)/installed
	$(BIN)/python src/train.py -m variance=relu_eps,logvar pca.whiten=false,true data=synthetic trainer=demo study=demo
	$(BIN)/python src/train.py model=conv variance=bounded_logvar data=synthetic trainer=demo trainer.max_epochs=20 study=demo

test: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

stress: $(VENV)/installed
	$(BIN)/python tests/stress/full_size.py
	set -e; for proof in kill faults fuzz corruption memory; do OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python tests/stress/$$proof.py; done

lint: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache src/*.egg-info
