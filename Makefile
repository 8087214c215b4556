# On a machine with Python 3.11 to 3.13 and make, every target here brings what it needs.
# PYTHON=…      the interpreter to build .venv with (default: the first of python3.11, 3.12, 3.13, python3 that fits)
# PYTEST_ARGS=… passed on to pytest by `make test`, e.g. PYTEST_ARGS='tests/wheel -x'
# WORKERS=2      test processes side by side, each with servers of its own; 0 runs the tests in one
# TASKCENTER_TEST_MYSQL_URL=mysql://user:password@host:port/   tests use this server instead of starting their own

.DEFAULT_GOAL := help
SHELL := /bin/sh
BIN := .venv/bin
LOCKS := requirements/build.lock pyproject.toml scripts/build-venv
WORKERS ?= 2
export PYTHON

.PHONY: help run test simulate reliability lint fix bench docs lock servers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.venv/run.stamp: requirements/run.lock $(LOCKS)
	@sh scripts/build-venv run

.venv/dev.stamp: requirements/dev.lock requirements/run.lock $(LOCKS)
	@sh scripts/build-venv dev

run: .venv/run.stamp ## start the service with a demo business and show callbacks arriving
	@$(BIN)/taskcenter up

test: .venv/dev.stamp ## run every test, on SQLite, MariaDB and MySQL; PYTEST_ARGS='…' to choose
	@sh scripts/prepare-test-servers
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

reliability: .venv/dev.stamp ## show the promises of docs/reliability.md that take long; ROW='09 17' for some rows
	@sh scripts/prepare-test-servers mariadb mysql browser curl nginx faketime
	@$(BIN)/python scripts/reliability.py $(ROW)

simulate: .venv/dev.stamp ## run the simulation; SEEDS=10000 for so many, SEEDS=17..17 for one, SIMULATE_ARGS=--trace to see it
	@$(BIN)/python -m tests.simulation $(SEEDS) $(SIMULATE_ARGS)

lint: .venv/dev.stamp ## check style, types, layers and known vulnerabilities
	@sh scripts/lint

fix: .venv/dev.stamp ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/dev.stamp ## measure; BENCH=bench/NAME.py for one of them
	@sh scripts/prepare-test-servers mariadb mysql nginx
	@set -e; for bench in $(or $(BENCH),$(filter-out bench/kit.py bench/plot.py bench/stores.py,$(sort $(wildcard bench/[a-z]*.py)))); do \
		echo "== $$bench"; $(BIN)/python -m "bench.$$(basename "$$bench" .py)" $(BENCH_ARGS); done

docs: .venv/dev.stamp ## write the pages that are made from the code
	$(BIN)/python scripts/render_docs.py

lock: .venv/dev.stamp ## pin dependencies anew from pyproject.toml; UPGRADE=1 takes the newest
	@sh scripts/lock

servers: .venv/dev.stamp ## start a private MariaDB and MySQL for trials by hand, until Ctrl-C
	@sh scripts/prepare-test-servers mariadb mysql
	@$(BIN)/python -m tests.servers start

clean: ## remove .venv, caches and build output
	rm -rf .venv .cache dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache bench/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
