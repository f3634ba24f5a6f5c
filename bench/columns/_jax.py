"""What the columns that run in JAX share: the operator in a chosen form, and the four phases.

`form` is a parameter of each such column: `sparse` and `stencil` are nsolve's own operators, `bcoo`
and `bcsr` JAX's. Putting the matrix into its form is not timed, as SciPy and PETSc are not charged
for theirs.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from ..engine.options import Option
from ..engine.work import Run, Task

FORM = Option("bcoo", ("sparse", "stencil", "bcoo", "bcsr"))


@contextlib.contextmanager
def promoting() -> Iterator[None]:
    """JAX promotes dtypes and ranks as it does by default: for libraries that rely on it, whatever the
    caller has set.  Also a decorator."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def operator(task: Task, form: str) -> Any:
    """The task's matrix as something that `apply` multiplies with."""
    if form in ("bcoo", "bcsr"):
        from jax.experimental import sparse

        kind = sparse.BCOO if form == "bcoo" else sparse.BCSR
        return kind.from_scipy_sparse(task.problem.matrix)
    if form == "stencil":
        if task.problem.stencil is None:
            raise ValueError(f"problem {task.problem.name!r} has no stencil; use form=sparse")
        return task.problem.stencil(task.problem.matrix.dtype)
    import nsolve as ns

    return ns.SparseLinearOperator.from_scipy(task.problem.matrix, tags(task))


def tags(task: Task) -> frozenset[object]:
    """The problem's tags in lineax's words, where a complex Hermitian matrix is not `symmetric`."""
    found = set()
    if "spd" in task.problem.tags:
        found.add(lx.positive_semidefinite_tag)
    if "symmetric" in task.problem.tags:
        import nsolve as ns

        is_complex = np.iscomplexobj(task.problem.matrix.data)
        found.add(ns.hermitian_tag if is_complex else lx.symmetric_tag)
    return frozenset(found)


def vector(task: Task, form: str) -> jax.Array:
    """The right-hand side in the shape that the form acts on."""
    shape = task.problem.grid if form == "stencil" else (-1,)
    assert shape is not None
    return jnp.asarray(task.problem.rhs).reshape(shape)


def apply(matrix: Any, x: jax.Array) -> jax.Array:
    """The product, whatever the form."""
    return matrix.mv(x) if isinstance(matrix, lx.AbstractLinearOperator) else matrix @ x


def jacobi(task: Task, form: str) -> jax.Array:
    """The inverse of the diagonal, in the vectors' shape."""
    return jnp.asarray(1 / task.problem.matrix.diagonal()).reshape(vector(task, form).shape)


def relative(residual_norms: Any, norm_b: float) -> list[float]:
    """Residual norms over the right-hand side's; the NaN padding at the end is cut off."""
    scale = norm_b or 1.0
    values = [float(value) / scale for value in np.asarray(residual_norms).ravel()]
    while values and math.isnan(values[-1]):
        values.pop()
    return values


class JaxRun(Run):
    """A solve that is one compiled function of (matrix, right-hand side, set-up's state)."""

    compiles = True
    default_form = str(FORM.default)

    def __init__(self, task: Task):
        super().__init__(task)
        self.form = str(self.spec.solver.options.get("form", self.default_form))
        self.matrix, self.rhs = self.system()

    def system(self) -> tuple[Any, jax.Array]:
        """The matrix and the right-hand side in the column's form."""
        return operator(self.task, self.form), vector(self.task, self.form)

    def setup(self) -> Any:
        """The inverse diagonal where the column asks for `jacobi`; else nothing."""
        if self.spec.preconditioner is None:
            return None
        return jax.block_until_ready(jacobi(self.task, self.form))

    def build(self, matrix: Any) -> Any:
        """The set-up of a matrix that may be traced; nothing where the column has no preconditioner."""
        if self.spec.preconditioner is not None:
            raise ValueError(f"{self.spec} has no set-up that can be traced")

    def function(self, throw: bool = False) -> Callable[[Any, jax.Array, Any], Any]:
        """The function (matrix, rhs, state) -> result to compile; `throw`: whether a failure raises."""
        raise NotImplementedError

    def energy(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """The program of a user who differentiates through a solve, and what is traced of it: from the
        operator's entries to the energy `b . A^-1 b`, the preconditioner's set-up included; raises where the
        solve fails, as `lx.linear_solve` does unless told otherwise."""
        entries, rest = eqx.partition(self.matrix, eqx.is_inexact_array)
        solve = self.function(throw=True)

        def energy(entries, rhs):
            matrix = eqx.combine(entries, rest)
            return jnp.vdot(rhs, solve(matrix, rhs, self.build(matrix)).value)

        return energy, (entries, self.rhs)

    def compile(self, state: Any) -> Any:
        compiled = eqx.filter_jit(self.function()).lower(self.matrix, self.rhs, state).compile()
        return compiled, state

    def solve(self, program: Any) -> Any:
        compiled, state = program
        return jax.block_until_ready(compiled(self.matrix, self.rhs, state))


def count_products(run: JaxRun, function: Callable[..., Any], state: Any) -> int:
    """How often a solve multiplies with the matrix, counted from inside by one more, untimed run.

    `function(multiply, rhs, state)` must do all products through `multiply`."""
    count = 0

    def bump():
        nonlocal count
        count += 1

    def counted(matrix, rhs, state):
        def multiply(x):
            jax.debug.callback(bump)
            return apply(matrix, x)

        return function(multiply, rhs, state)

    jax.block_until_ready(eqx.filter_jit(counted)(run.matrix, run.rhs, state))
    jax.effects_barrier()
    return count
