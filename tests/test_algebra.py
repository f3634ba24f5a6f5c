"""Sums, products and selections of operators, and what lineax composes of them, against dense algebra."""

from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse as sp

import nsolve as ns
from nsolve.operators.base import is_hermitian, tags_of
from nsolve.operators.convert import as_stencil

PSD, NSD = lx.positive_semidefinite_tag, lx.negative_semidefinite_tag
SYMMETRIC, HERMITIAN = lx.symmetric_tag, ns.hermitian_tag
DIAGONAL = lx.DiagonalLinearOperator
N, GRID = 6, (4, 3)

_rng = np.random.default_rng(5)


def _scattered(dtype: type = float, symmetric: bool = False):
    mask = _rng.random((N, N)) < 0.35
    matrix = _rng.normal(size=(N, N)) + (1j * _rng.normal(size=(N, N)) if dtype is complex else 0)
    if symmetric:
        mask, matrix = mask | mask.T, matrix + matrix.conj().T
    return np.where(mask, matrix, 0)


GENERAL = {name: ns.SparseLinearOperator.from_scipy(_scattered()) for name in "AB"}
COMPLEX = ns.SparseLinearOperator.from_scipy(_scattered(complex))
MIRRORED = {
    name: ns.SparseLinearOperator.from_scipy(_scattered(symmetric=True), symmetry="symmetric")
    for name in "ST"
}
HERMITE = ns.SparseLinearOperator.from_scipy(_scattered(complex, True), symmetry="hermitian")
#: A stencil with walls along its first axis; another with other offsets; one whose second axis wraps around.
WALLS = {(0, 0): _rng.normal(size=GRID), (1, 0): 0.7, (-1, 0): _rng.normal(size=(1, 3)), (0, 1): 0.3}
OTHER = {(0, 0): 1.5, (-1, 0): 0.4, (1, 1): _rng.normal(size=GRID)}

PARAMETERS = {
    **{name: operator.values for name, operator in GENERAL.items()},
    **{name: operator.triangle for name, operator in MIRRORED.items()},
    "C": COMPLEX.values,
    "H": HERMITE.triangle,
    "G": tuple(map(jnp.asarray, WALLS.values())),
    "F": tuple(map(jnp.asarray, OTHER.values())),
    "d": jnp.asarray(_rng.uniform(0.5, 1.5, N)),
    "e": jnp.asarray(_rng.normal(size=GRID)),
    "s": jnp.asarray(0.7),
}


FLAT, ON_GRID = (jax.ShapeDtypeStruct(shape, float) for shape in ((N,), GRID))


def _stencil(offsets, coefficients):
    stencil = dict(zip(offsets, coefficients, strict=True))
    return ns.StencilLinearOperator.from_stencil(stencil, GRID, (False, True))


class Parts:
    """The operators of an expression, made when asked for; or the same as dense arrays."""

    MAKE = {
        **{name: lambda p, name=name: GENERAL[name].with_values(p[name]) for name in GENERAL},
        **{name: lambda p, name=name: MIRRORED[name].with_triangle(p[name]) for name in MIRRORED},
        "C": lambda p: COMPLEX.with_values(p["C"]),
        "H": lambda p: HERMITE.with_triangle(p["H"]),
        "G": lambda p: _stencil(WALLS, p["G"]),
        "F": lambda p: _stencil(OTHER, p["F"]),
        "I": lambda p: lx.IdentityLinearOperator(FLAT),
        "J": lambda p: lx.IdentityLinearOperator(ON_GRID),
        "Q": lambda p: lx.IdentityLinearOperator(jax.ShapeDtypeStruct((N,), complex)),
        "D": lambda p: DIAGONAL(p["d"]),
        "E": lambda p: DIAGONAL(p["e"]),
        "s": lambda p: p["s"],
    }

    def __init__(self, p, dense):
        self.p, self.dense = p, dense

    def __getattr__(self, name):
        part = self.MAKE[name](self.p)
        return part.as_matrix() if self.dense and name != "s" else part


