"""What solvers and preconditioners become on a GPU: lowered for CUDA, which takes none, and read."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve import preconditioners as precond
from nsolve.kernels import incomplete_cholesky, incomplete_lu, triangular_solves
from nsolve.preconditioners.multigrid import plan

PSD = lx.positive_semidefinite_tag
#: No test besides has systems of this size: what is traced here must not be found by others in a cache.
N = 23


def _matrix():
    line = sp.diags_array(
        [4.0, -1.0, -1.0, -0.5, -0.5], offsets=[0, -1, 1, -5, 5], shape=(N, N), format="csr"
    )
    return ns.SparseLinearOperator.from_scipy(line, PSD)


def _grid(constant):
    if constant:
        return ns.StencilLinearOperator.poisson((11, 13), 0.1)
    coefficient = jnp.asarray(np.random.default_rng(0).uniform(0.5, 2, (11, 13)))
    return ns.StencilLinearOperator.diffusion(coefficient, 0.1, "dirichlet")


class Net(eqx.Module):
    weight: jax.Array

    def __call__(self, r):
        return jnp.tanh(self.weight * r)


#: Preconditioners, and on what.
PRECONDITIONERS = {
    "none": (lambda: None, _matrix),
    "jacobi": (precond.Jacobi, _matrix),
    "block-jacobi": (lambda: precond.BlockJacobi(4), _matrix),
    "schwarz": (lambda: precond.Schwarz(4), _matrix),
    "ssor": (precond.SSOR, _matrix),
    "ssor-multicolour": (lambda: precond.SSOR(ordering="multicolour"), _matrix),
    "ic": (precond.IncompleteCholesky, _matrix),
    "ilu": (precond.IncompleteLU, _matrix),
    "chebyshev": (precond.Chebyshev, _matrix),
    "multigrid-constant": (precond.Multigrid, lambda: _grid(True)),
    "multigrid-galerkin": (precond.Multigrid, lambda: _grid(False)),
    "multigrid-incomplete": (
        lambda: precond.Multigrid(smoother="incomplete_cholesky", algebraic=None),
        lambda: _grid(False),
    ),
    "net": (lambda: Net(jnp.ones(())), _matrix),
}
SOLVERS = {
    "cg": ns.CG,
    "cg-recycling": lambda **fields: ns.CG(recycle=2, **fields),
    "fcg": ns.FlexibleCG,
    "minres": ns.MINRES,
    "bicgstab": ns.BiCGStab,
    "gmres": lambda **fields: ns.GMRES(restart=4, **fields),
    "fgmres": lambda **fields: ns.FGMRES(restart=4, **fields),
    "gcrodr": lambda **fields: ns.GCRODR(restart=4, recycle=2, **fields),
    "chebyshev": ns.Chebyshev,
    "sor": ns.SOR,
    "sor-multicolour": lambda **fields: ns.SOR(ordering="multicolour", **fields),
    "richardson": ns.Richardson,
}
#: Every solver, and every preconditioner with one solver of short and one of long recurrences.
PAIRS = [(solver, "none" if solver.startswith("sor") else "jacobi") for solver in SOLVERS]
PAIRS += [(solver, name) for solver in ("fcg", "fgmres") for name in PRECONDITIONERS if name != "jacobi"]


def targets(function, *arguments, platform="cuda") -> set[str]:
    """What a program calls that is no operation of XLA's."""
    kernels = "nsolve_incomplete_cholesky_float64", "nsolve_solve_both_float64"
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in kernels]
    exported = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=checks)
    return set(re.findall(r"custom_call @([\w.]+)", exported(*arguments).mlir_module()))


@pytest.fixture
def few_levels(monkeypatch):
    """Several grids for tiny problems, and no error to raise by a host callback: equinox has one for that."""
    monkeypatch.setattr(plan, "_COARSEST", {True: 30, False: 30})
    monkeypatch.setattr("equinox._errors.EQX_ON_ERROR", "nan")


