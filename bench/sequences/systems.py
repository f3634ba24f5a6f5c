"""The systems of a sequence by name: a family's, drawn at random, or small dense ones that drift."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import scipy.sparse as sp

from nsolve.gallery.drifting import KINDS as DRIFTING
from nsolve.gallery.drifting import Drifting
from nsolve.gallery.families import AbstractFamily

from .. import families
from ..specs import parse_part

KINDS = {
    **{name: kind.__doc__ or "" for name, kind in families.FAMILIES.items() if kind.num_solves == 1},
    **{name: first.__doc__ or "" for name, (first, _, _) in DRIFTING.items()},
}


def options(name: str) -> dict[str, object]:
    """The options of a kind of sequence with their defaults."""
    return families.options(name) if name in families.FAMILIES else {}


@dataclass(frozen=True)
class Systems:
    """Some systems in a row, as NumPy arrays whose leading axis numbers them.

    * `parameters`: what `operator(form)` makes an operator of; `vectors`: flat right-hand sides.
    * `features`: whose distances say how much two systems differ.
    * `matrices`: the entries of the matrices, for `each_matrix`.
    """

    parameters: Any
    vectors: np.ndarray
    features: np.ndarray
    matrices: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def take(self, numbers: np.ndarray) -> "Systems":
        """Some of the systems, in the order given."""
        fields = (self.parameters, self.vectors, self.features, self.matrices)
        return Systems(*jax.tree.map(lambda leaf: leaf[numbers], fields))


class FamilySequence:
    """Independent samples of a family."""

    def __init__(self, family: AbstractFamily):
        self.family = family

    def _one(self, key: jax.Array) -> tuple[Any, ...]:
        family, p = self.family, self.family.sample(key)
        return p, family.vector(p), family.features(p), family.operator(p).values

    def draw(self, count: int, seed: int) -> Systems:
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))
        return Systems(*jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(self._one, keys))(keys)))

    def shapes(self) -> tuple[Any, Any]:
        """Of one system's parameter and vector."""
        return jax.eval_shape(self._one, jax.random.key(0))[:2]

    def operator(self, form: str) -> Callable[[Any], lx.AbstractLinearOperator]:
        return self.family.stencil if form == "stencil" else self.family.operator

    def to_form(self, form: str, parameters: Any, vectors: jax.Array) -> jax.Array:
        """Flat vectors as the operators of that form take them."""
        return jax.vmap(self.family.solution_field)(parameters, vectors) if form == "stencil" else vectors

    def flatten(self, form: str, x: jax.Array) -> jax.Array:
        return jax.vmap(self.family.flatten)(x) if form == "stencil" else x

    def each_matrix(self, systems: Systems) -> Iterator[sp.csr_array]:
        example = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), systems.parameters)
        pattern = self.family.operator(example).pattern
        for values in systems.matrices:
            yield sp.csr_array((values, pattern.indices, pattern.indptr), shape=pattern.shape)


class DriftingSequence:
    """Dense systems that drift."""

    def __init__(self, name: str, size: int):
        self.systems = Drifting(size, name)

    def draw(self, count: int, seed: int) -> Systems:
        matrices, vectors = self.systems.draw(seed, count)
        return Systems(matrices, vectors, matrices.reshape(count, -1), matrices)

    def shapes(self) -> tuple[Any, Any]:
        size = self.systems.size
        return jax.ShapeDtypeStruct((size, size), np.float64), jax.ShapeDtypeStruct((size,), np.float64)

    def operator(self, form: str) -> Callable[[Any], lx.AbstractLinearOperator]:
        if form == "stencil":
            raise ValueError(f"sequence {self.systems.kind!r} has no stencil; use form=sparse")
        return self.systems.operator

    def to_form(self, form: str, parameters: Any, vectors: jax.Array) -> jax.Array:
        return vectors

    def flatten(self, form: str, x: jax.Array) -> jax.Array:
        return x

    def each_matrix(self, systems: Systems) -> Iterator[sp.csr_array]:
        return map(sp.csr_array, systems.matrices)


def make(text: str, size: int) -> FamilySequence | DriftingSequence:
    """A kind of sequence on `size` cells along an axis (a family) or of `size` unknowns."""
    name = parse_part(text).name
    if name in DRIFTING:
        if size < 20:
            raise ValueError(f"sequence {name!r} needs a size of at least 20 unknowns, got {size}")
        return DriftingSequence(name, size)
    return FamilySequence(families.make(text, size))


@functools.lru_cache(maxsize=2)
def draw(text: str, size: int, count: int, seed: int) -> Systems:
    """`count` systems; the same for every column."""
    return make(text, size).draw(count, seed)
