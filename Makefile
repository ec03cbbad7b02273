PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
PYTEST := $(BIN)/pytest --numprocesses 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help run test check faults rehearse format

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

format: $(INSTALLED) ## format the code and mend what lint can mend
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

$(INSTALLED): requirements.txt requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON to one.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