def operators(p):
    return Parts(p, dense=False)


def matrices(p):
    return Parts(p, dense=True)


#: An expression, and the class that it stays in: None for lineax's, whose sparse form is looked at.
SPARSE, STENCIL = ns.SparseLinearOperator, ns.StencilLinearOperator
ROWS = {
    "sum": (lambda o: o.A + o.B, SPARSE),
    "difference, and with itself": (lambda o: o.A - o.B + o.A, SPARSE),
    "multiples": (lambda o: o.s * o.A / 3 - (-o.B) * 2, SPARSE),
    "shift": (lambda o: o.A + o.s * o.I, SPARSE),
    "complex shift": (lambda o: o.A + 0.5j * o.I, SPARSE),
    "real and complex": (lambda o: o.C + o.A * o.s, SPARSE),
    "diagonals": (lambda o: o.A @ o.D - o.D, SPARSE),
    "product": (lambda o: o.A @ o.B, SPARSE),
    "triple product": (lambda o: o.C @ o.C @ o.C, SPARSE),
    "symmetric sum": (lambda o: o.S - o.s * o.T + o.D, "triangle"),
    "symmetric and not": (lambda o: o.S + o.A, SPARSE),
    "hermitian multiple": (lambda o: -(o.s * o.H) + o.H / 2, "triangle"),
    "no longer hermitian": (lambda o: o.H * (1 + 2j), SPARSE),
    "hermitian shift": (lambda o: o.S + o.H - o.s * o.Q, "triangle"),
    "identity first": (lambda o: o.I + o.s * o.A, None),
    "scaled on both sides": (lambda o: o.D @ o.S @ o.D, None),
    "all of lineax's": (lambda o: -(o.I / 2 + o.D @ (2.0 * o.I - o.A)) * o.s, None),
    "stencils": (lambda o: o.G + o.s * o.F - o.G / 2, STENCIL),
    "shifted stencil": (lambda o: o.G + o.s * o.J - o.E, STENCIL),
    "complex stencil": (lambda o: 1j * o.G + o.E + o.F, STENCIL),
    "product of stencils": (lambda o: o.G @ o.F, STENCIL),
    "scaled stencil": (lambda o: o.G @ o.E, STENCIL),
    "identity and stencil": (lambda o: o.J + o.s * o.G, None),
    "stencil scaled on both sides": (lambda o: o.E @ o.G @ o.E, None),
}


@eqx.filter_jit
def _as_matrix(operator):
    return operator.as_matrix()


def as_matrix(operator) -> np.ndarray:
    """In one program, where each of its steps would be one."""
    return np.asarray(_as_matrix(operator))


def formed(operator):
    """The stencil or sparse matrix that an operator is, or that lineax composed of such."""
    stencil = as_stencil(operator)
    return ns.as_sparse(operator) if stencil is None else stencil


