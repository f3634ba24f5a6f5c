"""Hierarchies refreshed on frozen patterns: against dense algebra on PyAMG's levels, and against set-ups."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve import _ffi
from nsolve.direct import frozen_hierarchy, memory
from nsolve.direct.factors import Recipe
from nsolve.direct.hierarchy import hierarchy
from nsolve.direct.structure import structure_of
from nsolve.kernels import galerkin, numbering
from nsolve.preconditioners import AlgebraicMultigrid, Multigrid
from tests.test_incomplete import PSD, relative_error
from tests.test_ruge_stuben import Reference, random_matrix, reference_levels

pytest.importorskip("pyamg")

RECIPE = Recipe("ruge_stuben", theta=0.3)


def media(seed: int = 1, contrast: float = 1e4, size: int = 24, roughness: float = 0.0) -> sp.csr_array:
    """Random blocks; other contrasts and roughness leave them where they are."""
    field = np.asarray(ns.gallery.blocks(jax.random.key(seed), (size, size), 3, contrast))
    field = field * np.exp(roughness * np.random.default_rng(0).standard_normal(field.shape))
    return sp.csr_array(ns.gallery.diffusion(jax.random.key(0), field).operator.as_scipy())


def wind(roughness: float, size: int = 18) -> sp.csr_array:
    """Upwind convection over diffusion, an unsymmetric M-matrix, whose couplings vary."""
    one = sp.diags_array([-2.0, 3.0, -1.0], offsets=[-1, 0, 1], shape=(size, size))
    made = sp.csr_array(sp.kronsum(one, one, format="csr"))
    made.data *= np.exp(roughness * np.random.default_rng(0).uniform(-1, 0, len(made.data)))
    return sp.csr_array(made + sp.eye_array(size * size))


def pair(case: str) -> tuple[sp.csr_array, sp.csr_array]:
    """Two matrices on one pattern; the patterns of the first one's hierarchy fit the second."""
    if case == "media":
        return media(), media(contrast=3e3, roughness=0.3)
    if case == "unsymmetric":
        return wind(0.2), wind(0.4)
    first = random_matrix(300, 0.02, 1)
    scale = np.exp(0.1 * np.random.default_rng(2).standard_normal(300))
    second = first.copy()
    rows = np.repeat(np.arange(300), np.diff(first.indptr))
    second.data = first.data * (scale[rows] * scale[first.indices])  # some couplings are positive
    return first, second


def operator(matrix: sp.csr_array, tags=PSD) -> ns.SparseLinearOperator:
    return ns.SparseLinearOperator.from_scipy(matrix, tags)


