.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install train doctor test test-slow test-stacks test-vertex test-deepspeed check lint types imports dashboard stacks-env vertex-env deepspeed-env package image bench bench-data bench-train bench-cuda bench-tracking clean

help: ## List the commands
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 13) else "Python 3.11 or 3.12 is needed; name one with PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

install: $(STAMP) ## Make .venv and install the pinned dependencies

# Environments of their own, for what stays out of the core; Google Cloud's packages go with older pins than all others.
EXTRAS_stacks := emulation
EXTRAS_vertex := gcp emulation-gcp
EXTRAS_deepspeed := dev deepspeed

.venv-%/.installed: $(STAMP) configs/stacks/vertex.constraints.txt
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-$*
	$(BIN)/python -m llm_engineering.requirements $(EXTRAS_$*) > .venv-$*/constraints.txt
	DS_BUILD_OPS=0 VIRTUAL_ENV=.venv-$* $(BIN)/uv pip install --quiet --constraint .venv-$*/constraints.txt \
		--requirement pyproject.toml $(addprefix --extra ,$(EXTRAS_$*))
	touch $@

stacks-env: .venv-stacks/.installed ## Make .venv-stacks: what remote stacks and their emulation need, beside the core

vertex-env: .venv-vertex/.installed ## Make .venv-vertex: what Google Cloud and its emulation need, beside the core

deepspeed-env: .venv-deepspeed/.installed ## Make .venv-deepspeed: the core and DeepSpeed

train: $(STAMP) ## Run the main job: SFT, merge, DPO, merge, evaluate, promote
	$(BIN)/python tools/run.py --run-training

doctor: $(STAMP) ## Examine this machine: packages, GPU, store, disk
	$(BIN)/python tools/doctor.py

test: $(STAMP) ## Run the tests
	$(BIN)/python -m pytest

test-slow: $(STAMP) ## Run the long drills too
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-cache

test-stacks: .venv-stacks/.installed ## Run the tests of remote stacks, against stand-ins on this machine (about an hour)
	.venv-stacks/bin/python -m pytest -n 0 -m 'slow or not slow' tests/pipelines/stacks tests/tools/stack_rehearsal tests/e2e/test_runs_elsewhere.py tests/e2e/test_emulated_stacks.py

test-vertex: .venv-vertex/.installed ## Run the tests of Vertex AI, against a stand-in on this machine
	.venv-vertex/bin/python -m pytest -n 0 -m 'slow or not slow' tests/tools/stack_rehearsal/test_vertex.py tests/e2e/test_emulated_stacks.py

test-deepspeed: export DS_ACCELERATOR = cpu
test-deepspeed: .venv-deepspeed/.installed ## Train with DeepSpeed in two processes on the CPU, and compare with one
	.venv-deepspeed/bin/python -m pytest -n 0 -m slow tests/training/processes/test_equivalence.py

check: lint types imports test ## Lint, types, import rules and the tests: what CI runs

dashboard: $(STAMP) ## Serve ZenML's dashboard over the local store
	$(BIN)/python tools/dashboard.py

package: $(STAMP) ## Build the library alone, as a wheel and a source distribution, into dist/
	$(BIN)/uv build --quiet --clear --python $(BIN)/python --build-constraints constraints.txt --out-dir dist

image: TARGET = cpu
image: REGISTRY =
image: $(STAMP) ## Build the image llm-engineering:cpu with docker; TARGET=cuda, EXTRAS=aws,kubernetes
	requirements=$$($(BIN)/python -m llm_engineering.requirements) && \
	name=$(REGISTRY:%=%/)llm-engineering:$(TARGET) && \
	docker build --target $(TARGET) --tag $$name --tag $$name-$$(printf %.12s $$requirements) \
		--build-arg EXTRAS=$(EXTRAS) --build-arg REQUIREMENTS=$$requirements .

bench: $(STAMP) ## Measure the embedded default on three seeds (about six minutes)
	$(BIN)/python benchmarks/embedded.py

bench-data: $(STAMP) ## Measure the preparation of data against TRL's, and of a million rows (about half an hour)
	$(BIN)/python benchmarks/data.py compare
	$(BIN)/python benchmarks/data.py size

bench-train: export OMP_NUM_THREADS = 1
bench-train: $(STAMP) ## Measure training against TRL's trainers and hand-written loops (about an hour)
	$(BIN)/python benchmarks/training.py

bench-cuda: $(STAMP) ## Measure training on a CUDA GPU against TRL's trainers, with models of 0.5B to 8B parameters
	$(BIN)/python benchmarks/training_cuda.py

bench-tracking: export OMP_NUM_THREADS = 1
bench-tracking: $(STAMP) ## Measure what tracking with Comet costs a training (about five minutes)
	$(BIN)/python benchmarks/tracking.py

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) $(VENV)-* dist .pytest_cache .ruff_cache .mypy_cache
