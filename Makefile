# One line of purpose per target: `make help`.
PYTHON ?= python3
export PYTHON

# Tests start hundreds of processes: each finds everything compiled.
export PYTHONDONTWRITEBYTECODE =

# Tests wait more than they compute; each process has servers of its own.
JOBS ?= 5

# Packages that are large, and imported by few processes or in part.
SELDOM := site-packages/(backrefs|coverage|grafana_foundation_sdk|mypyc?|pip|pkg_resources|prompt_toolkit|pygments|pymdownx|rich|setuptools|wcwidth)/

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.DEFAULT_GOAL := help
.PHONY: help venv lint types test coverage soak bench image demo docs constraints clean
.DELETE_ON_ERROR:

help: ## say what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

venv: $(BIN)/.complete ## install everything that development needs into .venv

lint: $(BIN)/.complete ## check style, formatting and the direction of imports
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(BIN)/.complete ## check types
	$(BIN)/mypy

test: servers $(BIN)/.complete ## install what is missing, then lint, types and all tests, side by side
	@$(MAKE) --no-print-directory --jobs=3 lint types tests COVERAGE=$(COVERAGE)

.PHONY: tests
tests: $(BIN)/.complete
	@$(BIN)/pytest --collect-only --quiet --ignore=tests/soak >/dev/null || true # compiled once, not by each process
	REQUIRE_SERVERS=1 $(BIN)/pytest $(COVERAGE) --ignore=tests/soak --numprocesses=$(JOBS) --dist=worksteal

# By itself, since to trace each line takes a third of the time.
coverage: COVERAGE = --cov
coverage: test ## the same, with the lines and branches that no test reaches

soak: TIMED = tests/soak/test_alertable.py tests/soak/test_slow_clients.py
soak: export SOAK = 1
soak: export KILLS ?= 100
soak: export RELOADS ?= 50
soak: export REQUIRE_SERVERS = 1
soak: servers $(BIN)/.complete ## faults and load in earnest, over an hour, with their figures
	$(BIN)/pytest -s $(TIMED) # by themselves: they measure time
	$(BIN)/pytest -v -rP --numprocesses=2 --dist=worksteal $(TIMED:%=--ignore=%) tests/counting/test_position.py tests/counting/test_folding.py tests/counting/test_tally.py tests/counting/test_watchlist.py tests/backends/test_model.py tests/checkpoint/test_checkpoint.py tests/servers/test_servers.py tests/acceptance/test_counts.py tests/acceptance/test_kill.py tests/acceptance/test_reload.py tests/soak

bench: servers $(BIN)/.complete ## measure what it costs; writes bench/RESULTS.md; ONLY=… or QUICK=1 for less
	@sh scripts/install-system-packages peers
	$(PIP) install --constraint constraints.txt --group bench
	$(BIN)/python -m bench $(if $(QUICK),--quick) $(ONLY:%=--only %)

image: ## build the container images and run them, as root; with buildah, debootstrap, podman and runc
	@scripts/test-image

demo: $(BIN)/.runnable ## run a demo: Celery worker, beat and the exporter, until Ctrl-C
	@exec $(BIN)/python examples/demo/run.py

docs: $(BIN)/.complete ## serve the site on http://localhost:8000/, until Ctrl-C
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --strict

constraints: $(BIN)/.complete ## pin in constraints.txt what .venv has
	$(PIP) freeze --exclude-editable > constraints.txt

clean: ## remove everything that was made here
	rm -rf .venv .venv-bench .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	rm -rf build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: servers
servers:
	@sh scripts/install-system-packages servers

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || \
		{ echo "$(PYTHON) lacks its venv module: install the package python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Enough to run the exporter and the demo: only wheels, nothing to compile.
$(BIN)/.runnable: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --constraint constraints.txt --editable .
	@touch $@

# pip first: the one that comes with Python 3.11 does not know dependency groups.
$(BIN)/.complete: pyproject.toml constraints.txt | $(BIN)/python
	@sh scripts/install-system-packages build
	$(PIP) install 'pip>=25.1'
	@# Side by side first; what cannot be installed so, as on another platform, is left to the next line.
	@xargs -n 28 -P 4 $(PIP) install --no-compile --no-deps < constraints.txt || true
	$(PIP) install --no-compile --constraint constraints.txt --editable '.[postgresql,mysqlclient,ed25519,re2,solar]' --group dev
	@$(BIN)/python -m compileall -qq -j 0 -x '$(SELDOM)' .venv/lib exporter # by all cores, where pip takes one
	@touch $(BIN)/.runnable $@
