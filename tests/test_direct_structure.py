"""What a sparse matrix's zeros and sizes say before it is solved, against exhaustive and dense references."""

import itertools

import numpy as np
import pytest
import scipy.sparse as sp
import scipy.sparse.csgraph
from scipy.sparse.linalg import splu

import nsolve as ns
from nsolve.direct import structure
from nsolve.direct.equilibrate import equilibrate
from nsolve.direct.matching import block_triangular, deficiency, maximum_product, structural_rank
from nsolve.direct.ordering import minimum_degree, predicted_fill, reverse_cuthill_mckee

from .helpers import read_by_scipy, real_matrices

REAL = {path.stem: path for path in real_matrices()}


def sparse(n, density, seed, dtype: type = np.float64, full=True):
    """A random matrix over many decades, with a shuffled full diagonal where asked."""
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((n, n)) * 10.0 ** rng.uniform(-4, 4, (n, n))
    if np.issubdtype(dtype, np.complexfloating):
        matrix = matrix * np.exp(2j * np.pi * rng.random((n, n)))
    mask = rng.random((n, n)) < density
    if full:
        mask[np.arange(n), rng.permutation(n)] = True
    return sp.csr_array((matrix * mask).astype(dtype))


def check_matching(matrix, atol=1e-13):
    """The scalings prove that no other pivots have a larger product."""
    rows, row_scale, column_scale = maximum_product(matrix)
    assert sorted(rows) == list(range(matrix.shape[0]))
    scaled = sp.diags_array(row_scale) @ abs(matrix.astype(complex)) @ sp.diags_array(column_scale)
    scaled = scaled.real.tocsr()[rows]
    np.testing.assert_allclose(scaled.diagonal(), 1, atol=atol)
    assert scaled.max() <= 1 + atol
    return rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_matching_is_the_best_of_all(dtype):
    for seed in range(6):
        matrix = sparse(6, 0.4, seed, dtype)
        rows = check_matching(matrix)
        with np.errstate(divide="ignore"):
            size = np.log(np.abs(matrix.toarray()).astype(np.float64))
        best = max(size[list(p), range(6)].sum() for p in itertools.permutations(range(6)))
        np.testing.assert_allclose(size[rows, range(6)].sum(), best, rtol=1e-6)


def test_matching_of_many_rows():
    rng = np.random.default_rng(0)
    n = 3000
    matrix = (
        sp.random_array((n, n), density=4 / n, rng=rng) + sp.eye_array(n).tocsr()[rng.permutation(n)] * 1e-6
    )
    check_matching(sp.csr_array(matrix))
    grid = sp.diags_array([-1.0, -1.0, 4.0, -1.0, -1.0], offsets=[-50, -1, 0, 1, 50], shape=(n, n))
    shuffled = rng.permutation(n)
    rows = check_matching(grid.tocsr()[shuffled])
    np.testing.assert_array_equal(shuffled[rows], np.arange(n))


def test_matching_at_the_ends_of_the_range():
    matrix = sparse(20, 0.2, 0)
    check_matching(matrix * 1e300)
    check_matching(matrix * 1e-290)
    assert maximum_product(sp.csr_array((0, 0))).rows.shape == (0,)
    np.testing.assert_array_equal(maximum_product(sp.csr_array([[-4.0]])).rows, [0])


@pytest.mark.parametrize("name", ["west0479", "rajat19", "mhd1280b"])
def test_matching_of_real_systems(name):
    if name not in REAL:
        pytest.skip("real matrices are not here")
    check_matching(read_by_scipy(REAL[name]))


