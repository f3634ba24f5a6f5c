"""Data consistency by a few Krylov steps inside sampling: decomposed diffusion sampling, in 2-D and 3-D."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ..._vectors import axpy, subtract, zeros_like
from ...linear import CG
from ...unroll import unroll
from .._arrays import accumulation_dtype, in_precision_of, namespace
from .._checks import check_batch, check_key, check_state, is_finite
from ..denoiser import Denoiser, clean, combine
from ..grids import grid_points
from ..noise import normal_like
from ..sample import Sample, finished

Operator = lx.AbstractLinearOperator | Callable[[Any], Any]


class KrylovConsistency(eqx.Module):
    """Moves a clean state towards measurements y = A x0 by `num_steps` conjugate gradient steps from it.

    With a number `gamma`, for noisy measurements, on (gamma A^T A + I) x = x0 + gamma A^T y, whose solution
    minimises gamma |A x - y|^2 + |x - x0|^2. With `gamma=None`, for exact ones, on A^T A x = A^T y. After n
    steps x - x0 is the best of a Krylov space of n vectors; few steps (the authors take 5) regularise.

    **Arguments:**

    - `operator`: A, a lineax operator or a linear JAX function, for one sample.
    - `measurement`: y, the same for all samples, or one a sample along the leading axis.
    - `gamma`: about the ratio of the clean state's variance given x to the variance of the measurements.

    Called as `transform(x0, t)` on a batch (samples along the leading axis): the `transform` of any
    `Denoiser`, or the consistency of `sample_decomposed`. Differentiable in everything. Cost: num_steps + 1
    products with A and A^T. Chung, Lee & Ye, arXiv:2303.05754.
    """

    operator: Operator
    measurement: PyTree[Array]
    gamma: Any = None
    num_steps: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        _check_operator(self.operator, self.num_steps)
        if isinstance(self.gamma, float | int) and not self.gamma > 0:
            raise ValueError(f"`gamma` must be positive, or None for exact measurements, got {self.gamma}.")

    def __call__(self, x0: PyTree[Array], t: Any) -> PyTree[Array]:
        del t
        start, operator, measurement, axis = _for_samples(self.operator, self.measurement, x0)

        def solve(x: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
            right = operator.transpose().mv(y)
            if self.gamma is not None:
                right = axpy(self.gamma, right, x)
            return _cg(lambda v: _normal(operator, v, self.gamma), right, x, self.num_steps)

        return _like(x0, jax.vmap(solve, in_axes=(0, axis))(start, measurement))

    def init(self, x0: PyTree[Array]) -> None:
        """No state is carried through sampling."""
        del x0

    def update(self, state: None, x0: PyTree[Array]) -> tuple[PyTree[Array], None]:
        """(consistent x0, state)."""
        return self(x0, None), state


class TotalVariationConsistency(eqx.Module):
    """Consistency for the slices of a volume (along the leading axis), with total variation between them.

    Where the network knows slices only, this keeps neighbours alike: one step of ADMM for |A x - y|^2 / 2 +
    weight |D x|_1 at each level, D the difference to the next slice (the first follows the last, as in the
    authors' code),

        x <- num_steps CG steps on (A^T A + rho D^T D) x = A^T y + rho D^T (d - u), started at x0
        d <- soft threshold of D x + u by weight / rho,   u <- u + D x - d,

    with d and u carried on through sampling: a state, so that it goes into `sample_decomposed`, not into
    `transform`.

    **Arguments:** `operator`: A for one slice, as in `KrylovConsistency`; `measurement`: one a slice along
    the leading axis, or one for all. `weight`, `rho`: numbers, positive; the authors' are the defaults.

    Chung, Lee & Ye, arXiv:2303.05754; Chung et al., arXiv:2211.10655.
    """

    operator: Operator
    measurement: PyTree[Array]
    weight: Any = 0.04
    rho: Any = 10.0
    num_steps: int = eqx.field(static=True, default=5)

    def __check_init__(self):
        _check_operator(self.operator, self.num_steps)
        for name, value in (("weight", self.weight), ("rho", self.rho)):
            if isinstance(value, float | int) and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value}.")

    def init(self, x0: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
        """(d, u), zero."""
        zero = zeros_like(_summable(x0))
        return zero, zero

    def update(self, state: tuple[Any, Any], x0: PyTree[Array]) -> tuple[PyTree[Array], tuple[Any, Any]]:
        """(consistent x0, state)."""
        d, u = state
        start, operator, measurement, axis = _for_samples(self.operator, self.measurement, x0)
        slices = check_batch(start, "x0")
        back = jax.vmap(operator.transpose().mv, in_axes=axis, axis_size=slices)(measurement)
        right = axpy(self.rho, _difference_transposed(subtract(d, u)), back)

        def normal(x: PyTree[Array]) -> PyTree[Array]:
            fit = jax.vmap(lambda v: _normal(operator, v, None))(x)
            return axpy(self.rho, _difference_transposed(_difference(x)), fit)

        def shrink(c: Array) -> Array:
            return jnp.sign(c) * jnp.maximum(jnp.abs(c) - self.weight / self.rho, 0.0)

        x = _cg(normal, right, start, self.num_steps)
        change = axpy(1.0, _difference(x), u)
        d = jax.tree.map(shrink, change)
        return _like(x0, x), (d, subtract(change, d))


def sample_decomposed(
    denoiser: Denoiser,
    consistency: KrylovConsistency | TotalVariationConsistency,
    x_T: PyTree[Array],
    grid: Any,
    key: PRNGKeyArray | None = None,
    *,
    eta: Any = 0.0,
    throw: bool = True,
) -> Sample:
    """Sampling with the clean state made consistent with measurements at each level (DDS).

        x0' = consistency(x0),   x <- alpha x0' + sigma (sqrt(1 - eta^2) eps + eta xi)

    with the network's own x0 and eps. That the noise stays the network's is the difference to a `Denoiser`
    with the consistency as its `transform`, which any sampler accepts, and whose noise follows from x0'.
    Here `eta` in [0, 1] mixes old and new noise at equal variance (the authors take 0.85; this is not
    DDIM's eta).

    **Arguments:** `denoiser`; `consistency`: `KrylovConsistency` or `TotalVariationConsistency`; `x_T`,
    `grid`, `key` (needed unless eta = 0) and `throw` as for `sample`.

    **Returns** a `Sample`. Order 1; one evaluation and one consistency step for each step of the
    grid. It is no sample of the posterior: its mean is near that of the posterior, its spread too small.
    Differentiable in everything.

    Chung, Lee & Ye, arXiv:2303.05754.
    """
    check_state(x_T)
    check_batch(x_T)
    if isinstance(eta, float | int) and not 0 <= eta <= 1:
        raise ValueError(f"`eta` must lie in [0, 1], got {eta}.")
    if isinstance(eta, float | int) and eta == 0:
        key = None
    else:
        key = check_key(key, f"sample_decomposed with eta={eta}")
    at = grid_points(grid, denoiser.schedule)
    table = at.t, at.alpha, at.sigma
    if at.final:
        end = -np.inf, 1.0, 0.0
        table = tuple(namespace(part).append(part, value) for part, value in zip(table, end, strict=True))
    table = in_precision_of(x_T, table)
    x, failed = _run(denoiser, consistency, table, x_T, key, in_precision_of(x_T, eta))
    who, steps = "the network or the consistency", len(table[0]) - 1
    return finished(x, table[0], failed, x_T, steps, throw, who, "step")


@eqx.filter_jit
def _run(
    denoiser: Denoiser, consistency: Any, table: Any, x_T: Any, key: Any, eta: Any
) -> tuple[PyTree[Array], Array]:
    @jax.checkpoint
    def step(carry: Any, row: Any) -> tuple[Any, None]:
        x, state, failed = carry
        number, (t, alpha, sigma), (_, next_alpha, next_sigma) = row
        x0 = clean(denoiser, x, t, alpha, sigma)
        noise = combine(1.0 / sigma, x, -alpha / sigma, x0)
        if key is not None:
            noise = combine(jnp.sqrt(1.0 - eta**2), noise, eta, normal_like(key, number, x))
        x0, state = consistency.update(state, x0)
        x = combine(next_alpha, x0, next_sigma, noise)
        failed = jnp.where((failed < 0) & ~is_finite(x), number, failed)
        return (x, state, failed), None

    starts, ends = (tuple(part[cut] for part in table) for cut in (slice(None, -1), slice(1, None)))
    rows = (jnp.arange(len(starts[0])), starts, ends)
    (x, _, failed), _ = jax.lax.scan(step, (x_T, consistency.init(x_T), jnp.asarray(-1)), rows)
    return x, failed


def _check_operator(operator: Any, num_steps: Any) -> None:
    if not callable(getattr(operator, "mv", operator)):
        raise TypeError(
            f"`operator` must be a lineax operator or a linear function, got {type(operator).__name__}."
        )
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ValueError(f"`num_steps` must be a positive integer, got {num_steps!r}.")


def _for_samples(operator: Operator, measurement: Any, x0: Any) -> tuple[Any, Any, Any, Any]:
    """x0 in a precision to solve in, the operator on one of its samples, the measurement, and the axis of its
    samples (None: one for all)."""
    batch, x0 = check_batch(x0, "x0"), _summable(x0)
    if not isinstance(operator, lx.AbstractLinearOperator):
        sample = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), x0)
        operator = lx.FunctionLinearOperator(operator, sample)
    one = operator.out_structure()
    each = jax.tree.map(lambda s: jax.ShapeDtypeStruct((batch, *s.shape), s.dtype), one)
    if jax.tree.structure(measurement) == jax.tree.structure(one):
        measurement = _like(one, measurement)
    for structure, axis in ((one, None), (each, 0)):
        if jax.eval_shape(lambda: measurement) == structure:
            return x0, operator, measurement, axis
    raise ValueError(
        f"`measurement` must be like the operator's result, {one}, or {batch} of them along a leading axis, "
        f"got {jax.eval_shape(lambda: measurement)}."
    )


def _summable(x: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: leaf.astype(accumulation_dtype(leaf.dtype)), x)


def _like(like: Any, x: Any) -> Any:
    return jax.tree.map(lambda leaf, other: jnp.asarray(leaf, other.dtype), x, like)


def _normal(operator: lx.AbstractLinearOperator, v: Any, gamma: Any) -> Any:
    product = operator.transpose().mv(operator.mv(v))
    return product if gamma is None else axpy(gamma, product, v)


def _cg(product: Callable[[Any], Any], right: Any, start: Any, num_steps: int) -> Any:
    structure = jax.eval_shape(lambda: start)
    system = lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag)
    return unroll(CG(rtol=0.0, max_steps=num_steps), system, right, num_steps, options={"y0": start}).value


def _difference(x: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.roll(leaf, -1, axis=0) - leaf, x)


def _difference_transposed(x: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda leaf: jnp.roll(leaf, 1, axis=0) - leaf, x)
