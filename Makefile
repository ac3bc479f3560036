# Each target makes the environment it needs under .venv, from a bare machine with Python >= 3.11. `make help` lists them.
PYTHON ?= python3
SOURCES := pyproject.toml README.md $(shell find lcnumba -name '*.py')
PIP = $(@D)/bin/python -m pip --disable-pip-version-check

.PHONY: help demo dist docs site test test-all test-interop test-bridges test-mpi test-openmpi test-slow test-checked test-interpreted test-deep test-lowest test-pythons test-pre test-frozen test-signals stress lint format bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: .venv/demo/ready ## Train a locally connected network on real handwritten digits; see demo-output/ afterwards
	.venv/demo/bin/python -P -m lcnumba train --output demo-output

# The tests of the source distribution run in what it unpacks to, so that no file of the checkout helps. The wheel is
# installed with the core dependencies alone.
dist: .venv/dist/made docs ## Source distribution, wheel and site in dist/, checked, and the quick suite from the former
	rm -rf dist/lcnumba-*
	.venv/dist/bin/python -m build --outdir dist
	.venv/dist/bin/twine check --strict dist/lcnumba-*
	.venv/dist/bin/check-wheel-contents dist
	.venv/dist/bin/validate-pyproject pyproject.toml
	$(PYTHON) -m venv --clear --without-pip .venv/wheel
	.venv/dist/bin/python -m pip --disable-pip-version-check --python .venv/wheel/bin/python install --quiet dist/lcnumba-*.whl
	.venv/wheel/bin/python -P tests/installed.py
	tar -xzf dist/lcnumba-*.tar.gz -C dist
	$(MAKE) -C $$(ls -d dist/lcnumba-*/) test
	rm -rf dist/lcnumba-*/

SPHINX = KERAS_BACKEND=torch .venv/docs/bin/python -P -m sphinx -q -W --keep-going
docs: site ## The site, and the examples in all docstrings, those of the frameworks' modules included
	$(SPHINX) -b doctest -D plot_gallery=0 docs .venv/docs/doctest

site: .venv/docs/ready ## Build the site in dist/site; warnings are errors
	rm -rf dist/site
	$(SPHINX) -b html docs dist/site

test: .venv/test/ready ## The quick suite, against the installed wheel rather than the checkout
	.venv/test/bin/pytest -n auto --dist worksteal

# What is missing is a failure here.
test-interop: .venv/interop/ready ## Arrays of torch, JAX, pandas, xarray, Dask and sparse, and threads with TBB
	LCNUMBA_INTEROP=complete .venv/interop/bin/pytest -n auto tests/interop tests/runtime/test_threads.py -k "test_arrays or tbb"

# A process for each framework, and for each backend of Keras: they do not all bear each other, or a fork after JAX.
BRIDGES = .venv/bridges/bin/pytest -n auto --dist worksteal tests/frameworks
test-bridges: .venv/bridges/ready ## PyTorch, JAX, ONNX, and Keras 3 with each of its backends
	$(BRIDGES)/test_torch.py
	$(BRIDGES)/test_jax.py
	$(BRIDGES)/test_onnx.py
	$(BRIDGES)/test_pages.py
	for backend in torch jax tensorflow numpy; do \
		KERAS_BACKEND=$$backend TF_CPP_MIN_LOG_LEVEL=3 $(BRIDGES)/test_keras.py || exit 1; done

# What is missing is a failure here.
MPI = bin/pytest tests/mpi --ignore=tests/mpi/test_stripes.py
test-mpi: .venv/mpi/ready ## Models divided between ranks, on 1 to 4 of them, with MPICH
	LCNUMBA_MPI=complete .venv/mpi/$(MPI)

test-openmpi: .venv/openmpi/ready ## The same with Open MPI
	LCNUMBA_MPI=complete .venv/openmpi/$(MPI)

# About an hour on two cores, and 6 to 10 minutes more with each other Python.
test-all: ## Everything: lint and all tests, one after the other, and the time of each
	$(PYTHON) tests/parts.py $(ALL)

ALL = lint test-slow test-checked test-interpreted test-deep test-interop test-bridges test-mpi test-openmpi test-lowest test-pythons test-frozen test-signals stress

# Also all of scikit-learn's checks, the examples on real data, a killed training, large arrays. Coverage costs a third of
# the time and is therefore not measured in the quick suite.
test-slow: .venv/test/ready ## The whole suite, slow tests included, and how much of the library it covers
	.venv/test/bin/pytest -n auto --dist worksteal -m "slow or not slow" --durations=10 \
		--cov --cov-report=term --cov-fail-under=90

# With a folder of compiled code of its own.
test-checked: .venv/test/ready ## The tests of kernels with every index checked
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(CURDIR)/.venv/checked .venv/test/bin/pytest -n auto -m "kernels and not slow"

test-interpreted: .venv/test/ready ## The tests of kernels run by Python, without compilation
	NUMBA_DISABLE_JIT=1 .venv/test/bin/pytest -n auto -m "kernels and not slow" -W ignore::RuntimeWarning \
		--ignore=tests/kernels/test_update.py

