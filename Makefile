# Needs make and Python 3.11 with pip; everything else goes into .venv, at the versions of uv.lock.

PYTHON ?= python3
UV_VERSION := 0.13.9
PYTEST_ARGS ?=
DEMO_ARGS ?=
PEERS_ARGS ?=

export UV_PYTHON_DOWNLOADS := never
export UV_SYSTEM_CERTS := true
BIN := .venv/bin
INSTALLED := .venv/.installed
SYNC := UV_PROJECT_ENVIRONMENT=.venv .venv/uv/bin/uv sync --frozen --all-extras --python $(BIN)/python
COMPILED := hatch_build.py $(wildcard src/dvecdb/search/*.c src/dvecdb/rescue/legacy/*.c)

.DEFAULT_GOAL := help
.PHONY: help demo test check bench peers soak format dist

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

demo: $(INSTALLED) ## the tour: records of PostgreSQL, embedded through failures; DEMO_ARGS=--quick
	@$(BIN)/python -m demo $(DEMO_ARGS)

test: $(INSTALLED) ## run the tests; PYTEST_ARGS adds arguments
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

check: $(INSTALLED) ## lint, formatting, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED) ## run the benchmarks
	$(BIN)/python -m benchmarks

peers: $(INSTALLED) ## measure other systems beside dvecdb; PEERS_ARGS="--rows 20000 --data FILE"
	$(SYNC) --all-groups
	$(BIN)/python -m benchmarks.peers $(PEERS_ARGS)

soak: $(INSTALLED) ## run the tests for hours, with fresh seeds
	DVECDB_SOAK=1 $(BIN)/python -m pytest -n 2 --dist worksteal --hypothesis-profile=soak \
		--timeout=7200 --override-ini=faulthandler_timeout=7800 $(PYTEST_ARGS)

dist: $(INSTALLED) ## build wheel and source archive into dist/
	.venv/uv/bin/uv build --python $(BIN)/python

format: $(INSTALLED) ## format the code and apply the safe fixes
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

# uv lives in an environment of its own: a sync removes from .venv what the lock does not name.
$(INSTALLED): pyproject.toml uv.lock $(COMPILED)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "dvecdb needs Python 3.11 or newer; set PYTHON")'
	test -x .venv/uv/bin/uv || { $(PYTHON) -m venv .venv && $(PYTHON) -m venv .venv/uv; }
	.venv/uv/bin/python -m pip install --quiet uv==$(UV_VERSION)
	$(SYNC) --all-groups --no-group peers --reinstall-package dvecdb
	@touch $@
