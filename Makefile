# Everything here needs Python >= 3.11, pip, make and a package registry, and no more.
# Arguments for a command: make run ARGS="--port 9000", make test ARGS="tests/core -x".
# Another interpreter:     make setup PYTHON=/path/to/python3

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check bench bench-quick soak docs lock clean

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PYTHON ?=
ARGS ?=
# How many tests run at once. WORKERS=0 for one process, as a debugger wants it.
WORKERS ?= 2

# Tests and benchmarks are looked at when they are there.
SOURCES := $(wildcard src tests benchmarks examples)

help:
	@echo 'make setup        a virtual environment in $(VENV) with everything locked'
	@echo 'make run          start the hub (claw up)'
	@echo 'make demo         start the hub with a few agents that talk'
	@echo 'make test         run the tests'
	@echo 'make check        style, types, layers, then the tests: what has to pass'
	@echo 'make bench        measure; make bench-quick for a first look'
	@echo 'make soak         the tests that take minutes to hours'
	@echo 'make docs         write the pages that are made from the code anew'
	@echo 'make lock         write the lock files anew from pyproject.toml (needs uv)'
	@echo 'make clean        remove $(VENV) and all caches'

setup: $(VENV)/.dev

# `exec` so that a signal to this recipe's shell is a signal to the hub.
run: $(VENV)/.runtime
	@exec $(BIN)/claw up $(ARGS)

demo: $(VENV)/.runtime
	@exec $(BIN)/claw demo $(ARGS)

# What pytest makes of the tests is kept for the next run, which then begins 7 s earlier.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# Warnings are errors by `filterwarnings` in pyproject.toml, here as in `make test`.
check: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy --strict $(SOURCES)
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory test

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.dev
	$(BIN)/python -m benchmarks --quick $(ARGS)

soak: $(VENV)/.dev
	$(BIN)/python -m pytest -m soak --timeout=0 $(ARGS)

# The pages that tests compare with the code, as far as the program itself can write them.
docs: $(VENV)/.runtime
	$(BIN)/python -m clawnet.app.reference markdown > docs/configuration.md
	$(BIN)/python -m clawnet.app.reference toml > deploy/config.toml

# The locks hold names, versions and hashes for every platform, and never the address they came
# from. `uv` is needed here only: pip install uv into any other environment, or UV=path/to/uv.
# Versions stay where they are unless asked: make lock ARGS=--upgrade
# or ARGS="--upgrade-package starlette".
UV ?= uv
UV_COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-header --no-annotate $(ARGS)

lock:
	@command -v $(UV) >/dev/null || { echo 'make lock needs uv: pip install uv, or UV=path/to/uv' >&2; exit 1; }
	$(UV_COMPILE) --output-file requirements.lock pyproject.toml
	$(UV_COMPILE) --group dev --constraint requirements.lock --output-file requirements-dev.lock pyproject.toml
	@if grep -nE '://|^ *--(index|extra-index|find-links)' requirements.lock requirements-dev.lock; \
		then echo 'A lock file names an address; it must not.' >&2; exit 1; fi

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests $(wildcard benchmarks) -name __pycache__ -type d -prune -exec rm -rf {} +

# ---------------------------------------------------------------- the environment
# Stamps: a second call does nothing unless a lock or pyproject.toml is newer.

$(VENV)/.dev: requirements-dev.lock $(VENV)/.runtime
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.runtime: requirements.lock pyproject.toml $(VENV)/.created
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps -e .
	@touch $@

# Each candidate is tried by running it: a shim or a stub may be on the path without a Python
# behind it. Debian without python3-venv cannot put pip into an environment; then another pip does.
$(VENV)/.created:
	@set -eu; python=; \
	for candidate in $(or $(PYTHON),python3.13 python3.12 python3.11 python3); do \
		if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
			then python=$$candidate; break; fi; \
	done; \
	if [ -z "$$python" ]; then \
		echo 'clawnet needs Python 3.11 or newer: $(if $(PYTHON),$(PYTHON) is not that,none is on the path). Install one, or name it: make setup PYTHON=/path/to/python3' >&2; \
		exit 1; \
	fi; \
	if ! "$$python" -m venv $(VENV) >/dev/null 2>&1; then \
		"$$python" -m venv --without-pip $(VENV); \
		"$$python" -m pip --python $(BIN)/python install --quiet pip 2>/dev/null \
		|| pip --python $(BIN)/python install --quiet pip \
		|| { rm -rf $(VENV); echo 'There is no pip to fill the environment with: install python3-venv, or pip 22.3 or newer.' >&2; exit 1; }; \
	fi; \
	$(BIN)/python --version; touch $@
