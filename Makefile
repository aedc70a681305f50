# Everything sets itself up: a virtual environment in .venv, then what the target needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint package clean

$(VENV)/base.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch -c constraints.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[hf,mlir,test]'
	touch $@

demo: $(VENV)/base.stamp
	$(BIN)/cgptc demo

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

package: $(VENV)/test.stamp
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python -m pip install --quiet --no-deps --target build/wheel dist/*.whl
	PYTHONPATH=build/wheel $(BIN)/python -P -c "import cgptc.backends.onnx.backend, cgptc.frontend.capture, cgptc.cli.entry as entry; assert 'build/wheel' in entry.__file__"

clean:
	rm -rf $(VENV) build dist
