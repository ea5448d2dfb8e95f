# All the commands anyone needs. Everything runs inside .venv, which the first target that needs it creates.
PYTHON ?= python3
BIN := .venv/bin
.DEFAULT_GOAL := help

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else "LatentBridge needs Python 3.11 to 3.13; call make PYTHON=python3.12, for example.")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[drawings,judge]'
	touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: .venv/installed  ## understand, draw, edit, find and loop on real pictures; writes quickstart/report.html
	$(BIN)/latentbridge quickstart --out quickstart

test: .venv/developing  ## the fast tests
	$(BIN)/python -m pytest

test-slow: .venv/developing  ## every slow test but those of test-kill, including those that train, and those that fetch packages
	$(BIN)/python -m pytest -m 'slow or network' --ignore tests/training/test_kill.py --ignore tests/retrieval/test_kill.py

test-kill: .venv/developing  ## 200 runs over every stage, and an index 200 times, killed at random moments and resumed (minutes)
	$(BIN)/python -m pytest -m slow tests/training/test_kill.py tests/retrieval/test_kill.py

test-ui: .venv/developing  ## the page for people, in a headless Chromium that is installed beforehand
	$(BIN)/python -m pytest -m browser tests/serving/test_ui.py

test-accelerator: .venv/developing  ## what needs a GPU, or another accelerator that torch knows
	$(BIN)/python -m pytest -m accelerator

check: .venv/developing  ## formatting, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

docs: .venv/developing  ## the documentation as a site with search and an API reference, in site/; broken links fail
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	$(BIN)/zensical build --clean --strict

reproduce: .venv/installed  ## train the shipped tiny model from nothing and score it (hours; says how many beforehand)
	$(BIN)/latentbridge reproduce --out runs

BENCHMARKS := $(filter-out benchmarks/harness.py benchmarks/load_test.py benchmarks/write_page.py,$(sort $(wildcard benchmarks/*.py)))
bench: .venv/developing  ## the benchmarks, against their stored baselines; writes docs/benchmarks.md
	@failed=; for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python $$script || failed="$$failed $$script"; done; \
	$(BIN)/python benchmarks/write_page.py || failed="$$failed write_page.py"; \
	if [ -n "$$failed" ]; then echo "These failed, and their stored results are old:$$failed"; exit 1; fi

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

.PHONY: quickstart test test-slow test-kill test-ui test-accelerator check docs reproduce bench help
