"""Plans: a sampler on a grid as a table of numbers.

Every sampler here with fixed steps is linear in the state, the network's outputs and the noise, so all of it
that is left after the grid is chosen is a table. One compiled loop (`sample`) runs any table of the same
size; a table can be differentiated, tuned, edited by hand, and saved.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float, Int

from ._arrays import namespace
from .points import Points


class Plan(eqx.Module):
    """K network evaluations, and how their outputs make the result.

    The loop has a state x and n registers. Row 0 of `weights` makes the first point from x_T (most often it
    is that). Then for k = 0 ... K-1: the network sees x at `model_time[k]`; the register `registers[k]` keeps
    y = reads[k, 0] x + reads[k, 1] x0; and row k+1 makes the next point,

        x <- w[0] x + w[1] register_0 + ... + w[n] register_{n-1} + w[n+1] xi,

    xi standard normal. The point that the last row makes is the result. Methods with several evaluations a
    step, and predictors with correctors, need no second state: what they start a step from is itself a
    combination of the present point and the registers, and has been eliminated.

    - `t` (K+1,): the schedule's time of every point, the result's last (-inf for sigma = 0, where it has
      none); `alpha`, `sigma` (K+1,) its signal and noise.
    - `model_time` (K,): what the network is told.
    - `reads` (K, 2), `registers` (K,), `weights` (K+1, n+2). `reads` and `weights` may have the shape of the
      state as further axes: coefficients of their own for each component.
    - `shifts` (K+1, ...): added to the points; None for nothing.
    - `clock` (K+1,): the noise's own time at every point, for noise that survives refinement
      (`BrownianPath`): the xi of a row is the increment between two points of a Brownian motion B, scaled to
      variance one, and `clock` is the logarithm of the time of B, which may run either way. None where there
      is no such motion.
    - `stochastic`: whether any weight of xi differs from zero.
    """

    t: Float[Array, " K1"] | Any
    model_time: Float[Array, " K"] | Any
    alpha: Float[Array, " K1"] | Any
    sigma: Float[Array, " K1"] | Any
    reads: Float[Array, "K 2 ..."] | Any
    registers: Int[Array, " K"] | Any
    weights: Float[Array, "K1 n2 ..."] | Any
    shifts: Any = None
    clock: Any = None
    stochastic: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        k, width = self.model_time.shape[0], self.weights.shape[1]
        for name, value, expected in (
            ("t", self.t.shape, (k + 1,)),
            ("alpha", self.alpha.shape, (k + 1,)),
            ("sigma", self.sigma.shape, (k + 1,)),
            ("reads", self.reads.shape[:2], (k, 2)),
            ("registers", self.registers.shape, (k,)),
            ("weights", self.weights.shape[:2], (k + 1, max(width, 3))),
        ):
            if tuple(value) != expected:
                raise ValueError(
                    f"`{name}` must have shape {expected} in a plan of {k} evaluations, got {tuple(value)}."
                )

    def save(self, path: str | Path) -> None:
        """Write the table to a `.json` or `.npz` file that any language can read.

        Both hold the arrays above by name, in float64 (npz: NumPy's archive; JSON: nested lists with all
        digits), `stochastic`, and `format = "nsolve-plan-1"`; what is None is left out."""
        path = _checked(path)
        content = {name: np.asarray(value) for name, value in vars(self).items() if value is not None}
        content["format"] = np.asarray(_FORMAT)
        if path.suffix == ".npz":
            np.savez(path, allow_pickle=False, **content)
        else:
            path.write_text(json.dumps({name: _numbers(value) for name, value in content.items()}, indent=1))

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a table that `save` wrote, or that was written by hand in its format."""
        path = _checked(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as archive:
                content: dict[str, Any] = dict(archive)
        else:
            try:
                content = json.loads(path.read_text())
            except json.JSONDecodeError as error:
                raise ValueError(f"{path} is not valid JSON: {error}") from None
        found = str(content.pop("format", None))
        if found != _FORMAT:
            raise ValueError(f"{path} does not hold a plan: its `format` is {found!r}, not {_FORMAT!r}.")
        names = {field.name for field in dataclasses.fields(Plan)}
        if content.keys() - names:
            raise ValueError(f"{path} holds what no plan has: {sorted(content.keys() - names)}.")
        optional = {"shifts", "clock", "stochastic"}
        if names - optional - content.keys():
            raise ValueError(f"{path} lacks {sorted(names - optional - content.keys())}.")
        stochastic, registers = content.pop("stochastic", False), np.asarray(content.pop("registers"))
        if stochastic not in (True, False):
            raise ValueError(f"{path}: `stochastic` must be true or false, but is {stochastic!r}.")
        stochastic = bool(stochastic)
        if registers.size and registers.dtype.kind not in "iu":
            raise ValueError(f"{path}: `registers` must be integers, but are {registers.tolist()}.")
        registers = registers.astype(int)
        arrays = {name: np.asarray(value, np.float64) for name, value in content.items()}
        plan = Plan(**arrays, registers=registers, stochastic=stochastic)
        if registers.size and not 0 <= registers.min() <= registers.max() < plan.num_registers:
            raise ValueError(
                f"{path}: `registers` must lie in 0 ... {plan.num_registers - 1}, got {registers}."
            )
        return plan

    @property
    def num_evaluations(self) -> int:
        """How often the network is called."""
        return self.model_time.shape[0]

    @property
    def num_registers(self) -> int:
        """How many network outputs are kept."""
        return self.weights.shape[1] - 2


def clean_step(at: Points) -> Plan:
    """The step from a point (1,) to sigma = 0, in the limit of all methods: one evaluation, and x0."""
    xp = namespace(at.log_alpha, at.log_sigma)
    end = Points(np.array([-np.inf]), np.zeros(1), np.array([-np.inf]), at.schedule)
    t, log_alpha, log_sigma = (
        xp.concatenate([getattr(at, name), getattr(end, name)]) for name in ("t", "log_alpha", "log_sigma")
    )
    visited = Points(t, log_alpha, log_sigma, at.schedule)
    return build(visited, "x0", np.zeros(1, int), np.array([[0.0, 1.0, 0.0]]))


def followed(plan: Plan, last: Plan) -> Plan:
    """`plan`, and from where it ends the only row of `last`, which keeps its output in register 0."""
    xp, like = namespace(plan.weights, plan.t, last.t), plan.weights[:1]
    axes = (...,) + (None,) * (plan.weights.ndim - 2)
    row = np.eye(1, like.shape[1], 1)[axes] * np.ones(like.shape[2:])
    read = xp.broadcast_to(last.reads[axes], (1, *plan.reads.shape[1:]))
    parts = {name: getattr(plan, name) for name in ("t", "alpha", "sigma")}
    return Plan(
        **{name: xp.concatenate([value, getattr(last, name)[1:]]) for name, value in parts.items()},
        model_time=xp.concatenate([plan.model_time, last.model_time]),
        reads=xp.concatenate([plan.reads, read]),
        registers=np.append(plan.registers, 0),
        weights=xp.concatenate([plan.weights, row]),
        shifts=None if plan.shifts is None else xp.concatenate([plan.shifts, xp.zeros_like(plan.shifts[:1])]),
        clock=None if plan.clock is None else xp.concatenate([plan.clock, plan.clock[-1:]]),
        stochastic=plan.stochastic,
    )


_FORMAT = "nsolve-plan-1"


def _numbers(value: np.ndarray) -> Any:
    """Nested lists; infinite numbers, for which JSON has no word, as strings."""
    if value.dtype.kind != "f" or np.isfinite(value).all():
        return value.tolist()
    return np.where(np.isfinite(value), value.astype(object), value.astype(str).astype(object)).tolist()


def _checked(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix not in (".json", ".npz"):
        raise ValueError(f"`path` must end in .json or .npz, got {path}.")
    return path


Form = Literal["x0", "eps", "flow"]


def reads(form: Form, at: Points) -> Any:
    """How to keep the outputs at the points `at` (K,): as clean states, as noises, or as velocities eps -
    x0."""
    xp = namespace(at.log_alpha, at.log_sigma)
    alpha, sigma = at.alpha, at.sigma
    if form == "x0":
        pair = xp.zeros_like(sigma), xp.ones_like(sigma)
    elif form == "eps":
        pair = 1.0 / sigma, -alpha / sigma
    else:
        pair = 1.0 / sigma, -(alpha + sigma) / sigma
    return xp.stack(pair, axis=-1)


def build(
    visited: Points,
    form: Form,
    registers: Any,
    weights: Any,
    *,
    clock: Any = None,
    stochastic: bool = False,
) -> Plan:
    """The plan that evaluates at all points of `visited` (K+1,) but the last, and keeps its outputs in one
    form.

    `weights` (K, n+2) are the rows after the first, which is the identity."""
    xp = namespace(weights)
    first = np.zeros((1, weights.shape[1]))
    first[0, 0] = 1.0
    inner = visited[:-1]
    return Plan(
        t=visited.t,
        model_time=visited.schedule.model_time(inner.t),
        alpha=visited.alpha,
        sigma=visited.sigma,
        reads=reads(form, inner),
        registers=np.asarray(registers),
        weights=xp.concatenate([xp.asarray(first), weights]),
        # Cut where there is no signal or no noise, and the logarithm infinite.
        clock=None if clock is None else namespace(clock).clip(clock, -60.0, 60.0),
        stochastic=stochastic,
    )
