# `make` alone lists the targets. Every target that needs the environment makes it first.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo table paper report bench test test-slow test-real mutants lint types check clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
# The interpreter that makes the environment: the first supported one, or `make setup PYTHON=/path/to/python`.
PYTHON ?= $(or $(shell for python in python3 python3.11 python3.12; do \
	$$python -c '$(SUPPORTED)' 2>/dev/null && echo $$python && break; done),python3)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## Make the environment in .venv with the pinned versions (PYTHON=... picks the interpreter)

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c '$(SUPPORTED)' 2>/dev/null || { \
		echo "Python 3.11 or 3.12 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
			"Name one: make setup PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -r requirements.txt
	$(BIN)/python -m pip install --no-deps -e .
	@touch $@

demo: setup ## Plain MLE against GLAT + Dynamic KD on the embedded grammar data (about 10 minutes on 2 CPU cores)
	$(BIN)/python train.py +experiment=vanilla_raw
	$(BIN)/python train.py +experiment=glat_dynkd
	$(BIN)/python -m experiments.collect

table: setup ## Gather all finished runs into one table
	$(BIN)/python -m experiments.collect

# The study that `paper` and `report` speak of: data=multi30k_de-en root=FOLDER budget=mini seeds=3. Of small models
# two runs beside each other (jobs) make more of two cores than one run on both. records=FOLDER: recorded runs count.
# degrees=1: also the grammar at three other probabilities of its modes, where C is known (15 runs, 20 minutes more).
data ?= grammar
seeds ?= 1
jobs ?= 2
STUDY = --data $(data) --seeds $(seeds) $(if $(budget),--budget $(budget)) $(if $(root),--root $(root)) \
	$(if $(outputs),--outputs $(outputs)) $(if $(records),--records $(records)) $(if $(degrees),--degrees)
paper: setup ## Make all runs, tables, figures and the report (data=, budget=, seeds=, root=, jobs=, only=table1,table2, records=, degrees=1)
	$(BIN)/python -m experiments.reproduce $(STUDY) --jobs $(jobs) $(if $(only),--only $(only))

report: setup ## One page with all tables, figures and verdicts, from finished runs
	$(BIN)/python -m experiments.report $(STUDY)

# Folder of Multi30k; without it the benchmark generates text. An interpreter that has fairseq; without it no comparison.
MULTI30K ?=
FAIRSEQ ?=
bench: setup ## Measure speed and memory (MULTI30K=folder, generated text without; FAIRSEQ=python, to compare with it)
	$(BIN)/python -m experiments.bench $(if $(MULTI30K),--multi30k $(MULTI30K)) $(if $(FAIRSEQ),--fairseq $(FAIRSEQ))

test: setup ## Run the test suite, without slow and GPU tests
	$(PYTEST) -n 2 -m "not slow and not gpu"

test-slow: setup ## Run the tests that take minutes (tenth=0 to 9: one tenth of them)
	$(PYTEST) -n 2 -m "slow and not gpu" --timeout 1800 $(if $(tenth),--tenth $(tenth)); \
		status=$$?; [ $$status -eq 5 ] || exit $$status  # 5: this tenth has no test

test-real: setup ## Run the tests on real corpora (skipped where the corpora are absent)
	$(PYTEST) -n 2 -m "real and not gpu" --timeout 1800 -rs

# Files of mple/ to mutate (files=mple/optimizer.py) and the share of their mutants that is tried (share=0.1).
mutants: setup ## Change one node of the source at a time and list the mutants that no test notices (files=, share=)
	$(BIN)/python -m tests.mutants $(if $(files),--files $(files)) $(if $(share),--share $(share))

lint: setup ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Check types
	$(BIN)/mypy

check: lint types ## Run lint and types

clean: ## Remove caches; never outputs/ and never the environment
	find . \( -path ./$(VENV) -o -path ./outputs -o -path ./.git \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
