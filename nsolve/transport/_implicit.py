"""Derivatives of potentials and cost: implicit, of any order, forward and reverse.

The potentials are where the marginals' gaps `F(f, g; problem)` vanish.  Their tangent solves
`H (df, dg) = dF`, with `H` the Hessian of `schur.py`; the rule is written in terms of the potentials
themselves, so that differentiating it again is right.  The cost is the maximum of the dual: its derivative is
the explicit one, at fixed potentials.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array

from ..linear import CG
from ..preconditioners.base import constant
from ._point import Kernel
from ._problem import EntropicProblem
from .cost_matrix import CostMatrix
from .schur import DENSE, SchurLinearOperator, factorised, schur


@eqx.filter_custom_jvp
def potentials(problem: EntropicProblem, f: Array, g: Array) -> tuple[Array, Array]:
    """`f` and `g` as a solver found them, with the derivatives of the exact solution in the problem."""
    return _extended(problem, f, g)


@potentials.def_jvp
def _potentials_jvp(primals, tangents):
    problem, found_f, found_g = primals
    f, g = potentials(problem, found_f, found_g)
    d_problem = jax.tree.map(_filled, tangents[0], problem, is_leaf=lambda x: x is None)
    _, (rows, columns) = eqx.filter_jvp(lambda p: p.missing(f, g), (problem,), (d_problem,))
    df, dg = solve_hessian(problem, f, g, rows, columns)
    _, (df, dg) = eqx.filter_jvp(_extended, (problem, f, g), (d_problem, df, dg))
    return (f, g), (df, dg)


def _extended(problem: EntropicProblem, f: Array, g: Array) -> tuple[Array, Array]:
    """Potentials at sites without weight: the best ones, which nothing else depends on."""

    def extend(f: Array, g: Array) -> tuple[Array, Array]:
        f = jnp.where(problem.a > 0, f, problem.best_row(g))
        return f, jnp.where(problem.b > 0, g, problem.exchanged.best_row(f))

    missing = jnp.any(problem.a == 0) | jnp.any(problem.b == 0)
    return jax.lax.cond(missing, extend, lambda f, g: (f, g), f, g)


def _filled(tangent, primal):
    if tangent is None and eqx.is_inexact_array(primal):
        return jnp.zeros_like(primal)
    return tangent


def solve_hessian(
    problem: EntropicProblem, f: Array, g: Array, rows: Array, columns: Array
) -> tuple[Array, Array]:
    """`epsilon [[D1, P], [P^T, D2]]^-1 (rows, columns)`; NaN where rounding leaves no digits of it."""
    epsilon = problem.geometry.epsilon
    operator = hessian(problem, f, g)
    right = columns - operator.plan.rmv(operator.inverse_rows * rows)
    dg, _ = solve_schur(operator, right, throw=True)
    df = operator.inverse_rows * (rows - operator.plan.mv(dg))
    return epsilon * df, epsilon * dg


def solve_schur(
    operator: SchurLinearOperator, right: Array, throw: bool, rtol: float | None = None
) -> tuple[Array, Array]:
    """`S^-1 right` and whether it is to be trusted: by a factorisation where the plan is stored and small,
    else by conjugate gradients.

    At small `epsilon` a plan may fall into pieces that hardly see each other: then the potentials of one may
    move against the other's, and rounding decides how far.  A factorisation can tell: the solution is NaN
    then, and so is the transposed one.  No error: it would also meet those who differentiate the cost alone.
    """
    eps = float(jnp.finfo(right.dtype).eps)
    if not (isinstance(operator.plan, Kernel) and operator.in_size() <= DENSE):
        solver = CG(rtol=eps ** (2 / 3) if rtol is None else rtol, max_steps=20 * max(100, right.size))
        solution = lx.linear_solve(operator, right / operator.scale, solver, throw=throw)
        return solution.value / operator.scale, solution.result == lx.RESULTS.successful
    lost = ~(_amplified_rounding(operator) <= eps**0.4)
    identity = jnp.eye(right.size, dtype=right.dtype)
    matrix = jnp.where(lost, identity, operator.as_matrix())
    # NaN comes out on either side, and never reaches the solver
    digits = jnp.where(lost, jnp.nan, jnp.ones((), right.dtype))
    right = jnp.where(lost, 0, digits * right / operator.scale)
    system = lx.MatrixLinearOperator(matrix, lx.positive_semidefinite_tag)
    solution = lx.linear_solve(system, right, lx.Cholesky(), throw=throw)
    return digits * jnp.where(lost, 0, solution.value) / operator.scale, ~lost


def _amplified_rounding(operator: SchurLinearOperator) -> Array:
    """What a solution makes of rounding errors of the columns' masses; NaN where the factorisation failed."""
    operator = constant(operator)
    # signs without a pattern
    signs = jnp.asarray(np.random.default_rng(0).choice([-1, 1], operator.in_size()), operator.scale.dtype)
    rounding = jnp.finfo(signs.dtype).eps * signs * operator.columns
    return jnp.max(jnp.abs(factorised(operator).mv(rounding / operator.scale) / operator.scale))


def hessian(problem: EntropicProblem, f: Array, g: Array) -> SchurLinearOperator:
    """The Schur complement at a pair of potentials; differentiable, its scaling constant."""
    plan = stored_plan(problem, f, g)
    rows, columns = plan.mv(jnp.ones_like(g)), plan.rmv(jnp.ones_like(f))
    return schur(problem, plan, rows, columns, g)


def stored_plan(problem: EntropicProblem, f: Array, g: Array) -> Any:
    """The plan as a matrix where the costs are one, else streamed."""
    if not isinstance(problem.geometry, CostMatrix):
        return problem.plan(f, g)
    return Kernel(problem.plan(f, g).as_matrix(), jnp.ones_like(f))


@eqx.filter_custom_jvp
def dual_value(problem: EntropicProblem, f: Array, g: Array) -> Array:
    """The cost: the dual at its maximiser `(f, g)`, where derivatives in the potentials vanish."""
    return problem.dual(f, g)


@dual_value.def_jvp
def _dual_value_jvp(primals, tangents):
    problem, f, g = primals
    d_problem = jax.tree.map(_filled, tangents[0], problem, is_leaf=lambda x: x is None)
    _, derivative = eqx.filter_jvp(lambda p: p.dual(f, g), (problem,), (d_problem,))
    return dual_value(problem, f, g), derivative