test-deep: .venv/test/ready ## Random tests at length
	.venv/test/bin/pytest -n auto --dist worksteal -m hypothesis --hypothesis-profile=deep

test-lowest: .venv/lowest/ready ## The quick suite with the lowest supported versions of the dependencies
	.venv/lowest/bin/pytest -n auto --dist worksteal

test-pre: .venv/pre/ready ## The quick suite with pre-releases of the dependencies
	.venv/pre/bin/pytest -n auto --dist worksteal

# make test-pythons PYTHONS="python3.12 /opt/python/bin/python3.13"
OWN_PYTHON := $(shell $(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
PYTHONS := $(foreach p,$(filter-out $(OWN_PYTHON),python3.11 python3.12 python3.13 python3.14),$(shell $(p) -c 'print("$(p)")' 2>/dev/null))
test-pythons: $(foreach p,$(PYTHONS),test-with-$(notdir $(p))) ## The quick suite with every other Python found
	@echo "tested with: $(PYTHONS)"

define TEST_WITH
.PHONY: test-with-$(notdir $(1))
test-with-$(notdir $(1)):
	$(MAKE) PYTHON=$(1) PYTHONS=$(1) .venv/$(notdir $(1))/ready
	.venv/$(notdir $(1))/bin/pytest -n auto --dist worksteal
endef
$(foreach p,$(PYTHONS),$(eval $(call TEST_WITH,$(p))))

test-frozen: .venv/frozen/ready ## Programs that PyInstaller freezes, with one version of the library and another
	.venv/frozen/bin/python -P tests/frozen.py

SECONDS = 30
test-signals: .venv/test/ready ## Signals, finalizers and Ctrl-C at random moments, for SECONDS each
	.venv/test/bin/python -P tests/signals.py --seconds $(SECONDS)

MINUTES = 1
stress: .venv/interop/ready ## Everything at once on each threading layer, for MINUTES each
	.venv/interop/bin/python -m bench.stress --minutes $(MINUTES)

lint: .venv/lint/ready ## Rules, format, types and words: ruff, mypy, tests/words.py
	.venv/lint/bin/ruff check
	.venv/lint/bin/ruff format --check
	.venv/lint/bin/mypy
	.venv/lint/bin/python tests/words.py

format: .venv/lint/ready ## Fix rules and format where that can be done automatically
	.venv/lint/bin/ruff check --fix
	.venv/lint/bin/ruff format

BENCH = .venv/bench/bin/python -m bench

bench: .venv/bench/ready ## Compare with TensorFlow, JAX and PyTorch; writes results, docs/benchmarks.md and charts
	$(BENCH).compare --keep
	if grep -qs avx512f /proc/cpuinfo; then NUMBA_CPU_NAME=haswell NUMBA_CPU_FEATURES=+avx2,+fma \
		$(BENCH).compare --keep; fi
	$(BENCH).tables

clean: ## Remove environments and output
	rm -rf .venv dist docs/api/generated docs/auto_gallery demo-output .benchmarks .mypy_cache .ruff_cache .pytest_cache .coverage

# `made` is the environment with its dependencies, `ready` also holds the current sources.
.venv/demo/made: EXTRAS = .[demo]
.venv/test/made: EXTRAS = .[demo] --group test
.venv/interop/made: EXTRAS = .[threads] --group interop
.venv/bridges/made: EXTRAS = . --group bridges
.venv/dist/made: EXTRAS = --group dist
.venv/docs/made: EXTRAS = .[demo] --group docs
.venv/mpi/made: EXTRAS = .[mpi] --group mpi
.venv/openmpi/made: EXTRAS = .[mpi] --group openmpi
.venv/pre/made: EXTRAS = --pre .[demo] --group test
$(foreach p,$(notdir $(PYTHONS)),.venv/$(p)/made): EXTRAS = .[demo] --group test
.venv/frozen/made: EXTRAS = . --group frozen
.venv/lint/made: EXTRAS = --group lint
.venv/bench/made: EXTRAS = . --group bench --group peers

# uv can resolve to the lowest versions. Matplotlib's lowest warns with newer pyparsing.
.venv/lowest/made: pyproject.toml
	$(PYTHON) -m venv --clear $(@D)
	$(PIP) install --quiet uv
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --resolution lowest-direct '.[demo]' --group test 'pyparsing==3.1.*'
	touch $@

.venv/%/made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "lcnumba needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv --clear $(@D)
	$(PIP) install --quiet --upgrade 'pip>=25.1'
	$(PIP) install --quiet $(EXTRAS)
	touch $@

READY = $(foreach e,demo docs test interop bridges mpi openmpi pre frozen bench $(notdir $(PYTHONS)),.venv/$(e)/ready)
$(READY): %/ready: %/made $(SOURCES)
	$(PIP) install --quiet --no-deps --force-reinstall .
	touch $@

.venv/lowest/ready: .venv/lowest/made $(SOURCES)
	$(@D)/bin/uv pip install --quiet --python $(@D)/bin/python --no-deps --reinstall-package lcnumba .
	touch $@

.venv/lint/ready: .venv/lint/made
	touch $@

.PRECIOUS: .venv/%/made
