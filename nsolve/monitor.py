"""Watching a solve while it runs, and ending it."""

import abc
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from ._reasons import CODES

#: In the place of a reason's number: the solve goes on.
GO_ON = -1


class Progress(NamedTuple):
    """How far a solve has come.

    * `solver`: the name of its class.
    * `num_steps, max_steps`.
    * `residual_norm`: `||b - A x||_2` as the method's recursion has it.
    * `vector_norm`: `||b||_2`.
    * `tolerance`: the solve ends at this `residual_norm`.
    """

    solver: str
    num_steps: Any
    max_steps: Any
    residual_norm: Any
    vector_norm: Any
    tolerance: Any

    def __str__(self) -> str:
        relative = self.residual_norm / self.vector_norm if self.vector_norm else math.nan
        norms = f"residual norm {self.residual_norm:.6e}, relative {relative:.2e}"
        return f"{self.num_steps:6d} {self.solver} {norms}"


class AbstractMonitor(eqx.Module):
    """What looks at every step of an iterative solver that was given it as `monitor`."""

    @abc.abstractmethod
    def init(self) -> PyTree[Array]:
        """What it remembers before the first step."""

    @abc.abstractmethod
    def look(self, memory: PyTree[Array], progress: Progress, counts: Array) -> tuple[PyTree[Array], Array]:
        """What it remembers now, and the number of the reason to end the solve, or `GO_ON`.

        Traced.  `counts` is false where the step is one that a loop batched by `vmap` throws away."""


def _print(progress: Progress) -> None:
    print(progress, flush=True)


class Monitor(AbstractMonitor):
    """Prints how far a solve has come, or hands it to a function that can end the solve.

    ```python
    ns.CG(rtol=1e-8, monitor=ns.Monitor(every=10))     # a line every ten steps

    def stop_at_noon(progress):                        # a `nsolve.Progress`, of plain numbers
        return datetime.now().hour >= 12

    ns.CG(rtol=1e-8, monitor=ns.Monitor(stop_at_noon, every=10))
    ```

    * `call`: called with a `Progress` before the first step and after every `every`th.  Where it returns true
      the solve ends, with `RESULTS.max_steps_reached` and `REASONS.stopped`; with `throw=False` its value is
      the best iterate met.  Without it, lines are printed to standard output.
    * `every`: a number of steps.

    Works under `jit`, `grad` and `vmap`, which call it for each element, in any order, and for the tangent
    and adjoint solves as well.  It is part of what is compiled: the same function, not a new lambda for each
    solve, spares compiling again.  Norms are those of the recursion, which costs nothing; the solve itself
    ends by the computed residual.  **Cost:** a call of the host every `every` steps.
    What it raises ends the solve as an error of JAX's.
    """

    call: Callable[[Progress], Any] = eqx.field(static=True, default=_print)
    every: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if not callable(self.call):
            raise TypeError(
                f"`Monitor(call=...)` must be a function of a `nsolve.Progress`, but is {self.call!r}."
            )
        if isinstance(self.every, bool) or not isinstance(self.every, int) or self.every < 1:
            raise ValueError(f"`Monitor(every=...)` must be an integer >= 1, but is {self.every!r}.")

    def init(self) -> None:
        return None

    def look(self, memory: None, progress: Progress, counts: Array) -> tuple[None, Array]:
        name, *numbers = progress
        due = counts & (progress.num_steps % self.every == 0)

        def on_host(due: Any, *numbers: Any) -> np.generic:
            if not due:
                return np.int32(GO_ON)
            stop = self.call(Progress(name, *(np.asarray(number).item() for number in numbers)))
            return np.int32(CODES["stopped"] if stop else GO_ON)

        def ask() -> Array:
            like = jax.ShapeDtypeStruct((), jnp.int32)
            # Pure enough: its result is needed wherever the loop goes on.
            return jax.pure_callback(on_host, like, due, *numbers, vmap_method="sequential")

        return None, jax.lax.cond(due, ask, lambda: jnp.asarray(GO_ON, jnp.int32))


#: So many times on its way a solve is looked at.
_LOOKS = 8
#: How many times faster than so far it may still become: conjugate gradients do.
_HOPE = 4.0


