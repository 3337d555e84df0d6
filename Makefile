# Everything a user or contributor needs. Each target makes what it depends on, on a machine that has Python 3.11+.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
PIN := bin/pip-compile --upgrade --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links --annotation-style=line

# Where it is set, each worker of `make test` rewrites all assertions anew, which takes it half of its collection.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run demo test test-stack mutants lint format docs engines bench dist pin clean

help: ## Show this list
	@echo "usage: make TARGET"; echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "  %-14s%s\n", $$1, $$2 }'

run: $(VENV)/.run ## Serve on :9101 (sample data unless GOOGLE_CLOUD_PROJECT or AUDIT_URL is set); stop with Ctrl-C
	@echo "Serving http://localhost:$${EXPORTER_PORT:-9101}/ (metrics: /metrics, state: /health). Ctrl-C stops it."
	@exec $(BIN)/python -m exporter serve

demo: $(VENV)/.run $(VENV)-regmodel/.done ## Play months of the whole loop: model, Airflow, exporter (DEMO='--weeks 8 --port-offset 1000')
	@$(BIN)/python -m testbed.install airflow3
	@exec $(BIN)/python scripts/demo.py $(DEMO)

test: $(VENV)/.dev ## Run all tests; those that need a real engine are skipped where it is missing (see make engines)
	@echo "Running the tests. Skipped ones are listed at the end with what they need."
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

test-stack: $(VENV)/.dev ## Start the compose stack in a Docker engine of its own and use it (needs root; see docs/compose.md)
	$(BIN)/python -m tests.stack $(ARGS)

mutants: $(VENV)/.dev ## Put small faults into one module and see its tests notice (MODULE=exporter/schedule.py; without it, a list)
	@nice $(BIN)/python scripts/mutants.py $(MODULE)

lint: $(VENV)/.dev ## Check types, style and formatting
	$(BIN)/mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.run ## Write docs/metrics.md and docs/configuration.md anew from the code
	$(BIN)/python scripts/generate_docs.py

engines: $(VENV)/.dev ## Install the real engines that tests use (BigQuery emulator, Airflow 2 and 3), in folders of their own
	$(BIN)/python -m testbed.install bigquery airflow2 airflow3

bench: $(VENV)/.dev ## Measure everything (about 25 minutes, on a quiet machine; needs wrk) and write benchmarks/results.md
	@command -v wrk >/dev/null || { echo "error: wrk, the load generator, is not installed: apt install wrk"; exit 1; }
	$(BIN)/python -m testbed.install query-exporter bigquery
	$(BIN)/python -m benchmarks $(ARGS)

dist: $(VENV)/.dev ## Build the source distribution and the wheel in dist/, and check both
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/twine check --strict dist/*
	@ls -l dist

pin: ## Pin every requirements.txt anew, from pyproject.toml or its .in file
	$(call need_python)
	$(PYTHON) -m venv --clear $(VENV)-pin
	$(VENV)-pin/bin/pip install --quiet pip-tools
	$(VENV)-pin/$(PIN) --extra bigquery --extra duckdb --output-file requirements.txt pyproject.toml
	for file in docker/regmodel/requirements requirements-dev; do ( cd $$(dirname $$file) && name=$$(basename $$file) && \
		$(CURDIR)/$(VENV)-pin/$(PIN) --output-file $$name.txt $$name.in ) || exit 1; done
	rm -rf $(VENV)-pin

clean: ## Remove the environments and caches (not audit.duckdb, not exporter-state)
	rm -rf $(VENV) $(VENV)-regmodel dist build .demo .engines .mutants .mypy_cache .ruff_cache .pytest_cache .hypothesis

define need_python
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or later is needed (set PYTHON=/path/to/python)"; exit 1; }
endef

$(VENV)/.run: requirements.txt
	$(call need_python)
	@echo "Making $(VENV) with $(PYTHON) and installing what the exporter runs on (about a minute, once)."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "error: on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo "Installing what tests and checks need."
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(VENV)-regmodel/.done: docker/regmodel/requirements.txt
	$(call need_python)
	@echo "Making $(VENV)-regmodel and installing what the RegModel API runs on."
	@test -x $(VENV)-regmodel/bin/python || $(PYTHON) -m venv $(VENV)-regmodel || { rm -rf $(VENV)-regmodel; exit 1; }
	@$(VENV)-regmodel/bin/pip install --quiet --disable-pip-version-check -r docker/regmodel/requirements.txt
	@touch $@
