# One command each. Everything is installed into $(VENV) first, from the pins in constraints.txt.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.selfalign-installed
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.DEFAULT_GOAL := help
.PHONY: help install quickstart calf test test-slow test-gpu check bench

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(STAMP) ## Make the virtual environment and install selfalign into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "selfalign needs Python 3.11 or newer, found $$($(PYTHON) --version); try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (some minutes the first time) ..."
	@# PyTorch first and alone: which build is right for the machine is pip's choice, not that of a package that needs it.
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,ray]'
	@touch $(STAMP)

quickstart: $(STAMP) ## All four stages, the evaluation and a report on the embedded model
	$(BIN)/selfalign run experiments=quickstart

calf: $(STAMP) ## Pretrain the embedded model anew (about 75 minutes of one thread) and put it in selfalign/calf/weights
	@# A folder of its own, so that no run of other settings is taken for this one; what is computed stays in the store.
	rm -rf runs/calf
	$(BIN)/selfalign run experiments=calf_pretraining runs=runs/calf
	cp runs/calf/*/stages/calf/model/* selfalign/calf/weights/

test: $(STAMP) ## The test suite without the slow tests, in two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-slow: $(STAMP) ## The slow tests: wheel in a clean environment, kills at many points, every experiment
	$(BIN)/python -m pytest -m 'slow and not gpu' --timeout 1800

test-gpu: $(STAMP) ## The tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: $(STAMP) ## Format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

bench: $(STAMP) ## The performance claims, each against what it is compared with
	@for file in benchmarks/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done
