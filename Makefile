# Each target makes the environment it needs under .venv, from a bare machine with Python >= 3.11.
PYTHON ?= python3
SOURCES := pyproject.toml README.md $(shell find lcnumba -name '*.py')
PIP = $(@D)/bin/python -m pip --disable-pip-version-check

.PHONY: demo test test-all test-interop lint format bench clean

# Train a locally connected network on real handwritten digits; see demo-output/ afterwards.
demo: .venv/demo/ready
	.venv/demo/bin/python -P -m lcnumba train --output demo-output

# The whole suite, against the installed wheel rather than the checkout.
test: .venv/test/ready
	.venv/test/bin/pytest --cov --cov-report=term --cov-fail-under=90

# The slow tests too: all of scikit-learn's checks, the examples on real data, a killed training, compiled code on disk.
test-all: .venv/test/ready
	.venv/test/bin/pytest -m "slow or not slow" --durations=20

# Arrays of torch, JAX, pandas, xarray, Dask and sparse; a library that is missing is a failure here.
test-interop: .venv/interop/ready
	LCNUMBA_INTEROP=complete .venv/interop/bin/pytest tests/interop

lint: .venv/lint/ready
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy

format: .venv/lint/ready
	.venv/lint/bin/ruff check --fix
	.venv/lint/bin/ruff format

# Compare with TensorFlow, JAX and PyTorch; writes docs/benchmarks.md and the table in README.md.
bench: .venv/bench/ready
	.venv/bench/bin/python -m bench.compare --write --json benchmarks.json

clean:
	rm -rf .venv dist demo-output benchmarks.json .benchmarks .mypy_cache .ruff_cache .pytest_cache .coverage

# `made` is the environment with its dependencies, `ready` also holds the current sources.
.venv/demo/made: EXTRAS = .[demo]
.venv/test/made: EXTRAS = .[demo] --group test
.venv/interop/made: EXTRAS = . --group interop
.venv/lint/made: EXTRAS = --group lint
.venv/bench/made: EXTRAS = . --group bench --group peers

.venv/%/made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "lcnumba needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet $(EXTRAS)
	touch $@

.venv/demo/ready .venv/test/ready .venv/interop/ready .venv/bench/ready: %/ready: %/made $(SOURCES)
	$(PIP) install --quiet --no-deps --force-reinstall .
	touch $@

.venv/lint/ready: .venv/lint/made
	touch $@

.PRECIOUS: .venv/%/made
