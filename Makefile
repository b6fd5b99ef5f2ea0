# Everything runs from one virtual environment, made when there is none.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin

.PHONY: help install install-dev demo test test-slow lint types golden gpu-check clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/.installed

install: $(VENV)/.installed  ## make the virtual environment: what a user needs

install-dev: $(VENV)/.installed-dev  ## make the virtual environment: what a developer needs

demo: $(VENV)/.installed  ## the main jobs on the embedded text: attention mechanisms compared, reward models as teachers
	$(BIN)/rl-exp train -m attention=mha,gqa,gta,mla,gla training.tokens=500000
	$(BIN)/rl-exp rlhf-sweep reward=ground_truth,perfect_low_variance,on_policy_100 seed=0 policy_gradient.steps=30
	$(BIN)/rl-exp report html

test: $(VENV)/.installed-dev lint types  ## everything that CI checks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

test-slow: $(VENV)/.installed-dev  ## the tests that take minutes each
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow

lint: $(VENV)/.installed-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev  ## mypy, strict where it counts
	$(BIN)/mypy

golden: $(VENV)/.installed-dev  ## compare the golden trajectories bit for bit, on the machine that recorded them
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 WANDB_MODE=disabled PYTHONPATH=.:tests $(BIN)/python tests/golden/trajectories.py $(ARGUMENTS)

# On a bare GPU image there is no virtual environment: torch and triton suffice.
gpu-check:  ## on one GPU: parity and speed of the Triton kernels in ten minutes; writes OUTPUT
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) -m experiments.benchmarks.gpu_check --output $(or $(OUTPUT),outputs/gpu_check.json)

clean:  ## remove caches; runs in outputs/ stay
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
