"""Bad input to the transport solvers is refused before anything is compiled, by name and with advice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsolve.transport import CostMatrix, PointCloud, Sinkhorn, SinkhornNewton, sinkhorn_divergence, solve
from nsolve.transport.coupling import Coupling

RNG = np.random.default_rng(0)
C = RNG.random((4, 3))
X = RNG.random((4, 2))
A, B = np.full(4, 1 / 4), np.full(3, 1 / 3)
GEOMETRY = CostMatrix(C, 0.1)
PLAN = Coupling(GEOMETRY, *map(jnp.asarray, (0 * A, 0 * B, A, B)))


def changed(weights, value):
    return np.concatenate([[value], weights[1:]])


WRONG = {
    "no_geometry": (lambda: solve(C, A, B), TypeError, "`geometry` must be.*PointCloud.*ndarray"),
    "class_as_geometry": (lambda: solve(CostMatrix, A, B), TypeError, "`geometry`"),
    "no_solver": (lambda: solve(GEOMETRY, A, B, "sinkhorn"), TypeError, "`solver` must be.*str"),
    "class_as_solver": (lambda: solve(GEOMETRY, A, B, Sinkhorn), TypeError, "`solver`"),
    # weights
    "negative_weights": (lambda: solve(GEOMETRY, changed(A, -0.1), B), ValueError, r"`a\[0\]` is -0.1"),
    "negative_target": (lambda: solve(GEOMETRY, A, changed(B, -1.0)), ValueError, r"`b\[0\]` is -1"),
    "no_mass": (lambda: solve(GEOMETRY, A, 0 * B), ValueError, "`b` has no mass"),
    "unequal_masses": (lambda: solve(GEOMETRY, A, 2 * B), ValueError, "same mass.*1.*2.*`tau`"),
    "slightly_unequal_masses": (lambda: solve(GEOMETRY, A, B * (1 + 1e-6)), ValueError, "same mass"),
    "unequal_masses_of_uniform": (lambda: solve(GEOMETRY, None, 2 * B), ValueError, "same mass"),
    "nan_weights": (lambda: solve(GEOMETRY, changed(A, np.nan), B), ValueError, "`a` must be finite"),
    "infinite_weights": (lambda: solve(GEOMETRY, A, changed(B, np.inf)), ValueError, "`b` must be finite"),
    "short_weights": (lambda: solve(GEOMETRY, A[1:], B), ValueError, r"`a`.*\(4,\).*\(3,\)"),
    "exchanged_weights": (lambda: solve(GEOMETRY, B, A), ValueError, r"`a`.*\(4,\).*\(3,\)"),
    "column_of_weights": (lambda: solve(GEOMETRY, A[:, None], B), ValueError, r"\(4, 1\)"),
    "scalar_weights": (lambda: solve(GEOMETRY, 1.0, B), ValueError, r"`a`.*\(\)"),
    "complex_weights": (lambda: solve(GEOMETRY, A + 0j, B), TypeError, "`a` has dtype complex128"),
    "relaxed_negative": (lambda: solve(GEOMETRY, A, changed(B, -1.0), tau=1.0), ValueError, r"`b\[0\]`"),
    "relaxed_without_mass": (lambda: solve(GEOMETRY, 0 * A, B, tau=1.0), ValueError, "`a` has no mass"),
    # penalties
    "negative_tau": (lambda: solve(GEOMETRY, A, B, tau=-1.0), ValueError, "`tau` must be positive.*-1.0"),
    "zero_tau": (lambda: solve(GEOMETRY, A, B, tau=(None, 0.0)), ValueError, "`tau` must be positive"),
    "nan_tau": (lambda: solve(GEOMETRY, A, B, tau=np.nan), ValueError, "`tau` must be positive"),
    "three_taus": (lambda: solve(GEOMETRY, A, B, tau=(1, 2, 3)), ValueError, "`tau`.*3 entries"),
    "array_of_taus": (lambda: solve(GEOMETRY, A, B, tau=np.ones(4)), ValueError, "`tau`"),
    # where to start
    "one_potential": (lambda: solve(GEOMETRY, A, B, y0=(A,)), ValueError, "`y0` must be a pair"),
    "array_as_start": (lambda: solve(GEOMETRY, A, B, y0=A), ValueError, "`y0` must be a pair"),
    "exchanged_start": (lambda: solve(GEOMETRY, A, B, y0=(B, A)), ValueError, r"`y0`.*\(4,\) and \(3,\)"),
    # the solvers' options
    "zero_rtol": (lambda: Sinkhorn(rtol=0.0), ValueError, r"Sinkhorn\(rtol=...\).*positive"),
    "negative_rtol": (lambda: SinkhornNewton(rtol=-1e-6), ValueError, r"SinkhornNewton\(rtol=...\)"),
    "nan_rtol": (lambda: Sinkhorn(rtol=float("nan")), ValueError, "rtol"),
    "infinite_rtol": (lambda: SinkhornNewton(rtol=float("inf")), ValueError, "rtol"),
    "negative_steps": (lambda: Sinkhorn(max_steps=-1), ValueError, "max_steps.*-1"),
    "negative_newton_steps": (lambda: SinkhornNewton(max_steps=-1), ValueError, "max_steps.*-1"),
    "half_a_step": (lambda: SinkhornNewton(max_steps=1.5), ValueError, "max_steps.*1.5"),
    "too_relaxed": (lambda: Sinkhorn(relaxation=2.0), ValueError, "relaxation.*2.0"),
    "not_relaxed": (lambda: Sinkhorn(relaxation=0.0), ValueError, "relaxation"),
    "nan_relaxation": (lambda: Sinkhorn(relaxation=float("nan")), ValueError, "relaxation"),
    "unknown_relaxation": (lambda: Sinkhorn(relaxation="foo"), ValueError, "relaxation.*'foo'"),
    "negative_memory": (lambda: Sinkhorn(anderson=-1), ValueError, "anderson.*-1"),
    "fractional_memory": (lambda: Sinkhorn(anderson=2.5), ValueError, "anderson.*2.5"),
    "both": (lambda: Sinkhorn(anderson=5, relaxation=1.5), ValueError, "not both"),
    "both_adaptive": (lambda: Sinkhorn(anderson=5, relaxation="adaptive"), ValueError, "not both"),
    "no_decay": (lambda: Sinkhorn(decay=1.0), ValueError, "decay.*1.0"),
    "growth": (lambda: Sinkhorn(decay=0.5), ValueError, "decay.*0.5"),
    "no_newton_decay": (lambda: SinkhornNewton(decay=1.0), ValueError, "decay.*1.0"),
    "newton_growth": (lambda: SinkhornNewton(decay=0.5), ValueError, "decay.*0.5"),
    "zero_inner": (lambda: Sinkhorn(inner_rtol=0.0), ValueError, "inner_rtol"),
    # the plan
    "short_vector": (lambda: PLAN.apply(A), ValueError, r"`v`.*\(3,\).*\(4,\)"),
    "short_vector_back": (lambda: PLAN.T.apply(B), ValueError, r"`v`.*\(4,\).*\(3,\)"),
    "three_axes": (lambda: PLAN.apply(np.ones((3, 2, 2))), ValueError, "`v`"),
    "scalar": (lambda: PLAN.apply(1.0), ValueError, "`v`"),
    # divergence
    "pair_of_taus": (lambda: sinkhorn_divergence(X, X, epsilon=0.1, tau=(1.0, 2.0)), ValueError, "`tau`"),
    "dimensions": (lambda: sinkhorn_divergence(X, X[:, :1], epsilon=0.1), ValueError, "coordinates"),
    "divergent_masses": (
        lambda: sinkhorn_divergence(X, X, A, 2 * A, epsilon=0.1),
        ValueError,
        "same mass.*`tau`",
    ),
}


@pytest.mark.parametrize("call, error, message", WRONG.values(), ids=WRONG)
def test_bad_input_is_refused(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_shapes_are_checked_inside_jit():
    with pytest.raises(ValueError, match=r"`a` must have the geometry's shape \(4,\)"):
        jax.jit(lambda C, a: solve(CostMatrix(C, 0.1), a).cost)(C, A[1:])


def test_a_batch_is_not_a_problem():
    with pytest.raises(ValueError, match="matrix"):
        solve(CostMatrix(np.stack([C, C]), 0.1))
    with pytest.raises(ValueError, match=r"\(n, d\)"):
        solve(PointCloud(np.stack([X, X]), epsilon=0.1))


def test_integer_weights_are_weights():
    """They become floating-point numbers; infinite penalties are exact marginals."""
    solver = Sinkhorn(max_steps=2000)
    whole = solve(GEOMETRY, np.array([3, 3, 3, 3]), np.array([4, 4, 4]), solver, certificate=False)
    real = solve(GEOMETRY, 12 * A, 12 * B, solver, tau=np.inf, certificate=False)
    assert whole.f.dtype == np.float64
    np.testing.assert_allclose(whole.cost, real.cost, rtol=1e-12)


def test_a_mass_that_rounding_changed_is_no_error():
    a = np.random.default_rng(1).random(4).astype(np.float32)
    solution = solve(GEOMETRY, a / a.sum(), B, Sinkhorn(rtol=1e-6, max_steps=2000), certificate=False)
    assert solution.marginal_error <= 1e-6