@pytest.mark.parametrize("name", ROWS)
def test_equals_dense_algebra(name):
    """Values, products, transposes, derivatives in all parameters, batches; one trace for all values."""
    expression, kind = ROWS[name]
    traces = []
    operator, matrix = eqx.filter_eval_shape(_both, expression, PARAMETERS)
    x, y = map(jnp.asarray, _vectors(matrix.in_structure()))

    def objective(p):
        result = formed(expression(operators(p)))
        return jnp.vdot(y, result.mv(x)).real

    def dense_objective(p):
        with jax.numpy_dtype_promotion("standard"):
            return jnp.vdot(y.reshape(-1), expression(matrices(p)) @ x.reshape(-1)).real

    @jax.jit
    def everything(p, tangent):
        traces.append(name)
        result, matrix = _both(expression, p)
        batch = jax.tree.map(lambda a, b: jnp.stack([a, a - b]), p, tangent)
        pairs = []
        for f in (objective, dense_objective):
            gradient, slope = jax.grad(f)(p), jax.jvp(f, (p,), (tangent,))[1]
            pairs.append((gradient, slope, jax.vmap(f)(batch)))
        with jax.numpy_dtype_promotion("standard"):
            dense = expression(matrices(p))
        parts = matrix.as_matrix(), matrix.T.as_matrix(), matrix.diagonal(), result.mv(x).reshape(-1)
        return pairs, parts, (dense, dense.T, jnp.diagonal(dense), dense @ x.reshape(-1))

    moved = jax.tree.map(lambda a: 1.3 * a + 0.1, PARAMETERS)
    for p in (PARAMETERS, moved):
        (ours, theirs), parts, dense_parts = everything(p, moved)
        for actual, expected in zip(
            jax.tree.leaves((ours, parts)), jax.tree.leaves((theirs, dense_parts)), strict=True
        ):
            np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-12)
    assert len(traces) == 1
    if kind == "triangle":
        assert operator.triangle.size < operator.nnz
    elif kind is not None:
        assert isinstance(operator, kind)
        with pytest.raises((ValueError, AttributeError)):
            operator.triangle  # noqa: B018
    else:
        assert type(operator).__module__.startswith("lineax")


def _both(expression, p):
    operator = expression(operators(p))
    return operator, formed(operator)


def _vectors(structure):
    rng = np.random.default_rng(1)
    for _ in range(2):
        x = rng.normal(size=structure.shape)
        yield (x + 1j * rng.normal(size=x.shape) if structure.dtype.kind == "c" else x).astype(
            structure.dtype
        )


def _definite(dtype: type = float):
    """The Laplacian of a path, or with complex couplings: positive definite."""
    line = 2.1 * np.eye(N, dtype=dtype) - np.eye(N, k=1) - np.eye(N, k=-1)
    return line if dtype is float else line + 0.4j * (np.eye(N, k=1) - np.eye(N, k=-1))


