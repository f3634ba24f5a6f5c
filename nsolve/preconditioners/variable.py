"""Preconditioners that are no fixed linear operator: any function of a residual."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import PyTree

from .._variable import AbstractVariablePreconditioner
from .._vectors import Vector
from .base import AbstractPreconditioner, build_flat


class Variable(AbstractVariablePreconditioner):
    """A function, or a network, as a preconditioner: `z = function(r)`.

    For `FlexibleCG` and `FGMRES`, which take the function itself as well; say `Variable` to give it a linear
    part, or to keep it from being tried as a constructor.

    * `function`: any function of a vector that gives a vector of the same structure, such as an
      `equinox.Module`; its arrays are its parameters.
    * `linear`: for adjoint systems, whose preconditioner has to be transposed: a linear operator `M ~ A^-1`,
      or a constructor that makes one from the operator, such as `nsolve.preconditioners.Jacobi()`.  Without
      it they are solved without a preconditioner.

    The function is called once a step.  Another structure or dtype than the vector's is a `ValueError`; NaN
    or infinity for a finite vector ends the solve with `RESULTS.breakdown` (`REASONS.variable_failed`).

    See `AbstractVariablePreconditioner` for what solvers and derivatives do with it.
    """

    function: Callable[[Any], Any]
    linear: lx.AbstractLinearOperator | Callable[[Any], lx.AbstractLinearOperator] | None = None

    def __check_init__(self):
        if not callable(self.function) or isinstance(self.function, type):
            raise TypeError(
                f"`Variable(function=...)` must be a function of a vector, but is {self.function!r}."
            )
        if not (
            self.linear is None or callable(self.linear) or isinstance(self.linear, lx.AbstractLinearOperator)
        ):
            raise TypeError(
                "`Variable(linear=...)` must be a linear operator or a preconditioner constructor, but is "
                f"{self.linear!r}."
            )

    def init(self, structure: PyTree[jax.ShapeDtypeStruct]) -> None:
        del structure

    def apply(self, r: Vector, state: None) -> tuple[Vector, None]:
        del state
        return self.function(r), None

    def linear_part(self, operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator | None:
        linear = self.linear
        if linear is None or isinstance(linear, lx.AbstractLinearOperator):
            return linear
        made = linear(operator)
        if not isinstance(made, lx.AbstractLinearOperator):
            raise TypeError(
                f"`Variable(linear=...)` made {made!r} of the operator, but a linear operator is needed."
            )
        return made


def as_preconditioner(
    given: Any, operator: lx.AbstractLinearOperator, differentiable: bool, varies: bool, name: str
) -> lx.AbstractLinearOperator | AbstractVariablePreconditioner | None:
    """What a user gave, made for the operator: constructors are called, functions of a vector wrapped.

    `varies`: whether a function of a vector is what would rather be expected."""
    structure, why_no_map = operator.in_structure(), None
    constructs = callable(given) and not _is_made(given)
    # A function may be one of a vector, or of the operator.
    if constructs and not isinstance(given, AbstractPreconditioner):
        try:
            found = eqx.filter_eval_shape(given, structure)
        except Exception as error:  # whatever it does with what it is not meant for
            why_no_map = error
        else:
            if not (_is_made(found) or callable(found)) and _holds_arrays(found):
                return _wrapped(given, structure, name)
    if constructs:
        try:
            if differentiable and isinstance(given, AbstractPreconditioner):
                given = build_flat(given, operator)
            else:
                given = given(operator)
        except Exception as error:
            if why_no_map is None:
                raise
            main, other, kind = (
                (why_no_map, error, "the operator") if varies else (error, why_no_map, "a vector")
            )
            main.add_note(f"(`{name}`, called with {kind}, raises {type(other).__name__}: {other})")
            raise main from None
    if not _is_made(given):
        if not callable(given):
            raise TypeError(
                f"`{name}` must be, or make of the operator, a linear operator `M ~ A^-1` or a function of a "
                f"vector, but is {given!r}."
            ) from why_no_map
        return _wrapped(given, structure, name)
    if isinstance(given, AbstractVariablePreconditioner):
        _check_map(given, structure, name)
    return given


def _is_made(given: Any) -> bool:
    return given is None or isinstance(given, lx.AbstractLinearOperator | AbstractVariablePreconditioner)


def _holds_arrays(tree: PyTree) -> bool:
    leaves = jax.tree.leaves(tree)
    return bool(leaves) and all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def _wrapped(function: Callable, structure: PyTree, name: str) -> Variable:
    """The function as a preconditioner; what it closes over becomes part of the tree."""
    wrapped = Variable(function)
    _check_map(wrapped, structure, name)
    if jax.tree.leaves(function) == [function]:
        wrapped = Variable(eqx.filter_closure_convert(function, structure))
    return wrapped


def _check_map(preconditioner: AbstractVariablePreconditioner, structure: PyTree, name: str) -> None:
    """Raises where it gives what is no vector of the structure, or another state."""
    state = eqx.filter_eval_shape(lambda: jax.tree.map(jnp.asarray, preconditioner.init(structure)))
    z, after = eqx.filter_eval_shape(preconditioner.apply, structure, state)
    if not (_holds_arrays(z) and eqx.tree_equal(_unweak(z), _unweak(structure))):
        raise ValueError(
            f"`{name}` must give vectors of the structure that it is handed, {structure}, but gives {z}."
        )
    if not eqx.tree_equal(_unweak(after), _unweak(state)):
        raise ValueError(
            f"`apply` of `{name}` must give a state of the structure that it is handed, {state}, but gives "
            f"{after}."
        )


def _unweak(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)
