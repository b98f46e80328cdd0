# `make help` tells what there is. Everything is installed into .venv; nothing outside this folder changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TEST_WORKERS ?= 2
INPUTS := pyproject.toml CMakeLists.txt $(shell find src -name "*.cpp" -o -name "*.hpp")
# A file's tests share their fixtures, so each file stays with one worker.
PARALLEL := --numprocesses $(TEST_WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all bench lint format docs check-tools clean

help:  ## show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/.installed  ## install, train on the built-in demo data, show where masks and pictures are (about ten minutes)
	$(BIN)/tag2mask demo --out tag2mask-demo

test: $(VENV)/.developer  ## install and run the tests
	$(BIN)/python -m pytest -m "not slow" $(PARALLEL) --cov --cov-fail-under=90

test-all: $(VENV)/.developer  ## all tests, with the end-to-end checks that take long
	$(BIN)/python -m pytest $(PARALLEL) --cov --cov-fail-under=90

bench: $(VENV)/.developer  ## timings beside the libraries in use today, into bench/RESULTS.md
	$(BIN)/python -m bench

lint: $(VENV)/.developer  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.developer  ## let ruff lay the code out
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.developer  ## the documentation as pages, into build/docs
	$(BIN)/mkdocs build --strict --quiet

check-tools:
	@command -v $(PYTHON) >/dev/null || { echo "tag2mask needs Python 3.11 or newer: there is no '$(PYTHON)' (set PYTHON=/path/to/python3)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tag2mask needs Python 3.11 or newer, and '$(PYTHON)' is older (set PYTHON=/path/to/python3)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "tag2mask needs a C++ compiler, and '$${CXX:-c++}' is missing (Debian: apt-get install g++)"; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || { echo "tag2mask needs Python's header files, and Python.h is missing (Debian: apt-get install python3-dev)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "tag2mask needs Python's venv module, which is missing (Debian: apt-get install python3-venv)"; exit 1; }

$(VENV)/.created:
	@$(MAKE) --no-print-directory check-tools
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created $(INPUTS)
	@$(MAKE) --no-print-directory check-tools
	$(BIN)/python -m pip install --quiet --editable '.[offline]'
	@touch $@

$(VENV)/.developer: $(VENV)/.created $(INPUTS)
	@$(MAKE) --no-print-directory check-tools
	$(BIN)/python -m pip install --quiet --editable '.[offline,coco,study,bench,dev]'
	@# Two packages fill the folder cv2, and pip promises no order: the one with ximgproc has to come last, at one version.
	@$(BIN)/python -c 'import cv2; from importlib.metadata import version; cv2.ximgproc.createSuperpixelSLIC; assert version("opencv-contrib-python-headless") == version("opencv-python-headless")' 2>/dev/null || \
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall "opencv-contrib-python-headless==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("opencv-python-headless"))')"
	@touch $@ $(VENV)/.installed

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