of_scipy = ns.SparseLinearOperator.from_scipy
TAGGED = SimpleNamespace(
    P=of_scipy(_definite(), PSD),
    M=of_scipy(_definite(), PSD, symmetry="symmetric"),
    W=lx.TaggedLinearOperator(of_scipy(_definite()), PSD),  # the user's word
    K=of_scipy(_definite() - 2 * np.eye(N), SYMMETRIC),
    A=of_scipy(np.triu(_definite())),
    Z=of_scipy(_definite(complex), PSD),
    G=ns.StencilLinearOperator.poisson(GRID),
    I=lx.IdentityLinearOperator(jax.ShapeDtypeStruct((N,), float)),
    J=lx.IdentityLinearOperator(jax.ShapeDtypeStruct(GRID, float)),
    D=DIAGONAL(jnp.linspace(-1, 2, N)),
    V=DIAGONAL(jnp.linspace(0, 2, N)),
    U=DIAGONAL(jnp.asarray(np.exp(1j * np.arange(N)))),
)
WEAK = {SYMMETRIC, HERMITIAN}
STRONG, WEAKLY_NEGATIVE = WEAK | {PSD}, WEAK | {NSD}
TAGS = [
    (lambda o, s: o.P + o.M, STRONG, STRONG),
    (lambda o, s: o.P + s * o.I, STRONG, WEAK),
    (lambda o, s: o.P - s * o.I, WEAK, WEAK),
    (lambda o, s: s * o.I + o.P, STRONG, WEAK),
    (lambda o, s: o.I + s * o.M, STRONG, WEAK),
    (lambda o, s: s * o.M, STRONG, WEAK),
    (lambda o, s: -s * o.M, WEAKLY_NEGATIVE, WEAK),
    (lambda o, s: o.M / -s, WEAKLY_NEGATIVE, WEAK),
    (lambda o, s: -o.P, WEAKLY_NEGATIVE, WEAKLY_NEGATIVE),
    (lambda o, s: o.P.T - (-s) * o.W, STRONG, WEAK),
    (lambda o, s: o.P - o.P, WEAK, WEAK),
    (lambda o, s: o.P + o.K, WEAK, WEAK),
    (lambda o, s: o.P + o.A, set(), set()),
    (lambda o, s: o.P @ o.P, set(), set()),
    (lambda o, s: o.P + o.V, STRONG, STRONG),
    (lambda o, s: o.P + o.D, WEAK, WEAK),
    (lambda o, s: o.P.add_diagonal(s), STRONG, WEAK),
    (lambda o, s: o.P.add_diagonal(-s), WEAK, WEAK),
    (lambda o, s: o.M.add_diagonal(s * jnp.arange(float(N))), STRONG, WEAK),
    (lambda o, s: o.D @ o.P @ o.D, STRONG, STRONG),
    (lambda o, s: o.D @ (o.W @ o.D), STRONG, STRONG),
    (lambda o, s: o.D @ o.P @ o.V, set(), set()),
    (lambda o, s: o.D @ o.P, set(), set()),
    (lambda o, s: o.P.select([4, 1, 1], [4, 1, 1]), STRONG, STRONG),
    (lambda o, s: o.M.select(slice(1, 3), [1, 2]), STRONG, STRONG),
    (lambda o, s: o.M.select([1, 2], [2, 1]), set(), set()),
    (lambda o, s: o.Z + s * o.I, {HERMITIAN, PSD}, {HERMITIAN}),
    (lambda o, s: o.Z.add_diagonal(s), {HERMITIAN, PSD}, {HERMITIAN}),
    (lambda o, s: o.Z + o.P, {HERMITIAN, PSD}, {HERMITIAN, PSD}),
    (lambda o, s: o.U @ o.Z @ lx.conj(o.U), {HERMITIAN, PSD}, set()),  # the conjugate is traced
    (lambda o, s: o.U @ o.Z @ o.U, set(), set()),
    (lambda o, s: o.P + 1j * o.I, {SYMMETRIC}, {SYMMETRIC}),
    (lambda o, s: 1j * o.Z, set(), set()),
    (lambda o, s: lx.TaggedLinearOperator(o.A @ o.A, PSD) + o.I, "his word", "his word"),
    (lambda o, s: o.G + s * o.J, STRONG, WEAK),
    (lambda o, s: o.J + s * o.G, STRONG, WEAK),
    (lambda o, s: o.G.add_diagonal(s) - o.J, WEAK, WEAK),
    (lambda o, s: 3 * o.G / 2, STRONG, STRONG),
    (lambda o, s: o.G @ o.G, set(), set()),
]


@pytest.mark.parametrize("row", range(len(TAGS)))
def test_tags_follow_their_rules(row):
    """What is known, and what is no longer where the number is traced; nothing that is not so."""
    expression, known, traced = TAGS[row]
    operator = expression(TAGGED, 0.5)
    if known == "his word":
        known = traced = STRONG
    else:
        _check_claims(tags_of(operator), operator)
    assert tags_of(operator) & (STRONG | {NSD}) == known
    assert tags_of(formed(operator)) & (STRONG | {NSD}) == known
    if isinstance(operator, SPARSE | STENCIL):
        assert lx.is_positive_semidefinite(operator) == (PSD in known) and is_hermitian(operator) == (
            HERMITIAN in known
        )

    def look(s):
        assert tags_of(expression(TAGGED, s)) & (STRONG | {NSD}) == traced
        return s

    jax.make_jaxpr(look)(0.5)


def _check_claims(tags, operator):
    with jax.numpy_dtype_promotion("standard"):
        matrix = as_matrix(operator)
    if SYMMETRIC in tags:
        np.testing.assert_allclose(matrix, matrix.T, atol=1e-14)
    if HERMITIAN in tags:
        np.testing.assert_allclose(matrix, matrix.conj().T, atol=1e-14)
    for tag, sign in ((PSD, 1), (NSD, -1)):
        if tag in tags:
            assert np.linalg.eigvalsh(sign * matrix).min() > -1e-14


