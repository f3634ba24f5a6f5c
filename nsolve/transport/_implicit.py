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
from jaxtyping import Array

from ..linear import CG
from ._point import Kernel
from ._problem import Problem, wanted
from .cost_matrix import CostMatrix
from .schur import DENSE, SchurLinearOperator, factorised, schur


@eqx.filter_custom_jvp
def potentials(problem: Problem, *, solver: Any, start: Array | None) -> tuple[Array, Array, dict, Array]:
    """The solver's `f`, `g`, statistics, whether steps ran out; derivatives are the exact solution's."""
    outcome = solver.run(problem, start)
    return *_extended(problem, outcome.f, outcome.g), outcome.stats, outcome.out_of_steps


@potentials.def_jvp
def _potentials_jvp(primals, tangents, *, solver, start):
    (problem,), (d_problem,) = primals, tangents
    out = potentials(problem, solver=solver, start=start)
    f, g = out[0], out[1]
    d_problem = jax.tree.map(_filled, d_problem, problem, is_leaf=lambda x: x is None)
    _, (rows, columns) = eqx.filter_jvp(lambda p: p.missing(f, g), (problem,), (d_problem,))
    df, dg = solve_hessian(problem, f, g, rows, columns)
    _, (df, dg) = eqx.filter_jvp(_extended, (problem, f, g), (d_problem, df, dg))
    nothing = jax.tree.map(lambda _: None, (out[2], out[3]))
    return out, (df, dg, *nothing)


def _extended(problem: Problem, f: Array, g: Array) -> tuple[Array, Array]:
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


def solve_hessian(problem: Problem, f: Array, g: Array, rows: Array, columns: Array) -> tuple[Array, Array]:
    """`epsilon [[D1, P], [P^T, D2]]^-1 (rows, columns)`."""
    epsilon = problem.geometry.epsilon
    operator, inverse_rows = hessian(problem, f, g)
    right = columns - operator.plan.rmv(inverse_rows * rows)
    dg, _ = solve_schur(operator, right, float(jnp.finfo(right.dtype).eps) ** (2 / 3), throw=True)
    df = inverse_rows * (rows - operator.plan.mv(dg))
    return epsilon * df, epsilon * dg


def solve_schur(
    operator: SchurLinearOperator, right: Array, rtol: float, throw: bool
) -> tuple[Array, lx.RESULTS]:
    """`S^-1 right`: by conjugate gradients, after a factorisation where the plan is stored and small."""
    options = {}
    if isinstance(operator.plan, Kernel) and right.size <= DENSE:
        options["preconditioner"] = factorised(operator)
    solver = CG(rtol=rtol, max_steps=20 * max(100, right.size))
    solution = lx.linear_solve(operator, right / operator.scale, solver, options=options, throw=throw)
    return solution.value / operator.scale, solution.result


def hessian(problem: Problem, f: Array, g: Array) -> tuple[SchurLinearOperator, Array]:
    """The Schur complement at a pair of potentials, and `1 / D1`; differentiable, its scaling constant."""
    plan = stored_plan(problem, f, g)
    rows, columns = plan.mv(jnp.ones_like(g)), plan.rmv(jnp.ones_like(f))
    epsilon = problem.geometry.epsilon
    if problem.rho_a is not None:
        rows = rows + (epsilon / problem.rho_a) * wanted(problem.a, f, problem.rho_a)
    if problem.rho_b is not None:
        columns = columns + (epsilon / problem.rho_b) * wanted(problem.b, g, problem.rho_b)
    operator = schur(plan, rows, columns, problem.balanced)
    return operator, operator.inverse_rows


def stored_plan(problem: Problem, f: Array, g: Array) -> Any:
    """The plan as a matrix where the costs are one, else streamed."""
    if not isinstance(problem.geometry, CostMatrix):
        return problem.plan(f, g)
    return Kernel(problem.plan(f, g).as_matrix(), jnp.ones_like(f))


@eqx.filter_custom_jvp
def dual_value(problem: Problem, f: Array, g: Array) -> Array:
    """The cost: the dual at its maximiser `(f, g)`, where derivatives in the potentials vanish."""
    return problem.dual(f, g)


@dual_value.def_jvp
def _dual_value_jvp(primals, tangents):
    problem, f, g = primals
    d_problem = jax.tree.map(_filled, tangents[0], problem, is_leaf=lambda x: x is None)
    _, derivative = eqx.filter_jvp(lambda p: p.dual(f, g), (problem,), (d_problem,))
    return dual_value(problem, f, g), derivative
