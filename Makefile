PYTHON ?= python3
INSTALL = command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON). Choose a Python from 3.11 to 3.14, such as:\
	make $@ PYTHON=python3.12" >&2; exit 1; }; $(PYTHON) install.py
BIN := .venv/bin
# In the order of the files, because otherwise the files with few and long tests come last.
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
AGE := 3 days
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --exclude-newer '$(AGE)' \
	--generate-hashes --no-annotate --no-strip-extras --custom-compile-command 'make lock'

# config.py reads .env itself. Flask would print a traceback if the file is not UTF-8.
export FLASK_SKIP_DOTENV := 1
.DEFAULT_GOAL := help
.PHONY: help run test check faults rehearse bench bench-quick format lock audit dev

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' Makefile

run: ## serve the API on PORT (default 8000); without a DATABASE_URL, with its own PostgreSQL
	@$(INSTALL) requirements-devdb.lock
	@$(BIN)/python config.py # checks the settings and the port
	@$(BIN)/flask db upgrade
	@exec $(BIN)/gunicorn wsgi:app

test: dev ## run the fast tests (4 minutes)
	@$(PYTEST) -m 'not slow'

check: dev ## run all checks: format, lint, types, five fault scenarios, all tests with coverage (24 minutes)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m faults --smoke
	@$(PYTEST) --cov --cov-report=term-missing:skip-covered

faults: dev ## break the network, the database and processes, and check the guarantees (20 minutes)
	@$(BIN)/python -m faults
	@$(BIN)/python -m faults --mutations

rehearse: dev ## rehearse a deploy: replace the previous release with this code under load (40 seconds)
	@$(BIN)/python -m faults.rehearsal

bench: dev bench/.venv/installed bench/competitors/hono/node_modules ## compare the speed with FastAPI, Hono and hand-written views (needs wrk and node; 50 minutes)
	@$(BIN)/python bench/suite.py

bench-quick: dev ## compare the speed with hand-written views; fail below 0.8 of their rate (needs wrk; 2 minutes)
	@$(BIN)/python bench/suite.py --quick --seconds 1

format: dev ## format the code, and fix what the linter can fix
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: $(BIN)/uv ## update requirements*.lock to the newest releases that requirements*.txt allow; they must be AGE (3 days) old
	@$(COMPILE) requirements-dev.txt --output-file requirements-dev.lock
	@$(COMPILE) requirements-devdb.txt --constraint requirements-dev.lock --output-file requirements-devdb.lock
	@$(COMPILE) requirements.txt --constraint requirements-dev.lock --output-file requirements.lock

audit: $(BIN)/uv ## check the locked packages for known vulnerabilities (needs the network)
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
