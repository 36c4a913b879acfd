# `make help` lists the targets. Everything happens in .venv; nothing needs to be installed by hand.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
STAMP := $(VENV)/.fgvr-setup
PY := $(VENV)/bin/python
# After set-up nothing comes from the network; a hub name in a test would be an error, not a download.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1
# A file's tests stay together (they share engines and runs); how many processes is said in tests/conftest.py.
SIDE_BY_SIDE := -n auto --dist loadfile --no-loadscope-reorder
CODE := fgvr cluster pipelines tune tests benchmarks

.PHONY: help demo test test-fast faults lint format lock setup setup-gpu clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

demo: $(STAMP) ## the whole job on drawn birds: prints the results and where the report is
	$(OFFLINE) $(PY) pipelines/full.py --config demo

test: $(STAMP) chromium ## all tests but the fault suite
	$(OFFLINE) $(PY) -m pytest $(SIDE_BY_SIDE)

.PHONY: chromium
chromium: # the browser of tests/review: Debian's, where this user may install it
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; } || \
	    echo "there is no chromium: the tests of the review page will fail; install it (Debian: apt-get install chromium)" >&2

test-fast: $(STAMP) ## the tests that take less than five seconds each
	$(OFFLINE) $(PY) -m pytest $(SIDE_BY_SIDE) -m "not slow and not faults"

faults: $(STAMP) ## the fault suite: jobs that are killed, starved and cut off (docs/reliability.md)
	$(OFFLINE) $(PY) -m pytest -m faults

lint: $(STAMP) ## ruff and mypy
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy

format: $(STAMP) ## let ruff format and mend what it can
	$(PY) -m ruff check --fix $(CODE)
	$(PY) -m ruff format $(CODE)

setup: $(STAMP) ## .venv with CPU builds, or again with what it was made for (PYTHON=python3.12 chooses)

lock: ## renew the versions that set-up installs (LOCK=--upgrade: all of them)
	cluster/lock.sh $(VENV) $(LOCK)

setup-gpu: ## .venv with CUDA builds
	cluster/setup.sh gpu $(VENV) $(PYTHON)

# The stamp is the last thing that set-up writes, so that what was interrupted is done again.
$(STAMP): pyproject.toml setup.py cluster/setup.sh $(wildcard cluster/constraints-*.txt)
	cluster/setup.sh same $(VENV) $(PYTHON)

clean: ## remove .venv, caches and the demo's run
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info runs/demo
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