@pytest.mark.parametrize("solver, preconditioner", PAIRS)
def test_value_and_gradient_need_no_cpu(solver, preconditioner, few_levels):
    make, make_operator = PRECONDITIONERS[preconditioner]
    operator, given = make_operator(), {} if preconditioner == "none" else {"preconditioner": make()}
    method = SOLVERS[solver](rtol=1e-8, **given)
    arrays, rest = eqx.partition(operator, eqx.is_inexact_array)
    b = jnp.ones(operator.in_structure().shape)

    def loss(arrays, b):
        solution = lx.linear_solve(eqx.combine(arrays, rest), b, method, throw=False)
        return jnp.sum(solution.value**2)

    called = targets(jax.value_and_grad(loss, argnums=(0, 1)), arrays, b)
    assert all(name.startswith("cusolver_") for name in called), called


#: What is set up, refreshed, applied and transposed on a device; `SaddlePoint` of half of the unknowns.
CONSTRUCTORS = {
    **{name: make for name, (make, where) in PRECONDITIONERS.items() if where is _matrix and name != "net"},
    "ic-sweeps": lambda: precond.IncompleteCholesky(sweeps=3),
    "ilu-sweeps": lambda: precond.IncompleteLU(sweeps=3),
    "fsai": lambda: precond.SparseApproximateInverse(2),
    "polynomial": lambda: precond.Polynomial(2),
    "polynomial-least-squares": lambda: precond.Polynomial(3, "least_squares"),
    "nystrom": lambda: precond.Nystrom(3, shift=0.1),
    "deflation": lambda: precond.Deflation(jnp.eye(2, N), precond.IncompleteCholesky()),
    "low-precision": lambda: precond.LowPrecision(precond.IncompleteCholesky()),
    "composite": lambda: precond.Composite((precond.IncompleteCholesky(), precond.SSOR())),
    "saddle-point": lambda: precond.SaddlePoint(12),
}
del CONSTRUCTORS["none"]


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_set_up_refresh_and_application_need_no_cpu(name):
    operator = _matrix()

    def apply(values, b):
        inverse = CONSTRUCTORS[name]()(operator.with_values(values))
        return inverse.mv(b) + inverse.refresh(operator.with_values(2 * values)).transpose().mv(b)

    called = targets(apply, operator.values, jnp.ones(N))
    assert all(name.startswith("cusolver_") for name in called), called


def test_a_pattern_found_on_the_host_is_refreshed_on_the_device():
    operator = _matrix()
    inverse = precond.SparseApproximateInverse(entries=3)(operator)
    assert not targets(
        lambda v, b: inverse.refresh(operator.with_values(v)).mv(b), operator.values, jnp.ones(N)
    )


@pytest.mark.parametrize("make, loops", [(precond.IncompleteCholesky, 7), (precond.IncompleteLU, 5)])
def test_incomplete_factors_wait_for_no_level(make, loops, monkeypatch):
    """Loops over sweeps: in both solves, to count them twice, and in the factorisation, which of a Cholesky
    factor stands once more in a loop over shifts.  None over a schedule of levels, of which none is made."""
    operator, scheduled = _matrix(), []

    def lowered():
        def apply(values, b):
            return make()(operator.with_values(values)).mv(b)

        traced = jax.jit(apply).trace(operator.values, jnp.ones(N))
        return traced.lower(lowering_platforms=("cuda",)).as_text()

    for module, name in (
        (incomplete_cholesky, "_schedule"),
        (incomplete_lu, "_schedule"),
        (triangular_solves, "schedule"),
    ):
        schedule = getattr(module, name)
        monkeypatch.setattr(module, name, lambda pattern, f=schedule: scheduled.append(1) or f(pattern))
    text = lowered()
    assert "callback" not in text and "custom_call" not in text
    assert text.count("stablehlo.while") == loops and not scheduled
    monkeypatch.setattr(triangular_solves, "_FEW", N)
    lowered()
    assert scheduled


def test_the_reading_can_fail():
    """The same set-up for a CPU calls a kernel; where the host is called back, lowering for CUDA raises."""
    operator = _matrix()

    def apply(values, b):
        return precond.IncompleteCholesky()(operator.with_values(values)).mv(b)

    called = targets(apply, operator.values, jnp.ones(N), platform="cpu")
    assert called == {"nsolve_incomplete_cholesky_float64", "nsolve_solve_both_float64"}
    with pytest.raises(ValueError, match="platform"):
        targets(lambda x: jax.pure_callback(np.sin, x, x), jnp.ones(N))
