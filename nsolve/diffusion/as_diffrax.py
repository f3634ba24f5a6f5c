"""`as_diffrax`: the probability-flow ODE, the reverse SDE and our samplers as problems of diffrax.

diffrax is no dependency of nsolve: it is imported when `as_diffrax` is called.

The independent variable is lam = log(alpha / sigma), which grows during sampling, so that diffrax never turns
the time round.
"""

from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from ._arrays import is_traced, namespace
from ._backward import check_finite, finite_points
from .denoiser import Denoiser, combine
from .grids import uniform_grid
from .plan import Plan
from .samplers.adaptive import AdaptiveDPMSolver, AdaptiveMultistep
from .samplers.base import AbstractSampler
from .schedules import AbstractSchedule


class ProbabilityFlow(eqx.Module):
    """dx/dlam of the probability-flow ODE or, with eta > 0, the drift of the reverse SDE; called as
    `(lam, x, args)`.

        dx = ((d log alpha / dlam) x - (1 + eta) sigma eps) dlam + sqrt(2 eta) sigma dW,

    one network evaluation a call. Every eta has the same distribution at each lam.
    """

    denoiser: Denoiser
    eta: Any = 0.0

    def __call__(self, lam: Array, x: PyTree[Array], args: Any = None) -> PyTree[Array]:
        del args
        schedule = self.denoiser.schedule

        def log_alpha(lam: Array) -> Array:
            return schedule.log_alpha(schedule.t_of_lam(lam))

        t = schedule.t_of_lam(lam)
        _, slope = jax.jvp(log_alpha, (lam,), (jnp.ones_like(lam),))
        # sigma eps = x - alpha x0
        x0 = self.denoiser.x0(x, t)
        return combine(slope - (1.0 + self.eta), x, (1.0 + self.eta) * schedule.alpha(t), x0)


class ReverseNoise(eqx.Module):
    """sqrt(2 eta) sigma(lam), what multiplies dW in the reverse SDE; called as `(lam, x, args)`."""

    schedule: AbstractSchedule
    eta: Any

    def __call__(self, lam: Array, x: PyTree[Array], args: Any = None) -> lx.AbstractLinearOperator:
        del args
        sigma = self.schedule.sigma(self.schedule.t_of_lam(lam))
        scale = jnp.sqrt(2.0 * jnp.asarray(self.eta)) * sigma
        return lx.DiagonalLinearOperator(jax.tree.map(lambda leaf: jnp.full_like(leaf, scale), x))


def as_diffrax(
    denoiser: Denoiser,
    sampler: AbstractSampler | AdaptiveMultistep | AdaptiveDPMSolver | Plan | None = None,
    grid: Any = None,
    *,
    eta: Any = 0.0,
    brownian: Any = None,
) -> dict[str, Any]:
    """The sampling problem as keyword arguments of `diffrax.diffeqsolve`.

    Without a sampler it is the probability-flow ODE (or, with `eta`, the reverse SDE) for any solver of
    diffrax:

        problem = ns.diffusion.as_diffrax(denoiser)
        solution = diffrax.diffeqsolve(
            **problem, solver=diffrax.Tsit5(), dt0=None, y0=x_T,
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        )

    With a sampler (or a plan) it is the same table of numbers that `sample` runs, as a solver of diffrax,
    with a `StepTo` along its points:

        problem = ns.diffusion.as_diffrax(denoiser, ns.diffusion.DPMSolverPP(2), grid)
        solution = diffrax.diffeqsolve(**problem, y0=x_T)

    With an adaptive sampler diffrax controls the steps, by the sampler's own estimate of its error:

        problem = ns.diffusion.as_diffrax(denoiser, ns.diffusion.AdaptiveMultistep(order=3))
        controller = diffrax.PIDController(rtol=1e-4, atol=1e-4)
        solution = diffrax.diffeqsolve(**problem, y0=x_T, stepsize_controller=controller)

    All agree as the steps shrink, and samplers with `sample` on the same grid to rounding. Use it for what
    diffrax has and `sample` has not: implicit solvers, its adjoints, events, dense output, progress meters.
    `sample` and `sample_adaptive` are leaner otherwise.

    **Arguments:**

    - `denoiser`: a `Denoiser`, on any pytree of real arrays.
    - `sampler`: a deterministic sampler of ns.diffusion or its `Plan`, or an adaptive one. As many network
      evaluations as in `sample`; diffrax steps between the points that are not visited again.
    - `grid`: as for `sample`. Without a sampler that needs it only its ends matter; None for all of the
      schedule. Both ends need signal and noise: a grid that ends at sigma = 0 has lam = infinity there.
    - `eta`, `brownian`: the reverse SDE with that much noise, driven by a Brownian path of diffrax from t0 to
      t1 = lam at the grid's ends, with the state's structure and shape (`diffrax.VirtualBrownianTree`).

    **Returns:** a dictionary with `terms, t0, t1`; with a sampler also `solver, dt0` and, unless it is
    adaptive, `stepsize_controller, max_steps`. diffrax raises states of a lower precision to that of its
    times (float64 with `jax_enable_x64`); between our solvers' steps it interpolates linearly.

    Reverse mode goes through diffrax's default adjoint; give it
    `diffrax.RecursiveCheckpointAdjoint(checkpoints=n)` to keep n states. `diffrax.BacksolveAdjoint` solves an
    adjoint equation, which no sampler's table does: it needs a solver of its own, `BacksolveAdjoint(solver=
    diffrax.Tsit5(), stepsize_controller=...)`, and its gradient is that of the ODE, which a sampler's
    approaches as its steps shrink. The network must be an Equinox module that holds its parameters, since
    diffrax does not differentiate in what a function closes over. With a traced grid (its gradient is
    wanted) the plan must visit ever larger lam, as multistep and DPM-Solver's plans do. A sampler whose
    network returns NaN or infinity raises; the solvers of diffrax see to that themselves.
    """
    diffrax = import_diffrax("`as_diffrax`")
    from ._diffrax import AdaptiveSolver, PlanSolver

    _check(denoiser, sampler, grid, eta, brownian)
    flow = diffrax.ODETerm(ProbabilityFlow(denoiser, eta))
    if sampler is None or isinstance(sampler, AdaptiveMultistep | AdaptiveDPMSolver):
        problem = {"terms": flow, **_ends(denoiser.schedule, grid)}
        if brownian is not None:
            noise = diffrax.ControlTerm(ReverseNoise(denoiser.schedule, eta), brownian)
            return problem | {"terms": diffrax.MultiTerm(flow, noise)}
        if sampler is None:
            return problem
        return problem | {"solver": AdaptiveSolver(sampler), "dt0": sampler.first_step}

    if isinstance(sampler, AbstractSampler):
        finite_points(denoiser.schedule, grid)
    plan = sampler if isinstance(sampler, Plan) else sampler.plan(grid, denoiser.schedule)
    if plan.stochastic:
        raise ValueError(
            f"`sampler` must be deterministic, but {type(sampler).__name__} adds noise: use `sample`, or "
            "`eta` and `brownian` with an SDE solver of diffrax."
        )
    lam = _lam_of_plan(plan)
    first = _step_ends(lam)
    steps = jnp.asarray(lam[first])
    solver = PlanSolver.of(plan, denoiser, first, None if isinstance(sampler, Plan) else sampler.order)
    return {
        "terms": flow,
        "solver": solver,
        "t0": steps[0],
        "t1": steps[-1],
        "dt0": None,
        "stepsize_controller": diffrax.StepTo(steps),
        "max_steps": len(first) - 1,
    }