SPD, STEP = TAGGED.P, 0.3
LOW_RANK = ns.LowRankPlusDiagonalLinearOperator(jnp.linspace(1, 2, N), _rng.normal(size=(N, 2)), tags=PSD)
TRIDIAGONAL = lx.TridiagonalLinearOperator(jnp.full(N, 2.1), -jnp.ones(N - 1), -jnp.ones(N - 1))
COMPOSED = {
    "I + k A": TAGGED.I + STEP * SPD,
    "I + k A, tagged around": TAGGED.I + STEP * TAGGED.W,
    "2 A": 2 * TAGGED.W,
    "A / 2 - (-A)": TAGGED.W / 2.0 - (-TAGGED.W),
    "D A D": TAGGED.V @ SPD @ TAGGED.V + TAGGED.I,
    "transposed": lx.conj((TAGGED.I + STEP * TAGGED.W).T),
    "tagged product": lx.TaggedLinearOperator(SPD @ SPD, PSD),
    "low rank": LOW_RANK,
    "low rank and identity": TAGGED.I + STEP * LOW_RANK,
    "tridiagonal": lx.TaggedLinearOperator(TRIDIAGONAL + TAGGED.I, PSD),
    "dense and sparse": lx.MatrixLinearOperator(jnp.eye(N), PSD) + SPD,
    "pytree of matrices": lx.PyTreeLinearOperator(jnp.asarray(_definite()), FLAT, PSD),
}
precond = ns.preconditioners
CONSTRUCTORS = [
    precond.Jacobi(),
    precond.SSOR(omega=1.2),
    precond.SSOR(ordering="multicolour"),
    precond.IncompleteCholesky(),
    precond.IncompleteLU(),
    precond.Chebyshev(degree=2),
]


@pytest.mark.parametrize("name", COMPOSED)
def test_compositions_serve_preconditioners(name):
    """As the matrix that they are does, whoever asks for its entries; low rank is written out."""
    operator, r = COMPOSED[name], jnp.asarray(np.random.default_rng(2).normal(size=N))
    matrix, pattern = as_matrix(operator), ns.as_sparse(operator).pattern
    explicit = ns.SparseLinearOperator(matrix[pattern.rows, pattern.indices], pattern, PSD)
    np.testing.assert_array_equal(explicit.as_scipy().toarray(), matrix)
    for constructor in CONSTRUCTORS:
        actual, expected = (constructor(o).mv(r) for o in (operator, explicit))
        np.testing.assert_allclose(actual, expected, rtol=1e-12, err_msg=repr(constructor))


@pytest.mark.parametrize(
    "solver", [ns.CG, ns.FlexibleCG, ns.Chebyshev, ns.MINRES, ns.GMRES, ns.BiCGStab, ns.SOR]
)
def test_compositions_are_solved(solver):
    operator, b = COMPOSED["I + k A"], jnp.asarray(np.random.default_rng(2).normal(size=N))
    x = lx.linear_solve(operator, b, solver(rtol=1e-12)).value
    np.testing.assert_allclose(as_matrix(operator) @ x, b, atol=1e-10)


@pytest.mark.parametrize("assembled", [True, False])
def test_single_precision_stays_single(assembled):
    """lineax takes the bands of an identity for float64."""
    line = ns.StencilLinearOperator.poisson((N,), dtype=jnp.float32)
    line = line.as_sparse() if assembled else line
    operator, b = lx.IdentityLinearOperator(line.in_structure()) + 2.0 * line, jnp.ones(N, jnp.float32)
    for preconditioner in (precond.Jacobi(), precond.Chebyshev(degree=2)):
        x = lx.linear_solve(operator, b, ns.CG(rtol=1e-5, preconditioner=preconditioner)).value
        assert x.dtype == jnp.float32
        np.testing.assert_allclose(operator.as_matrix() @ x, b, rtol=1e-4)


