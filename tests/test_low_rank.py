"""A diagonal plus a low-rank matrix, against dense algebra."""

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import nsolve as ns


def draw(rng, shape, complex_):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if complex_ else x


@settings(max_examples=6)
@given(st.integers(1, 12), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_equals_dense(n, k, complex_, hermitian, seed):
    rng = np.random.default_rng(seed)
    d = 5 + draw(rng, n, False) * 0.1
    left, right = draw(rng, (n, k), complex_), None if hermitian else draw(rng, (n, k), complex_)
    operator = ns.LowRankPlusDiagonalLinearOperator(d, left, right)
    matrix = np.diag(d) + left @ (left if hermitian else right).conj().T
    x = draw(rng, n, complex_)

    @eqx.filter_jit
    def everything(operator, x):  # one program compiles faster than each operation by itself
        operators = operator, operator.T, lx.conj(operator), operator.inverse()
        return operator.mv(x), [o.as_matrix() for o in operators], lx.diagonal(operator)

    product, (itself, transpose, conjugate, inverse), diagonal = everything(operator, jnp.asarray(x))
    np.testing.assert_allclose(product, matrix @ x, atol=1e-12)
    np.testing.assert_allclose(itself, matrix, atol=1e-12)
    np.testing.assert_allclose(transpose, matrix.T, atol=1e-12)
    np.testing.assert_allclose(conjugate, matrix.conj(), atol=1e-12)
    np.testing.assert_allclose(diagonal, np.diag(matrix), atol=1e-12)
    if np.linalg.cond(matrix) < 1e6:
        np.testing.assert_allclose(inverse @ matrix, np.eye(n), atol=1e-8)


def test_its_inverse_is_a_preconditioner():
    rng = np.random.default_rng(0)
    left = rng.standard_normal((40, 3))
    tag = lx.positive_semidefinite_tag
    operator = ns.LowRankPlusDiagonalLinearOperator(1 + rng.random(40), 10 * left, tags=tag)
    close = ns.LowRankPlusDiagonalLinearOperator(jnp.full(40, 1.5), 10 * left, tags=tag).inverse()
    b = jnp.asarray(rng.standard_normal(40))
    plain = lx.linear_solve(operator, b, ns.CG(rtol=1e-10))
    helped = lx.linear_solve(operator, b, ns.CG(rtol=1e-10), options={"preconditioner": close})
    assert helped.stats["num_steps"] < plain.stats["num_steps"]
    np.testing.assert_allclose(helped.value, np.linalg.solve(operator.as_matrix(), b), atol=1e-9)


def test_one_by_one_is_diagonal():
    operator = ns.LowRankPlusDiagonalLinearOperator(jnp.ones(1), jnp.ones((1, 1)))
    assert lx.is_diagonal(operator) and lx.is_upper_triangular(operator)
    assert not lx.is_diagonal(ns.LowRankPlusDiagonalLinearOperator(jnp.ones(2), jnp.ones((2, 1))))
