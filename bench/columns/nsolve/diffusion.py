"""This project's samplers: names are short forms of the classes, their fields are the parameters.

Beside them, `grid` is one of the grids of `nsolve.diffusion` without `_grid`, where it is not the one that a
sampler is commonly run on; `unroll` and `checkpoints` are those of `sample`.  Two columns first learn
something of the problem, from other numbers than those that they are judged by: `tuned`, UniPC with its grid
and weights moved by gradients, and `dpm_solver_v3`.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from nsolve import diffusion
from nsolve.diffusion.sample import check_checkpoints
from nsolve.gallery.mixtures import Gaussian, denoiser

from ...engine.measure import clock, wants_more
from ...engine.options import Option, options_of
from ...engine.spec import Part, Spec
from ...engine.work import Answer, Offer, Run, Task, Timings
from ...work import diffusion as work
from ...work.diffusion import Samples

CLASSES = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpm_solver": "DPMSolver",
    "dpm_solver_pp": "DPMSolverPP",
    "deis": "DEIS",
    "rho_rk": "RhoRK",
    "ipndm": "IPNDM",
    "pndm": "PNDM",
    "unipc": "UniPC",
    "sa_solver": "SASolver",
    "edm_heun": "EDMHeun",
    "er_sde": "ERSDE",
    "flow_rk": "FlowRK",
    "rf_solver": "RFSolver",
    "accelerated_ddim": "AcceleratedDDIM",
    "accelerated_ddpm": "AcceleratedDDPM",
}
GRID = Option(choices=("log_snr", "uniform", "quadratic", "karras"))
# Of the column, not of the sampler.
COMMON = {"grid": GRID, "checkpoints": Option(), "unroll": Option(least=1)}
TUNED, V3 = "tuned", "dpm_solver_v3"
FITTED = {
    TUNED: {"order": Option(3), "num_steps": Option(least=1), "grid": GRID},
    V3: options_of(diffusion.DPMSolverV3, ("statistics",)) | COMMON,
}
SOLVERS = {name: options_of(getattr(diffusion, cls)) | COMMON for name, cls in CLASSES.items()} | FITTED
# Data and knots that the statistics of DPM-Solver-v3 are learned from.
DATA, KNOTS = 512, 64


def sampler(part: Part) -> diffusion.AbstractSampler:
    """The sampler of a column that learns nothing."""
    return getattr(diffusion, CLASSES[part.name])(**_options(part))


def _options(part: Part) -> dict[str, Any]:
    return {name: value for name, value in part.params if name not in COMMON}


def grid(part: Part, num_steps: int, start: Any = None, end: Any = None) -> diffusion.TimeGrid:
    """The grid of a column, from time `start` to `end`."""
    name = part.options.get("grid", "log_snr")
    return getattr(diffusion, f"{name}_grid")(num_steps, start=start, end=end)


def plan_of(
    part: Part, schedule: diffusion.AbstractSchedule, evaluations: int, ends: tuple[Any, Any] = (None, None)
) -> diffusion.Plan:
    """The plan with the most steps that take no more network evaluations than given, between two times.

    ValueError where a single step takes more."""
    made = sampler(part)
    for num_steps in range(evaluations, 0, -1):
        plan = made.plan(grid(part, num_steps, *ends), schedule)
        if plan.num_evaluations <= evaluations:
            return plan
    raise ValueError(f"{part} takes more than {evaluations} evaluations for a step")


def stated_order(made: diffusion.AbstractSampler) -> int | None:
    """The order that its documentation states; None where it promises none, as the published forms do."""
    if getattr(made, "legacy", False):
        return None
    corrected = made.order + bool(getattr(made, "corrector", False))
    return max(corrected, getattr(made, "corrector_order", 0))


def of_order(order: int) -> list[Part]:
    """A column of every deterministic sampler that there is at an order."""
    columns = []
    for name in CLASSES:
        part = Part(name, (("order", order),) if "order" in SOLVERS[name] else ())
        if sampler(part).order == order and not some_plan(sampler(part)).stochastic:
            columns.append(part)
    return columns


def some_plan(made: diffusion.AbstractSampler) -> diffusion.Plan:
    return made.plan(diffusion.log_snr_grid(8), diffusion.VPLinear())


# --- columns that learn ---


@functools.lru_cache(maxsize=16)
def statistics(text: str, for_order: bool) -> tuple[diffusion.Statistics, float]:
    """What DPM-Solver-v3 learns of a problem, and the seconds that it took."""
    schedule, problem = work.ORDER_SCHEDULE if for_order else work.schedule(), work.made(text)
    first, last = (float(schedule.lam(np.asarray(t, float))) for t in (schedule.t_max, schedule.t_min))
    data, knots = jnp.asarray(problem.draw(1, DATA)), np.linspace(first, last, KNOTS)
    return clock(lambda: diffusion.fit_statistics(denoiser(problem, schedule), data, knots, jr.key(0)))


def learned_plan(part: Part, text: str, evaluations: int) -> tuple[diffusion.Plan, float]:
    """The plan of one evaluation a step, and the seconds that learning took, here or earlier."""
    schedule = work.schedule()
    if part.name == V3:
        known, seconds = statistics(text, False)
        made = diffusion.DPMSolverV3(statistics=known, **_options(part))
        return made.plan(grid(part, evaluations), schedule), seconds
    problem = work.made(text)
    order, num_steps = (
        int(part.options.get(name, usual)) for name, usual in (("order", 3), ("num_steps", 1000))
    )
    return clock(
        lambda: diffusion.tune(
            denoiser(problem, schedule),
            diffusion.UniPC(min(order, evaluations)),
            grid(part, evaluations),
            jnp.asarray(work.starts(problem, schedule, max(64, 1024 // problem.dimension), seed=1)),
            num_steps=num_steps,
            progress=False,
        )
    )


# --- the questions ---


class ErrorRun(Run):
    """The error that so many evaluations leave, from nothing but noise: what a user gets."""

    timed = False

    def compile(self, state: Any) -> diffusion.Plan:
        part, cell, size = self.spec.solver, self.task.cell, work.size_of(self.task.cell)
        self.learning: dict[str, float] = {}
        if part.name in FITTED:
            self.plan, self.learning["setup_s"] = learned_plan(part, cell.problem, size)
        else:
            self.plan = plan_of(part, work.schedule(), size)
        return self.plan

    def solve(self, program: diffusion.Plan) -> Any:
        problem = self.task.problem
        if isinstance(problem, Gaussian):
            return program  # its law is known
        refuse_noise(self.spec, program)
        x_T = jnp.asarray(work.starts(problem, work.schedule(), work.SAMPLES))
        found = diffusion.sample(denoiser(problem, work.schedule()), program, x_T, checkpoints="none")
        return Samples(np.asarray(found.value))

    def answer(self, raw: Any) -> Answer:
        return Answer("successful", raw, {"num_evaluations": self.plan.num_evaluations}, self.learning)


class DigitsRun(Run):
    """The pictures that so many evaluations of a trained network give."""

    timed = False

    def solve(self, program: Any) -> Samples:
        digits = self.task.problem
        schedule = digits.denoiser.schedule
        self.plan = plan_of(self.spec.solver, schedule, work.size_of(self.task.cell), digits.ends)
        given = digits.denoiser, self.plan, digits.start()
        x = diffusion.sample(*given, key=jr.key(0), checkpoints="none").value
        return Samples(np.asarray(x), self.plan.stochastic)

    def answer(self, raw: Samples) -> Answer:
        return Answer("successful", raw, {"num_evaluations": self.plan.num_evaluations})


class OrderRun(Run):
    """Steps doubled again and again, from exact starting values."""

    timed = False

    def compile(self, state: Any) -> diffusion.AbstractSampler:
        part = self.spec.solver
        self.learning: dict[str, float] = {}
        if part.name == V3:
            known, self.learning["setup_s"] = statistics(self.task.cell.problem, True)
            self.sampler = diffusion.DPMSolverV3(statistics=known, **_options(part))
        else:
            self.sampler = sampler(part)
        return self.sampler

    def solve(self, program: diffusion.AbstractSampler) -> list[Any]:
        return [self._end(program, count) for count in work.doublings(work.size_of(self.task.cell))]

    def answer(self, raw: list[Any]) -> Answer:
        return Answer(
            "successful", raw, metrics={"stated_order": stated_order(self.sampler), **self.learning}
        )

    def _end(self, made: diffusion.AbstractSampler, count: int) -> Any:
        problem, schedule = self.task.problem, work.ORDER_SCHEDULE
        start, end = (float(schedule.t_of_lam(np.asarray(lam))) for lam in work.SPAN)
        times = np.asarray(grid(self.spec.solver, count, start, end)(schedule))
        whole = made.plan(times, schedule)
        if isinstance(problem, Gaussian):
            return whole
        refuse_noise(self.spec, whole)
        # A method of one evaluation a step keeps outputs from step to step; others start themselves.
        known = whole.num_registers - 1 if whole.num_evaluations == count else 0
        given = (*map(float, times[: known + 1]), float(times[-1]))
        states = work.path(self.task.cell.problem, given)
        plan = with_exact_start(made, times, states[:-1])
        x = diffusion.sample(denoiser(problem, schedule), plan, jnp.asarray(states[0])).value
        return Samples(np.asarray(x), times=given)


def with_exact_start(made: diffusion.AbstractSampler, times: np.ndarray, path: np.ndarray) -> diffusion.Plan:
    """The plan whose first points (m, B, D) are given: the network sees them, and the method goes on from
    there."""
    schedule, known = work.ORDER_SCHEDULE, len(path) - 1
    whole = made.plan(times, schedule)
    if not known:
        return whole
    rest = made.plan(times, schedule, known=known)
    shifts = np.zeros((whole.weights.shape[0], *path.shape[1:]))
    if rest.shifts is not None:  # of components, the same for all samples
        shifts[known:] += rest.shifts[:, None]
    shifts[: known + 1] = path
    weights = np.concatenate([np.zeros_like(whole.weights[:known]), rest.weights])
    weights[known] = 0.0
    return eqx.tree_at(
        lambda plan: (plan.weights, plan.registers, plan.shifts),
        whole,
        (weights, np.concatenate([whole.registers[:known], rest.registers]), shifts),
        is_leaf=lambda leaf: leaf is None,
    )


class _Count:
    """How often a network was traced."""

    traces = 0


class Counted(eqx.Module):
    """A network that counts how often it is traced: at each compilation, and never else."""

    model: Callable[[Any, Any], Any]
    count: _Count = eqx.field(static=True, default_factory=_Count)

    def __call__(self, x: jax.Array, t: jax.Array) -> jax.Array:
        self.count.traces += 1
        return self.model(x, t)


class OverheadRun(Run):
    """Seconds of the sampler itself beside a network that takes none; and of the samplers of that order and
    as many evaluations, those that then need a program of their own."""

    compiles = True

    def __init__(self, task: Task):
        super().__init__(task)
        part = self.spec.solver
        self.network = Counted(task.problem.model(task.cell.dtype))
        self.denoiser = diffusion.Denoiser(self.network, "eps", work.schedule())
        self.x = jnp.asarray(task.problem.start(task.cell.dtype))
        self.sampler, self.grid = sampler(part), grid(part, work.size_of(task.cell))
        self.unroll = int(part.options.get("unroll", 1))

    def solve(self, program: Any) -> jax.Array:
        value, self.first_s = clock(self._sample)
        return value

    def _sample(self) -> jax.Array:
        given = self.denoiser, self.sampler, self.x, self.grid, jr.key(0)
        return jax.block_until_ready(diffusion.sample(*given, unroll=self.unroll).value)

    def timings(self, raw: Any) -> Timings:
        self.times: list[float] = []
        while wants_more(self.times, self.task.settings.repeats):
            self.times.append(clock(self._sample)[1])
        return Timings(0.0, max(0.0, self.first_s - float(np.median(self.times))), self.times)

    def answer(self, raw: Any) -> Answer:
        size, others, compiled = work.size_of(self.task.cell), of_order(self.sampler.order), []
        for part in others:
            plan, traces = plan_of(part, work.schedule(), size), self.network.count.traces
            diffusion.sample(self.denoiser, plan, self.x, unroll=self.unroll)
            compiled += [str(part)] if self.network.count.traces > traces else []
        metrics = {
            "seconds_per_step": float(np.median(self.times)) / size,
            "of_order": [str(part) for part in others],
            "compiled": compiled,
        }
        return Answer("successful", counts={"num_steps": size}, metrics=metrics)


class ReverseRun(Run):
    """Seconds and working memory of the gradient of a functional of so many steps' result, in the start and
    in the network's parameters.

    `temporary_bytes` is what the compiled program allocates beside its arguments and results, as XLA plans
    it."""

    compiles = True

    def compile(self, state: Any) -> Any:
        part, images, cell = self.spec.solver, self.task.problem, self.task.cell
        checkpoints: Any = part.options.get("checkpoints", "step")
        network = diffusion.Denoiser(images.model(cell.dtype), "eps", work.schedule())
        self.plan = sampler(part).plan(grid(part, work.size_of(cell)), work.schedule())
        self.given = network, jnp.asarray(images.start(cell.dtype))

        def loss(given: Any) -> jax.Array:
            denoiser, x = given
            found = diffusion.sample(denoiser, self.plan, x, checkpoints=checkpoints, throw=False)
            return jnp.mean(found.value**2)

        self.compiled = eqx.filter_jit(eqx.filter_grad(loss)).lower(self.given).compile()
        return self.compiled

    def solve(self, program: Any) -> Any:
        return jax.block_until_ready(program(self.given))

    def answer(self, raw: Any) -> Answer:
        memory = self.compiled.compiled.memory_analysis()
        counts = {"num_steps": self.task.cell.size, "num_evaluations": self.plan.num_evaluations}
        bytes_of = {"temporary_bytes": memory.temp_size_in_bytes, "state_bytes": self.given[1].nbytes}
        return Answer("successful", counts=counts, metrics=bytes_of)


RUNS: dict[str, type[Run]] = {
    "error": ErrorRun,
    "order": OrderRun,
    "overhead": OverheadRun,
    "gradient": ReverseRun,
    "digits": DigitsRun,
}


def refuse_noise(spec: Spec, plan: diffusion.Plan) -> None:
    """ValueError of a sampler whose result is not that of the flow."""
    if plan.stochastic:
        raise ValueError(f"{spec} adds noise: measure it on gaussian, where its distribution is known")


def _prepare(task: Task) -> Run:
    return RUNS[work.question(task.spec, work.WORK.parse(task.cell.problem))](task)


def _check(spec: Spec, part: Part) -> None:
    solver, asked = spec.solver, work.question(spec, part)
    if solver.name in FITTED and (
        asked not in ("error", "order") or (solver.name, asked) == (TUNED, "order")
    ):
        raise ValueError(
            f"{spec}: {solver.name} learns from data whose flow is known; {part.name} is for the others"
        )
    try:
        check_checkpoints(solver.options.get("checkpoints", "step"))  # pyright: ignore[reportArgumentType]
        if solver.name == TUNED:
            diffusion.UniPC(solver.options.get("order", 3))  # pyright: ignore[reportArgumentType]
        elif solver.name == V3:
            lam = np.linspace(-1.0, 1.0, 4)
            diffusion.DPMSolverV3(statistics=diffusion.Statistics(lam, lam, lam, lam), **_options(solver))
        elif asked in ("error", "order") and part.name != "gaussian":
            refuse_noise(spec, some_plan(sampler(solver)))
        else:
            sampler(solver)
    except (ValueError, TypeError) as error:
        told = str(error)
        raise ValueError(told if told.startswith(str(spec)) else f"{spec}: {told}") from None


OFFER = Offer(_prepare, SOLVERS, modes=("order", "gradient"), check=_check)
