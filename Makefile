# Needs Python 3.11 to 3.14, git and make; everything else goes into .venv.
# Steps leave stamps in .venv/stamps and are done again only when what they depend on changes.

VENV   := .venv
PY     := $(VENV)/bin/python
STAMPS := $(VENV)/stamps
PIP    := $(PY) -m pip install -qq --disable-pip-version-check --constraint constraints.txt
ARGS   ?=

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo view test faults lint format types cpp metadrive wheel clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo 'ARGS="..." is handed on, e.g. make demo ARGS="--frames 24", make test ARGS="-k video"'

setup: $(STAMPS)/package  ## make .venv with everything the demo and the tests need

$(PY):
	@python=$$(tools/find_python.sh) && echo "[1/3] .venv with $$python" && "$$python" -m venv $(VENV)

$(STAMPS)/torch: constraints.txt tools/install_torch.py | $(PY)
	@echo "[2/3] torch (CPU build unless there is an NVIDIA GPU)"
	@$(PY) tools/install_torch.py
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/package: pyproject.toml constraints.txt $(STAMPS)/torch | $(PY)
	@echo "[3/3] sim_stream with its dependencies, tests and checkers"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable '.[test,dev,bench]'
	@touch $@

demo: setup  ## the main job: server, client, predicted drive, demo.mp4
	@$(VENV)/bin/sim-stream demo $(ARGS)

view: setup  ## a page to watch and drive on: http://127.0.0.1:8080/
	@$(VENV)/bin/sim-stream view $(ARGS)

test: setup  ## the tests
	@$(PY) -m pytest $(ARGS)

faults: setup  ## clients, servers, network and disk broken for real: a line a fault
	@$(PY) -m tests.faults $(ARGS)

lint: setup  ## ruff: rules and format
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: setup  ## ruff: bring files into the format
	@$(PY) -m ruff check --fix . ; $(PY) -m ruff format .

types: setup  ## mypy, strict
	@$(PY) -m mypy

cpp: setup  ## build the C++ client and run its tests (bridge/cpp/README.md)
	@cmake -S . -B build $(ARGS)
	@cmake --build build --parallel 4
	@ctest --test-dir build --output-on-failure

metadrive: setup  ## the MetaDrive simulator in an environment of its own
	@bridge/metadrive/setup.sh

wheel: setup  ## build the wheel and try it in a clean environment
	@$(PY) tools/check_wheel.py

clean:  ## remove environments, caches and builds
	rm -rf $(VENV) .venv-metadrive build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
