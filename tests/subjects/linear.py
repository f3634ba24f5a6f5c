"""One table: every solver with the operators that it admits, and with its preconditioners.

A new solver is a row here; `tests/linear_laws.py` says what must be true of each row.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import nsolve as ns

PSD = lx.positive_semidefinite_tag
precond = ns.preconditioners


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """A family of operators: `operator(theta)` is differentiable in `theta`.

    The `theta` that make it singular or indefinite, where there are any, serve the same compiled programs.
    """

    name: str
    theta: Any
    operator: Callable[[Any], lx.AbstractLinearOperator]
    singular: Any = None
    indefinite: Any = None

    def matrix(self, theta) -> np.ndarray:
        return np.asarray(self._dense(theta))

    @cached_property
    def _dense(self):
        return jax.jit(lambda theta: self.operator(theta).as_matrix())

    def vectors(self, count: int):
        """Fixed random right-hand sides of the operator's structure."""
        rng = np.random.default_rng(7)
        structure = self.operator(self.theta).in_structure()
        return [
            jax.tree.map(lambda leaf: normal(rng, leaf.shape, leaf.dtype), structure) for _ in range(count)
        ]


def normal(rng: np.random.Generator, shape, dtype) -> jax.Array:
    """Normally distributed numbers, real or complex."""
    x = rng.standard_normal(shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        x = x + 1j * rng.standard_normal(shape)
    return jnp.asarray(x, dtype)


def grid_matrix(n: int, shift: float = 0.0) -> np.ndarray:
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line) + shift * np.eye(n * n)


def _sparse(matrix: np.ndarray, tags=()) -> Kind:
    pattern = ns.SparseLinearOperator.from_scipy(matrix, tags)
    return Kind("", pattern.values, pattern.with_values)


_rng = np.random.default_rng(3)
_n = 4
_laplace = grid_matrix(_n)
_scatter = _rng.standard_normal((_n**2, _n**2)) * (_rng.random((_n**2, _n**2)) < 0.1)
_twist = np.triu(_laplace, 1) * 0.4j
_hermitian = _laplace + _twist + _twist.conj().T


def _symmetrised(kind: Kind) -> Kind:
    """Keeps `theta -> operator` inside the Hermitian matrices, as its tag promises."""
    pattern = kind.operator(kind.theta).pattern
    _, order = pattern.transposed

    def operator(theta):
        return kind.operator((theta + theta[order].conj()) / 2)

    return dataclasses.replace(kind, operator=operator)


def _with_diagonal(kind: Kind, change: Callable[[Any], np.ndarray]) -> jax.Array:
    """The `theta` of the matrix whose diagonal is `change(matrix)`."""
    matrix = kind.operator(kind.theta).as_scipy().copy()  # pyright: ignore
    matrix.setdiag(change(matrix))
    return jnp.asarray(matrix.data)


def _singular(kind: Kind) -> jax.Array:
    """Rows that sum to zero: constants are in the null space."""
    return _with_diagonal(kind, lambda matrix: matrix.diagonal() - matrix.sum(axis=1))


def _indefinite(kind: Kind) -> jax.Array:
    return _with_diagonal(kind, lambda matrix: matrix.diagonal() - 3.9)


_spd = _symmetrised(_sparse(_laplace, PSD))
_complex = _symmetrised(_sparse(_hermitian, PSD))
_saddle = _symmetrised(_sparse(_laplace - 3.3 * np.eye(_n**2), lx.symmetric_tag))
_general = _sparse(_laplace + 0.5 * _scatter)

SPD = dataclasses.replace(_spd, name="spd", singular=_singular(_spd), indefinite=_indefinite(_spd))
HERMITIAN = dataclasses.replace(_complex, name="hermitian", indefinite=_indefinite(_complex))
INDEFINITE = dataclasses.replace(_saddle, name="indefinite", singular=_singular(_saddle))
GENERAL = dataclasses.replace(_general, name="general", singular=_singular(_general))
COMPLEX = dataclasses.replace(_sparse(_laplace + 0.5j * _scatter + 0.3j * np.eye(_n**2)), name="complex")
STENCIL = Kind(
    "stencil",
    jnp.asarray(_rng.uniform(0.5, 2.0, (5, 4))),
    lambda theta: ns.StencilLinearOperator.diffusion(theta, 0.3, "dirichlet"),
)


def _step_operator(theta):
    """An implicit step, as lineax composes it."""
    matrix = _spd.operator(theta)
    return lx.IdentityLinearOperator(matrix.in_structure()) + 0.5 * matrix


