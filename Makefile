# One entry for people and for CI. `make run` and `make test` set up all they need in .venv.
SHELL := /bin/bash
ARGS ?=
# Say make PYTHON=python3.13 for another Python; beside a .venv of another release it gets its own.
FOUND := $(shell .ci/find-python $(PYTHON))
RELEASE := $(and $(FOUND),$(shell $(FOUND) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
OTHER := $(and $(PYTHON),$(RELEASE),$(wildcard .venv/bin/python),$(if $(wildcard .venv/bin/python$(RELEASE)),,y))
VENV := .venv$(and $(OTHER),-$(RELEASE))
BIN := $(VENV)/bin
# requirements.lock says which versions, pyproject.toml which packages; PIP_INDEX_URL names a mirror.
INSTALL := deploy/install-packages $(BIN)/python -e
PYTEST := $(BIN)/python -m pytest

.PHONY: help run test test-fast test-export lint types audit lock bench chaos hostile witness wordpress-plugin

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(VENV)/.installed ## Set up and show the whole way (ONCE=1: then stop; IMAGES=folder: yours)
	@$(BIN)/avatarmod bundle install --optional image-safety-s
	@$(BIN)/avatarmod demo $(if $(ONCE),--once) $(if $(IMAGES),--images '$(IMAGES)') $(ARGS)

test: $(VENV)/.installed-dev ## Set up and run every test that needs no PyTorch
	@$(PYTEST) -m 'not export and not live' -n 2 $(ARGS)

test-fast: $(VENV)/.installed-dev ## Run the tests that open no socket and start no process
	@$(PYTEST) -m fast -n 2 tests/unit $(ARGS)

test-export: ## Set up PyTorch in .venv-export and test the export against it
	@bash tests/export/run $(ARGS)

wordpress-plugin: $(VENV)/.installed ## Pack the WordPress plugin in dist/avatarmod.zip
	@$(BIN)/python -m scripts.make_wordpress_plugin

lint: $(VENV)/.installed-dev ## Check style and format
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/.installed-dev ## Check types
	@$(BIN)/mypy

# Strict: a package that the service does not know is an error, not a package without faults.
audit: $(VENV)/.installed-dev ## Ask for known vulnerabilities and for the licences of what is installed
	@$(BIN)/pip freeze --exclude-editable 2>/dev/null | $(BIN)/pip-audit --strict --disable-pip --no-deps \
		--progress-spinner off --requirement /dev/stdin $(ARGS)
	@$(BIN)/pip-licenses --from=mixed --order=license

# For every Python and platform at once; the reference road's PyTorch is pinned by tests/export.
lock: $(VENV)/.installed-dev ## Renew requirements.lock, the versions that everything installs
	@$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --extra dev \
		--extra export-openvino --no-annotate --no-header --upgrade --no-config --output-file requirements.lock $(ARGS)

bench: $(VENV)/.installed-dev ## Measure engine, queue, start and growth in one table (ARGS=--quick)
	@$(BIN)/python -m benchmarks.table $(ARGS)

chaos: $(VENV)/.installed-dev ## Inject faults for a while and check that nothing is lost
	@$(BIN)/python benchmarks/chaos.py $(ARGS)

hostile: $(VENV)/.installed-dev ## Send hostile uploads and check that good ones do not wait
	@$(BIN)/python benchmarks/hostile.py $(ARGS)

witness: $(VENV)/.installed-dev ## Show files to Chromium and Firefox: are they scored as shown? (ARGS='--mutations 300 --seed 7')
	@$(BIN)/python -m tests.witness $(or $(ARGS),--made --mutations 5000)

$(VENV)/bin/python:
	@test -n "$(FOUND)" || { echo "error: $(or $(PYTHON),Python 3.11 or newer) was not found or does not run;" \
		"install it (Debian: apt install python3 python3-venv) or say make PYTHON=/path/to/python" >&2; exit 1; }
	@$(FOUND) -c 'import venv, ensurepip' 2>/dev/null || { echo "error: $(FOUND) has no venv module;" \
		"install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "Making a virtual environment with Python $(RELEASE) in $(VENV) ..." >&2
	@$(FOUND) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "Installing packages into $(VENV) (once; takes a minute or two) ..." >&2
	@$(INSTALL) '.[all]' && touch $@

$(VENV)/.installed-dev: pyproject.toml requirements.lock | $(VENV)/bin/python
	@echo "Installing packages for tests into $(VENV) (once; takes a few minutes) ..." >&2
	@$(INSTALL) '.[dev]' && touch $@ $(VENV)/.installed
