"""Why a linear solve ended, in this package's words.

lineax's solvers and ours share `lx.RESULTS`, whose texts name parameters of lineax's solvers.  `REASONS` is
finer: it is `stats["reason"]` of every iterative solver, and its text is what a solve with `throw=True`
raises, with the solver's name and the relative residual that was reached.
"""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from ._vectors import Vector, all_finite, dtype


class REASONS(eqx.Enumeration):
    """Why a linear solve ended: `stats["reason"]` of every iterative solver.

    Compare it with the members, as with those of `lx.RESULTS`; printed, it says what happened and what to do.

    `converged, max_steps, precision, flat, flat_cycle, indefinite, indefinite_preconditioner, singular, lost,
    ill_conditioned, diverged, nonfinite_vector, nonfinite_start, nonfinite_operator, nonfinite_parameter,
    nonfinite_preconditioner, preconditioner_failed, variable_failed, singular_matrix, not_definite,
    factors_failed, range, stopped, hopeless, wrong_nullspace`.
    """

    converged = ""
    max_steps = (
        "All of `max_steps` were taken. Use a better preconditioner, allow more steps, or ask for less: a "
        "larger `rtol` or `atol`."
    )
    precision = (
        "Rounding is the limit: the residual that the method carries along has met the tolerance, the one "
        "computed from the solution does not, and going on gains nothing. Ask for a `rtol` somewhat above "
        "the residual reached here, or compute in a higher precision (for float64: "
        '`jax.config.update("jax_enable_x64", True)` and float64 arrays). Where the operator is singular, '
        "the vector may lie outside of its range."
    )
    flat = (
        "The residual no longer falls. Either the operator is singular and the vector lies outside of its "
        "range, or the method needs a better preconditioner."
    )
    flat_cycle = (
        "A whole cycle gained next to nothing. Use a better preconditioner or a larger `restart`; where the "
        "operator is singular, the vector may lie outside of its range."
    )
    indefinite = (
        "The method met a direction of non-positive curvature. The operator or the preconditioner is not "
        "positive definite, although it is tagged so (for symmetric indefinite operators use `MINRES`, for "
        "others `GMRES`), or the operator is singular and the vector lies outside of its range."
    )
    indefinite_preconditioner = (
        "The preconditioner is not positive definite, although it is tagged so, or the operator is singular "
        "and the vector lies outside of its range."
    )
    singular = "No step gains anything: the operator is singular, and the vector lies outside of its range."
    lost = (
        "An inner product on which the method rests has vanished, and starting again did not help. Use "
        "`GMRES`, or another preconditioner."
    )
    ill_conditioned = (
        "The condition of the operator exceeds what this precision resolves: its columns (or rows) are "
        "dependent, or nearly so. Use `damping`, drop or scale columns, or give a preconditioner."
    )
    diverged = (
        "The iteration diverges: the spectral radius of the iteration is above one. Use other parameters "
        "(smaller steps, wider bounds), or a Krylov method such as `CG` or `GMRES`."
    )
    nonfinite_vector = "The vector holds NaN or infinity."
    nonfinite_start = "The start `options['y0']` holds NaN or infinity."
    nonfinite_operator = "The operator holds NaN or infinity, or its product with a finite vector does."
    nonfinite_parameter = "A parameter of the solver, or what it was handed to recycle, is NaN or infinite."
    nonfinite_preconditioner = "The preconditioner that was given holds NaN or infinity."
    preconditioner_failed = (
        "The preconditioner that was made from the operator holds NaN or infinity, although the operator is "
        "finite: there is a zero on the diagonal, or a pivot vanished. Use another preconditioner (or "
        "solver: `GMRES` needs no diagonal), or reorder the system."
    )
    variable_failed = (
        "The variable preconditioner, or the operator, gave NaN or infinity for a finite vector, although "
        "neither holds any: guard it against division by zero and overflow."
    )
    singular_matrix = (
        "The matrix is singular, as far as rounding lets one see. `nsolve.diagnose(A)` names rows and "
        "columns; a least-squares answer comes from `LSMR`, that of a consistent system also from `GMRES`."
    )
    not_definite = (
        "A pivot is not positive: the matrix is not positive definite, although it is tagged so. Use "
        "`SparseLU`."
    )
    factors_failed = (
        "The factorisation gave up: its factors outgrew the memory, or the library failed and printed why. "
        "Use an iterative solver."
    )
    range = "The solution is too small or too large for its dtype: scale the system."
    stopped = "The monitor asked for the end of the solve."
    hopeless = (
        "At the rate of the steps so far the tolerance was not to be met within `max_steps`. Use a better "
        "preconditioner, or allow more steps."
    )
    wrong_nullspace = (
        "The operator does not map the vectors that were given as its null space to zero, or its transpose "
        "those given as `left`. `nsolve.diagnose(A)` tells whether constants are mapped to zero."
    )


