"""Singular systems whose null spaces are known."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import _basis
from .._basis import Basis
from .._reasons import CODES, as_reason, as_result, raise_in_words
from .._results import Stats
from .._stopping import norm_of_any_size
from .._system import System
from .._upstream import solve_throws
from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector, axpy, norm, safe_divide, scale, subtract, where, zeros_like
from ..operators.base import AbstractOperator, is_hermitian, tags_of
from ..preconditioners.base import constant
from .base import AbstractIterativeSolver, as_vector, size_of
from .sor import SOR

#: Of a product that is zero up to rounding, the norm in units of rounding of the operator's size.
_ZERO = 1e3
#: Vectors whose components along the others are all but this share are dependent on them.
_DEPENDENT = 1e-6


class _Spaces(NamedTuple):
    """Orthonormal vectors that the operator, and its conjugate transpose, map to zero; and how well, as a
    multiple of what is taken for zero."""

    right: Basis
    left: Basis
    excess: Array


def _given(vectors: Any) -> Any:
    """What the user gave, cut off from differentiation; the constants by a name that is a leaf of no tree."""
    if isinstance(vectors, str):
        if vectors != "constant":
            raise ValueError(f'`Projected`: a null space is "constant" or vectors, but is {vectors!r}.')
        return _CONSTANT
    return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if eqx.is_array(x) else x, vectors)


class _Constant(eqx.Module):
    """In the place of vectors: the constant one."""


_CONSTANT = _Constant()


class Projected(lx.AbstractLinearSolver[System]):
    """Solves singular systems whose null spaces are known, with any iterative solver.

    ```python
    solver = ns.Projected(ns.CG(rtol=1e-8, preconditioner=ns.preconditioners.Multigrid()))
    solution = lx.linear_solve(neumann, b, solver)    # determined up to a constant: the one of mean zero
    solution.stats["inconsistency"]                   # the part of `b` for which there is no solution
    ```

    Use it for Neumann and periodic problems, pressures, elasticity without supports, graph Laplacians.
    **Returns** the least-squares solution of the smallest norm: `b` loses its part in the null space of
    `A^H`, the solution its part in that of `A`, and the preconditioner acts between the two, so that a
    preconditioner which is singular there, or not, does no harm.

    * `solver`: an iterative solver, which is asked to solve what is left.
    * `nullspace`: the vectors that `A` maps to zero: one, of the operator's structure, or a list of some.
      They need not be orthonormal.  `"constant"`, the default, is the vector of ones.
    * `left`: those that `A^H` maps to zero, where the operator is not Hermitian by its tags: as many.

    Both are checked by products.  Vectors that are not mapped to zero, up to a thousand units of rounding of
    the operator's largest entries, are a `ValueError`: of an operator that is merely nearly singular they
    would be missing in the solution.  Where they are traced, as `lx.linear_solve` does, the solve ends with
    `REASONS.wrong_nullspace`.  Null vectors that are left out do no harm that the residual would not show.

    **Stopping rule:** the solver's, with the part of `b` that has a solution in the place of `b`; where that
    is rounding, the solution is zero.  **Options:** the solver's.  **Statistics:** the solver's;
    `residual_norm` without the part of `b` that has no solution, which is `inconsistency`, in the 2-norm.

    **Cost:** for each null vector, a product with `A` in `init` (and one with `A^H` for `left`), and two
    inner products and vector updates for each application of the preconditioner, and without one as well.

    Derivatives are those of the solution that is returned, as long as the null spaces stay what they are.

    Bochev and Lehoucq (2005), doi:10.1137/S0036144503426074.
    """

    solver: AbstractIterativeSolver
    nullspace: Any = eqx.field(default="constant", converter=_given)
    left: Any = eqx.field(default=None, converter=_given)

    def __check_init__(self):
        if not isinstance(self.solver, AbstractIterativeSolver):
            raise TypeError(
                "`Projected(solver=...)` must be an iterative solver of nsolve, such as `ns.CG(rtol=1e-8)`, "
                f"but is {self.solver!r}. Those for least squares need no null space."
            )

    @property
    def known_options(self) -> tuple[str, ...]:
        return self.solver.known_options

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> System:
        inner = self.solver.precondition(operator, options)
        spaces = self._spaces(operator, inner.operator)
        if not isinstance(spaces.excess, Tracer) and spaces.excess > 1:
            which = "`nullspace`" if self.left is None else "`nullspace` or `left`"
            raise ValueError(
                f"`Projected`: {which} holds vectors that are not mapped to zero (off by "
                f"{float(spaces.excess):.1e} times more than rounding explains). `nsolve.diagnose(A)` tells "
                "whether constants are."
            )
        preconditioner = inner.preconditioner
        if preconditioner is not None or not isinstance(self.solver, SOR):  # whose sweep stays as it is
            preconditioner = _between(preconditioner, spaces, inner.operator)
        inner = System(inner.operator, preconditioner, inner.extra, unit=inner.unit, given=inner.given)
        return System(inner.operator, None, (self.solver.prepare(inner), spaces))

    def _spaces(self, operator: lx.AbstractLinearOperator, linear: lx.AbstractLinearOperator) -> _Spaces:
        structure, hermitian = operator.in_structure(), is_hermitian(operator)
        if self.left is None and not hermitian:
            raise ValueError(
                "`Projected` needs to know what the transpose of an operator that is not Hermitian by its "
                "tags maps to zero: give `left`, or tag the operator."
            )
        linear = constant(linear)
        size = size_of(operator)
        right = _orthonormal(self.nullspace, structure, "nullspace")
        gaps = [norm_of_any_size(linear.mv(_basis.vector(right, k))) for k in range(_basis.length(right))]
        left = right
        if self.left is not None:
            left = _orthonormal(self.left, structure, "left")
            if _basis.length(left) != _basis.length(right):
                raise ValueError(
                    f"`Projected(left=...)` must hold as many vectors as `nullspace`, "
                    f"{_basis.length(right)}, but holds {_basis.length(left)}."
                )
            adjoint = lx.conj(linear).transpose()
            gaps += [norm_of_any_size(adjoint.mv(_basis.vector(left, k))) for k in range(len(gaps))]
        gap = jnp.max(jnp.stack(gaps))
        return _Spaces(right, left, gap / (_ZERO * jnp.finfo(gap.dtype).eps * size))

    def compute(
        self, state: System, vector: Vector, options: dict[str, Any]
    ) -> tuple[Vector, lx.RESULTS, dict[str, Any]]:
        inner, spaces = state.extra
        if options.get("preconditioner") is not None and not inner.given:
            raise ValueError(
                "`options['preconditioner']` was not there when this `state` of `Projected` was made: make "
                "it with `solver.init(A, options)`."
            )
        missing = _basis.overlaps(spaces.left, vector)
        inconsistency = norm_of_any_size(missing)
        b = _without(spaces.left, vector)
        size = norm_of_any_size(vector)
        rounding = norm_of_any_size(b) <= 16 * jnp.finfo(size.dtype).eps * size
        b = where(rounding, zeros_like(b), b)
        value, _, stats = self.solver.compute(inner, b, options)
        projected = _without(spaces.right, value)
        residual_norm = norm_of_any_size(subtract(b, state.operator.mv(projected)))
        (code,) = jax.tree.leaves(stats["reason"])
        # Success, if any, stays true.
        rtol, atol = (jnp.asarray(of, size.dtype) for of in (self.solver.rtol, self.solver.atol))
        target = jnp.maximum(rtol * norm_of_any_size(b), atol)
        kept = (code != CODES["converged"]) | (residual_norm <= target)
        value = where(kept, projected, value)
        residual_norm = jnp.where(kept, residual_norm, stats["residual_norm"])
        code = jnp.where(spaces.excess > 1, CODES["wrong_nullspace"], code)  # what is NaN has its own reason
        if solve_throws():
            value = raise_in_words(
                f"Projected {type(self.solver).__name__}", value, code, safe_divide(residual_norm, size)
            )
        changed = {"residual_norm": residual_norm, "reason": as_reason(code), "inconsistency": inconsistency}
        changed["num_matvecs"] = stats["num_matvecs"] + 1
        if isinstance(inner.preconditioner, _ProjectedInverse) and inner.preconditioner.inner is None:
            changed["num_preconditioner_applications"] = jnp.zeros_like(stats["num_steps"])
        return value, as_result(code), Stats({**stats, **changed})

    def transpose(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        inner, spaces = state.extra
        inner, options = self.solver.transpose(inner, options)
        right, left = (jax.tree.map(jnp.conj, basis) for basis in (spaces.left, spaces.right))
        return System(inner.operator, None, (inner, _Spaces(right, left, spaces.excess))), options

    def conj(self, state: System, options: dict[str, Any]) -> tuple[System, dict[str, Any]]:
        inner, spaces = state.extra
        inner, options = self.solver.conj(inner, options)
        right, left = (jax.tree.map(jnp.conj, basis) for basis in (spaces.right, spaces.left))
        return System(inner.operator, None, (inner, _Spaces(right, left, spaces.excess))), options

    def assume_full_rank(self) -> bool:
        return True


class _ProjectedInverse(AbstractOperator):
    """`(I - N N^H) M (I - W W^H)`; `inner` is `M`, or None for the identity."""

    inner: lx.AbstractLinearOperator | None
    right: Basis
    left: Basis
    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)
    tags: frozenset[object] = eqx.field(static=True)

    def mv(self, vector: Vector) -> Vector:
        vector = _without(self.left, vector)
        return vector if self.inner is None else _without(self.right, self.inner.mv(vector))

    def as_matrix(self) -> Array:
        zero, unravel = ravel_pytree(zeros_like(self.structure))
        columns = jax.vmap(lambda e: ravel_pytree(self.mv(unravel(e)))[0], out_axes=-1)
        return columns(jnp.eye(zero.size, dtype=zero.dtype))

    def transpose(self) -> "_ProjectedInverse":
        inner = None if self.inner is None else self.inner.transpose()
        right, left = (jax.tree.map(jnp.conj, basis) for basis in (self.left, self.right))
        return _ProjectedInverse(inner, right, left, self.structure, lx.transpose_tags(self.tags))

    def conj(self) -> "_ProjectedInverse":
        inner = None if self.inner is None else lx.conj(self.inner)
        right, left = (jax.tree.map(jnp.conj, basis) for basis in (self.right, self.left))
        return _ProjectedInverse(inner, right, left, self.structure, self.tags)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.structure

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        return self.structure


class _ProjectedVariable(AbstractVariablePreconditioner):
    """The same of a variable preconditioner."""

    inner: AbstractVariablePreconditioner
    spaces: _Spaces

    def init(self, structure: PyTree[jax.ShapeDtypeStruct]) -> PyTree[Array]:
        return self.inner.init(structure)

    def apply(self, r: Vector, state: PyTree[Array]) -> tuple[Vector, PyTree[Array]]:
        z, state = self.inner.apply(_without(self.spaces.left, r), state)
        return _without(self.spaces.right, z), state

    def linear_part(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator | None:
        return _between(self.inner.linear_part(operator), self.spaces, operator)


def _between(inner: Any, spaces: _Spaces, operator: lx.AbstractLinearOperator) -> Any:
    """The preconditioner, or the identity, between the projections."""
    if isinstance(inner, AbstractVariablePreconditioner):
        return _ProjectedVariable(inner, spaces)
    structure = operator.in_structure()
    # Both projections are one where the operator is Hermitian, and leave what `M` is.
    same = spaces.left is spaces.right
    tags = frozenset([lx.positive_semidefinite_tag]) if inner is None else tags_of(inner)
    return _ProjectedInverse(inner, spaces.right, spaces.left, structure, tags if same else frozenset())


def _without(basis: Basis, x: Vector) -> Vector:
    """`x` without its components along orthonormal vectors."""
    return subtract(x, _basis.combine(_basis.overlaps(basis, x), basis))


def _orthonormal(given: Any, structure: PyTree, name: str) -> Basis:
    """The vectors, made orthonormal; constants where there are none."""
    if isinstance(given, _Constant):
        given = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), structure)
    one = jax.tree.structure(given) == jax.tree.structure(structure)
    vectors = [given] if one else given
    if not isinstance(vectors, list | tuple) or not vectors:
        raise ValueError(
            f"`Projected({name}=...)` must be a vector of the operator's structure {structure}, or a list of "
            f"such, but is {given!r}."
        )
    rows = []
    for k, x in enumerate(vectors):
        x = as_vector(x, structure, name if one else f"{name}[{k}]")
        length = norm_of_any_size(x)
        x = scale(safe_divide(jnp.ones_like(length), length), x)
        for row in 2 * rows:  # twice is enough
            x = axpy(-_basis.overlaps(jax.tree.map(lambda leaf: leaf[None], row), x)[0], row, x)
        left = norm(x)
        if not isinstance(left, Tracer) and not left > _DEPENDENT:
            raise ValueError(
                f"`Projected({name}=...)`: vector {k} is zero, not finite, or depends on those before it."
            )
        rows.append(scale(1 / left, x))
    return jax.lax.stop_gradient(jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows))
