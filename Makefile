# pjd: every target first makes what it needs, even in a fresh clone. Only Python 3.11 or 3.12, git
# and make must be installed; no environment needs to be active.
#
# PYTHON=python3.12         the interpreter to build .venv with
# PIP_ARGS='--find-links D' more arguments for pip, when .venv is made
# PYTEST_ARGS='-k mask'     more arguments for pytest

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
PIP_ARGS ?=
PYTEST_ARGS ?=

# Recipes and the programs that they start (dvc, papermill, the kernel, whose command is `python`)
# find .venv first. The original path is kept to make .venv itself.
export SYSTEM_PATH := $(PATH)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS ?= 1
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
# There is also a folder called `runs`.
.PHONY: help env data runs reproduce everything train bench test smoke lint format clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# --- the environment ---

CANDIDATES := $(or $(PYTHON),python3.11 python3.12 python3)
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))

env: $(VENV)/stamp ## make .venv with the locked versions

# The stamp comes last, so the next call resumes an interrupted installation.
$(VENV)/stamp: requirements.lock pyproject.toml
	@set -e; \
	if ! $(BIN)/python -c 'import pip; $(SUPPORTED)' 2>/dev/null; then \
		PATH="$$SYSTEM_PATH"; \
		for python in $(CANDIDATES); do \
			if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then found="$$python"; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "pjd needs Python 3.11 or 3.12; tried: $(CANDIDATES). Name one: make PYTHON=/path/to/python3.11" >&2; \
			exit 1; \
		fi; \
		echo "Making $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV); \
	fi
	@echo "Installing the locked packages: some minutes the first time"
	@# Python compiles the modules that are used: a tenth of those that are installed.
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile $(PIP_ARGS) -r requirements.lock
	@# The build tool is in the lock too: nothing unlocked is fetched.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

# --- the pipeline ---

# Stages are named by their groups: one by one, DVC would read its lock for each of them.
PULL = $(BIN)/dvc pull --allow-missing $(1) </dev/null >/dev/null \
	|| echo "Not everything was pulled (see above): continuing with what is here." >&2

data: $(VENV)/stamp ## check out the data, prompts and weights that ship with the repository
	@if [ -d .dvc ]; then $(call PULL,data.dvc train prepare); fi

runs: $(VENV)/stamp ## check out the data, and the runs that ship with what was measured on them
	@if [ -d .dvc ]; then $(call PULL,data.dvc train prepare decode fit-probe compare evaluate); fi

reproduce: runs ## decode the main runs, measure them, draw every figure and table; resumes
	@$(BIN)/python -m pjd.pipeline.reproduce
	@echo "The report: $(CURDIR)/reports/index.html"

everything: data ## decode and measure all runs anew, some hours on 2 cores; resumes
	@$(BIN)/python -m pjd.pipeline.reproduce
	@echo "The report: $(CURDIR)/reports/index.html"

NAME ?= emoji-64
DEVICE ?= cpu
START ?= null
train: data ## train an embedded model: NAME=emoji-96 DEVICE=cuda START=emoji-64; resumes
	$(BIN)/python -m pjd.pipeline.notebook notebooks/02_train.ipynb reports/notebooks/train-$(NAME).html \
		--name $(NAME) --device $(DEVICE) --start $(START)

SHAPES ?= emoji-64
METHODS ?= ar,sjd,pjd,pjd-plus
BATCHES ?= 1,2,4,8,16,32,64
DTYPE ?= float32
BENCH_ARGS ?=
bench: data ## time methods: SHAPES=llamagen-xl,lumina-mgpt-7b BATCHES=1 DEVICE=cuda DTYPE=bfloat16
	$(BIN)/python -m benchmarks run --shapes $(SHAPES) --methods $(METHODS) --batches $(BATCHES) \
		--device $(DEVICE) --dtype $(DTYPE) $(BENCH_ARGS) -o benchmarks/results/$(DEVICE).json

# --- the code ---

test: data ## run all tests, including a small run of the whole pipeline
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(PYTEST_ARGS)

smoke: data ## only the small run of the whole pipeline
	$(BIN)/python -m pytest -k smoke $(PYTEST_ARGS)

lint: $(VENV)/stamp ## check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/stamp ## fix style and format, strip the notebooks' outputs
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	@[ ! -d notebooks ] || find notebooks -name '*.ipynb' -not -path '*/.*' -exec \
		$(BIN)/nbstripout --extra-keys metadata.language_info {} +

clean: ## remove caches and .venv; results, data and DVC's cache stay
	rm -rf $(VENV) *.egg-info build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
