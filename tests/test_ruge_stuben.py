"""The kernels that coarsen, against PyAMG, SciPy, and what Ruge and Stüben ask of a splitting."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import nsolve as ns
from nsolve import _ffi
from nsolve.direct.hierarchy import COARSEST
from nsolve.kernels import galerkin, levels, numbering, ruge_stuben

pyamg = pytest.importorskip("pyamg")


@dataclasses.dataclass
class Reference:
    """A level, by others' functions and from the definition of the second pass."""

    matrix: sp.csr_array
    kept: np.ndarray | None = None
    interpolation: sp.csr_array | None = None


def second_pass(strong: sp.csr_array, kept: np.ndarray) -> np.ndarray:
    """Each two dropped ones of which one depends on the other are to depend on one that is kept: else the
    second is kept, or the first where that is not enough."""
    kept = kept.astype(bool)
    rows = [set(row.tolist()) for row in np.split(strong.indices, strong.indptr[1:-1])]
    for i, row in enumerate(rows):
        if kept[i]:
            continue
        tentative = None
        for j in sorted(row):
            if kept[j] or any(kept[k] for k in row & rows[j]) or (tentative in rows[j] and kept[tentative]):
                continue
            if tentative is not None:
                kept[tentative], kept[i] = False, True
                break
            tentative = j
            kept[j] = True
    return kept


def strength(matrix: sp.csr_array, theta: float) -> sp.csr_array:
    found = pyamg.strength.classical_strength_of_connection(matrix, theta=theta, norm="min")
    found = sp.csr_array(found - sp.diags_array(found.diagonal()))
    found.eliminate_zeros()
    found.sort_indices()
    return found


def reference_levels(matrix: sp.csr_array, theta: float = 0.3, coarsest: int = COARSEST) -> list[Reference]:
    levels = [Reference(sp.csr_array(matrix))]
    while levels[-1].matrix.shape[0] > coarsest:
        level = levels[-1]
        strong = strength(level.matrix, theta)
        level.kept = second_pass(strong, pyamg.classical.split.RS(strong))
        if not 0 < level.kept.sum() < len(level.kept):
            break
        p = pyamg.classical.interpolate.direct_interpolation(
            level.matrix, strong, level.kept.astype(np.int32)
        )
        level.interpolation = sp.csr_array(p)
        coarse = sp.csr_array(p.T @ level.matrix @ p)
        coarse.sum_duplicates()
        levels.append(Reference(coarse))
    return levels


def equal(mine: sp.csr_array, theirs: sp.csr_array) -> bool:
    return abs(mine - theirs).max() <= 1e-14 * abs(theirs).max()


def random_matrix(n: int, density: float, seed: int, symmetric: bool = True) -> sp.csr_array:
    """Mostly, but not only, negative off the diagonal."""
    rng = np.random.default_rng(seed)
    part = sp.random_array(
        (n, n), density=density, rng=rng, data_sampler=lambda size: rng.normal(-1, 1, size)
    )
    if symmetric:
        part = part + part.T
    part = sp.csr_array(part - sp.diags_array(part.diagonal()))
    made = sp.csr_array(part + sp.diags_array(abs(part).sum(1) + 0.1))
    made.sum_duplicates()
    made.indptr, made.indices = made.indptr.astype(np.int32), made.indices.astype(np.int32)
    return made


def jumping(size: int = 60) -> sp.csr_array:
    blocks = ns.gallery.blocks(jax.random.key(1), (size, size), 3, 1e4)
    return ns.gallery.diffusion(jax.random.key(0), blocks).operator.as_scipy()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("case", ["blocks", "random", "unsymmetric"])
