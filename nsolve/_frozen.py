"""A pytree as its arrays alone, with everything else static and equal from trace to trace.

A function that lineax has linearised holds a jaxpr: neither an array, so that `jax.lax.stop_gradient` and its
like refuse the tree, nor equal to the jaxpr of another trace of the same function, so that loops and
conditionals refuse it as static.  Here jaxprs are compared by what they compute.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from jaxtyping import PyTree


class Frozen:
    """The structure of a pytree and its leaves that are no arrays: hashable, and compared by value."""

    def __init__(self, treedef: Any, leaves: list[Any], is_array: tuple[bool, ...]):
        self.treedef, self.is_array = treedef, is_array
        self.leaves = tuple(None if array else leaf for array, leaf in zip(is_array, leaves, strict=True))

    def thaw(self, arrays: tuple[Any, ...]) -> PyTree:
        """The tree, with these in place of its arrays."""
        rest = iter(arrays)
        pairs = zip(self.is_array, self.leaves, strict=True)
        return self.treedef.unflatten([next(rest) if array else leaf for array, leaf in pairs])

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Frozen)
            and (self.treedef, self.is_array) == (other.treedef, other.is_array)
            and _same(self.leaves, other.leaves)
        )

    def __hash__(self) -> int:
        return hash((self.treedef, self.is_array))

    def __repr__(self) -> str:
        return f"Frozen({self.treedef.unflatten(self.leaves)})"


def freeze(tree: PyTree) -> tuple[tuple[Any, ...], Frozen]:
    """The arrays of a tree, and the rest."""
    leaves, treedef = jax.tree.flatten(tree)
    is_array = tuple(map(eqx.is_array, leaves))
    return tuple(itertools.compress(leaves, is_array)), Frozen(treedef, leaves, is_array)


def asynchronous_jit(function: Callable) -> Callable:
    """`equinox.filter_jit`, but for waiting until the results are there, which that does at every call.

    The function returns arrays only, and raises no runtime error of Equinox's (which filter_jit would tell
    better)."""
    compiled = jax.jit(lambda arrays, rest: function(*rest.thaw(arrays)), static_argnums=1)

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        return compiled(*freeze(arguments))

    return call


def _same(a: Any, b: Any) -> bool:
    """Equality of static things; what cannot be compared is the same only if it is one object."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, Jaxpr):
        return _same_jaxpr(a, b)
    if isinstance(a, ClosedJaxpr):
        return _same(a.jaxpr, b.jaxpr) and _same(a.consts, b.consts)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, Tracer):
        return False
    if isinstance(a, np.ndarray | np.generic | jax.Array):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and np.array_equal(a, b)
    return bool(a == b)


def _same_jaxpr(a: Jaxpr, b: Jaxpr) -> bool:
    """Whether two jaxprs are one but for the names of their variables."""
    named: dict[Any, Any] = {}

    def bind(variables, others) -> bool:
        named.update(zip(variables, others, strict=False))
        return len(variables) == len(others) and all(
            v.aval == w.aval for v, w in zip(variables, others, strict=True)
        )

    def read(atoms, others) -> bool:
        return len(atoms) == len(others) and all(
            _same(v.val, w.val) and v.aval == w.aval
            if isinstance(v, Literal) and isinstance(w, Literal)
            else not isinstance(v, Literal) and named[v] is w
            for v, w in zip(atoms, others, strict=True)
        )

    return (
        bind(a.constvars, b.constvars)
        and bind(a.invars, b.invars)
        and len(a.eqns) == len(b.eqns)
        and all(
            e.primitive is f.primitive
            and read(e.invars, f.invars)
            and _same(e.params, f.params)
            and bind(e.outvars, f.outvars)
            for e, f in zip(a.eqns, b.eqns, strict=True)
        )
        and read(a.outvars, b.outvars)
    )
