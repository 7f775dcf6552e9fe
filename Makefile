# Every task of a developer. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check bench browser histories soak chaos config-docs constraints clean

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

demo: $(STAMP) ## Train, publish, move Production, switch under load; KEEP=1 leaves it running afterwards
	@$(BIN)/python -m pipeline.demo $(if $(filter-out 0,$(KEEP)),--keep)

test: $(STAMP) ## All tests but the slow ones, on real processes; ARGS='-k words' picks some
	@$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile $(ARGS)

check: $(STAMP) ## Lint, format, types, floors
	@$(BIN)/python -m ruff check --quiet .
	@$(BIN)/python -m ruff format --quiet --check .
	@$(BIN)/python -m mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP) ## Measure beside the plain recipe; writes benchmarks/results/
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

browser: $(STAMP) ## Only the tests that read the MLflow UI in chromium
	@$(BIN)/python -m pytest -m browser $(ARGS)

histories: $(STAMP) ## 10,000 random histories of promoter, person and servers, in place of the 2,000 of `make test`
	@RELAY_TEST_HISTORIES=10000 $(BIN)/python -m pytest -n 0 --timeout 1800 tests/promoter/test_histories.py

soak: $(STAMP) ## Half an hour of random use of one engine; SECONDS=60 makes it short
	@PYTHONPATH=. $(BIN)/python tests/soak/random_use.py $(if $(SECONDS),--seconds $(SECONDS))

chaos: $(STAMP) ## 1,000 swaps, hangs, kills and restarts behind HAProxy, under streams; ARGS='--swaps 50' is shorter
	@PYTHONPATH=. OMP_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py $(ARGS)

config-docs: $(STAMP) ## Write docs/configuration.md anew from the settings
	@$(BIN)/python tests/house/test_configuration.py > docs/configuration.md

constraints: $(STAMP) ## Write constraints.txt anew from what is installed in .venv
	@{ sed -n '/^#/p' constraints.txt; $(BIN)/python -m pip freeze --exclude-editable \
		| grep -v -i -E '^(#|nvidia|triton)' | sed -E 's/\+[A-Za-z0-9.]+$$//'; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean: ## Remove .venv, caches and build outputs; data under mlruns/ stays
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The virtual environment with everything in it. Made once, and again after a change of its two sources.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Relay needs Python 3.11 or newer, and '$(PYTHON)' is '$$($(PYTHON) --version 2>&1 | head -n 1)'." \
		"Nothing was installed. Name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { \
		echo "No virtual environment could be made. On Debian and Ubuntu: apt-get install python3-venv" >&2; exit 2; }
	@echo "Installing into $(VENV): once, for some minutes ..."
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input -c constraints.txt -e '.[dev]'
	@touch $@
