# Each target does its own set-up: a virtual environment in .venv with everything that it needs.
# The machine has to bring Python >= 3.11 and make; `make test PYTHON=python3.12` names another Python.
.POSIX:
.PHONY: help test test-all smoke stress test-upstream bench lint types docs docs-figures check clean

VENV = .venv
BIN = $(VENV)/bin
OUT = build/bench
# One folder for all compiled programs: the parallel tests, and the next run, share them.
CACHE = JAX_COMPILATION_CACHE_DIR="$(CURDIR)/.cache/jax" JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=0
# Two test processes, each with whole files, whose tests share what they trace and compile; libraries that
# start a thread per core in each only get in the way.
THREADS = OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS = 2
PYTEST_ARGS =
EXTRAS = dev,peers

help:
	@echo "make bench   solve the quick suite beside SciPy, PyAMG, lineax, JAX and solvax; ends with a table and a page"
	@echo "make test    run the tests                     make stress  large batches, ten times: nothing may hang"
	@echo "make smoke   run a few tests of every kind     make test-all  and every solver with every preconditioner"
	@echo "make lint    ruff: style and formatting        make types   pyright"
	@echo "make docs    build the site into site/         make docs-figures  draw its tables and pictures from the records"
	@echo "make clean   remove what these commands made"

test: $(VENV)/.installed
	@mkdir -p .cache
	$(CACHE) $(THREADS) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# For the night: derivatives of every solver with every preconditioner and kind of operator, and the limit on compiling.
test-all:
	$(MAKE) test PYTEST_ARGS='-m "not stress" --limit-compiling'

# What other versions of Python, JAX, NumPy and SciPy would break first.
smoke:
	$(MAKE) test PYTEST_ARGS="tests/test_layers.py tests/test_matrix_market.py tests/test_sparse.py \
		tests/test_low_rank.py tests/test_transport_input.py tests/test_diffusion_schedules.py \
		tests/bench/test_solve.py tests/bench/test_problems.py"

stress: $(VENV)/.installed
	@mkdir -p .cache
	$(CACHE) $(BIN)/python -m pytest -m stress tests/test_stress.py $(PYTEST_ARGS)

# UPSTREAM names a folder with checkouts of lineax, optimistix and diffrax.
test-upstream: $(VENV)/.installed
	@mkdir -p .cache
	$(CACHE) $(THREADS) $(BIN)/python tests/upstream/run.py "$(UPSTREAM)"

bench: $(VENV)/.installed-bench
	@mkdir -p $(OUT)
	$(BIN)/nsolve-bench run quick --fresh --out $(OUT)/quick.jsonl --html $(OUT)/quick.html
	@echo "page: $(CURDIR)/$(OUT)/quick.html"

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/pyright

# Tables and pictures of the documentation, from the records in docs/benchmarks.
docs-figures: $(VENV)/.installed
	$(BIN)/python docs/draw.py

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint types test

clean:
	rm -rf $(VENV) .venv-newest .cache .hypothesis .pytest_cache .ruff_cache build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: made once, made again when pyproject.toml changes.
$(VENV)/.installed: pyproject.toml
	@sh .ci/venv $(VENV) "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS)]'
	@touch $@

# The benchmark needs neither tests nor linters, which take a fourth of the installing.
$(VENV)/.installed-bench: pyproject.toml
	@sh .ci/venv $(VENV) "$(PYTHON)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,peers]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@
