# `make demo` and `make test` each work alone on a clean checkout: the environment is made first, once.
# Another Python beside the first:   make test PYTHON=python3.12 VENV=.venv312
# In one process, or a part:         make test PROCESSES=0 ARGS='tests/models -x'

PYTHON ?= python3
VENV ?= .venv
PROCESSES ?= 2
ARGS ?=
RUN = $(VENV)/bin/python
# One thread a process: a second one has no core of its own. And compiled modules are kept: the tests start a good
# fifty processes, and each would compile the whole package again where the environment forbids to keep them.
QUIET = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=
READY = $(VENV)/.installed

.PHONY: help demo test test-slow gpu-test lint check clean

help:
	@echo "make demo       the promise on real data, a few minutes"
	@echo "make test       the quick tests, in $(PROCESSES) processes; ARGS=... goes to pytest"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make gpu-test   the tests and timings that need a CUDA device; says so where there is none"
	@echo "make lint       ruff and mypy"
	@echo "make check      lint and the quick tests"
	@echo "make clean      removes builds and caches; keeps $(VENV) and runs/"
	@echo "variables: PYTHON (now $(PYTHON)), VENV (now $(VENV)), PROCESSES (now $(PROCESSES)), ARGS"

# The stamp is written last, so an installation that was broken off is taken up again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bayesprune needs Python 3.11 or newer, this is %d.%d: give one by make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(RUN) benchmarks/demo.py

test: $(READY)
	$(QUIET) $(RUN) -m pytest -n $(PROCESSES) --dist worksteal $(ARGS)

test-slow: $(READY)
	$(QUIET) $(RUN) -m pytest -m slow --timeout=3600 $(ARGS)

gpu-test: $(READY)
	@if $(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(RUN) -m pytest -m gpu; tested=$$?; $(RUN) -m benchmarks.gpu && exit $$tested; \
	else \
		echo "gpu-test: not run, there is no CUDA device here"; \
	fi

lint: $(READY)
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

check: lint test

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
