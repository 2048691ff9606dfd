# `make help` lists what there is. Everything is set up below .venv and .tandem, and nowhere else.
PYTHON ?= python3
PORT ?= 3000
BIN := .venv/bin
export DAGSTER_HOME ?= $(CURDIR)/.tandem/dagster
export DAGSTER_DISABLE_TELEMETRY := 1
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: help release stop dev test lint fix coverage unit bench bench-image bench-models bench-deploy bench-serving bench-all lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

release: .venv/main ## set up, train and build what is new, put it live, leave it running
	@$(BIN)/python -m tandem.dagster release

stop: .venv/main ## stop the live service
	@$(BIN)/tandem stop

dev: .venv/main ## Dagster on 127.0.0.1:3000, sensors and schedule on; each build is released
	@TANDEM_RELEASE_ON=$${TANDEM_RELEASE_ON:-build} PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m tandem.dagster dev --port $(PORT)

test: .venv/dev lint unit ## set up, and pass every test that this machine can run
	@$(BIN)/pytest -n 2 --dist loadgroup tests/integration tests/browser

unit: .venv/dev ## the tests that need no service
	@$(BIN)/pytest -n 2 --dist loadgroup tests/unit tests/orchestration tests/serving

lint: .venv/dev ## style, types, and the direction of imports
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

fix: .venv/dev ## mend what can be mended by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

coverage: .venv/dev ## branches that the tests without services reach; fails below the floor
	@$(BIN)/pytest -n 2 --dist loadgroup --cov --cov-report=term:skip-covered tests/unit tests/orchestration tests/serving

# The project before benchmarks/, where two files have the names of its packages.
BENCH := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR):$(CURDIR)/benchmarks $(BIN)/python

bench: .venv/dev ## measure a release: a table, then a JSON line a figure
	@$(BENCH) benchmarks/release.py

bench-image bench-models bench-deploy bench-serving: bench-%: .venv/dev
	@$(BENCH) benchmarks/$*.py

bench-all: .venv/dev ## all of them, into one table with goals and misses
	@$(BENCH) benchmarks/all.py

lock: .venv/main ## make the lock files anew
	@PATH="$(CURDIR)/$(BIN):$$PATH" requirements/lock.sh

clean: ## stop the service and forget everything that can be made again
	@if [ -x $(BIN)/tandem ]; then $(BIN)/tandem stop; fi
	@rm -rf .venv .tandem

# --- set-up: versions and hashes from requirements/, anew when a lock file changes ---------------------------------
.venv/bootstrap: requirements/bootstrap.txt
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(None if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed, this is {v}: make PYTHON=python3.12 …")'
	@echo "setting up .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bootstrap.txt
	@touch $@

.venv/main: .venv/bootstrap requirements/main.txt pyproject.toml
	@$(INSTALL) --require-hashes -r requirements/main.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@# Their byte code, which the judge could not write: without it each judging takes seconds more.
	@$(BIN)/python -c 'import onnxruntime, skops.io, sklearn.neural_network'
	@touch $@

.venv/dev: .venv/main requirements/dev.txt
	@$(INSTALL) --require-hashes -r requirements/dev.txt
	@touch $@
