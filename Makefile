# make demo: sets up, trains a small detector on generated pictures, ends with a report in runs/demo.
# make test: sets up, then checks style, types and behaviour.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow setup setup-test clean
demo: setup
	$(BIN)/foveal demo --out runs/demo

setup: $(VENV)/.installed
setup-test: $(VENV)/.installed-test

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "foveal needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.installed

test: setup-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow" --numprocesses logical --maxprocesses 4 --dist worksteal

test-slow: setup-test
	$(BIN)/python -m pytest -m slow
	FOVEAL_EXAMPLES=20000 $(BIN)/python -m pytest $$(find tests -name 'test_properties*.py') --numprocesses logical --maxprocesses 4

clean:
	rm -rf $(VENV) runs build .hypothesis *.egg-info
