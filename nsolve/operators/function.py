"""Operators given by a function."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import lineax as lx
from jaxtyping import Array, PyTree

Vector = PyTree[Array]


def function_operator(
    function: Callable[[Vector], Vector],
    structure: PyTree[jax.ShapeDtypeStruct],
    tags: Any | Iterable[Any] = (),
) -> lx.FunctionLinearOperator:
    """A linear function as an operator; the globals that it reads are read when this is called.

    The same as `lx.FunctionLinearOperator(function, structure, tags)`, except that the function is traced
    anew. JAX caches traces by the identity of the function: a matrix-vector product that reads a module's
    global, wrapped by lineax before and after the global was rebound, gives the *old* operator both times,
    and the old system's solution comes out marked successful.

    **Arguments:** `function`, linear, on vectors of `structure` (a pytree of `jax.ShapeDtypeStruct`); `tags`
    as for lineax's operators.  Costs one trace of the function, and one compilation of whatever uses the
    operator.
    """
    return lx.FunctionLinearOperator(lambda vector: function(vector), structure, tags)
