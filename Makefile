# Few verbs: setup, demo, test, lint. Everything runs from the repository root, in .venv.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt
STAMP := .venv/.installed
# One thread a process: two threads on busy cores are slower than one (shared BLAS and OpenMP spin).
export OMP_NUM_THREADS ?= 1
export NO_ALBUMENTATIONS_UPDATE := 1
# Tests run in so many processes, each with a Ray cluster of its own (tests/groups.py).
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES)

.PHONY: setup demo test test-slow test-all test-hosts lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make setup   create .venv with the pinned packages"
	@echo "make demo    the whole way, from rendered scenes to a promoted model (sets up first)"
	@echo "make test    the tests (sets up first)"
	@echo "make test-slow  the tests against real servers, and the long ones"
	@echo "make test-all   both, which start their clusters once"
	@echo "make test-hosts the whole way, and faults, on three hosts in network namespaces (root)"
	@echo "make lint    ruff, mypy and import-linter (sets up first)"
	@echo "make format  let ruff rewrite what it can"
	@echo "make clean   delete the work folder: datasets, runs, reports"

setup: $(STAMP)

# torch by name and first: a machine without CUDA is then not handed several GB of CUDA packages.
# Python compiles what is imported, when it is; compiling all of the packages would take another minute.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; say make setup PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m jobs.demo

test: $(STAMP)
	$(PYTEST)

test-slow: $(STAMP)
	$(PYTEST) -m "(slow or s3real) and not hosts" -ra

test-all: $(STAMP)
	$(PYTEST) -m "not hosts" -ra

test-hosts: $(STAMP)
	$(BIN)/python -m pytest -m hosts -ra

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf work
