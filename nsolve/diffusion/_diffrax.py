"""Our samplers as solvers of diffrax. Imported by `as_diffrax` alone, since it needs diffrax."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import is_traced
from ._row import advance, as_arrays, empty_registers, form_point, is_finite
from .denoiser import Denoiser
from .plan import Plan
from .sample import _Rows


class PlanSolver(diffrax.AbstractSolver):
    """A plan as a solver: step i runs the rows first[i] ... first[i+1]-1 of its table.

    Needs `stepsize_controller=StepTo(...)` along the plan's own points, and the terms of `as_diffrax`. The
    solver's state holds the number of the step and the registers.
    """

    rows: _Rows
    first: Array
    most_rows: int = eqx.field(static=True)
    begins: bool = eqx.field(static=True)
    nominal_order: int | None = eqx.field(static=True)

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    @staticmethod
    def of(plan: Plan, denoiser: Denoiser, first: np.ndarray, order: int | None) -> "PlanSolver":
        """`first` (S+1,): numbers of the points at which the S steps begin and end."""
        rows = as_arrays(_Rows.of(plan, denoiser, jnp.zeros(())))
        # Nearly every plan leaves x_T as it is.
        begins = plan.shifts is not None or is_traced(plan.weights)
        if not begins:
            begins = bool(np.any(np.asarray(plan.weights[0]) != np.eye(1, plan.weights.shape[1])[0]))
        return PlanSolver(rows, jnp.asarray(first), int(np.diff(first).max()), begins, order)

    def order(self, terms: Any) -> int | None:
        del terms
        return self.nominal_order

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> tuple[Array, PyTree[Array]]:
        del terms, t0, t1, args
        return jnp.asarray(0), empty_registers(self.rows, y0)

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        del t0, t1, args, made_jump
        denoiser = _denoiser(terms)
        number, registers = solver_state
        x = y0
        if self.begins:
            begun = form_point(self.rows, 0, x, registers)
            x = jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), begun, x)

        def row(carry: Any, k: Array) -> tuple[Any, None]:
            def run() -> Any:
                return advance(denoiser, self.rows, k, *carry)

            if self.most_rows == 1:
                return run(), None
            return jax.lax.cond(k < self.first[number + 1], run, lambda: carry), None

        (x, registers), _ = jax.lax.scan(row, (x, registers), self.first[number] + jnp.arange(self.most_rows))
        x = eqx.error_if(x, ~is_finite(x), "the network returned NaN or infinity while sampling.")
        return x, None, {"y0": y0, "y1": x}, (number + 1, registers), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        return terms.vf(t0, y0, args)


def _denoiser(terms: Any) -> Denoiser:
    """The denoiser of the terms of `as_diffrax`, which diffrax wraps."""
    while not isinstance(terms, diffrax.ODETerm):
        terms = terms.term
    return terms.vector_field.denoiser
