# Two commands do everything: `make demo` and `make test`. `make help` lists the rest.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?=
BENCH ?=
FUZZ ?=

.DEFAULT_GOAL := help

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 18

venv: $(VENV)/.installed ## The virtual environment, as pinned by constraints.txt

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "OtaFlux needs Python 3.11 or newer: make PYTHON=/path/to/python3.12 …" >&2; exit 1; }
	@echo "Installing into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: venv ## The whole story on a real API server and registry, live (DEMO=--keep: leave it up)
	@$(BIN)/otaflux demo $(DEMO)

demo-standalone: venv ## The same story without Kubernetes: Python alone, seconds
	@$(BIN)/otaflux demo --standalone $(DEMO)

test: ## Everything; fetches or builds the control plane first (once, minutes)
	@VENV=$(VENV) PYTHON=$(PYTHON) scripts/test

test-quick: venv ## What needs no servers: run this while working
	@$(BIN)/pytest -q -n auto -m "not servers"

control-plane: ## API server, etcd, registry and their clients, into the cache
	@$(PYTHON) scripts/control-plane prepare

check: venv ## Style, types, layers, generated files
	@BIN=$(BIN) scripts/check

generate: venv ## CRDs and reference pages, from the code
	@$(BIN)/python scripts/generate

format: venv ## Let ruff lay out the code
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: venv ## One table of measured figures; never part of the tests
	@$(BIN)/python -m benchmarks $(BENCH)

fuzz: venv ## Looks for bytes that break what reads them (FUZZ_SECONDS=20 each, FUZZ="TARGET …")
	@$(BIN)/python -m fuzz $(FUZZ)

.PHONY: fuzz help venv demo demo-standalone test test-quick control-plane check generate format bench
