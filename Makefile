PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup
AGE := 3 days
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --exclude-newer '$(AGE)' \
	--generate-hashes --no-annotate --custom-compile-command 'make lock'

.DEFAULT_GOAL := help
.PHONY: help run test check faults rehearse bench bench-quick format lock audit

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile

run: $(INSTALLED) ## serve the API on PORT (default 8000), with a PostgreSQL of its own if DATABASE_URL is not set
	@$(BIN)/flask db upgrade
	@exec $(BIN)/gunicorn wsgi:app

test: $(INSTALLED) ## run the tests
	@$(PYTEST)

check: $(INSTALLED) ## the whole gate: format, lint, types, five faults, tests with coverage, drift, migrations down and up
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m faults --smoke
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

faults: $(INSTALLED) ## break everything that the service stands on, and see what it promised kept (15 minutes)
	@$(BIN)/python -m faults
	@$(BIN)/python -m faults --seeded

rehearse: $(INSTALLED) ## deploy this code over the release before it, under traffic that must notice nothing (40 seconds)
	@$(BIN)/python -m faults.rehearsal

bench: $(INSTALLED) bench/.venv/installed bench/contenders/hono/node_modules ## measure this beside FastAPI, Hono and views by hand (needs wrk and node; 40 minutes)
	@$(BIN)/python bench/suite.py

bench-quick: $(INSTALLED) ## is this still as quick as views by hand, or nearly? (needs wrk; 2 minutes)
	@$(BIN)/python bench/suite.py --quick --seconds 1

format: $(INSTALLED) ## format the code and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(BIN)/uv ## write requirements*.lock anew: the newest that requirements*.txt allow and that is AGE (3 days) old
	@$(COMPILE) requirements-dev.txt --output-file requirements-dev.lock
	@$(COMPILE) requirements.txt --constraint requirements-dev.lock --output-file requirements.lock

audit: $(BIN)/uv ## ask the network whether what is locked has known vulnerabilities
	@$(BIN)/uv tool run --exclude-newer '$(AGE)' pip-audit --strict --disable-pip --requirement requirements-dev.lock

$(INSTALLED): requirements-dev.lock | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

bench/.venv/installed: requirements.lock bench/requirements.txt | $(BIN)/python
	@$(BIN)/python -m venv bench/.venv
	@bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@

bench/contenders/hono/node_modules: bench/contenders/hono/package-lock.json
	@npm ci --silent --prefix bench/contenders/hono
	@touch $@

$(BIN)/uv: Makefile | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv~=0.13.9'
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON to one.")'
	@$(PYTHON) -m venv .venv
