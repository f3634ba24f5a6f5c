"""What LSMR, LSQR and CGLS share: products, the bidiagonalisation, the estimate of the condition, the loop.

A solve is successful when one of these holds for the residual `r = b - A x` *computed from x* at the end:

* `||r||_2 <= max(rtol ||b||_2, atol)`: the system is solved;
* `||A^H r||_2 <= level ||A|| ||r||_2`: `x` is a least-squares solution.  For operators with more rows than
  columns `level` is `rtol`.  For others, which nearly always have a solution, it is a few units of rounding:
  an ill-conditioned operator makes `A^H r` small long before `r`.
* With more rows than columns also `||A^H r||_2 <= 2 eps ||A||^2 ||x||_2`: what rounding leaves of it where
  the residual is small.

`||A||` is the largest `||A v|| / ||v||` met, a lower bound of the 2-norm.  The methods' recursions only
suggest when to look; where one was wrong, the method starts again from there, which is iterative refinement.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .._reasons import CODES, blamed
from .._stopping import power_of_two_scale, scaled_back, start_from, tolerance
from .._vectors import Vector, axpy, norm, safe_divide, scale, size, subtract, where
from ..monitor import GO_ON, AbstractMonitor, Watched, opened

#: `||A^H r|| / (||A|| ||r||)`, in units of rounding, below which a system is taken to have no solution.
_STATIONARY = 16
#: What rounding leaves of `A^H r`, in units of `eps ||A||^2 ||x||`.
_ROUNDING = 2
#: Cycles in a row that gain nothing, after which the solve ends.
_PATIENCE = 2
#: Steps, besides as many as the smaller dimension, for which `A^H r` may fail to fall.
_IDLE = 100


class Products(NamedTuple):
    """Products with `A`, in its unit, and with its preconditioner `P`.

    The methods iterate on `A P`, or on `P A` where `left`."""

    forward: Callable[[Vector], Vector]
    adjoint: Callable[[Vector], Vector]
    preconditioner: tuple[Callable[[Vector], Vector], Callable[[Vector], Vector]] | None  # `P` and `P^H`
    left: bool

    def apply(self, v: Vector, v_norm: Array | float) -> tuple[Vector, Array]:
        """The product of the iteration; its gain, and that of `A` in it."""
        if self.preconditioner is None:
            q = self.forward(v)
            return q, jnp.stack([norm(q) / v_norm] * 2)
        precondition, _ = self.preconditioner
        if self.left:
            between = self.forward(v)
            q = precondition(between)
            return q, jnp.stack([norm(q) / v_norm, norm(between) / v_norm])
        between = precondition(v)
        q = self.forward(between)
        return q, jnp.stack([norm(q) / v_norm, safe_divide(norm(q), norm(between))])

    def apply_adjoint(self, u: Vector) -> Vector:
        """The conjugate transpose of that product."""
        if self.preconditioner is None:
            return self.adjoint(u)
        _, precondition_adjoint = self.preconditioner
        if self.left:
            return self.adjoint(precondition_adjoint(u))
        return precondition_adjoint(self.adjoint(u))

    def open(self, r: Vector, normal: Vector) -> tuple[Vector, Vector]:
        """The residual of the iteration and its normal residual, from `r` and `A^H r`."""
        if self.preconditioner is None:
            return r, normal
        precondition, precondition_adjoint = self.preconditioner
        if self.left:
            r = precondition(r)
            return r, self.apply_adjoint(r)
        return r, precondition_adjoint(normal)

    def correction(self, z: Vector) -> Vector:
        """What an iterate adds to `x`."""
        return z if self.preconditioner is None or self.left else self.preconditioner[0](z)


class Bidiagonal(NamedTuple):
    """The bidiagonalisation of Golub and Kahan, by which `A [v_1 .. v_k] = [u_1 .. u_k+1] B_k`."""

    u: Vector
    v: Vector
    alpha: Array
    beta: Array
    gains: Array  # the largest of the iteration's products, and of those with `A`

    @staticmethod
    def begin(r: Vector, normal: Vector) -> "Bidiagonal":
        u, beta = unit(r)
        v, gain = unit(normal)
        return Bidiagonal(u, v, safe_divide(gain, beta), beta, jnp.zeros((2,), beta.dtype))

    def advanced(self, products: Products) -> "Bidiagonal":
        q, gains = products.apply(self.v, 1.0)
        u, beta = unit(axpy(-self.alpha, self.u, q))
        v, alpha = unit(axpy(-beta, self.v, products.apply_adjoint(u)))
        return Bidiagonal(u, v, alpha, beta, jnp.maximum(self.gains, gains))


class Method(NamedTuple):
    """A method as the loop drives it.  `begin(r, normal)` opens a cycle, `step(state)` advances it.  A state
    has the fields `x`, `residual_norm`, `normal_norm` (by recursion), `gains` and `condition`."""

    begin: Callable[[Vector, Vector], Any]
    step: Callable[[Any], Any]


class _Outer(NamedTuple):
    """Between cycles."""

    x: Vector
    r: Vector
    normal: Vector  # A^H r
    residual_norm: Array
    normal_norm: Array
    gain: Array
    condition: Array
    caution: Array  # by how much a recursion must do better than asked, since one lied
    counters: Array  # steps, cycles, cycles without a gain in a row, the reason's number
    history: Array | None
    watched: Watched | None


def unit(x: Vector) -> tuple[Vector, Array]:
    """The vector of length one, or zero, and the length."""
    length = norm(x)
    return scale(safe_divide(jnp.ones_like(length), length), x), length


def solve_least_squares(
    method: Method,
    products: Products,
    b: Vector,
    x0: Vector | None,
    zeros: Vector,
    tall: bool,
    rtol: Any,
    atol: Any,
    max_steps: int,
    keep_history: bool,
    blame: tuple[tuple[str, PyTree], ...],
    unit_of_operator: Array,
    monitor: AbstractMonitor | None,
    name: str,
) -> tuple[Vector, Array, dict[str, Any], Array]:
    """Runs the method under the stopping rule; `zeros` is the zero solution; `monitor` looks at the steps of
    the solver of this `name`.

    Returns the iterate, the number of the reason, the statistics and the relative residual."""
    unit_of_b = power_of_two_scale(b)
    b = scale(1 / unit_of_b, b)
    b_norm = norm(b)
    eps = jnp.finfo(b_norm.dtype).eps
    tol = tolerance(b, rtol, jnp.asarray(atol, b_norm.dtype) / unit_of_b)
    level = jnp.asarray(rtol, b_norm.dtype)
    if not tall:
        level = jnp.minimum(level, _STATIONARY * eps)
    rounding = jnp.where(level > 0, _ROUNDING * eps, 0) if tall else 0.0
    blame = (("nonfinite_vector", b_norm), *blame)
    if x0 is None:
        x0, r0 = zeros, b
    else:
        blame = (*blame[:1], ("nonfinite_start", x0), *blame[1:])
        x0, r0 = start_from(x0, b, products.forward, unit_of_b, unit_of_operator)
    norm0 = norm(r0)
    # A recursion that is down to rounding may never claim anything; one that is not may idle for a while.
    idle = _IDLE + min(size(b), size(zeros))
    history = jnp.full(max_steps + 1, jnp.nan, norm0.dtype).at[0].set(norm0) if keep_history else None

    def cycle(outer: _Outer) -> _Outer:
        before, num_cycles, num_flat, _ = outer.counters
        room = max_steps - before
        opened = method.begin(*products.open(outer.r, outer.normal))
        # With `P` on the left the recursion knows the norm of `P r`.
        per_unit = safe_divide(outer.residual_norm, opened.residual_norm)

        def claims(state) -> Array:
            solved = state.residual_norm * per_unit <= outer.caution * tol
            optimal = state.normal_norm <= outer.caution * level * state.gains[0] * state.residual_norm
            return solved | optimal

        def keep_stepping(carry) -> Array:
            state, count, _, _, found, watched = carry
            healthy = (state.condition <= 1 / eps) & jnp.isfinite(state.residual_norm)
            healthy = healthy if watched is None else healthy & watched.goes_on
            return ~claims(state) & healthy & (count < room) & (count - found <= idle)

        def step(carry):
            counts = keep_stepping(carry)
            state, count, history, least, found, watched = carry
            state, count = method.step(state), count + 1
            less = state.normal_norm < 0.99 * least
            least, found = jnp.where(less, state.normal_norm, least), jnp.where(less, count, found)
            if history is not None:
                history = history.at[before + count].set(state.residual_norm * per_unit, mode="drop")
            if watch is not None:
                watched = watch.looked(watched, before + count, state.residual_norm * per_unit, counts)
            return state, count, history, least, found, watched

        none = jnp.zeros((), jnp.int32)
        carry = (opened, none, outer.history, opened.normal_norm, none, outer.watched)
        state, count, history, _, _, watched = jax.lax.while_loop(keep_stepping, step, carry)
        steps = before + count
        x = axpy(1, products.correction(state.x), outer.x)
        r = subtract(b, products.forward(x))
        normal = products.adjoint(r)
        r_norm, n_norm = norm(r), norm(normal)
        gain = jnp.maximum(outer.gain, state.gains[1])
        condition = jnp.maximum(outer.condition, state.condition)
        finite = jnp.isfinite(r_norm) & jnp.isfinite(n_norm)
        least = jnp.maximum(level * gain * r_norm, rounding * gain**2 * norm(x))
        converged = finite & ((r_norm <= tol) | (n_norm <= least))
        # Norms of the residual that rounding cannot tell apart are told apart by those of `A^H r`.
        band = 8 * eps * outer.residual_norm
        worse = ~finite | (r_norm > outer.residual_norm + band)
        worse |= (r_norm >= outer.residual_norm - band) & (n_norm > outer.normal_norm)
        gains = ~worse & ((r_norm <= 0.5 * outer.residual_norm) | (n_norm <= 0.5 * outer.normal_norm))
        num_flat = jnp.where(gains, 0, num_flat + 1)
        claimed = claims(state)
        code = jnp.where(claimed, CODES["precision"], CODES["flat"])
        code = jnp.where(condition > 1 / eps, CODES["ill_conditioned"], code)
        overflow = "range" if products.preconditioner is None else "preconditioner_failed"
        code = jnp.where(finite, code, CODES[overflow])
        code = jnp.where(steps >= max_steps, CODES["max_steps"], code)
        running = finite & (num_flat < _PATIENCE) & (steps < max_steps)
        if watched is not None:
            code = jnp.where(watched.goes_on, code, watched.reason)
            running &= watched.goes_on
        code = jnp.where(running, GO_ON, code)
        code = jnp.where(converged, CODES["converged"], code)
        kept = where(
            worse & ~converged,
            (outer.x, outer.r, outer.normal, outer.residual_norm, outer.normal_norm),
            (x, r, normal, r_norm, n_norm),
        )
        if history is not None:
            history = history.at[steps].set(kept[3])
        caution = jnp.where(claimed, 0.1 * outer.caution, outer.caution)
        counters = jnp.stack([steps, num_cycles + 1, num_flat, code.astype(jnp.int32)])
        x, r, normal, r_norm, n_norm = kept
        return _Outer(x, r, normal, r_norm, n_norm, gain, condition, caution, counters, history, watched)

    normal0 = products.adjoint(r0)
    watch, watched, code = opened(monitor, name, max_steps, unit_of_b, b_norm, tol, norm0)
    zero, one = jnp.zeros_like(norm0), jnp.ones_like(norm0)
    gain = zero
    if products.preconditioner is not None:  # which keeps the iteration from the large part of `A`
        gain = safe_divide(norm(products.forward(normal0)), norm(normal0))
    counters = jnp.stack([*jnp.zeros(3, jnp.int32), code.astype(jnp.int32)])
    outer = _Outer(x0, r0, normal0, norm0, norm(normal0), gain, one, one, counters, history, watched)
    outer = jax.lax.while_loop(lambda outer: outer.counters[3] == GO_ON, cycle, outer)

    num_steps, num_cycles, _, code = outer.counters
    failed = code != CODES["converged"]
    code = jax.lax.cond(failed, lambda code: blamed(blame, code), lambda code: code, code)
    stats = {
        "num_steps": num_steps,
        "num_cycles": num_cycles,
        "residual_norm": outer.residual_norm * unit_of_b,
        "normal_residual_norm": outer.normal_norm * unit_of_b * unit_of_operator,
        "condition": outer.condition,
    }
    if outer.history is not None:
        stats["residual_norms"] = outer.history * unit_of_b
    value, code = scaled_back(outer.x, unit_of_b, unit_of_operator, code)
    return value, code, stats, outer.residual_norm / b_norm
