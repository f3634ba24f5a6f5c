"""One table: every solver with the operators that it admits, and with its preconditioners.

A new solver is a row here; `tests/laws.py` says what must be true of each row.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

import nsolve as ns

PSD = lx.positive_semidefinite_tag
precond = ns.preconditioners


@dataclasses.dataclass(frozen=True)
class Kind:
    """A family of operators: `operator(theta)` is differentiable in `theta`, `matrix(theta)` is dense."""

    name: str
    theta: Any
    operator: Callable[[Any], lx.AbstractLinearOperator]
    singular: Callable[[], tuple[lx.AbstractLinearOperator, Any]] | None = None
    indefinite: Callable[[], lx.AbstractLinearOperator] | None = None

    def matrix(self, theta):
        return self.operator(theta).as_matrix()

    @property
    def dtype(self):
        return jax.tree.leaves(self.operator(self.theta).in_structure())[0].dtype

    def vectors(self, count: int):
        """Fixed random right-hand sides of the operator's structure."""
        structure = self.operator(self.theta).in_structure()
        rng = np.random.default_rng(7)

        def one():
            def draw(leaf):
                x = rng.standard_normal(leaf.shape)
                if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
                    x = x + 1j * rng.standard_normal(leaf.shape)
                return jnp.asarray(x, leaf.dtype)

            return jax.tree.map(draw, structure)

        return [one() for _ in range(count)]


def _grid_matrix(n: int, shift: float = 0.0) -> np.ndarray:
    line = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return np.kron(line, np.eye(n)) + np.kron(np.eye(n), line) + shift * np.eye(n * n)


def _sparse(matrix: np.ndarray, tags=()) -> Kind:
    pattern = ns.SparseLinearOperator.from_scipy(matrix, tags)
    return Kind("", pattern.values, pattern.with_values)


_rng = np.random.default_rng(3)
_n = 4
_laplace = _grid_matrix(_n)
_scatter = _rng.standard_normal((_n**2, _n**2)) * (_rng.random((_n**2, _n**2)) < 0.1)
_twist = np.triu(_laplace, 1) * 0.4j
_hermitian = _laplace + _twist + _twist.conj().T
_graph = np.diag(np.full(9, 2.0)) - np.eye(9, k=1) - np.eye(9, k=-1)
_graph[0, 0] = _graph[-1, -1] = 1  # a path's graph Laplacian: constants are its null space


def _symmetrised(kind: Kind) -> Kind:
    """Keeps `theta -> operator` inside the Hermitian matrices, as its tag promises."""
    pattern = kind.operator(kind.theta).pattern
    _, order = pattern.transposed

    def operator(theta):
        return kind.operator((theta + theta[order].conj()) / 2)

    return dataclasses.replace(kind, operator=operator)


def _singular(tags):
    def make():
        return ns.SparseLinearOperator.from_scipy(_graph, tags), jnp.ones(9)

    return make


def _indefinite():
    return ns.SparseLinearOperator.from_scipy(_laplace - 3.9 * np.eye(_n**2), PSD)


SPD = dataclasses.replace(
    _symmetrised(_sparse(_laplace, PSD)),
    name="spd",
    singular=_singular(PSD),
    indefinite=_indefinite,
)
HERMITIAN = dataclasses.replace(
    _symmetrised(_sparse(_hermitian, PSD)), name="hermitian", indefinite=_indefinite
)
INDEFINITE = dataclasses.replace(
    _symmetrised(_sparse(_laplace - 3.3 * np.eye(_n**2), lx.symmetric_tag)),
    name="indefinite",
    singular=_singular(lx.symmetric_tag),
)
GENERAL = dataclasses.replace(_sparse(_laplace + 0.5 * _scatter), name="general", singular=_singular(()))
COMPLEX = dataclasses.replace(_sparse(_laplace + 0.5j * _scatter + 0.3j * np.eye(_n**2)), name="complex")
STENCIL = Kind(
    "stencil",
    jnp.asarray(_rng.uniform(0.5, 2.0, (5, 4))),
    lambda theta: ns.StencilLinearOperator.diffusion(theta, 0.3, "dirichlet"),
)


def _pytree_operator(theta):
    matrix = jnp.asarray(_laplace) + jnp.diag(theta)

    def product(x):
        flat = matrix @ jnp.concatenate([x["a"], x["b"].reshape(-1)])
        return {"a": flat[:4], "b": flat[4:].reshape(3, 4)}

    structure = {"a": jax.ShapeDtypeStruct((4,), float), "b": jax.ShapeDtypeStruct((3, 4), float)}
    return lx.FunctionLinearOperator(product, structure, PSD)


PYTREE = Kind("pytree", jnp.asarray(_rng.uniform(0, 1, _n**2)), _pytree_operator)


@dataclasses.dataclass(frozen=True)
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

    def __call__(self, **fields):
        fields = {"rtol": 1e-12, **self.options, **fields}
        # An array, so that laws with different tolerances share one compiled program.
        return self.solver(**{**fields, "rtol": jnp.asarray(fields["rtol"])})

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
    *_rows("cg+chebyshev", ns.CG, [SPD], True, preconditioner=precond.Chebyshev(degree=2)),
    *_rows("cg+multigrid", ns.CG, [STENCIL], True, preconditioner=precond.Multigrid()),
    *_rows("fcg", ns.FlexibleCG, [HERMITIAN], True),
    *_rows("minres", ns.MINRES, [INDEFINITE, HERMITIAN]),
    *_rows("minres+jacobi", ns.MINRES, [SPD], preconditioner=precond.Jacobi()),
    *_rows("bicgstab", ns.BiCGStab, [GENERAL, COMPLEX]),
    *_rows("bicgstab+ilu", ns.BiCGStab, [GENERAL], preconditioner=precond.IncompleteLU()),
    *_rows("gmres", ns.GMRES, [GENERAL, COMPLEX, PYTREE]),
    *_rows("gmres+ilu", ns.GMRES, [COMPLEX], preconditioner=precond.IncompleteLU()),
    *_rows("fgmres+jacobi", ns.FGMRES, [GENERAL], preconditioner=precond.Jacobi(), restart=10),
    *_rows("chebyshev", ns.Chebyshev, [SPD], True, stationary=True),
    *_rows("sor", ns.SOR, [GENERAL], stationary=True, omega=1.1),
    *_rows("sor-backward", ns.SOR, [HERMITIAN], stationary=True, sweep="backward"),
    *_rows("ssor-multicolour", ns.SOR, [SPD], stationary=True, sweep="symmetric", ordering="multicolour"),
    *_rows(
        "richardson+ic", ns.Richardson, [SPD], stationary=True, preconditioner=precond.IncompleteCholesky()
    ),
]
