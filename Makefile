# Everything sets itself up: a virtual environment in .venv, then what the target needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

$(VENV)/base.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hf,mlir,test]'
	touch $@

DEMO := src/cgptc/models/demo

demo: $(VENV)/base.stamp
	$(BIN)/cgptc compile $(DEMO) -o build/demo
	$(BIN)/cgptc verify build/demo --against $(DEMO)
	$(BIN)/cgptc run build/demo --prompt "In the beginning" --max-new-tokens 60 --temperature 0.8 --top-k 40 --seed 7

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

clean:
	rm -rf $(VENV) build dist
