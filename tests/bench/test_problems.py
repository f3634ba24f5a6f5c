"""The problems are what their tags say, and equal the library's own stencils."""

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.sparse as sp

from bench.engine.suite import Group, ad_hoc
from bench.engine.work import Missing
from bench.work.linear import WORK
from bench.work.systems import MEDIA, tags

SMALL = {
    "poisson1d": 9,
    "poisson2d": 7,
    "poisson3d": 4,
    "anisotropic2d": 6,
    "anisotropic3d": 4,
    "lognormal2d[contrast=1e4]": 8,
    "lognormal3d": 5,
    "media2d": 9,
    "media3d": 5,
    "rotated2d[angle=20]": 8,
    "pressure3d[balls=2]": 7,
    "waves2d[points=6]": 12,
    "convection_diffusion2d": 9,
    "helmholtz2d[waves=1.3]": 16,
    "heat2d": 6,
    "fem2d": 8,
    "elasticity2d": 5,
    "elasticity3d": 2,
    "stokes2d": 4,
    "kkt": 20,
    "circuit": 24,
    "badly_scaled2d[decades=3]": 5,
    "nearly_singular2d[shift=1e-4]": 6,
}


def build(text, size=None, seed=0):
    name = WORK.parse(text).name
    if name in ("fem2d", "elasticity2d", "elasticity3d"):
        pytest.importorskip("skfem")
    if name == "pyamg":
        pytest.importorskip("pyamg")
    return WORK.call(text, size=size, seed=seed)


@pytest.mark.parametrize(("text", "size"), SMALL.items())
def test_tags_are_true(text, size):
    problem = build(text, size)
    dense = problem.matrix.toarray()
    assert problem.rhs.shape == (dense.shape[0],)
    symmetric = np.allclose(dense, dense.conj().T, rtol=1e-12, atol=0)
    assert symmetric == ("symmetric" in problem.tags)
    eigenvalues = np.linalg.eigvals(dense).real
    if "spd" in problem.tags:
        assert eigenvalues.min() > 0
    elif symmetric:
        assert eigenvalues.min() < 0 < eigenvalues.max()
    assert np.abs(eigenvalues).min() > 1e-6  # the system has a solution


def test_every_sized_problem_is_covered():
    sized = {name for name in WORK.problems if WORK.is_sized(name)}
    assert sized == {WORK.parse(text).name for text in SMALL}


@pytest.mark.parametrize("law", MEDIA)
def test_every_medium_is_drawn_from_its_law(law):
    problem = build(f"media2d[law={law}]", 12)
    faces = -np.unique(np.round(sp.triu(problem.matrix, 1).data / 12**2, 9))
    kinds, decades = len(faces), np.log10(faces.max() / faces.min())
    if law in ("blocks", "checkerboard"):  # two coefficients, and their harmonic mean
        assert 2 <= kinds <= 3 and abs(decades - 4) < 1e-6
    else:
        assert kinds > 100 and 1 < decades < 5
    other = build(f"media2d[law={law}]", 12, seed=1)
    assert (abs(problem.matrix - other.matrix).max() == 0) == (law == "checkerboard")
    with pytest.raises(ValueError, match="unknown medium"):
        build(f"media2d[law={law}s]", 12)


@pytest.mark.parametrize(
    "text", ["poisson1d", "poisson2d", "poisson3d", "anisotropic2d", "anisotropic3d",
             "lognormal2d[contrast=1e4]", "lognormal3d", "media2d", "media3d", "rotated2d[angle=20]",
             "pressure3d[balls=2]"]
)  # fmt: skip
def test_stencil_equals_the_matrix(text):
    problem = build(text, SMALL[text])
    assert problem.stencil is not None and problem.grid is not None
    stencil = problem.stencil(jnp.float64)
    difference = abs(stencil.as_scipy() - problem.matrix).max()
    assert difference <= 1e-12 * abs(problem.matrix).max()
    product = stencil.mv(jnp.asarray(problem.rhs).reshape(problem.grid))
    np.testing.assert_allclose(np.ravel(product), problem.matrix @ problem.rhs, rtol=1e-9)


def test_stencil_in_single_precision():
    problem = build("poisson2d", 5)
    assert problem.stencil is not None
    x = jnp.ones((5, 5), jnp.float32)
    assert problem.stencil(jnp.float32).mv(x).dtype == jnp.float32


