"""Systems from practice: solved to the true residual, or refused with the right reason."""

import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns

from .helpers import real_matrices

precond = ns.preconditioners
MATRICES = {path.stem: path for path in real_matrices()}


def attempt(matrix, tags, solver):
    """Solves with `b = A x` for a random `x`; returns the solution and SciPy's word on its residual."""
    operator = ns.SparseLinearOperator.from_scipy(matrix, tags)
    matrix = operator.as_scipy()
    b = matrix @ np.random.default_rng(0).standard_normal(matrix.shape[1])
    solution = lx.linear_solve(operator, jnp.asarray(b), solver, throw=False)
    residual = np.linalg.norm(b - matrix @ np.asarray(solution.value)) / np.linalg.norm(b)
    if solution.result == lx.RESULTS.successful:
        assert residual <= 1.001 * solver.rtol
    reported = float(solution.stats["residual_norm"]) / np.linalg.norm(b)
    assert abs(reported - residual) <= 1e-3 * residual + 1e-15
    return solution, residual


@pytest.mark.parametrize("name", ["494_bus", "bcsstk16", "mhd1280b"])
@pytest.mark.parametrize("preconditioner", [precond.IncompleteCholesky(), precond.SSOR()], ids=["ic", "ssor"])
def test_positive_definite(name, preconditioner):
    if name not in MATRICES:
        pytest.skip("real matrices are not here")
    matrix, _ = ns.read_matrix_market(MATRICES[name])
    solver = ns.CG(rtol=1e-8, preconditioner=preconditioner, max_steps=20_000)
    solution, _ = attempt(matrix, lx.positive_semidefinite_tag, solver)
    assert solution.result == lx.RESULTS.successful


@pytest.mark.parametrize("name", ["olm1000", "watt_2", "young1c"])
def test_not_symmetric(name):
    if name not in MATRICES:
        pytest.skip("real matrices are not here")
    matrix, tags = ns.read_matrix_market(MATRICES[name])
    ilu = precond.IncompleteLU()
    solved = [
        attempt(matrix, tags, solver)[0].result == lx.RESULTS.successful
        for solver in (
            ns.GMRES(rtol=1e-8, restart=100, preconditioner=ilu, max_steps=3000),
            ns.BiCGStab(rtol=1e-8, preconditioner=ilu, max_steps=3000),
            ns.GMRES(rtol=1e-8, restart=100, preconditioner=precond.Jacobi(), max_steps=6000),
        )
    ]
    assert any(solved)


PYAMG_EXAMPLES = {
    "airfoil": "definite",
    "bar": "definite",
    "helmholtz_2D": "general",
    "knot": "definite",
    "local_disc_galerkin_diffusion": "definite",
    "recirc_flow": "general",
    "unit_cube": "definite",
    "unit_square": "definite",
}


@pytest.mark.parametrize("name", PYAMG_EXAMPLES)
def test_pyamg_examples(name):
    gallery = pytest.importorskip("pyamg.gallery")
    matrix = sp.csr_array(gallery.load_example(name)["A"].tocsr())
    if PYAMG_EXAMPLES[name] == "definite":
        matrix = (matrix + matrix.T) / 2  # symmetric to rounding only, as shipped
        solver = ns.CG(rtol=1e-8, preconditioner=precond.IncompleteCholesky())
        solution, _ = attempt(matrix, lx.positive_semidefinite_tag, solver)
    else:
        solver = ns.GMRES(rtol=1e-8, restart=100, preconditioner=precond.IncompleteLU(), max_steps=5000)
        solution, _ = attempt(matrix, (), solver)
    assert solution.result == lx.RESULTS.successful
