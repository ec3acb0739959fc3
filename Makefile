# One entry for people and for CI. Both `make run` and `make test` set up all they need in .venv.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check
ARGS ?=

.PHONY: help run test test-export lint types audit bench chaos

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(VENV)/.installed ## Set up and show the whole way (ONCE=1: then stop; IMAGES=folder: yours)
	@$(BIN)/avatarmod demo $(if $(ONCE),--once) $(if $(IMAGES),--images '$(IMAGES)') $(ARGS)

test: $(VENV)/.installed-dev ## Set up and run every test that needs no PyTorch
	@$(BIN)/python -m pytest -m 'not export and not live' $(ARGS)

test-export: ## Set up PyTorch in .venv-export and test the export against it
	@bash tests/export/run $(ARGS)

lint: $(VENV)/.installed-dev ## Check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## Check types
	@$(BIN)/mypy

# Strict: a package that the service does not know is an error, not a package without faults.
audit: $(VENV)/.installed-dev ## Ask PyPI for known vulnerabilities of what is installed
	@$(BIN)/pip freeze --exclude-editable 2>/dev/null | $(BIN)/pip-audit --strict --disable-pip --no-deps \
		--progress-spinner off --requirement /dev/stdin $(ARGS)

bench: $(VENV)/.installed-dev ## Measure the engine on one core
	@$(BIN)/python benchmarks/engine.py $(ARGS)

chaos: $(VENV)/.installed-dev ## Inject faults for a while and check that nothing is lost
	@$(BIN)/python benchmarks/chaos.py $(ARGS)

$(VENV)/bin/pip:
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed and was not found;" \
		"install it (Debian: apt install python3 python3-venv) or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(PYTHON) has no venv module;" \
		"install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making a virtual environment with $$($(PYTHON) --version) ..." >&2
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing packages into $(VENV) (once; takes a few minutes) ..." >&2
	@$(PIP_INSTALL) -e '.[all]' && touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/pip
	@echo "Installing packages for tests into $(VENV) (once; takes a few minutes) ..." >&2
	@$(PIP_INSTALL) -e '.[dev]' && touch $@ $(VENV)/.installed
