"""Kernel matrices without the matrix: what the laws of operators do not ask."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

import nsolve as ns
from nsolve.operators import RadialKernel, kernel

POINTS = np.random.default_rng(0).random((30, 3))


@pytest.mark.parametrize("name", kernel.KERNELS)
@pytest.mark.parametrize("d", [3, 10])
def test_it_is_the_matrix_of_the_gallery(name, d, monkeypatch):
    problem = ns.gallery.kernel_matrix(0, 30, d, name, 0.3, 1e-2)
    operator = ns.KernelLinearOperator(problem.parts["points"], RadialKernel(name, 0.3), 1e-2)
    dense, x = np.asarray(problem.operator.as_matrix()), jnp.arange(30.0)
    np.testing.assert_allclose(operator.as_matrix(), dense, rtol=1e-12, atol=1e-14)
    monkeypatch.setattr(kernel, "_AT_A_TIME", 7 * 30)  # rows in batches that do not divide their number
    np.testing.assert_allclose(operator.mv(x), dense @ x, rtol=1e-12)
    some = jnp.array([3, 7, 3])
    np.testing.assert_allclose(
        operator.entries(some[:, None], some[None]), dense[np.ix_(some, some)], rtol=1e-12
    )


def test_solves_and_their_derivatives_take_functions_and_modules():
    b = jnp.arange(30.0)
    solver = ns.CG(rtol=1e-12)

    class Mixed(eqx.Module):
        weight: jax.Array

        def __call__(self, x, y):
            return self.weight * jnp.exp(-jnp.sum((x - y) ** 2)) + x @ y

    def loss(weight):
        return jnp.sum(lx.linear_solve(ns.KernelLinearOperator(POINTS, Mixed(weight), 0.1), b, solver).value)

    slope, h = jax.jit(jax.grad(loss))(jnp.array(1.0)), 1e-4
    assert slope == pytest.approx(float(loss(1.0 + h) - loss(1.0 - h)) / (2 * h), rel=1e-5)
    operator = ns.KernelLinearOperator(POINTS, lambda x, y: jnp.exp(-jnp.sum(jnp.abs(x - y))), 0.1)
    assert lx.is_positive_semidefinite(operator) and lx.is_symmetric(operator)
    solution = lx.linear_solve(operator, b, solver).value
    np.testing.assert_allclose(operator.as_matrix() @ solution, b, rtol=1e-8, atol=1e-8)
    assert repr(operator) == (
        "KernelLinearOperator(30 x 30, kernel a function of points in 3 dimensions, float64)"
    )


def test_no_matrix_is_formed(monkeypatch):
    monkeypatch.setattr(kernel, "_AT_A_TIME", 50)
    operator = ns.KernelLinearOperator(POINTS, RadialKernel("gaussian"), 0.1)

    def energy(points, x):
        return x @ eqx.tree_at(lambda o: o.points, operator, points).mv(x)

    program = jax.make_jaxpr(jax.grad(energy))(operator.points, jnp.ones(30))
    largest = max(np.prod(shape) for shape in shapes(program.jaxpr))
    assert largest < 30 * 30


def shapes(jaxpr):
    for equation in jaxpr.eqns:
        yield from (v.aval.shape for v in equation.outvars if v.aval.shape)
        for sub in jaxprs_in_params(equation.params):
            yield from shapes(sub)


def test_what_is_not_definite_is_not_tagged():
    operator = ns.KernelLinearOperator(POINTS, lambda x, y: jnp.sum((x - y) ** 2), tags=())
    assert not lx.is_positive_semidefinite(operator) and lx.is_symmetric(operator)
