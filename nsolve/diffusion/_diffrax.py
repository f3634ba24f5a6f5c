"""Our samplers as solvers of diffrax. Imported by `as_diffrax` alone, since it needs diffrax."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import is_traced
from ._checks import is_finite
from ._rows import Rows, advance
from .adaptive import _output
from .denoiser import Denoiser
from .plan import Plan
from .points import Points
from .samplers.adaptive import AdaptiveDPMSolver, AdaptiveMultistep


class PlanSolver(diffrax.AbstractSolver):
    """A plan as a solver: step i runs the rows first[i] ... first[i+1]-1 of its table.

    Needs `stepsize_controller=StepTo(...)` along the plan's own points, and the terms of `as_diffrax`. The
    solver's state holds the number of the step and the registers.
    """

    rows: Rows
    first: Array
    most_rows: int = eqx.field(static=True)
    begins: bool = eqx.field(static=True)
    nominal_order: int | None = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm  # an ODETerm; `_denoiser` says what else may not be
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    @staticmethod
    def of(plan: Plan, denoiser: Denoiser, first: np.ndarray, order: int | None) -> "PlanSolver":
        """`first` (S+1,): numbers of the points at which the S steps begin and end."""
        rows = jax.tree.map(jnp.asarray, Rows.of(plan, denoiser, jnp.zeros(())))
        # Nearly every plan leaves x_T as it is.
        begins = plan.shifts is not None or is_traced(plan.weights)
        if not begins:
            begins = bool(np.any(np.asarray(plan.weights[0]) != np.eye(1, plan.weights.shape[1])[0]))
        return PlanSolver(rows, jnp.asarray(first), int(np.diff(first).max()), begins, order)

    def order(self, terms: Any) -> int | None:
        del terms
        return self.nominal_order

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> tuple[Array, PyTree[Array]]:
        del t0, t1, args
        _denoiser(terms)
        return jnp.asarray(0), self.rows.begin(y0)[1]

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        del t0, t1, args, made_jump
        denoiser = _denoiser(terms)
        number, registers = solver_state
        x = y0
        if self.begins:
            begun, _ = self.rows.begin(x)
            x = jax.tree.map(lambda a, b: jnp.where(number == 0, a, b), begun, x)

        def row(carry: Any, k: Array) -> tuple[Any, None]:
            def run() -> Any:
                return advance(denoiser, self.rows.at(k), *carry)

            if self.most_rows == 1:
                return run(), None
            return jax.lax.cond(k < self.first[number + 1], run, lambda: carry), None

        (x, registers), _ = jax.lax.scan(row, (x, registers), self.first[number] + jnp.arange(self.most_rows))
        x = eqx.error_if(x, ~is_finite(x), "the network returned NaN or infinity while sampling.")
        return x, None, {"y0": y0, "y1": x}, (number + 1, registers), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        return terms.vf(t0, y0, args)


class AdaptiveSolver(diffrax.AbstractAdaptiveSolver):
    """An adaptive sampler as a solver; its memory is the solver's state, which diffrax restores after a
    rejected step."""

    sampler: AdaptiveMultistep | AdaptiveDPMSolver

    term_structure: ClassVar = diffrax.AbstractTerm  # an ODETerm; `_denoiser` says what else may not be
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        # Of the solution that goes on; diffrax takes the error's estimate to be one order lower.
        del terms
        return self.sampler.order + isinstance(self.sampler, AdaptiveMultistep)

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any) -> Any:
        del t1, args
        denoiser = _denoiser(terms)
        return self.sampler.init(partial(_output, denoiser), y0, _point(denoiser, t0))

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree[Array], args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        denoiser = _denoiser(terms)
        if not (isinstance(made_jump, bool) and not made_jump):
            # Outputs from before a jump say nothing about the time after it.
            solver_state = jax.lax.cond(
                made_jump, lambda: self.init(terms, t0, t1, y0, args), lambda: solver_state
            )
        ends = _point(denoiser, t0), _point(denoiser, t1)
        attempt = self.sampler.step(partial(_output, denoiser), y0, solver_state, *ends)
        info = {"y0": y0, "y1": attempt.x}
        return attempt.x, attempt.error, info, attempt.memory, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: PyTree[Array], args: Any) -> PyTree[Array]:
        return terms.vf(t0, y0, args)


def _point(denoiser: Denoiser, lam: Array) -> Points:
    return Points.of(denoiser.schedule, denoiser.schedule.t_of_lam(lam))


def _denoiser(terms: Any) -> Denoiser:
    """The denoiser of the terms of `as_diffrax`, which diffrax wraps."""
    while not isinstance(terms, diffrax.ODETerm):
        if type(terms).__name__ == "AdjointTerm":
            raise ValueError(
                "a sampler of ns.diffusion cannot solve the adjoint equation, which is none of a diffusion: "
                "give that a solver of its own, `diffrax.BacksolveAdjoint(solver=diffrax.Tsit5(), "
                "stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6))`."
            )
        terms = terms.term
    return terms.vector_field.denoiser
