"""Derivatives as a cell: of the regularised cost and of a functional of `f`, against dense Newton in
NumPy."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..timing import spread
from . import columns, problems, reference
from .jax_column import JaxColumn, data, wait_for
from .judge import Claim, judge
from .problems import Problem


def measure(column: JaxColumn, problem: Problem, cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record that say how good and how fast derivatives are.

    `forward_s`, `cost_gradient_s`, `potential_gradient_s` are medians of the solve alone, and of value and
    gradient together, in the costs (or points) and both weights; `cost_gradient_error` and
    `potential_gradient_error` relative 2-norms, each the worst of the arguments.  The functional of `f` is
    `<f, v>` with a random `v` that sums to zero; of gradients in weights the mean, which has no meaning, is
    left out.  `solve_s` is `forward_s`."""
    max_steps = columns.step_limit(column, problem, settings.max_steps, settings.limit_s)
    compile_s = 0.0
    times: dict[str, list[float]] = {}
    found: dict[str, Any] = {}
    for name in ("forward", "cost", "potential"):
        solve, seconds = program(column, problem, cell.rtol, max_steps, name)
        compile_s += seconds
        times[name], found[name] = columns.timed(solve, settings.repeats)
    f, g = map(np.asarray, found["forward"][2])
    judged = judge(problem, Claim("successful", f, g), cell.rtol)
    result = "max_steps_reached" if judged.pop("false_success") else "successful"
    wanted_gradients = _exact(cell.problem, cell.size, cell.seed)
    row = {
        "result": result,
        "setup_s": 0.0,
        "compile_s": compile_s,
        "solve_s": spread(times["forward"]),
        "forward_s": float(np.median(times["forward"])),
        **judged,
    }
    for which in ("cost", "potential"):
        gradients = [np.asarray(leaf) for leaf in jax.tree.leaves(found[which][1])]
        exact = wanted_gradients[which]
        in_cost = exact["cost"]
        data_gradients = (in_cost,) if len(gradients) == 3 else reference.in_points(problem, in_cost)
        errors = [_error(*pair) for pair in zip(gradients, data_gradients, strict=False)]
        errors += [_error(_centred(x), _centred(exact[k])) for x, k in zip(gradients[-2:], "ab", strict=True)]
        row[f"{which}_gradient_s"] = float(np.median(times[which]))
        row[f"{which}_gradient_error"] = max(errors)
    return row


def program(
    column: JaxColumn, problem: Problem, rtol: float, max_steps: int, which: str
) -> tuple[Callable[[], Any], float]:
    """A function without arguments, compiled, and the seconds that it took.

    `forward` returns `(cost, f, (f, g) of an outcome)`; `cost` and `potential` value and `(f, g)`, then the
    gradients in the costs or points and in the weights."""
    run = column.differentiable(max_steps)
    v = jnp.asarray(direction(len(problem.a)))
    given = (
        *(data(column.spec, problem), jnp.asarray(problem.a), jnp.asarray(problem.b)),
        *(jnp.asarray(problem.epsilon), jnp.asarray(rtol)),
    )

    def functional(*arguments):
        cost, f, potentials = run(*arguments)
        return (cost if which == "cost" else f @ v), potentials

    wanted = run if which == "forward" else jax.value_and_grad(functional, argnums=(0, 1, 2), has_aux=True)
    compiled, seconds = column.compile(wanted, *given)
    return lambda: wait_for(compiled, given), seconds


def direction(n: int) -> np.ndarray:
    """The random `v`, which sums to zero."""
    v = np.random.default_rng(n).standard_normal(n)
    return v - v.mean()


@functools.lru_cache(maxsize=2)
def _exact(text: str, size: int | None, seed: int) -> dict[str, dict[str, np.ndarray]]:
    problem = problems.build(text, size, seed)
    f, g = reference.potentials(problem)
    plan = reference.plan(problem, f, g)
    # By the envelope theorem the cost's gradient is the plan, and in the weights the potentials.
    return {
        "cost": {"cost": plan, "a": f, "b": g},
        "potential": reference.potential_gradients(problem, plan, direction(len(f))),
    }


def _centred(gradient: np.ndarray) -> np.ndarray:
    return gradient - gradient.mean()


def _error(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))
