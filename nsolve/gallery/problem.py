"""What most functions of the gallery return."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from ._draw import Key, normal


class LinearProblem(NamedTuple):
    """A linear system `operator x = vector`, and what else belongs to it.

    * `operator`: a lineax operator with honest tags.
    * `vector`: a right-hand side, in the structure that the operator acts on.
    * `parts`: what the system is made of, by name: coefficients, masks, meshes.

    A tuple of pytrees: it unpacks (`A, b, _ = ...`), goes through `jit`, and `vmap` stacks it.
    """

    operator: lx.AbstractLinearOperator
    vector: PyTree[Array]
    parts: dict[str, Any]


def with_normal_vector(
    operator: lx.AbstractLinearOperator, key: Key, parts: dict[str, Any] | None = None
) -> LinearProblem:
    """The operator with a right-hand side of independent N(0, 1) entries."""
    structure = operator.in_structure()
    vector = jnp.asarray(normal(key, structure.shape, np.dtype(structure.dtype)))
    return LinearProblem(operator, vector, parts or {})
