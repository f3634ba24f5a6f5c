"""Settings that every test shares; helpers to import live in `tests/helpers.py`."""

import gc
import os
from pathlib import Path

import hypothesis
import jax
import pytest

from .compiling import Compiling

# Programs that run for milliseconds are not worth optimising, nor a second thread.
_FLAGS = ["--xla_backend_optimization_level=0", "--xla_cpu_multi_thread_eigen=false"]
_FLAGS += ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11, 1):  # then there was an older emitter of fused loops, which compiles faster
    _FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(_FLAGS))

# Traced programs are millions of objects that live on: to look for cycles at the usual rate costs 6 % of
# all time.
gc.freeze()
gc.set_threshold(200_000, 20, 100)

jax.config.update("jax_enable_x64", True)
# As lineax, optimistix and diffrax run their own tests: no dtype or rank is promoted silently.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Derandomised, so that a failure is the same for everybody; no deadline, since the first example of
# each shape pays for a compilation. `HYPOTHESIS_PROFILE=thorough` looks further.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, max_examples=6)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=500)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Their asserts stand outside test files; without this a failure would not show the values.
pytest.register_assert_rewrite("tests.contract", "tests.linear_laws", "tests.helpers")


def pytest_addoption(parser):
    parser.addoption("--limit-compiling", action="store_true", help="who compiles too much fails")


def pytest_configure(config):
    config.pluginmanager.register(Compiling(fails=config.getoption("--limit-compiling")))


@pytest.fixture(autouse=True, scope="module")
def bounded_memory():
    """Programs of files that are done are of no use to the next, and live on in JAX's caches: gigabytes."""
    yield
    pages = Path("/proc/self/statm")
    if pages.exists() and int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") > 3 * 2**30:
        jax.clear_caches()
        gc.collect()
