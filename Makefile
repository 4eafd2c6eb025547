# make demo | test | test-fast | fuzz | lint | bench
#
# Without an active virtual environment, .venv is made here and used; with one,
# that one is used. Nothing is installed twice: a stamp in the environment is
# compared with setup.py and constraints.txt.
#
# Another build of torch (for a GPU, or without one):
#   make demo TORCH="torch==2.13.0 torchaudio==2.11.0 --index-url URL"
# with the URL that pytorch.org names for your machine; TORCH= (empty) keeps
# the torch that the environment already has.

SHELL := /bin/bash
PYTHON ?= python3
TORCH ?= torch==2.13.0 torchaudio==2.11.0

ifdef VIRTUAL_ENV
VENV := $(VIRTUAL_ENV)
else
VENV := $(CURDIR)/.venv
endif
PY := $(VENV)/bin/python
# Modules are compiled when they are first imported: most never are.
INSTALL := $(PY) -m pip install --no-compile
# One stamp for each checkout that shares the environment.
INSTALLED := $(VENV)/.emofilm-$(shell echo $(CURDIR) | cksum | cut -d' ' -f1)

# What tests and lint need beside the demo.
TESTABLE := $(INSTALLED)-tests

# Long CPU work: page faults cost more than arithmetic on virtual machines, so
# freed memory stays in the process; idle threads sleep instead of spinning.
export MALLOC_MMAP_MAX_ ?= 0
export MALLOC_TRIM_THRESHOLD_ ?= 100000000000
export MALLOC_TOP_PAD_ ?= 500000000
export OMP_WAIT_POLICY ?= PASSIVE
export OMP_NUM_THREADS ?= 1

# The work is many short processes: what they import is compiled once, and kept
# in the environment, also where Python is told to keep nothing.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX ?= $(VENV)/pycache

.PHONY: demo test test-fast fuzz lint bench install
.DELETE_ON_ERROR:

demo: $(INSTALLED)
	$(PY) recipes/MiniESD/run_demo.py

# Tests of one file share a process; the longest file comes first.
PYTEST := $(PY) -m pytest -n auto --maxprocesses=8 --dist=loadfile \
	--no-loadscope-reorder

test: $(TESTABLE)
	$(PYTEST) \
		--cov --cov-report=term --cov-fail-under=85

# Under two minutes on two cores: for every change while working.
test-fast: $(TESTABLE)
	$(PYTEST) -m "not slow"

# Random input for all readers of text, new in every round.
FUZZ_SECONDS ?= 600
fuzz: $(TESTABLE)
	@end=$$(($$(date +%s) + $(FUZZ_SECONDS))); \
	while [ $$(date +%s) -lt $$end ]; do \
		HYPOTHESIS_PROFILE=long $(PY) -m pytest -q \
			-p no:cacheprovider tests/unittests/test_fuzz.py || exit 1; \
	done

lint: $(TESTABLE)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m yamllint --strict .
	$(PY) -m codespell_lib
	$(VENV)/bin/lint-imports
	$(PY) -m mypy

bench: $(TESTABLE)
	@for script in benchmarks/*.py; do \
		echo "$$script" >&2; \
		$(PY) "$$script" || exit 1; \
	done

install: $(TESTABLE)

$(PY):
	$(PYTHON) -m venv $(VENV)

# torch comes first and is then held by the constraints, whichever build it is.
$(INSTALLED): setup.py constraints.txt | $(PY)
	@if command -v nvidia-smi > /dev/null; then \
		echo "NVIDIA GPU found: TORCH chooses the build of torch" \
			"(see the top of the Makefile)"; \
	fi
	$(INSTALL) "setuptools>=77.0.3,<81" wheel
	$(if $(strip $(TORCH)),$(INSTALL) $(TORCH))
	{ grep -v '^torch' constraints.txt; \
	  $(PY) -m pip freeze | grep -E '^torch(audio)?==' ; } \
		> $(VENV)/emofilm-constraints.txt
	$(INSTALL) -c $(VENV)/emofilm-constraints.txt -e ".[demo]"
	touch $@

$(TESTABLE): $(INSTALLED)
	$(INSTALL) -c $(VENV)/emofilm-constraints.txt \
		-e ".[demo,emotion2vec,cosyvoice,serve,dev]"
	touch $@
