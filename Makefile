# The two that matter: `make demo` and `make test`. Both install what they need into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The calls of TensorRT are checked against each recorded version; pyproject.toml has the newest.
OTHER_TENSORRT := 10.16 rtx-1.7

# Each of two processes takes a module of tests at a time; most of them wait for real peers.
PARALLEL := -n 2 --dist loadscope

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint format bench chaos soak clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## the whole system with synthetic cameras; Ctrl-C ends it
	$(BIN)/streamd demo $(ARGS)

test: $(VENV)/.dev ## all tests but the slow ones
	$(BIN)/pytest $(PARALLEL) $(ARGS)

test-all: $(VENV)/.dev ## all tests that this machine can run
	$(BIN)/pytest -m "not gpu or gpu" $(ARGS)

lint: $(VENV)/.dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	set -e; for version in $(OTHER_TENSORRT); do \
		MYPYPATH=typings/tensorrt-$$version $(BIN)/mypy --cache-dir .mypy_cache/$$version streamd/engines; \
	done

format: $(VENV)/.dev ## lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## the figures of docs/benchmarks.md: make bench MODEL=yolov8n.onnx
	$(BIN)/python -m bench.daemon --model $(MODEL) $(ARGS)

chaos: $(VENV)/.dev ## faults drawn at random, and what they cost: make chaos ARGS="--seed 7"
	$(BIN)/python -m bench.chaos $(ARGS)

soak: $(VENV)/.dev ## an hour at full speed, or more: make soak ARGS="--hours 8"
	$(BIN)/python -m bench.soak $(ARGS)

clean: ## remove what was installed and cached
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --editable '.[demo,dev]'
	@touch $@ $(VENV)/.demo