def test_a_sign_that_a_solve_cannot_see_is_seen_before():
    """lineax traces what a solve is given."""
    operator, b = COMPOSED["I + k A, tagged around"], jnp.ones(N)
    with pytest.raises(ValueError, match="not tagged so.*as_sparse"):
        lx.linear_solve(operator, b, ns.CG(rtol=1e-12))
    x = lx.linear_solve(ns.as_sparse(operator), b, ns.CG(rtol=1e-12)).value
    np.testing.assert_allclose(operator.mv(x), b, atol=1e-10)


@pytest.mark.parametrize("first", [True, False])
def test_multigrid_takes_implicit_steps(first):
    field = np.exp(np.random.default_rng(0).normal(size=(9, 8)))
    stencil = ns.StencilLinearOperator.diffusion(field, 0.5, ("neumann", "periodic"))
    identity = lx.IdentityLinearOperator(stencil.in_structure())
    operator = identity + STEP * stencil if first else STEP * stencil + identity
    coefficients = zip(stencil.offsets, map(np.asarray, stencil.coefficients), strict=True)
    sums = {offset: STEP * c + float(not any(offset)) for offset, c in coefficients}
    explicit = ns.StencilLinearOperator.from_stencil(sums, stencil.shape, stencil.periodic, PSD)
    b = jnp.asarray(np.random.default_rng(1).normal(size=(9, 8)))
    solver = ns.CG(rtol=1e-10, preconditioner=precond.Multigrid())
    actual, expected = (lx.linear_solve(o, b, solver) for o in (operator, explicit))
    np.testing.assert_allclose(actual.value, expected.value, rtol=1e-8)
    assert actual.stats["num_steps"] == expected.stats["num_steps"]


def test_gradient_through_a_solve_with_a_shifted_operator():
    """In the values and in the shift, with the tag that the shift keeps."""
    matrix, identity, b = TAGGED.P, TAGGED.I, jnp.asarray(np.random.default_rng(0).normal(size=N))
    solver = ns.CG(rtol=1e-13, preconditioner=precond.IncompleteCholesky())

    def energy(values, shift):
        return lx.linear_solve(matrix.with_values(values) + shift * identity, b, solver).value @ b

    def dense(values, shift):
        return jnp.linalg.solve(matrix.with_values(values).as_matrix() + shift * jnp.eye(N), b) @ b

    actual, expected = (jax.grad(f, (0, 1))(matrix.values, 0.5) for f in (energy, dense))
    for a, e in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, e, atol=1e-10)
    with pytest.raises(ValueError, match="not tagged so"):
        jax.jit(energy)(matrix.values, 0.5)  # the sign is not known

    @jax.jit
    def with_known_sign(values):
        return lx.linear_solve(matrix.with_values(values).add_diagonal(0.5), b, solver).value @ b

    np.testing.assert_allclose(with_known_sign(matrix.values), dense(matrix.values, 0.5), rtol=1e-10)


def test_diagonals_that_are_equal_by_chance_have_their_own_gradients():
    """Symmetric storage would mirror the derivative of one into that of the other."""
    symmetric, d = MIRRORED["S"], PARAMETERS["d"]
    matrix = symmetric.as_matrix()
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, N)))

    def form(left, right):
        operator = DIAGONAL(left) @ symmetric @ DIAGONAL(right)
        return x[0] @ ns.as_sparse(operator).mv(x[1])

    def dense(left, right):
        return x[0] @ (left * (matrix @ (right * x[1])))

    actual, expected = (jax.grad(f, (0, 1))(d, d + 0) for f in (form, dense))
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("rows", "cols", "alike"),
    [
        (None, [0, 2, 5], False),
        ([5, -1, 0, 0], None, False),
        (slice(1, None, 2), np.arange(N) % 2 == 0, False),
        ([4, 3, 5, 1], [-2, 3, 5, 1], True),
        ([], slice(0, 2), False),
    ],
)
@pytest.mark.parametrize("name", ["A", "S", "H"])
def test_selections_are_those_of_numpy(name, rows, cols, alike):
    operator = {"A": GENERAL["A"], "S": MIRRORED["S"], "H": HERMITE}[name]
    every = np.arange(N)
    numbers = [
        every if chosen is None else every[np.array(chosen, int) if isinstance(chosen, list) else chosen]
        for chosen in (rows, cols)
    ]
    selected = operator.select(rows, cols)
    np.testing.assert_array_equal(as_matrix(selected), operator.as_scipy().toarray()[np.ix_(*numbers)])
    assert is_hermitian(selected) == (alike and name != "A")
    if is_hermitian(selected):
        assert selected.triangle.size < selected.nnz  # symmetric storage


