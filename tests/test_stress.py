"""No batch ever hangs, in a process of its own, with JAX's own threads and flags: see `nsolve._dense`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.stress import ALL

#: What a test run sets for its own speed, and a user does not.
QUIETED = re.compile(r"XLA_FLAGS|.*_NUM_THREADS")


def stress(limit: float, calls: int, cases: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if not QUIETED.fullmatch(key)}
    command = [sys.executable, "-m", "tests.stress", str(limit), str(calls), *cases]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("case", ["restarted:complex128", "gcrodr:float32"])
def test_large_batches_come_back(case):
    stress(limit=240, calls=15, cases=[case])


@pytest.mark.stress
@pytest.mark.parametrize("turn", range(10))
def test_every_large_batch_comes_back_ten_times(turn):
    stress(limit=600, calls=10, cases=ALL)


#: Names under which JAX's routines of dense linear algebra and Fourier transforms are reached.
ROUTINE = re.compile(
    r"\b(?:jnp|xp|lax|jax\.numpy|jax\.scipy|jsp)\.(?:linalg\.(?!norm\b|block_diag\b)|fft\.)"
    r"|from jax\.(?:numpy|scipy|lax)\S* import .*\b(?:linalg|fft)\b|from jax\.\S*(?:linalg|fft) import"
)
#: The one place for them; and a probe, whose references are computed one after the other.
ALLOWED = {Path("nsolve/_dense.py"), Path("bench", "work", "probes.py")}


@pytest.mark.parametrize("package", ["nsolve", "learned", "bench"])
def test_batches_are_kept_away_from_lapack_and_fourier_transforms(package):
    for path in sorted((ROOT / package).rglob("*.py")):
        if path.relative_to(ROOT) in ALLOWED:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not ROUTINE.search(line), f"{path}:{number}: take it from nsolve._dense: {line.strip()}"