class Forecast(AbstractMonitor):
    """Ends a solve whose residual falls too slowly to meet its tolerance within `max_steps`.

    For attempts after which another is to follow, such as those of `nsolve.auto`.  After every eighth of
    `max_steps`, what was gained in it is extrapolated, fourfold, over the steps that are left; where that
    does not do, the solve ends with `RESULTS.stagnation` and `REASONS.hopeless`.  Nothing is called on the
    host.
    """

    def init(self) -> tuple[Array, Array]:
        return jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32)

    def look(
        self, memory: tuple[Array, Array], progress: Progress, counts: Array
    ) -> tuple[tuple[Array, Array], Array]:
        # Logarithms of how far the tolerance was: at the last look, and at the least.
        before, least = memory
        ratio = progress.residual_norm / progress.tolerance
        distance = jnp.log(jnp.where(ratio > 0, ratio, 1)).astype(jnp.float32)
        begins = progress.num_steps == 0
        least = jnp.where(begins, distance, jnp.minimum(least, distance))
        part = max(progress.max_steps // _LOOKS, 1)
        looks = counts & (progress.num_steps % part == 0) & ~begins
        gain, parts_left = before - least, (progress.max_steps - progress.num_steps) / part
        hopeless = looks & (progress.tolerance > 0) & ~(least <= _HOPE * gain * parts_left)
        before = jnp.where(looks | begins, least, before)
        return (before, least), jnp.where(hopeless, CODES["hopeless"], GO_ON).astype(jnp.int32)


class Both(AbstractMonitor):
    """Two monitors; the first one's reason goes before the second's."""

    first: AbstractMonitor
    second: AbstractMonitor

    def init(self) -> tuple[PyTree[Array], PyTree[Array]]:
        return self.first.init(), self.second.init()

    def look(
        self, memory: tuple[PyTree[Array], PyTree[Array]], progress: Progress, counts: Array
    ) -> tuple[tuple[PyTree[Array], PyTree[Array]], Array]:
        first, reason = self.first.look(memory[0], progress, counts)
        second, other = self.second.look(memory[1], progress, counts)
        return (first, second), jnp.where(reason == GO_ON, other, reason)


class Watched(NamedTuple):
    """What a monitor remembers, and the number of its reason to end the solve, or `GO_ON`."""

    memory: PyTree[Array]
    reason: Array

    @property
    def goes_on(self) -> Array:
        return self.reason == GO_ON


class Watch(NamedTuple):
    """A monitor at one solve, which works in units of its own."""

    monitor: AbstractMonitor
    solver: str
    max_steps: int
    unit: Array
    vector_norm: Array
    tolerance: Array

    def begun(self, residual_norm: Array) -> Watched:
        """After the look at the start."""
        begin = Watched(self.monitor.init(), jnp.asarray(GO_ON, jnp.int32))
        return self.looked(begin, jnp.zeros((), jnp.int32), residual_norm, jnp.array(True))

    def looked(self, watched: Watched, num_steps: Array, residual_norm: Array, counts: Array) -> Watched:
        """After the look at a step."""
        norms = (norm * self.unit for norm in (residual_norm, self.vector_norm, self.tolerance))
        progress = Progress(self.solver, num_steps, self.max_steps, *norms)
        memory, reason = self.monitor.look(watched.memory, progress, counts)
        return Watched(memory, jnp.where(watched.goes_on, reason, watched.reason))


def opened(
    monitor: AbstractMonitor | None,
    solver: str,
    max_steps: int,
    unit: Array,
    vector_norm: Array,
    tolerance: Array,
    residual_norm: Array,
) -> tuple[Watch | None, Watched | None, Array]:
    """The watch at a solve, if there is one, after its look at the start; and the number of the reason to end
    the solve right there, or `GO_ON`."""
    converged = jnp.isfinite(residual_norm) & (residual_norm <= tolerance)
    stops = ~jnp.isfinite(residual_norm) | (jnp.asarray(max_steps, jnp.int32) <= 0)
    code, watch, watched = jnp.asarray(GO_ON, jnp.int32), None, None
    if monitor is not None:
        watch = Watch(monitor, solver, max_steps, unit, vector_norm, tolerance)
        watched = watch.begun(residual_norm)
        code = watched.reason
    code = jnp.where(stops, CODES["max_steps"], code)
    return watch, watched, jnp.where(converged, CODES["converged"], code)