STEP = Kind("step", _spd.theta, _step_operator)


def _pytree_operator(theta):
    matrix = jnp.asarray(_laplace) + jnp.diag(theta)

    def product(x):
        flat = matrix @ jnp.concatenate([x["a"], x["b"].reshape(-1)])
        return {"a": flat[:4], "b": flat[4:].reshape(3, 4)}

    structure = {"a": jax.ShapeDtypeStruct((4,), float), "b": jax.ShapeDtypeStruct((3, 4), float)}
    return lx.FunctionLinearOperator(product, structure, PSD)


PYTREE = Kind("pytree", jnp.asarray(_rng.uniform(0, 1, _n**2)), _pytree_operator)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A solver on a kind of operator."""

    name: str
    solver: Callable[..., lx.AbstractLinearSolver]
    kind: Kind
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    #: Whether the method needs a positive definite operator.
    definite: bool = False
    #: Whether it may refuse a singular consistent system: no Krylov space that ends.
    stationary: bool = False

    #: What was compiled: one entry for each trace of the solve.
    traces: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, **fields):
        fields = {"rtol": 1e-12, **self.options, **fields}
        # An array, so that laws with different tolerances share one compiled program.
        return self.solver(**{**fields, "rtol": jnp.asarray(fields["rtol"])})

    def solve(self, theta, b, rtol=1e-12, state=None, y0=None, **fields) -> lx.Solution:
        """`lx.linear_solve` without `throw`, results on the host; compiled once for all laws that give alike.

        By default the history is kept; `fields` are the solver's static ones.
        """
        fields = fields or {"history": True}
        value, result, stats = self._program(theta, b, jnp.asarray(rtol), state, y0, fields)
        return lx.Solution(jax.device_get(value), result, jax.device_get(stats), state)

    @cached_property
    def _program(self):
        @eqx.filter_jit
        def program(theta, b, rtol, state, y0, fields):
            self.traces.append(str(fields))
            given = {"state": state} if state is not None else {}
            options = {"y0": y0} if y0 is not None else {}
            solver = self(rtol=rtol, **fields)
            operator = self.kind.operator(theta)
            solution = lx.linear_solve(operator, b, solver, options=options, throw=False, **given)
            return solution.value, solution.result, solution.stats

        return program

    @cached_property
    def init(self):
        """`init(theta)`, compiled: the state that serves many vectors."""
        return eqx.filter_jit(lambda theta: self().init(self.kind.operator(theta), {}))

    @property
    def id(self) -> str:
        return f"{self.name}-{self.kind.name}"


def _rows(name, solver, kinds, definite=False, stationary=False, **options) -> list[Case]:
    return [Case(name, solver, kind, options, definite, stationary) for kind in kinds]


CASES = [
    *_rows("cg", ns.CG, [SPD, HERMITIAN, PYTREE], definite=True),
    *_rows("cg+jacobi", ns.CG, [STENCIL], True, preconditioner=precond.Jacobi()),
    *_rows("cg+ic", ns.CG, [HERMITIAN], True, preconditioner=precond.IncompleteCholesky()),
    *_rows("cg+ssor", ns.CG, [SPD], True, preconditioner=precond.SSOR(omega=1.2)),
    *_rows("cg+chebyshev", ns.CG, [STEP], True, preconditioner=precond.Chebyshev(degree=2)),
    *_rows("cg+multigrid", ns.CG, [STENCIL], True, preconditioner=precond.Multigrid()),
    *_rows("fcg", ns.FlexibleCG, [HERMITIAN], True),
    *_rows("minres", ns.MINRES, [INDEFINITE, HERMITIAN]),
    *_rows("minres+jacobi", ns.MINRES, [SPD], preconditioner=precond.Jacobi()),
    *_rows("bicgstab", ns.BiCGStab, [GENERAL, COMPLEX]),
    *_rows("bicgstab+ilu", ns.BiCGStab, [GENERAL], preconditioner=precond.IncompleteLU()),
    *_rows("gmres", ns.GMRES, [GENERAL, COMPLEX, PYTREE]),
    *_rows("gmres+ilu", ns.GMRES, [COMPLEX], preconditioner=precond.IncompleteLU()),
    *_rows("fgmres+jacobi", ns.FGMRES, [GENERAL], preconditioner=precond.Jacobi(), restart=10),
    *_rows("gcrodr", ns.GCRODR, [COMPLEX], restart=5, recycle=3),
    *_rows("gcrodr+ilu", ns.GCRODR, [GENERAL], preconditioner=precond.IncompleteLU(), restart=4, recycle=2),
    *_rows("cg-recycling+jacobi", ns.CG, [HERMITIAN], True, preconditioner=precond.Jacobi(), recycle=2),
    *_rows("chebyshev", ns.Chebyshev, [SPD], True, stationary=True),
    *_rows("sor", ns.SOR, [GENERAL], stationary=True, omega=1.1),
    *_rows("sor-backward", ns.SOR, [HERMITIAN], stationary=True, sweep="backward"),
    # In one precision, so that transposes are exact; two are in `tests/test_refinement.py`.
    *_rows(
        "refinement+ssor",
        *(ns.IterativeRefinement, [GENERAL]),
        stationary=True,
        inner=precond.SSOR(),
        dtype=jnp.float64,
    ),
    *_rows("ssor-multicolour", ns.SOR, [SPD], stationary=True, sweep="symmetric", ordering="multicolour"),
    *_rows(
        "richardson+ic", ns.Richardson, [SPD], stationary=True, preconditioner=precond.IncompleteCholesky()
    ),
]

#: Derivatives cost the most to compile.  These rows have every recursion, preconditioner and kind once;
#: the rest, and `PRODUCT`, are left to `make test-all`.
DERIVED = {
    *("cg-pytree", "cg+jacobi-stencil", "cg+ic-hermitian", "cg+ssor-spd", "cg+chebyshev-step"),
    *("cg+multigrid-stencil", "fcg-hermitian", "minres-indefinite", "bicgstab-complex", "gmres+ilu-complex"),
    *("fgmres+jacobi-general", "gcrodr-complex", "cg-recycling+jacobi-hermitian", "chebyshev-spd"),
    *("sor-general", "ssor-multicolour-spd", "richardson+ic-spd"),
}

_DEFINITE = {
    "jacobi": precond.Jacobi(),
    "ic": precond.IncompleteCholesky(),
    "ssor": precond.SSOR(omega=1.2),
    "chebyshev": precond.Chebyshev(degree=2),
}
_GENERAL = {"jacobi": precond.Jacobi(), "ilu": precond.IncompleteLU(), "ssor": precond.SSOR()}
_SHORT = {"cg": ns.CG, "fcg": ns.FlexibleCG, "minres": ns.MINRES}
_LONG = {"bicgstab": ns.BiCGStab, "gmres": ns.GMRES, "fgmres": ns.FGMRES, "gcrodr": ns.GCRODR}


def _product():
    """Every solver with every preconditioner and kind that it admits, for the laws of derivatives."""
    for name, solver in _SHORT.items():
        kinds = [SPD, HERMITIAN, STENCIL, STEP]
        yield from _rows(name, solver, [*kinds, PYTREE])
        for other, preconditioner in _DEFINITE.items():
            yield from _rows(f"{name}+{other}", solver, kinds, preconditioner=preconditioner)
        yield from _rows(f"{name}+multigrid", solver, [STENCIL], preconditioner=precond.Multigrid())
    for name, solver in _LONG.items():
        yield from _rows(name, solver, [GENERAL, COMPLEX, INDEFINITE, STEP, PYTREE])
        for other, preconditioner in _GENERAL.items():
            yield from _rows(f"{name}+{other}", solver, [GENERAL, COMPLEX], preconditioner=preconditioner)
    for other, preconditioner in _DEFINITE.items():
        for name, solver in {"chebyshev": ns.Chebyshev, "richardson": ns.Richardson}.items():
            yield from _rows(f"{name}+{other}", solver, [SPD, HERMITIAN], preconditioner=preconditioner)
    for sweep in ("forward", "backward", "symmetric"):
        for ordering in ("lexicographic", "multicolour"):
            options = {"sweep": sweep, "ordering": ordering}
            yield from _rows(f"sor-{sweep}-{ordering}", ns.SOR, [SPD, HERMITIAN, GENERAL], **options)


#: Rows whose unrolled gradient lacks digits: the largest eigenvalue of `M A` is fourfold there, so that the
#: Lanczos steps that estimate it end early, and later ones are rounding errors with derivatives.
WRONG_UNROLLED = {"chebyshev+chebyshev-spd", "chebyshev+chebyshev-hermitian"}

_ids = {case.id for case in CASES}
PRODUCT = [case for case in _product() if case.id not in _ids]
