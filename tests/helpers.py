"""What several test files need and pytest does not give."""

import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import scipy.io
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent


def real_matrices() -> list[Path]:
    """Matrix Market files of real systems, kept beside the repository; empty where they are not."""
    return sorted((ROOT.parent / "shared" / "data" / "matrices").glob("*.mtx"))


def read_by_scipy(path: Path) -> Any:
    """A Matrix Market file in SciPy's own reading: a `csr_array`, or a dense array."""
    with warnings.catch_warnings():  # from 1.18 on, about the class of its result
        warnings.simplefilter("ignore", DeprecationWarning)
        matrix = scipy.io.mmread(path)
    return sp.csr_array(matrix) if sp.issparse(matrix) else matrix


def assert_refresh_is_set_up(make: Any, matrix: Any, factor: Any = 1.5, rtol: float = 1e-12) -> Any:
    """`refresh` gives what set-up gives: as it stands, traced, batched and carried by a scan.

    `factor`: what the other matrix's values are multiplied by; it must change more than a rounding error.
    Returns the preconditioner of the matrix."""
    x, other = jnp.arange(float(matrix.in_size())), matrix.with_values(matrix.values * factor)
    inverse, expected = make(matrix), np.asarray(make(other).mv(x))
    assert np.linalg.norm(inverse.mv(x) - expected) > 0.1 * np.linalg.norm(expected)
    np.testing.assert_allclose(inverse.refresh(other).mv(x), expected, rtol=rtol)
    traced = eqx.filter_jit(lambda inverse, other: inverse.refresh(other).mv(x))
    np.testing.assert_allclose(traced(inverse, other), expected, rtol=rtol)
    both = jnp.stack([matrix.values, other.values])
    batched = jax.vmap(lambda values: make(matrix.with_values(values)).mv(x))(both)
    np.testing.assert_allclose(batched, [inverse.mv(x), expected], rtol=rtol)
    _, scanned = jax.lax.scan(
        lambda inverse, values: ((new := inverse.refresh(matrix.with_values(values))), new.mv(x)),
        eqx.filter_jit(make)(matrix),
        both,
    )
    np.testing.assert_allclose(scanned, batched, rtol=rtol)
    return inverse