REASONS.__module__ = "nsolve.linear"  # its public place, which `repr` shows

#: The member of `lx.RESULTS` for each reason.
_RESULTS = {
    "converged": lx.RESULTS.successful,
    "max_steps": lx.RESULTS.max_steps_reached,
    "precision": lx.RESULTS.stagnation,
    "flat": lx.RESULTS.stagnation,
    "flat_cycle": lx.RESULTS.stagnation,
    "indefinite": lx.RESULTS.breakdown,
    "indefinite_preconditioner": lx.RESULTS.breakdown,
    "singular": lx.RESULTS.breakdown,
    "lost": lx.RESULTS.breakdown,
    "ill_conditioned": lx.RESULTS.conlim,
    "diverged": lx.RESULTS.breakdown,
    "nonfinite_vector": lx.RESULTS.nonfinite_input,
    "nonfinite_start": lx.RESULTS.nonfinite_input,
    "nonfinite_operator": lx.RESULTS.nonfinite_input,
    "nonfinite_parameter": lx.RESULTS.nonfinite_input,
    "nonfinite_preconditioner": lx.RESULTS.nonfinite_input,
    "preconditioner_failed": lx.RESULTS.breakdown,
    "variable_failed": lx.RESULTS.breakdown,
    "singular_matrix": lx.RESULTS.singular,
    "not_definite": lx.RESULTS.breakdown,
    "factors_failed": lx.RESULTS.breakdown,
    "range": lx.RESULTS.breakdown,
    "stopped": lx.RESULTS.max_steps_reached,
    "hopeless": lx.RESULTS.stagnation,
    "wrong_nullspace": lx.RESULTS.breakdown,
}
NAMES = tuple(_RESULTS)
#: The number of each reason: the value of its member.
CODES = {name: int(jax.tree.leaves(getattr(REASONS, name))[0]) for name in NAMES}
_RESULT_OF_CODE = np.array([jax.tree.leaves(_RESULTS[name])[0] for name in NAMES], np.int32)


def as_result(code: Array) -> lx.RESULTS:
    """The member of `lx.RESULTS` that a reason's number stands for."""
    return jax.tree.map(lambda _: jnp.asarray(_RESULT_OF_CODE)[code], lx.RESULTS.successful)


def as_reason(code: Array) -> REASONS:
    """The member of `REASONS` with this number."""
    return jax.tree.map(lambda _: code, REASONS.converged)


def blamed(blame: tuple[tuple[str, PyTree], ...], code: Array) -> Array:
    """The number of the first reason whose arrays hold NaN or infinity; else `code`."""
    for reason, place in reversed(blame):
        if jax.tree.leaves(place):
            code = jnp.where(all_finite(place), code, CODES[reason])
    return code


def inexact_leaves(tree: PyTree) -> PyTree:
    """Floating-point arrays of a pytree: where NaN can hide."""
    return jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))


#: Decades of the relative residual that messages tell apart.
_DECADES = range(-17, 18)


def raise_in_words(solver: str, value: Vector, code: Array, relative_residual: Array) -> Vector:
    """`value`; at run time an error that says why `solver` failed, unless it did not."""
    unit = jnp.asarray(relative_residual, jnp.finfo(dtype(value)).dtype)
    decade = jnp.floor(jnp.log10(jnp.where(unit > 0, unit, 1)) + 0.5)
    decade = jnp.where(jnp.isfinite(decade), jnp.clip(decade, _DECADES[0], _DECADES[-1]), _DECADES[-1])
    messages = _messages(solver, str(dtype(value)))
    index = code * len(_DECADES) + decade.astype(code.dtype) - _DECADES[0]
    return eqx.branched_error_if(value, code != CODES["converged"], index, messages)


@functools.cache
def _messages(solver: str, dtype: str) -> list[str]:
    """One text for each reason and decade."""

    def reached(name: str, exponent: int) -> str:
        if name.startswith("nonfinite"):
            return ""
        return f" (Relative residual reached: about 1e{exponent:+03d}, in {dtype}.)"

    return [
        f"{solver}: {REASONS[getattr(REASONS, name)]}{reached(name, exponent)}"
        for name in NAMES
        for exponent in _DECADES
    ]
