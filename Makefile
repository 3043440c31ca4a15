# Ouroboros: `make help` lists the commands. Nothing here needs root or an activated environment.

PYTHON ?= python3
CORES ?= $(shell [ "$$(nproc 2>/dev/null || echo 2)" -ge 2 ] && echo 2 || echo 1)
PYTEST_ARGS ?=

SHELL := /bin/bash
BIN := .venv/bin
# The set-up is done when the stamp of exactly these files and this folder exists.
SETUP_FILES := pyproject.toml envs/constraints.txt envs/gpaw_siteconfig.py envs/install.sh
STAMP := .venv/installed-$(shell { cat $(SETUP_FILES); pwd; } | sha256sum | cut -c 1-16)
STAMP_MACE := $(subst .venv/,.venv-mace/,$(STAMP))
SELECTION := tests/benchmarks/selection
STAMP_TEACHER := .venv-teacher/installed-$(shell { cat envs/constraints.txt $(SELECTION)/teacher.txt; pwd; } | sha256sum | cut -c 1-16)

# One thread a process: small matrices get slower with more, GPAW by a factor of ten.
export OMP_NUM_THREADS := 1
export PYTHON
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup setup-mace setup-teacher demo smoke validate benchmark benchmark-report benchmark-scale benchmark-selection test test-slurm test-mace lint format clean distclean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | \
	    while IFS=$$'\t' read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done
	@echo
	@echo "  Variables: CORES=$(CORES)  PYTHON=$(PYTHON)  GPAW_CXX=g++  GPAW_MPI=  PYTEST_ARGS="

setup: $(STAMP) ## Make .venv with all pinned dependencies (GPAW is compiled)

setup-mace: $(STAMP_MACE) ## Make .venv-mace, for backend mace; with GPAW too: make setup-mace DFT=1

$(STAMP) $(STAMP_MACE):
	@bash envs/install.sh $@

setup-teacher: $(STAMP_TEACHER) ## Make .venv-teacher, in which CHGNet labels for benchmark-selection

# Without GPAW and most of what .venv has; an interrupted set-up begins anew.
$(STAMP_TEACHER): $(STAMP)
	@$(BIN)/python -m venv --clear .venv-teacher
	@export PIP_CONSTRAINT=envs/constraints.txt PIP_BUILD_CONSTRAINT=envs/constraints.txt && \
	    pip=".venv-teacher/bin/python -m pip install --quiet --no-input --disable-pip-version-check" && \
	    $$pip "$$(grep '^torch==' envs/constraints.txt)" && $$pip -r $(SELECTION)/teacher.txt
	@touch $@

demo: $(STAMP) ## Run the loop for silicon with real GPAW labels
	@$(BIN)/mlip run config/silicon.yaml --cores $(CORES)

smoke: $(STAMP) ## Run the loop for copper with EMT in place of DFT, under two minutes
	@$(BIN)/mlip run config/copper.yaml --cores $(CORES)

VALIDATION := results/silicon/studies/validation

validate: $(STAMP) ## Hold the demo's potential against GPAW and test its stability (15 minutes more)
	@$(BIN)/snakemake --configfile config/silicon.yaml --cores $(CORES) --rerun-incomplete $(VALIDATION)/report.html
	@cat $(VALIDATION)/table.md

BENCHMARK := $(BIN)/snakemake -s tests/benchmarks/Snakefile --cores 1 --rerun-incomplete --keep-going

# e.g. make benchmark BENCHMARK_CONFIG="data=FOLDER max_budget=60"; every run is a file of its own.
benchmark: $(STAMP) ## Measure accuracy and speed beside MACE, NequIP and NEP (a night of one core)
	@$(BENCHMARK) $(if $(BENCHMARK_CONFIG),--config $(BENCHMARK_CONFIG))
	@echo "results/benchmarks/report/benchmarks.md"

benchmark-report: $(STAMP) ## ... tables and pictures of its finished runs, into docs/
	@$(BIN)/python tests/benchmarks/build_report.py --update-docs docs

SELECTED := results/selection

# A run is a file: what was stopped goes on, and what is there is not run again. Without CHGNet one pool is left out.
benchmark-selection: $(STAMP) ## Measure what selection saves, on pools and in whole loops (hours), into docs/
	-@$(MAKE) --no-print-directory setup-teacher
	@$(BIN)/python $(SELECTION)/pool_benchmark.py $(SELECTED)
	@$(BIN)/python $(SELECTION)/loops.py $(SELECTED)
	@$(BIN)/python $(SELECTION)/md_failures.py $(SELECTED)
	@$(BIN)/python $(SELECTION)/measure_share.py $(SELECTED)
	@$(BIN)/python $(SELECTION)/build_selection.py $(SELECTED) --update-docs docs

SCALE := results/benchmarks/scale

# A loop of copper in a folder of its own tells what Snakemake costs it.
benchmark-scale: $(STAMP) ## Measure the loop with 1 to 64 label jobs at a time, and planning (an hour), into docs/
	@$(BIN)/python tests/benchmarks/scale/measure_plan.py --out $(SCALE)/plan.json
	@$(BIN)/snakemake --directory $(SCALE)/loop --configfile config/copper.yaml --cores $(CORES) --quiet
	@$(BIN)/python tests/benchmarks/scale/loop_overhead.py $(SCALE)/loop/results/copper --out $(SCALE)/loops/copper-local.json
	@$(BIN)/python tests/benchmarks/scale/measure_scale.py --out $(SCALE)/runs --executor local
	@$(BIN)/python tests/benchmarks/scale/measure_scale.py --out $(SCALE)/runs --executor slurm
	@$(BIN)/python tests/benchmarks/scale/measure_scale.py --out $(SCALE)/runs --executor slurm --minute
	@$(BIN)/python tests/benchmarks/scale/build_scale.py --results $(SCALE) --update-docs docs

# `loadscope` keeps a module on one worker, so that a loop run once as a fixture stays one run;
# pyproject.toml names the slowest folders first, and without reordering they start first.
test: $(STAMP) ## Run all tests
	$(BIN)/python -m pytest -n $(CORES) --dist loadscope --no-loadscope-reorder $(PYTEST_ARGS)

# As root; on Debian after: apt-get install slurm-wlm munge slurmdbd mariadb-server
# Builds a GPAW with MPI for labels on two ranks, for a minute.
test-slurm: $(STAMP) ## Run the tests on a Slurm of their own (as root; ten minutes)
	MLIP_TEST_SLURM=1 MLIP_TEST_MPI=1 MLIP_FAULTS=results/faults \
	    $(BIN)/python -m pytest -n $(CORES) --dist loadscope -m slurm tests/integration $(PYTEST_ARGS)
	$(if $(FAULTS),MLIP_FAULTS=results/faults $(BIN)/python -m tests.integration.faults_table)

test-mace: $(STAMP_MACE) ## Run the tests of backend mace, in its own environment
	.venv-mace/bin/python -m pytest -m mace tests/integration/test_mace.py tests/unit/potential/test_devices.py tests/unit/potential/test_physics.py $(PYTEST_ARGS)

lint: $(STAMP) ## Check format, style, types, imports and rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow tests/benchmarks/Snakefile
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/snakemake --lint

format: $(STAMP) ## Put Python files and rules into their format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow tests/benchmarks/Snakefile

clean: ## Remove caches and the results of demo and smoke run; finished labels stay
	rm -rf results/silicon results/copper .pytest_cache .ruff_cache .mypy_cache .hypothesis build
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## ... and the environments as well
	rm -rf .venv .venv-mace .venv-teacher *.egg-info
