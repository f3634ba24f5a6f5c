"""What is true of every differentiable function of the library: each `law_…` takes a `Subject`.

`tests/subjects/` lists the subjects, a table for each wing; a new function is one row.  Linear solvers
have laws of their own beside these (`tests/linear_laws.py`).

Compiling is what these laws cost: a subject has one program for values, one for its batch, one for all its
derivatives and one for single precision.  References are NumPy's, and derivatives are differences of them.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@dataclasses.dataclass(frozen=True)
class Bad:
    """A call that must raise, and what its message says."""

    call: Callable[[], Any]
    message: str
    error: type[Exception] = ValueError


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """A function of arrays in double precision, beside the same thing in NumPy."""

    name: str
    call: Callable[..., Any]
    args: tuple[Any, ...]
    reference: Callable[..., Any]
    bad_inputs: dict[str, Bad] = dataclasses.field(default_factory=dict)
    #: Which arguments it is differentiable in, all of them by default; () if in none.
    moves: tuple[int, ...] | None = None
    #: Whether it has second derivatives.
    smooth: bool = True
    #: Relative error of values, and of derivatives beside differences of the reference.
    rtol: float = 1e-11
    slope_rtol: float = 1e-7
    #: Relative error in single precision.
    single: float = 1e-5
    #: What was traced.
    traces: list[int] = dataclasses.field(default_factory=list)

    def changed(self, factor: float) -> tuple[Any, ...]:
        """Other arguments of the same shapes: a little larger."""
        return jax.tree.map(lambda leaf: factor * leaf, self.args)

    @cached_property
    def value(self):
        def call(*args):
            self.traces.append(1)
            return self.call(*args)

        return jax.jit(call)

    @property
    def moving(self) -> tuple[int, ...]:
        return tuple(range(len(self.args))) if self.moves is None else self.moves

    def with_moved(self, moved) -> list[Any]:
        args = list(self.args)
        for where, arg in zip(self.moving, moved, strict=True):
            args[where] = arg
        return args


def flat(x) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(x)])


def close(actual, expected, rtol: float) -> None:
    """Each output by itself, so that large ones do not hide small ones."""
    whole = np.linalg.norm(flat(expected))
    for one, other in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert np.shape(one) == np.shape(other)
        error, scale = (
            np.linalg.norm(np.ravel(one - other)),
            max(np.linalg.norm(np.ravel(other)), 1e-3 * whole),
        )
        assert error <= rtol * scale, f"relative error {error:.2e} / {scale:.2e} exceeds {rtol:.0e}"


def random_like(x, seed: int):
    """Normally distributed, and complex where `x` is."""
    rng = np.random.default_rng(seed)

    def draw(leaf):
        parts = rng.standard_normal((2, *leaf.shape))
        return parts[0] + 1j * parts[1] if np.iscomplexobj(leaf) else parts[0]

    return jax.tree.map(draw, x)


def along(x, y) -> float:
    """The real inner product, as JAX's gradients in complex numbers have it: none is conjugated."""
    return float(np.sum(flat(x) * flat(y)).real)


def law_value(subject: Subject):
    """The reference's values, in double precision."""
    actual = subject.value(*subject.args)
    assert {leaf.dtype.itemsize // (1 + np.iscomplexobj(leaf)) for leaf in jax.tree.leaves(actual)} == {8}
    close(actual, subject.reference(*subject.args), subject.rtol)


def law_one_trace(subject: Subject):
    """Other values of the same shapes are neither traced nor compiled again, and as right."""
    subject.value(*subject.args)
    args = subject.changed(1.0625)
    close(subject.value(*args), subject.reference(*args), subject.rtol)
    assert len(subject.traces) == 1


def law_vmap(subject: Subject):
    """A batch is a loop."""
    several = [subject.changed(factor) for factor in (1.0, 1.0625, 0.9375)]
    batch = jax.jit(jax.vmap(subject.call))(*jax.tree.map(lambda *leaves: np.stack(leaves), *several))
    for k, args in enumerate(several):
        close(jax.tree.map(lambda leaf, k=k: leaf[k], batch), subject.reference(*args), subject.rtol)


def law_derivatives(subject: Subject):
    """jvp, vjp and, where there is one, hvp: differences of the reference, and each other's transposes."""
    if not subject.moving:
        pytest.skip("differentiable in nothing")
    moved = tuple(subject.args[where] for where in subject.moving)
    first, second = (random_like(moved, seed) for seed in (1, 2))
    cotangent = random_like(jax.eval_shape(subject.call, *subject.args), 3)

    def objective(*moved):
        return subject.call(*subject.with_moved(moved))

    def functional(*moved):
        products = jax.tree.map(lambda c, x: jnp.sum(c * x).real, cotangent, objective(*moved))
        return sum(jax.tree.leaves(products))

    @jax.jit
    def derivatives(moved, direction):
        gradient = jax.grad(functional, argnums=tuple(range(len(moved))))
        if subject.smooth:
            slopes, curvatures = jax.jvp(gradient, moved, direction)
        else:
            slopes, curvatures = gradient(*moved), None
        return jax.jvp(objective, moved, direction)[1], slopes, curvatures

    tangent, gradient, curvature = jax.device_get(derivatives(moved, first))

    def reference(s: float, t: float) -> np.ndarray:
        at = jax.tree.map(lambda x, d, e: x + s * d + t * e, moved, first, second)
        return flat(subject.reference(*subject.with_moved(at)))

    def difference(f, h: float):  # of fourth order
        return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)

    h = 1e-3
    numeric = difference(lambda s: reference(s, 0.0), h)
    scale = np.linalg.norm(flat(cotangent)) * np.linalg.norm(numeric)
    assert np.linalg.norm(flat(tangent) - numeric) <= subject.slope_rtol * np.linalg.norm(numeric)
    assert abs(along(gradient, first) - along(cotangent, tangent)) <= 1e-10 * scale
    across = difference(lambda t: reference(0.0, t), h)
    assert abs(along(gradient, second) - along(cotangent, across)) <= subject.slope_rtol * scale
    if subject.smooth:
        mixed = difference(lambda t: difference(lambda s: reference(s, t), h), h)
        size = np.linalg.norm(flat(cotangent)) * np.linalg.norm(mixed)
        error = abs(along(curvature, second) - along(cotangent, mixed))
        # differences of second order: what rounding leaves of values, over h^2
        assert error <= 100 * subject.slope_rtol * size + 1e-9 * np.linalg.norm(flat(cotangent))


def law_single_precision(subject: Subject):
    """float32 and complex64 stay what they are."""

    def small(leaf):
        return np.asarray(leaf, np.complex64 if np.iscomplexobj(leaf) else np.float32)

    actual = jax.device_get(jax.jit(subject.call)(*jax.tree.map(small, subject.args)))
    for leaf in jax.tree.leaves(actual):
        assert leaf.dtype == (np.complex64 if np.iscomplexobj(leaf) else np.float32)
    close(actual, subject.reference(*subject.args), subject.single)


def law_bad_inputs(subject: Subject):
    """What must not be given is refused, by name."""
    for name, bad in subject.bad_inputs.items():
        with pytest.raises(bad.error, match=bad.message):
            bad.call()
            pytest.fail(f"{name} was accepted")


LAWS = [value for name, value in sorted(globals().items()) if name.startswith("law_")]