def frozen_levels(
    levels: list[Reference], matrix: sp.csr_array
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Dense `A` and `P` of all levels, by the definition of direct interpolation on others' patterns."""
    a, made = matrix.toarray(), []
    for level in levels[:-1]:
        assert level.kept is not None and level.interpolation is not None
        kept, p = np.flatnonzero(level.kept), np.zeros(level.interpolation.shape)
        p[kept, np.arange(len(kept))] = 1
        others = a - np.diag(np.diag(a))
        negative, positive = np.minimum(others, 0), np.maximum(others, 0)
        for i in np.flatnonzero(level.kept == 0):
            columns = level.interpolation[[i]].indices
            couplings = negative[i, kept[columns]]
            if couplings.any():
                share = negative[i].sum() / couplings.sum()
                p[i, columns] = -share * couplings / (a[i, i] + positive[i].sum())
        made.append((a, p))
        a = p.T @ a @ p
    return [*made, (a, None)]


def cycle(levels: list[tuple[np.ndarray, np.ndarray | None]]) -> np.ndarray:
    inverse = np.linalg.pinv(levels[-1][0])
    for a, p in levels[-2::-1]:
        assert p is not None
        unit, before, after = np.eye(len(a)), np.linalg.inv(np.tril(a)), np.linalg.inv(np.triu(a))
        error = (unit - after @ a) @ (unit - p @ inverse @ p.T @ a) @ (unit - before @ a)
        inverse = (unit - error) @ np.linalg.inv(a)
    return inverse


def freeze(matrix: sp.csr_array) -> frozen_hierarchy.FrozenHierarchy:
    made, _ = hierarchy(matrix, RECIPE, None)
    assert made is not None
    return frozen_hierarchy.FrozenHierarchy(structure_of(matrix.indptr, matrix.indices), matrix.data, made)


def steps(matrix: sp.csr_array, inverse: lx.AbstractLinearOperator) -> int:
    a, b = operator(matrix), jnp.asarray(np.random.default_rng(0).standard_normal(matrix.shape[0]))
    solution = lx.linear_solve(a, b, ns.CG(rtol=1e-8), options={"preconditioner": inverse}, throw=False)
    return int(solution.stats["num_steps"])


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("case", ["media", "positive", "unsymmetric"])
def test_levels_are_those_of_dense_algebra(case, compiled, monkeypatch):
    monkeypatch.setattr(_ffi, "_usable", compiled and _ffi.usable())
    first, second = pair(case)
    expected = frozen_levels(reference_levels(first), second)
    assert len(expected) > 2
    kept = freeze(first)
    levels = kept._levels(second.data)
    assert levels is not None
    for (matrix, across), (a, p) in zip(levels, expected, strict=True):
        whole = matrix.scipy.toarray()
        if case != "unsymmetric":
            assert not np.triu(whole, 1).any()
            whole += np.tril(whole, -1).T
        np.testing.assert_allclose(whole, a, rtol=1e-11, atol=1e-13 * abs(a).max())
        if across is not None and p is not None:
            np.testing.assert_allclose(across.scipy.toarray(), p, rtol=1e-11, atol=1e-14)
    made = kept.refreshed(second.data)
    assert made is not None and made.is_frozen
    b, inverse = np.random.default_rng(0).standard_normal(len(second.indptr) - 1), cycle(expected)
    assert relative_error(made.solve(b, "N"), inverse @ b) < 1e-10
    assert relative_error(made.solve(b, "T"), inverse.T @ b) < 1e-10
    if case != "positive":  # PyAMG's own levels of the second are other ones
        fresh, _ = hierarchy(second, RECIPE, None)
        assert fresh is not None and relative_error(fresh.solve(b, "N"), inverse @ b) > 1e-6


@pytest.mark.parametrize("case", ["media", "positive", "unsymmetric"])
def test_the_same_matrix_gives_the_same_hierarchy(case):
    matrix, _ = pair(case)
    made, _ = hierarchy(matrix, RECIPE, None)
    again = freeze(matrix).refreshed(matrix.data)
    assert made is not None and again is not None and made.table == again.table
    b = np.random.default_rng(0).standard_normal(matrix.shape[0])
    for side in ("N", "T"):
        assert relative_error(again.solve(b, side), made.solve(b, side)) < 1e-11
    inverse = AlgebraicMultigrid()(operator(matrix, ()))
    np.testing.assert_array_equal(inverse.refresh(operator(matrix, ())).state.key, inverse.state.key)


def test_many_rows_are_shared_among_threads(monkeypatch):
    first, second = pair("media")
    alone = freeze(first).refreshed(second.data)
    monkeypatch.setattr(galerkin, "_FEW", 10)
    monkeypatch.setattr(galerkin.os, "cpu_count", lambda: 3)
    kept = freeze(first)
    assert len(kept._steps[0].parts) == 3 or not _ffi.usable()
    shared, b = kept.refreshed(second.data), np.random.default_rng(0).standard_normal(second.shape[0])
    assert alone is not None and shared is not None
    assert relative_error(shared.solve(b, "N"), alone.solve(b, "N")) < 1e-11


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_zero_may_be_stored_on_one_side_alone(dtype):
    first, second = (matrix.astype(dtype) for matrix in pair("media"))
    n = first.shape[0]
    wider = [sp.coo_array(matrix) for matrix in (first, second)]
    wider = [
        sp.csr_array(
            (np.r_[m.data, np.zeros(1, dtype)], (np.r_[m.row, 3], np.r_[m.col, n - 5])), shape=(n, n)
        )
        for m in wider
    ]
    first_a, second_a = (operator(matrix, PSD) for matrix in wider)
    assert first_a.nnz == first.nnz + 1
    inverse = AlgebraicMultigrid()(first_a).refresh(second_a)
    expected = AlgebraicMultigrid()(operator(first)).refresh(operator(second))
    x = jnp.arange(n, dtype=dtype)
    assert inverse.is_frozen and expected.is_frozen
    assert relative_error(inverse.mv(x), expected.mv(x)) < (1e-4 if dtype == "float32" else 1e-12)
    # A number may stand there later.
    inexact = second_a.values.at[jnp.flatnonzero(second_a.values == 0)].set(-1e-3)
    later = AlgebraicMultigrid()(first_a).refresh(second_a.with_values(inexact))
    assert later.is_frozen and relative_error(later.mv(x), expected.mv(x)) > 0


def test_unknowns_in_another_order(monkeypatch):
    monkeypatch.setattr(numbering, "_NEAR", 40)
    shuffled = np.random.default_rng(0).permutation(576)
    first, second = (sp.csr_array(matrix[shuffled][:, shuffled]) for matrix in pair("media"))
    for matrix in (first, second):
        matrix.sort_indices()
    kept, (fresh, _) = freeze(first), hierarchy(first, RECIPE, None)
    assert fresh is not None and (fresh.order is not None or not _ffi.usable())
    again, b = kept.refreshed(first.data), np.random.default_rng(0).standard_normal(576)
    assert again is not None and relative_error(again.solve(b, "N"), fresh.solve(b, "N")) < 1e-11
    inverse = AlgebraicMultigrid()(operator(first)).refresh(operator(second))
    assert inverse.is_frozen and steps(second, inverse) <= 15


def test_contrasts_may_change():
    first = media(size=60)
    inverse = AlgebraicMultigrid()(operator(first))
    for contrast, roughness in ((1e2, 0.0), (1e6, 0.0), (1e4, 0.5)):
        second = media(size=60, contrast=contrast, roughness=roughness)
        refreshed = inverse.refresh(operator(second))
        assert refreshed.is_frozen and "patterns of an earlier matrix" in repr(refreshed)
        assert steps(second, refreshed) <= steps(second, AlgebraicMultigrid()(operator(second))) + 1


def test_where_islands_move_it_is_set_up_anew():
    first, second = media(size=60), media(seed=5, size=60)
    inverse, fresh = (AlgebraicMultigrid()(operator(matrix)) for matrix in (first, second))
    refreshed = inverse.refresh(operator(second))
    assert not refreshed.is_frozen and "earlier" not in repr(refreshed)
    np.testing.assert_array_equal(refreshed.state.key, fresh.state.key)
    kept = freeze(first)
    assert kept.refreshed(second.data) is None
    # And then the new patterns are kept.
    third = media(seed=5, size=60, roughness=0.3)
    again = refreshed.refresh(operator(third))
    assert again.is_frozen
    np.testing.assert_array_equal(
        again.mv(third.diagonal()), fresh.refresh(operator(third)).mv(third.diagonal())
    )


def test_where_memory_is_short_it_is_set_up_anew(monkeypatch):
    first, second = (operator(matrix) for matrix in pair("media"))
    inverse = AlgebraicMultigrid()(first)
    monkeypatch.setattr(memory, "physical_memory", lambda: 1e6)
    memory.forget()
    refreshed = inverse.refresh(second)
    assert not refreshed.is_frozen
    np.testing.assert_array_equal(refreshed.state.key, AlgebraicMultigrid()(second).state.key)


def test_symmetric_patterns_do_not_fit_unsymmetric_numbers():
    first, _ = pair("media")
    second = first.copy()
    second.data[3] *= 1 + 1e-3
    inverse = AlgebraicMultigrid()(operator(first, ())).refresh(operator(second, ()))
    assert not inverse.is_frozen
    dense = np.asarray(inverse.as_matrix())
    np.testing.assert_allclose(inverse.T.as_matrix(), dense.T, atol=1e-13 * abs(dense).max())
    assert relative_error(dense.T, dense) > 1e-9


def test_transposed():
    first, second = (operator(matrix, ()) for matrix in pair("unsymmetric"))
    inverse, x = AlgebraicMultigrid()(first), jnp.arange(324.0)
    refreshed = inverse.refresh(second)
    assert refreshed.is_frozen
    np.testing.assert_array_equal(inverse.T.refresh(second.T).mv(x), refreshed.T.mv(x))
    dense = np.asarray(refreshed.as_matrix())
    np.testing.assert_allclose(refreshed.T.as_matrix(), dense.T, atol=1e-13 * abs(dense).max())


def test_traced_batched_scanned_and_made_again():
    """A chain: the same matrix, patterns that fit, islands that move, patterns of these."""
    given = [media(), media(roughness=0.5), media(seed=5), media(seed=5, roughness=0.5)]
    a, x = operator(given[0]), jnp.arange(576.0)
    inverse = AlgebraicMultigrid()(a)
    chain = list(itertools.accumulate(map(operator, given), lambda m, a: m.refresh(a), initial=inverse))[1:]
    assert [m.is_frozen for m in chain] == [False, True, False, True]
    expected = [m.mv(x) for m in chain]
    values = jnp.stack([operator(matrix).values for matrix in given])

    @eqx.filter_jit
    def scanned(inverse, values):
        def step(inverse, values):
            inverse = inverse.refresh(a.with_values(values))
            return inverse, inverse.mv(x)

        return jax.lax.scan(step, inverse, values)

    last, found = scanned(inverse, values)
    np.testing.assert_array_equal(found, expected)
    assert last.is_frozen
    batched = jax.vmap(lambda values: inverse.refresh(a.with_values(values)).mv(x))(values)
    np.testing.assert_array_equal(batched[:3], expected[:3])
    np.testing.assert_array_equal(batched[3], AlgebraicMultigrid()(operator(given[3])).mv(x))
    assert relative_error(batched[3], expected[3]) > 1e-6
    slope = jax.grad(lambda values: scanned(inverse, values)[1].sum())(values)
    assert not slope.any()
    memory.forget()  # made again, where it is needed, on the same patterns
    for m, y in zip([*reversed(chain), last], [*reversed(expected), expected[3]], strict=True):
        np.testing.assert_array_equal(m.mv(x), y)
    assert chain[1].is_frozen


def test_refresh_says_what_does_not_fit():
    inverse = AlgebraicMultigrid()(operator(media()))
    with pytest.raises(ValueError, match="needs an operator with the pattern.*Make a new preconditioner"):
        inverse.refresh(operator(sp.csr_array(media() @ media())))
    with pytest.raises(ValueError, match="float64.*float32"):
        inverse.refresh(operator(media().astype("float32")))
    with pytest.raises(ValueError, match="positive diagonal"):
        inverse.refresh(operator(-media(), ()))
    a = operator(media())
    for bad in (jnp.nan, jnp.inf, -1.0):
        values = a.values.at[a.pattern.diagonal_positions[4]].set(bad)
        found = jax.jit(lambda v: inverse.refresh(a.with_values(v)).mv(jnp.ones(576)))(values)
        assert jnp.isnan(found).all()


def test_multigrid_refreshes_its_algebraic_levels():
    def made(seed, roughness):
        field = np.asarray(ns.gallery.blocks(jax.random.key(seed), (40, 40), 3, 1e4))
        field = field * np.exp(roughness * np.random.default_rng(0).standard_normal(field.shape))
        return ns.gallery.diffusion(0, field).operator

    multigrid = Multigrid(algebraic=1)(made(1, 0.0))
    assert multigrid.refresh(made(1, 0.3)).coarse.inverse.is_frozen
    moved, fresh = multigrid.refresh(made(5, 0.0)), Multigrid(algebraic=1)(made(5, 0.0))
    assert not moved.coarse.inverse.is_frozen
    x = jnp.ones((40, 40))
    np.testing.assert_allclose(moved.mv(x), fresh.mv(x), rtol=1e-12)