def test_values_that_move_on_lose_what_was_derived():
    shifted = TAGGED.M + 0.5 * TAGGED.I
    assert shifted.triangle.size == TAGGED.M.triangle.size  # symmetric storage is kept
    moved = shifted.with_triangle(-shifted.triangle)
    assert lx.is_symmetric(moved) and not lx.is_positive_semidefinite(moved)
    assert not tags_of(shifted.with_values(-shifted.values)) & STRONG
    assert HERMITE.add_diagonal(jnp.ones(N)).triangle.dtype == complex
    given = TAGGED.M.with_triangle(2 * TAGGED.M.triangle)
    assert lx.is_positive_semidefinite(given)  # the user's word for all values
    assert lx.is_positive_semidefinite(ns.as_sparse(TAGGED.W).with_values(2 * TAGGED.P.values))
    said = ns.as_sparse(lx.TaggedLinearOperator(shifted, PSD))  # his word, of what was derived so far
    assert lx.is_positive_semidefinite(said.with_values(2 * said.values))


def test_nothing_is_densified():
    """No array is of the order of the unknowns squared, and a product that would fill up is not formed."""
    n = 2000
    rng = np.random.default_rng(0)
    matrix = sp.csr_array(sp.random_array((n, n), density=3 / n, rng=rng) + sp.eye_array(n))
    a, identity = of_scipy(matrix), lx.IdentityLinearOperator(jax.ShapeDtypeStruct((n,), float))

    def implicit(values):
        b = a.with_values(values)
        total = ns.as_sparse(identity + 0.5 * (b @ b) - b.T)
        return total.select(slice(0, n, 2), None).mv(jnp.ones(n))

    sizes = [
        np.prod(v.aval.shape, dtype=int)
        for eqn in jax.make_jaxpr(implicit)(a.values).eqns
        for v in [*eqn.invars, *eqn.outvars]
    ]
    assert max(sizes) < 40 * n
    first_row = sp.csr_array((np.ones(n), (np.zeros(n, int), np.arange(n))), shape=(n, n))
    arrow = of_scipy(first_row + sp.eye_array(n))
    lazy = arrow.T @ arrow
    assert isinstance(lazy, lx.ComposedLinearOperator)
    np.testing.assert_allclose(lazy.mv(jnp.ones(n)), arrow.as_scipy().T @ (arrow.as_scipy() @ np.ones(n)))
    assert isinstance(arrow @ arrow, SPARSE)


def test_stencils_of_different_walls_are_no_stencil_together():
    walls, ring = (
        ns.StencilLinearOperator.from_stencil({(0, 0): 2.0, (0, 1): -1.0}, GRID, (False, wraps))
        for wraps in (False, True)
    )
    both, x = walls + ring, jnp.asarray(np.random.default_rng(0).normal(size=GRID))
    assert isinstance(both, lx.AddLinearOperator)
    dense = as_matrix(walls) + as_matrix(ring)
    np.testing.assert_allclose(both.mv(x).reshape(-1), dense @ x.reshape(-1), rtol=1e-13)
    np.testing.assert_array_equal(as_matrix(ns.as_sparse(both)), dense)
    still = ns.StencilLinearOperator.from_stencil(
        {(0, 0): 1.0, (1, 0): 0.5}, GRID
    )  # moves along the other axis
    together = still + ring
    assert isinstance(together, STENCIL) and together.periodic == (False, True)
    np.testing.assert_array_equal(together.as_matrix(), still.as_matrix() + ring.as_matrix())


