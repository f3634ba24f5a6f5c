"""How far potentials are from the solution, to first order."""

import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array

from ..linear import CG
from ._implicit import hessian
from ._problem import Kernel, Problem

#: Accuracy of the estimate, relative; and the most products that it may take.
_RTOL, _STEPS = 0.1, 500


def certify(problem: Problem, f: Array, g: Array) -> dict[str, Array]:
    """The length of Newton's step from `(f, g)`, and what follows for cost and plan.

    With `(df, dg)` the step, a first-order estimate of the error: `potential_error = max |df|, |dg|`;
    `cost_error`, half of the step's product with the gradient; `gradient_error = sum_ij P_ij |df_i + dg_j| /
    epsilon`, the first-order change of the plan (where costs are streamed, its bound by the triangle
    inequality).
    All are infinite where no step was found: the plan falls into pieces that do not see each other's mass.
    """
    epsilon = problem.geometry.epsilon
    rows, columns = problem.missing(f, g)
    operator, inverse_rows = hessian(problem, f, g)
    right = columns - operator.plan.rmv(inverse_rows * rows)
    solver = CG(rtol=_RTOL, max_steps=_STEPS)
    solution = lx.linear_solve(operator, right / operator.scale, solver, throw=False)
    dg = epsilon * solution.value / operator.scale
    df = inverse_rows * (epsilon * rows - operator.plan.mv(dg))
    if problem.balanced:
        middle = jnp.median(dg)
        df, dg = df + middle, dg - middle
    plan = operator.plan
    if isinstance(plan, Kernel):
        change = jnp.sum(plan.scale[:, None] * plan.matrix * jnp.abs(df[:, None] + dg))
    else:
        change = jnp.vdot(plan.mv(jnp.ones_like(g)), jnp.abs(df)) + jnp.vdot(
            plan.rmv(jnp.ones_like(f)), jnp.abs(dg)
        )
    found = solution.result == lx.RESULTS.successful
    estimates = {
        "potential_error": jnp.maximum(jnp.max(jnp.abs(df)), jnp.max(jnp.abs(dg))),
        "cost_error": 0.5 * jnp.abs(jnp.vdot(rows, df) + jnp.vdot(columns, dg)),
        "gradient_error": change / epsilon,
    }
    return {name: jnp.where(found, estimate, jnp.inf) for name, estimate in estimates.items()}
