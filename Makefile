PYTHON ?= python3
INSTALL = command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Name a Python from 3.11 to 3.14, such as:\
	make $@ PYTHON=python3.12" >&2; exit 1; }; $(PYTHON) install.py
BIN := .venv/bin
PYTEST := $(BIN)/pytest
FAST := $(PYTEST) -m 'not slow' --numprocesses 2 --dist loadfile
AGE := 3 days
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --exclude-newer '$(AGE)' \
	--generate-hashes --no-annotate --no-strip-extras --custom-compile-command 'make lock'

# config.py reads .env; Flask would end in a traceback if it is not UTF-8.
export FLASK_SKIP_DOTENV := 1
.DEFAULT_GOAL := help
.PHONY: help run test check faults rehearse bench bench-quick format lock audit dev

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile

run: ## serve the API on PORT (default 8000), with a PostgreSQL of its own if DATABASE_URL is not set
	@$(INSTALL) requirements-devdb.lock
	@$(BIN)/python config.py # are the settings right, and is the port free?
	@$(BIN)/flask db upgrade
	@exec $(BIN)/gunicorn wsgi:app

test: dev ## run the tests, but for the slow ones (2 minutes)
	@$(FAST)

check: dev ## the whole gate: format, lint, types, five faults, tests with coverage, drift, migrations down and up
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m faults --smoke
	@$(FAST) --cov --cov-report= --cov-fail-under=0
	@$(PYTEST) -m slow --cov --cov-append --cov-report=term-missing:skip-covered # one at a time: some measure

faults: dev ## break everything that the service stands on, and see what it promised kept (15 minutes)
	@$(BIN)/python -m faults
	@$(BIN)/python -m faults --mutations

rehearse: dev ## deploy this code over the release before it, under traffic that must notice nothing (40 seconds)
	@$(BIN)/python -m faults.rehearsal

bench: dev bench/.venv/installed bench/competitors/hono/node_modules ## measure this beside FastAPI, Hono and views by hand (needs wrk and node; 40 minutes)
	@$(BIN)/python bench/suite.py

bench-quick: dev ## is this still as quick as views by hand, or nearly? (needs wrk; 2 minutes)
	@$(BIN)/python bench/suite.py --quick --seconds 1

format: dev ## format the code and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(BIN)/uv ## write requirements*.lock anew: the newest that requirements*.txt allow and that is AGE (3 days) old
	@$(COMPILE) requirements-dev.txt --output-file requirements-dev.lock
	@$(COMPILE) requirements-devdb.txt --constraint requirements-dev.lock --output-file requirements-devdb.lock
	@$(COMPILE) requirements.txt --constraint requirements-dev.lock --output-file requirements.lock

audit: $(BIN)/uv ## ask the network whether what is locked has known vulnerabilities
	@$(BIN)/uv tool run --exclude-newer '$(AGE)' pip-audit --strict --disable-pip --requirement requirements-dev.lock

dev:
	@$(INSTALL) requirements-dev.lock

bench/.venv/installed: requirements.lock bench/requirements.txt | dev
	@$(BIN)/python -m venv bench/.venv
	@bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@bench/.venv/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements.txt
	@touch $@

bench/competitors/hono/node_modules: bench/competitors/hono/package-lock.json
	@npm ci --silent --prefix bench/competitors/hono
	@touch $@

$(BIN)/uv: Makefile | dev
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv~=0.13.9'
	@touch $@
