"""What the columns that run in JAX share: data, and one compiled program for all problems of a shape."""

import abc
import functools
import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..specs import Spec, check_name
from ..timing import clock
from .columns import Column
from .problems import Problem

FORMS = ("matrix", "points")


def data(spec: Spec, problem: Problem) -> Any:
    """What the geometry is made of, as JAX arrays: the cost matrix, or with `form=points` the points."""
    form = str(spec.solver.options.get("form", "matrix"))
    check_name("form", form, FORMS)
    given = problem.points if form == "points" else problem.cost
    if given is None:
        raise ValueError(f"{problem.name} has no points: use form=matrix")
    return jax.tree.map(jnp.asarray, given)


def wait_for(compiled: Any, given: Any) -> Any:
    """The result; RuntimeError with the one line that says what went wrong where the program raised."""
    try:
        return jax.block_until_ready(compiled(*given))
    except jax.errors.JaxRuntimeError as error:
        told = re.findall(r"^[\w.]*(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
        raise RuntimeError(told[-1] if told else str(error)) from error


class JaxColumn(Column):
    """A solver that is one compiled function of costs, weights, `epsilon` and the tolerance."""

    compiles = True

    @abc.abstractmethod
    def trace(self, max_steps: int) -> Callable[..., Any]:
        """The function `(data, a, b, epsilon, rtol) -> arrays for read` to compile."""

    @abc.abstractmethod
    def differentiable(self, max_steps: int) -> Callable[..., Any]:
        """The function `(data, a, b, epsilon, rtol) -> (regularised cost, f, (f, g) for an outcome)`, where
        the first two can be differentiated and `f` is of our convention."""

    def compile(self, run: Callable[..., Any], *given: Any) -> tuple[Any, float]:
        """One of the functions, or a derivative of it, compiled for arrays of these shapes, and the seconds
        that it took."""
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), given)
        with warnings.catch_warnings():
            # Peers call what their own dependencies have deprecated: theirs to mend.
            warnings.simplefilter("ignore", DeprecationWarning)
            return clock(lambda: jax.jit(run).lower(*shapes).compile())

    def program(self, problem: Problem, rtol: float, max_steps: int) -> tuple[Any, float]:
        given = (
            *(data(self.spec, problem), jnp.asarray(problem.a), jnp.asarray(problem.b)),
            *(jnp.asarray(problem.epsilon), jnp.asarray(rtol)),
        )
        leaves, tree = jax.tree.flatten(given)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        compiled, seconds = _compiled(type(self), self.spec, max_steps, shapes, tree, problem.is_batch)
        return lambda: wait_for(compiled, given), seconds


@functools.lru_cache(maxsize=32)
def _compiled(
    kind: type[JaxColumn], spec: Spec, max_steps: int, shapes: Any, tree: Any, is_batch: bool
) -> tuple[Any, float]:
    column = kind(spec)
    run = column.trace(max_steps)
    if is_batch:
        run = jax.vmap(run, in_axes=(0, 0, 0, None, None))
    return column.compile(run, *jax.tree.unflatten(tree, shapes))
