# `make demo` and `make test` each work alone on a clean checkout: the environment is made first, once.
# Another Python beside the first:   make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
READY = $(VENV)/.installed

.PHONY: help demo test test-slow gpu-test lint check clean

help:
	@echo "make demo       the promise on real data, a few minutes"
	@echo "make test       the quick tests"
	@echo "make test-slow  the tests that take minutes each"
	@echo "make gpu-test   the tests and timings that need a CUDA device; says so where there is none"
	@echo "make lint       ruff and mypy"
	@echo "make check      lint and the quick tests"
	@echo "make clean      removes builds and caches; keeps $(VENV) and runs/"
	@echo "variables: PYTHON (now $(PYTHON)), VENV (now $(VENV))"

# The stamp is written last, so an installation that was broken off is taken up again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "bayesprune needs Python 3.11 or newer, this is %d.%d: give one by make PYTHON=..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install -e '.[dev]'
	@touch $(READY)

demo: $(READY)
	$(RUN) benchmarks/demo.py

test: $(READY)
	$(RUN) -m pytest

test-slow: $(READY)
	$(RUN) -m pytest -m slow --timeout=3600

gpu-test: $(READY)
	@if $(RUN) -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
		$(RUN) -m pytest -m gpu && $(RUN) -m benchmarks.step_cost --device cuda; \
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