def test_poisson_converges_to_the_solution():
    errors = []
    for size in (15, 31):
        matrix = build("poisson2d", size).matrix
        x = np.arange(1, size + 1) / (size + 1)
        exact = np.outer(np.sin(np.pi * x), np.sin(np.pi * x)).ravel()
        u = sp.linalg.spsolve(matrix.tocsc(), 2 * np.pi**2 * exact)
        errors.append(np.abs(u - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


def test_contrast_is_what_was_asked_for_and_seeds_differ():
    from nsolve.gallery import lognormal_contrast

    field = lognormal_contrast([0, 1], (32, 32), 1e3, 0.1)
    assert field.max() / field.min() == pytest.approx(1e3)
    assert np.array_equal(field, lognormal_contrast([0, 1], (32, 32), 1e3, 0.1))
    assert not np.allclose(field, lognormal_contrast([1, 1], (32, 32), 1e3, 0.1))
    with pytest.raises(ValueError, match="contrast` must be at least 1"):
        build("lognormal2d[contrast=0.5]", 4)


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        ("airfoil", {"symmetric", "spd"}),
        ("unit_square", {"symmetric"}),  # pure Neumann: singular
        ("recirc_flow", set()),
        ("helmholtz_2D", set()),
    ],
)
def test_pyamg_examples(example, expected):
    problem = build(f"pyamg[example={example}]")
    assert problem.tags == expected
    assert problem.size == problem.matrix.shape[0]


def test_unknown_example_and_missing_size():
    pytest.importorskip("pyamg")
    with pytest.raises(ValueError, match="did you mean airfoil"):
        build("pyamg[example=airfoi]")
    with pytest.raises(ValueError, match="needs a size"):
        ad_hoc(Group("poisson2d", "cg"))


def test_matrix_market(tmp_path):
    from scipy.io import mmwrite

    matrix = sp.csr_array(np.array([[2.0, 1.0], [1.0, 2.0]]))
    mmwrite(tmp_path / "a.mtx", matrix)
    problem = build(f"matrix_market[path={tmp_path}/a.mtx]")
    np.testing.assert_array_equal(problem.matrix.toarray(), matrix.toarray())
    assert problem.tags == {"symmetric", "spd"}
    (tmp_path / "bad.mtx").write_text("nonsense\n")
    with pytest.raises(ValueError, match=r"cannot read .*bad\.mtx"):
        build(f"matrix_market[path={tmp_path}/bad.mtx]")
    with pytest.raises(ValueError, match="there is no file"):
        ad_hoc(Group(f"{tmp_path}/nothing.mtx", "cg"))
    mmwrite(tmp_path / "wide.mtx", sp.csr_array(np.ones((2, 3))))
    with pytest.raises(ValueError, match="not square"):
        build(f"matrix_market[path={tmp_path}/wide.mtx]")


def test_proofs_of_definiteness():
    hermitian = sp.csr_array(np.array([[2, 1j], [-1j, 2]]))
    assert tags(hermitian) == {"symmetric", "spd"}
    complex_symmetric = sp.csr_array(np.array([[2, 1j], [1j, 2]]))
    assert tags(complex_symmetric) == set()
    assert tags(sp.csr_array(np.array([[1.0, 2.0], [2.0, 1.0]]))) == {"symmetric"}
    assert tags(sp.csr_array(np.array([[1.0, 1.0], [1.0, 1.0]]))) == {"symmetric"}
    # singular, with a last pivot of rounding errors, of whatever sign: graphs' Laplacians with random weights
    for seed in range(20):
        weights = sp.random_array((30, 30), density=0.2, rng=np.random.default_rng(seed))
        weights = weights + weights.T + sp.diags_array(np.ones(29), offsets=1, shape=(30, 30))
        weights = weights + weights.T
        laplacian = sp.csr_array(sp.diags_array(weights.sum(axis=1)) - weights)
        assert tags(laplacian) == {"symmetric"}
        scales = sp.diags_array(np.logspace(-10, 10, 30))
        regular = laplacian + 0.01 * sp.eye_array(30)
        assert tags(sp.csr_array(scales @ regular @ scales)) == {"symmetric", "spd"}


def test_real_matrices_are_found_by_name(tmp_path, monkeypatch):
    matrix = sp.csr_array(np.array([[1.0, 2.0], [0.0, 3.0]]))
    scipy.io.mmwrite(tmp_path / "mine.mtx", matrix)
    monkeypatch.setenv("NSOLVE_MATRICES", str(tmp_path))
    problem = build("real[name=mine]", seed=3)
    np.testing.assert_array_equal(problem.matrix.toarray(), matrix.toarray())
    np.testing.assert_allclose(problem.matrix @ problem.solution, problem.rhs)
    assert np.ptp(problem.solution) > 0 and not problem.tags
    with pytest.raises(Missing, match=r"other.mtx is not here: let NSOLVE_MATRICES"):
        build("real[name=other]")