SINGLE = of_scipy(_definite().astype(np.float32))
FUNCTION = ns.function_operator(lambda x: 2 * x, FLAT, PSD)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda a: a + of_scipy(np.eye(3)), ValueError, r"operators alike, but A takes .*6.*B takes .*3"),
        (lambda a: a - of_scipy(np.ones((3, N))), ValueError, "A gives .*6.*B gives .*3"),
        (lambda a: a + SINGLE, ValueError, "float64.*float32"),
        (lambda a: a @ SINGLE, ValueError, "float64.*float32"),
        (lambda a: a + TAGGED.G, ValueError, "operators alike"),
        (lambda a: a + 2.0, TypeError, "add_diagonal"),
        (lambda a: a - np.eye(N), TypeError, "add_diagonal"),
        (lambda a: a @ np.ones(N), TypeError, "A.mv"),
        (lambda a: a @ of_scipy(np.eye(3)), ValueError, "A takes .*6.*B gives .*3"),
        (lambda a: a * a, TypeError, "`A @ B`"),
        (lambda a: a * np.ones(N), ValueError, "needs a number.*DiagonalLinearOperator"),
        (lambda a: np.ones(N) * a, ValueError, "needs a number.*DiagonalLinearOperator"),
        (lambda a: a / jnp.ones((2, 2)), ValueError, "needs a number"),
        (lambda a: "2" * a, TypeError, "`A \\* s` must be floating-point"),
        (lambda a: SINGLE * 1e300, ValueError, "would become infinite"),
        (lambda a: a.add_diagonal(np.ones(3)), ValueError, r"`d` must.*\(6,\).*\(3,\)"),
        (lambda a: a.add_diagonal(TAGGED.D), TypeError, r"write `A \+ D`"),
        (lambda a: TAGGED.G.add_diagonal(np.ones(4)), ValueError, "`d` must"),
        (lambda a: a.select([1]).add_diagonal(1.0), ValueError, "square"),
        (lambda a: a.select([6]), ValueError, r"`rows` must lie in \[-6, 6\)"),
        (lambda a: a.select(None, [-7]), ValueError, "`cols` must lie in"),
        (lambda a: a.select(None, np.ones(5, bool)), ValueError, "`cols` as a mask"),
        (lambda a: a.select(3), ValueError, "`rows` must be flat"),
        (lambda a: a.select([0.5]), TypeError, "`rows` must be integers"),
        (
            lambda a: jax.jit(lambda i: a.select(i).values)(jnp.arange(2)),
            TypeError,
            "`rows` must be concrete",
        ),
        (lambda a: ns.as_sparse(FUNCTION), ValueError, "`as_sparse` needs.*FunctionLinearOperator.*only has"),
        (lambda a: precond.IncompleteLU()(a + FUNCTION), ValueError, "`IncompleteLU` needs the entries"),
        (lambda a: precond.Jacobi()(FUNCTION + a), ValueError, "FunctionLinearOperator, which only has"),
        (lambda a: precond.Multigrid()(TAGGED.G @ TAGGED.G), ValueError, "compact"),
        (lambda a: precond.Multigrid()(TAGGED.I + a), ValueError, "needs a grid"),
        (
            lambda a: ns.as_sparse(
                ns.LowRankPlusDiagonalLinearOperator(jnp.ones(20_000), np.ones((20_000, 1)))
            ),
            ValueError,
            "400000000 entries",
        ),
    ],
)
def test_bad_input_is_named(make, error, message):
    with pytest.raises(error, match=message):
        make(TAGGED.P)