def import_diffrax(purpose: str) -> ModuleType:
    """diffrax, or an error that says how to get it."""
    try:
        import diffrax
    except ModuleNotFoundError as error:
        if error.name != "diffrax":
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs diffrax, which nsolve does not install: pip install diffrax", name="diffrax"
        ) from error
    return diffrax


def _ends(schedule: AbstractSchedule, grid: Any) -> dict[str, Array]:
    lam = finite_points(schedule, uniform_grid(1) if grid is None else grid).lam
    return {"t0": jnp.asarray(lam[0], dtype=float), "t1": jnp.asarray(lam[-1], dtype=float)}


def _lam_of_plan(plan: Plan) -> Any:
    """In the precision of diffrax's times."""
    xp = namespace(plan.alpha, plan.sigma)
    with np.errstate(divide="ignore"):
        lam = xp.log(plan.alpha) - xp.log(plan.sigma)
    check_finite(lam)
    return lam.astype(jnp.result_type(float))


def _step_ends(lam: Any) -> np.ndarray:
    """Numbers of the points between which diffrax steps: those with all earlier points at no larger lam and
    all later ones at a larger one. (Methods that look ahead visit a lam more than once.)"""
    if is_traced(lam):
        return np.arange(len(lam))
    before = np.maximum.accumulate(lam)
    after = np.minimum.accumulate(np.append(lam[1:], np.inf)[::-1])[::-1]
    ends = np.flatnonzero((lam >= before) & (lam < after) & (lam > lam[0]))
    return np.concatenate([[0], ends])


def _check(denoiser: Any, sampler: Any, grid: Any, eta: Any, brownian: Any) -> None:
    if not isinstance(denoiser, Denoiser):
        raise TypeError(f"`denoiser` must be a Denoiser, got {type(denoiser).__name__}.")
    known = AbstractSampler | AdaptiveMultistep | AdaptiveDPMSolver | Plan
    if sampler is not None and not isinstance(sampler, known):
        raise TypeError(f"`sampler` must be a sampler, a Plan or None, got {type(sampler).__name__}.")
    if isinstance(sampler, AbstractSampler) and grid is None:
        raise ValueError("`grid` is missing: give times or, say, `ns.diffusion.log_snr_grid(num_steps=10)`.")
    if isinstance(sampler, Plan) and grid is not None:
        raise ValueError("`grid` must be None with a Plan, which has its own.")
    noisy = not (isinstance(eta, float | int) and eta == 0)
    if isinstance(eta, float | int) and not eta >= 0:
        raise ValueError(f"`eta` must not be negative, got {eta}.")
    if noisy != (brownian is not None):
        raise ValueError(
            "`eta` > 0 and `brownian` belong together: give both for the SDE, neither for the ODE."
        )
    if noisy and sampler is not None:
        raise ValueError("`eta` is for the solvers of diffrax; leave it out with a `sampler`.")