def test_levels_are_those_of_the_reference(case, compiled, monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", compiled)
    matrix = jumping() if case == "blocks" else random_matrix(500, 0.01, 0, case == "random")
    expected = reference_levels(matrix)
    assert len(expected) > 2
    for level, coarse in itertools.pairwise(expected):
        made = levels.split(level.matrix)
        assert equal(made.scipy, level.matrix)
        across = ruge_stuben.coarsen(made, 0.3)
        assert level.interpolation is not None
        assert np.array_equal(across.indptr, level.interpolation.indptr)
        assert equal(across.scipy, level.interpolation)
        assert equal(galerkin.galerkin(made, across).scipy, coarse.matrix)


@settings(max_examples=15)
@given(
    n=st.sampled_from([1, 30, 200]),
    density=st.sampled_from([0.0, 0.02, 0.2]),
    theta=st.sampled_from([0.0, 0.3, 0.8]),
    symmetric=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_what_is_dropped_hangs_on_what_is_kept(n, density, theta, symmetric, seed):
    matrix = random_matrix(n, density, seed, symmetric)
    across = ruge_stuben.coarsen(levels.split(matrix), theta)
    level = reference_levels(matrix, theta, coarsest=0)[0]
    if level.interpolation is None:
        assert across.columns in (0, n)
        return
    assert level.kept is not None and equal(across.scipy, level.interpolation)
    strong = strength(matrix, theta).toarray() != 0
    shared = (strong.astype(int) * level.kept) @ strong.T.astype(int) > 0
    among_dropped = np.ix_(~level.kept, ~level.kept)
    assert shared[among_dropped][strong[among_dropped]].all()


def test_many_rows_are_shared_among_threads(monkeypatch):
    matrix = levels.split(jumping(70))
    across = ruge_stuben.coarsen(matrix, 0.3)
    alone = galerkin.galerkin(matrix, across)
    monkeypatch.setattr(galerkin, "_FEW", 10)
    monkeypatch.setattr(galerkin.os, "cpu_count", lambda: 3)
    for mine, theirs in zip(galerkin.galerkin(matrix, across), alone, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("compiled", [True, False])
def test_hermitian_or_not(compiled, monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", compiled)
    a = random_matrix(40, 0.1, 3)
    for matrix in (a, random_matrix(40, 0.1, 3, False), a + 1j * a, a.astype(complex)):
        expected = (matrix != matrix.conj().T).nnz == 0
        assert levels.is_hermitian(levels.split(matrix)) == expected
    changed = a.copy()
    changed.data[-1] *= 1 if changed.indices[-1] == 39 else 2
    changed.data[1] *= 2
    assert not levels.is_hermitian(levels.split(changed))


@pytest.mark.parametrize("compiled", [True, False])
def test_scattered_unknowns_are_numbered_anew(compiled, monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", compiled)
    monkeypatch.setattr(numbering, "_NEAR", 40)
    near = jumping(30)
    assert numbering.nearby(near) is None
    shuffled = np.random.default_rng(0).permutation(900)
    far = sp.csr_array(near[shuffled][:, shuffled])
    far.sort_indices()
    order = numbering.nearby(far) if compiled else np.argsort(shuffled)
    assert order is not None and sorted(order) == list(range(900))
    again = numbering.reordered(far, order)
    assert again.has_canonical_format or again.has_sorted_indices
    assert (again != far[order][:, order]).nnz == 0
    rows = np.repeat(np.arange(900), np.diff(again.indptr))
    assert np.mean(abs(rows - again.indices)) < 30


def test_long_rows():
    """Two unknowns that are coupled to all others."""
    n = 300
    matrix = sp.lil_array(-sp.eye_array(n, k=1) - sp.eye_array(n, k=-1))
    matrix[0, :], matrix[:, 0], matrix[7, :], matrix[:, 7] = -1.0, -1.0, -0.5, -0.5
    matrix.setdiag(0)
    matrix = sp.csr_array(matrix)
    matrix = sp.csr_array(matrix + sp.diags_array(abs(matrix).sum(1)))
    order = np.random.default_rng(1).permutation(n)
    again = numbering.reordered(matrix, order)
    assert (again != matrix[order][:, order]).nnz == 0
    made = levels.split(again)
    across = ruge_stuben.coarsen(made, 0.9)
    level, coarse = reference_levels(again, 0.9)[:2]
    assert level.interpolation is not None and equal(across.scipy, level.interpolation)
    assert equal(galerkin.galerkin(made, across).scipy, coarse.matrix)