def test_singular_for_any_values_is_said_in_words():
    pattern = np.array([[1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [1, 0, 1, 0, 0], [0, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    matrix = sp.csr_array(pattern * 1.0)
    found = deficiency(matrix)
    assert found.rank == structural_rank(matrix) == 4
    assert "the 3 rows 0, 1, 2 have entries in the 2 columns 0, 2 only" in str(found)
    assert "the 3 columns 1, 3, 4 have entries in the 2 rows 3, 4 only" in str(found)
    for refused in (maximum_product, block_triangular):
        with pytest.raises(ValueError, match="3 rows 0, 1, 2"):
            refused(matrix)
    stored_zero = sp.csr_array((np.array([1.0, 0.0]), ([0, 1], [0, 1])), shape=(2, 2))
    assert str(deficiency(stored_zero)) == "row 1 is empty; column 1 is empty"
    with pytest.raises(ValueError, match="NaN or infinity"):
        maximum_product(sp.csr_array([[np.nan, 1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="square"):
        maximum_product(sp.csr_array((2, 3)))


def test_deficient_blocks_are_deficient():
    for seed in range(20):
        matrix = sparse(30, 0.06, seed, full=False)
        dense, found = matrix.toarray() != 0, deficiency(matrix)
        assert found.rank == sp.csgraph.structural_rank(matrix)
        if found.rank < 30:
            assert set(np.flatnonzero(dense[found.rows].any(axis=0))) == set(found.row_columns)
            assert len(found.rows) > len(found.row_columns)
            assert set(np.flatnonzero(dense[:, found.columns].any(axis=1))) == set(found.column_rows)
            assert len(found.columns) > len(found.column_rows)


def test_block_triangular():
    rng = np.random.default_rng(1)
    sizes = [3, 1, 4, 1, 2]
    block = np.repeat(np.arange(5), sizes)
    dense = (rng.random((11, 11)) < 0.3) * (block[:, None] < block) + (block[:, None] == block) * 1.0
    matrix = sp.csr_array(dense[rng.permutation(11)][:, rng.permutation(11)])
    found = block_triangular(matrix)
    assert sorted(found.sizes) == sorted(sizes)
    form, block = matrix[found.rows][:, found.columns], np.repeat(np.arange(5), found.sizes)
    i, j = form.nonzero()
    assert np.all(block[i] <= block[j])
    assert np.all(form.diagonal() != 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
def test_equilibrate(dtype):
    matrix = sparse(40, 0.1, 3, dtype)
    scaling = equilibrate(matrix)
    scaled = scaling.apply(matrix)
    assert scaled.dtype == dtype
    by_hand = scaling.row_scale[:, None] * matrix.toarray() * scaling.column_scale
    np.testing.assert_array_equal(scaled.toarray(), by_hand.astype(dtype))
    for axis in (0, 1):
        largest = abs(scaled).max(axis=axis).toarray()
        assert np.all((largest >= 0.45) & (largest <= 2.2))


def test_equilibrate_keeps_symmetry():
    matrix = sparse(30, 0.1, 4, np.complex128)
    hermitian = sp.csr_array(matrix + matrix.conj().T)
    for symmetric in (False, True):
        scaling = equilibrate(hermitian, symmetric=symmetric)
        np.testing.assert_array_equal(scaling.rows, scaling.columns)
    scaling = equilibrate(matrix, symmetric=True)
    np.testing.assert_array_equal(scaling.rows, scaling.columns)
    assert np.abs(scaling.apply(matrix).data).max() <= 2.2


def test_equilibrate_at_the_ends():
    matrix = sp.csr_array([[1e300, 1e-300, 0.0], [1e-300, 0.0, 0.0], [0.0, 0.0, 0.0]])
    scaling = equilibrate(matrix)
    assert np.all(np.isfinite(scaling.row_scale)) and scaling.rows[2] == scaling.columns[2] == 0
    assert abs(scaling.apply(matrix)).max() <= 2
    assert equilibrate(sp.csr_array((0, 3))).columns.shape == (3,)
    with pytest.raises(ValueError, match="NaN or infinity"):
        equilibrate(sp.csr_array([[np.inf]]))


def grid(*shape):
    """The pattern of a grid's Laplacian, diagonally dominant."""
    matrix = sp.csr_array((1, 1))
    for m in shape:
        line = sp.diags_array([-1.0, 2.01, -1.0], offsets=[-1, 0, 1], shape=(m, m))
        matrix = sp.kron(matrix, sp.eye_array(m)) + sp.kron(sp.eye_array(matrix.shape[0]), line)
    return sp.csr_array(matrix)


def random_pattern(n, degree, seed):
    """Diagonally dominant, its values symmetric."""
    rng = np.random.default_rng(seed)
    half = sp.random_array((n, n), density=degree / n / 2, rng=rng)
    return sp.csr_array(sp.diags_array(np.full(n, 100.0)) - half - half.T)


def arrow(n):
    """A dense row and column, which must come last."""
    i, zero = np.arange(n), np.zeros(n, int)
    values = np.concatenate([-np.ones(n - 1), -np.ones(n - 1), np.full(n, 2.0 * n)])
    return sp.csr_array((values, (np.r_[zero[1:], i[1:], i], np.r_[i[1:], zero[1:], i])), shape=(n, n))


def factor_entries(matrix, ordering):
    """By SuperLU, pivoting on the diagonal."""
    options = {"SymmetricMode": True}
    return splu(sp.csc_array(matrix), permc_spec=ordering, diag_pivot_thresh=0, options=options).L.nnz


PATTERNS = {
    "grid": grid(40, 40),
    "box": grid(9, 8, 7),
    "random": random_pattern(400, 5, 0),
    "parts": sp.csr_array(sp.block_diag([random_pattern(60, 2, 1), sp.eye_array(5), grid(7, 7)])),
    "arrow": arrow(600),
    "full": sp.csr_array(100 * np.eye(20) - 1),
}


@pytest.mark.parametrize("name", PATTERNS)
def test_fill_is_predicted_exactly_and_kept_small(name):
    matrix = PATTERNS[name]
    order = minimum_degree(matrix)
    assert sorted(order) == list(range(matrix.shape[0]))
    permuted = matrix[order][:, order]
    fill = predicted_fill(matrix, order)
    assert fill == predicted_fill(permuted)
    assert fill.entries == factor_entries(permuted, "NATURAL")
    assert predicted_fill(matrix).entries == factor_entries(matrix, "NATURAL")
    assert fill.entries <= 1.1 * factor_entries(matrix, "MMD_AT_PLUS_A")
    lower = np.linalg.cholesky(permuted.toarray())
    assert fill.flops == np.sum(np.count_nonzero(lower, axis=0).astype(float) ** 2)


def test_orders_of_patterns():
    operator = ns.SparseLinearOperator.from_scipy(PATTERNS["grid"])
    np.testing.assert_array_equal(minimum_degree(operator.pattern), minimum_degree(PATTERNS["grid"]))
    shuffle = np.random.default_rng(0).permutation(1600)
    shuffled = PATTERNS["grid"][shuffle][:, shuffle]
    order = reverse_cuthill_mckee(shuffled)
    i, j = shuffled[order][:, order].nonzero()
    assert np.abs(i - j).max() <= 60
    one_sided = sp.csr_array(np.triu(np.ones((5, 5))))
    assert predicted_fill(one_sided).entries == 15
    for none in (sp.csr_array((0, 0)), sp.csr_array((3, 3))):
        assert predicted_fill(none, minimum_degree(none)).entries == none.shape[0]
    with pytest.raises(ValueError, match="square"):
        minimum_degree(sp.csr_array((2, 3)))
    with pytest.raises(TypeError, match="indptr"):
        predicted_fill(np.eye(3))


@pytest.mark.parametrize("density", [0.03, 0.08, 0.15])
def test_singular_patterns_are_told_without_compiled_code(density):
    """Of random patterns about half are singular; SciPy counts the pivots."""
    rng = np.random.default_rng(int(1000 * density))
    told = set()
    for _ in range(40):
        n = int(rng.integers(1, 60))
        rank_one_less = rng.random() < 0.5
        matrix = sp.random_array((n, n), density=min(1.0, density + 2 / n), rng=rng).tocsr()
        if not rank_one_less:
            matrix = (matrix + sp.eye_array(n).tocsr()[rng.permutation(n)]).tocsr()
        matrix.data[:] = 1
        expected = scipy.sparse.csgraph.structural_rank(matrix) < n
        found = structure.Structure(matrix.indptr, matrix.indices)
        assert found._matches_soon() is not expected
        told.add(expected)
    assert told == {True, False}


def test_a_long_search_for_pivots_is_left_to_compiled_code(monkeypatch):
    monkeypatch.setattr(structure, "_LOOKS", 0)
    upper = sp.csr_array(np.triu(np.ones((30, 30)))[::-1])
    found = structure.Structure(upper.indptr, upper.indices)
    assert found._matches_soon() is None and not found.is_singular
