# Few verbs: setup, demo, test, lint. Everything runs from the repository root, in .venv.
PYTHON ?= python3
BIN := .venv/bin
# cpu or cuda: as .venv was made, else whether this machine has a CUDA driver.
TORCH ?= $(or $(patsubst .venv/.installed-%,%,$(wildcard .venv/.installed-*)),$(shell \
	(test -e /proc/driver/nvidia/version || nvidia-smi) >/dev/null 2>&1 && echo cuda || echo cpu))
STAMP := .venv/.installed-$(TORCH)
# Python compiles what is imported, when it is; compiling all of the packages would take another minute.
PIP := $(BIN)/pip install --no-compile --disable-pip-version-check
# uv where it is on PATH. It reads its own settings (UV_INDEX_URL), not pip's.
INSTALL := $(if $(shell command -v uv 2>/dev/null),uv pip install --python $(BIN)/python,$(PIP)) \
	--no-deps --require-hashes
CPU_INDEX := https://download.pytorch.org/whl/cpu
# One thread a process: two threads on busy cores are slower than one (shared BLAS and OpenMP spin).
export OMP_NUM_THREADS ?= 1
export NO_ALBUMENTATIONS_UPDATE := 1
# Each of the many processes imports torch, Ray and MLflow: where compiled files may not be kept, each compiles
# them, which takes longer than most of what the processes do.
export PYTHONDONTWRITEBYTECODE :=
# Tests run in several processes, each with a Ray cluster of its own (tests/groups.py): one a core of CI, and
# for the long ones one more, which spend a third of their time waiting for clusters and servers to start.
PYTEST = $(BIN)/python -m pytest --numprocesses $(or $(TEST_PROCESSES),$(1))

.PHONY: setup demo test test-slow test-all test-hosts lint format lock clean
.DEFAULT_GOAL := help

help:
	@echo "make setup   create .venv with the locked packages; TORCH=cpu or TORCH=cuda, PYTHON=python3.12"
	@echo "make demo    the whole way, from rendered scenes to a promoted model (sets up first)"
	@echo "make test    the tests (sets up first)"
	@echo "make test-slow  the tests against real servers, and the long ones"
	@echo "make test-all   both, which start their clusters once"
	@echo "make test-hosts the whole way, and faults, on three hosts in network namespaces (root)"
	@echo "make lint    ruff, mypy and import-linter (sets up first)"
	@echo "make format  let ruff rewrite what it can"
	@echo "make lock    resolve the packages of pyproject.toml again (needs uv)"
	@echo "make clean   delete the work folder: datasets, runs, reports"

setup: $(STAMP)

# torch comes last: what it needs is there by then, but for the CUDA packages of the CUDA build. On Linux PyPI
# has only that build. The CPU build has an index of its own; where that is out of reach the configured
# index decides, which may be a mirror of CPU builds.
$(STAMP): pyproject.toml requirements/run.txt requirements/dev.txt requirements/torch-$(TORCH).txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' \
		|| { echo "error: Python 3.11 to 3.14 is needed; run make setup PYTHON=python3.11"; exit 1; }
	@test -z "$(filter-out $(STAMP),$(wildcard .venv/.installed-*))" \
		|| { echo "error: .venv has the other build of torch; delete .venv for TORCH=$(TORCH)"; exit 1; }
	$(PYTHON) -m venv .venv
	@echo "== 1 of 2: all packages but torch"
	$(INSTALL) -r requirements/run.txt -r requirements/dev.txt
	@echo "== 2 of 2: torch for $(TORCH)"
	$(INSTALL_TORCH_$(TORCH))
	@$(BIN)/python -c 'import torch; print("torch", torch.__version__)'
	@touch $@

# By pip: where the index of CPU builds is out of reach, pip's settings say where packages come from.
INSTALL_TORCH_cpu = index=; $(PYTHON) -c 'import urllib.request as r; r.urlopen("$(CPU_INDEX)/torch/", timeout=20)' \
	2>/dev/null && index="--index-url $(CPU_INDEX)"; $(PIP) $$index -r requirements/torch-cpu.txt
INSTALL_TORCH_cuda = $(INSTALL) -r requirements/torch-cuda.txt

# For every platform and for Python 3.11 to 3.14 at once. Versions stay unless pyproject.toml excludes them;
# delete a file first to get its newest ones. No file repeats what another holds.
LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --custom-compile-command "make lock"
OMIT = sed -nE 's/^($(1)[a-z0-9.-]*)==.*/--no-emit-package \1/p'
lock:
	$(LOCK) --extra server -o requirements/torch-cuda.txt
	$(LOCK) --extra server $$($(call OMIT,(torch|triton|nvidia|cuda)) requirements/torch-cuda.txt) -o requirements/run.txt
	$(LOCK) -c requirements/run.txt $$($(call OMIT) requirements/run.txt) -o requirements/torch-cuda.txt
	$(LOCK) --extra dev -c requirements/run.txt -c requirements/torch-cuda.txt \
		$$($(call OMIT) requirements/run.txt requirements/torch-cuda.txt) -o requirements/dev.txt
	sed -nE 's/^(torch==[0-9.]+).*/\1/p' requirements/torch-cuda.txt > requirements/torch-cpu.txt

demo: $(STAMP)
	$(BIN)/python -m jobs.demo

test: $(STAMP)
	$(call PYTEST,2)

test-slow: $(STAMP)
	$(call PYTEST,3) -m "(slow or s3real) and not hosts" -ra

test-all: $(STAMP)
	$(call PYTEST,3) -m "not hosts" -ra

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
