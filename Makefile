# Everything sets itself up: a virtual environment in .venv, then what the target needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INTEROP := .venv-interop
# Python compiles what it imports; compiling all of torch and transformers first would take most of the installation.
INSTALL := -m pip install --quiet --no-compile
# Tests start dozens of processes: what the first of them imports is compiled once, also where a system asks for no bytecode.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test interop lint package clean

$(VENV)/base.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(INSTALL) torch -c constraints.txt
	$(BIN)/python $(INSTALL) -c constraints.txt -e .
	touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp
	$(BIN)/python $(INSTALL) -c constraints.txt -e '.[hf,mlir,test]'
	touch $@

demo: $(VENV)/base.stamp
	$(BIN)/cgptc demo

lint: $(VENV)/test.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal --durations=15

# Other runtimes open artifacts as they are. An environment of its own: optimum-onnx 0.1 needs an older transformers.
$(INTEROP)/stamp: tests/interop/requirements.txt
	$(PYTHON) -m venv $(INTEROP)
	$(INTEROP)/bin/python $(INSTALL) -r tests/interop/requirements.txt
	touch $@

interop: $(VENV)/base.stamp $(INTEROP)/stamp
	rm -rf $(INTEROP)/artifacts
	$(BIN)/python tests/interop/artifacts.py $(INTEROP)/artifacts
	cd tests/interop && CGPTC_ARTIFACTS=$(CURDIR)/$(INTEROP)/artifacts $(CURDIR)/$(INTEROP)/bin/python -m pytest -q -p no:cacheprovider --rootdir . --confcutdir . -c /dev/null .

package: $(VENV)/test.stamp
	rm -rf build dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/python $(INSTALL) --no-deps --target build/wheel dist/*.whl
	PYTHONPATH=build/wheel $(BIN)/python -P -c "import cgptc.backends.onnx.backend, cgptc.frontend.capture, cgptc.cli.entry as entry; assert 'build/wheel' in entry.__file__"

clean:
	rm -rf $(VENV) $(INTEROP) build dist
