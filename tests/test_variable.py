"""Preconditioners that are any function of a vector: what they reach, and what never touches them."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns

N = 4
A = ns.StencilLinearOperator.poisson((N, N), 1.0)
DENSE = A.as_scipy().toarray()
rng = np.random.default_rng(0)
B, DIRECTION = rng.standard_normal((2, N, N))
WEIGHTS = 0.05 * rng.standard_normal((N * N, N * N))
SOLVERS = {"flexible_cg": ns.FlexibleCG, "fgmres": ns.FGMRES}
FIXED = {
    "cg": ns.CG,
    "minres": ns.MINRES,
    "gmres": ns.GMRES,
    "bicgstab": ns.BiCGStab,
    "gcro_dr": ns.GCRODR,
    "richardson": ns.Richardson,
}


class Net(eqx.Module):
    weights: jax.Array

    def __call__(self, r):
        change = jnp.tanh(self.weights @ r.ravel()).reshape(r.shape)
        return jnp.asarray(0.25, r.dtype) * (r + change)


class Relaxing(ns.preconditioners.AbstractVariablePreconditioner):
    """Weaker from application to application."""

    def init(self, structure):
        return 1

    def apply(self, r, state):
        return r / state.astype(r.dtype), state + 1

    def linear_part(self, operator):
        return None


NET = Net(jnp.asarray(WEIGHTS))
GIVEN = {
    "module": NET,
    "function": lambda r: NET(r),
    "with a linear part": ns.preconditioners.Variable(NET, linear=ns.preconditioners.Jacobi()),
    "made of the operator": lambda A: lambda r: r / lx.diagonal(A).reshape(r.shape),
}


def operator(coefficient):
    def shrink(y):
        return y / (2 + jnp.abs(y)).astype(y.dtype)

    stencil = ns.StencilLinearOperator.diffusion(coefficient, 1.0, "dirichlet")
    return lx.TaggedLinearOperator(stencil, lx.positive_semidefinite_tag)


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("name", SOLVERS)
def test_solutions_and_gradients_are_exact(name, given):
    solver = SOLVERS[name](rtol=1e-12, preconditioner=GIVEN[given])

    def value(coefficient, b):
        return jnp.sum(jnp.sin(lx.linear_solve(operator(coefficient), b, solver).value))

    coefficient = jnp.exp(0.3 * jnp.asarray(DIRECTION))
    found, slope = jax.jit(jax.value_and_grad(value))(coefficient, B)

    def dense(coefficient):
        matrix = operator(coefficient).as_matrix()
        return jnp.sum(jnp.sin(jnp.linalg.solve(matrix, B.ravel())))

    expected, expected_slope = jax.value_and_grad(dense)(coefficient)
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    np.testing.assert_allclose(slope, expected_slope, atol=1e-9)


@pytest.mark.parametrize("name", SOLVERS)
def test_forward_derivatives_batches_and_eager_calls_agree(name):
    solver = SOLVERS[name](rtol=1e-12, preconditioner=NET)

    def solve(b):
        return lx.linear_solve(A, b, solver).value

    inverse = np.linalg.inv(DENSE)
    expected = (inverse @ DIRECTION.ravel()).reshape(N, N)
    np.testing.assert_allclose(jax.jvp(solve, (B,), (DIRECTION,))[1], expected, atol=1e-10)
    batch = np.stack([B, DIRECTION])
    np.testing.assert_allclose(jax.vmap(solve)(batch)[1], expected, atol=1e-10)


def flexible_cg(apply, b, num_steps):
    """With a window of one direction, in NumPy."""
    x, r, p, q, curvature = np.zeros_like(b), b, None, None, 0.0
    for k in range(num_steps):
        z = apply(r, k)
        p = z if p is None else z - (q @ z) / curvature * p
        q = DENSE @ p
        curvature = p @ q
        x, r = x + (p @ r) / curvature * p, r - (p @ r) / curvature * q
    return x


def fgmres(apply, b, num_steps):
    """One cycle, in NumPy."""
    v, z = [b / np.linalg.norm(b)], []
    for k in range(num_steps):
        z.append(apply(v[k], k))
        w = DENSE @ z[k]
        for _ in range(2):
            w = w - sum((u @ w) * u for u in v)
        v.append(w / np.linalg.norm(w))
    z = np.array(z).T
    return z @ np.linalg.lstsq(DENSE @ z, b)[0]


def net(r, _):
    return 0.25 * (r + np.tanh(WEIGHTS @ r))


MAPS = {"net": (NET, net), "stateful": (Relaxing(), lambda r, k: r / (k + 1))}


@pytest.mark.parametrize("size", [1e-3, 1.0, 3e4])
@pytest.mark.parametrize("kind", MAPS)
@pytest.mark.parametrize("name, reference", [("flexible_cg", flexible_cg), ("fgmres", fgmres)])
def test_iterates_are_those_of_the_textbook_in_any_units(name, reference, kind, size):
    given, apply = MAPS[kind]
    options = {"truncation": 1} if name == "flexible_cg" else {}
    solver = SOLVERS[name](rtol=0.0, max_steps=4, preconditioner=given, **options)
    found = lx.linear_solve(A, size * B, solver, throw=False).value
    expected = reference(apply, size * B.ravel(), 4).reshape(N, N)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10 * size)
    unrolled = ns.unroll(solver, A, size * B, 4).value
    np.testing.assert_allclose(unrolled, expected, rtol=1e-9, atol=1e-10 * size)


def test_memory_goes_on_from_cycle_to_cycle():
    """Two cycles of two steps weaken as four steps do: a scaled preconditioner leaves the iterates alone."""
    solver = ns.FGMRES(rtol=0.0, max_steps=4, restart=2, preconditioner=Relaxing())
    plain = ns.FGMRES(rtol=0.0, max_steps=4, restart=2)
    found, expected = (lx.linear_solve(A, B, s, throw=False).value for s in (solver, plain))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda r: net(r)], ids=["module", "closure"])
def test_unrolled_steps_are_differentiated_in_its_parameters(name, wrap):
    def loss(weights):
        solver = SOLVERS[name](rtol=1e-8, preconditioner=wrap(Net(weights)))
        return jnp.sum(ns.unroll(solver, A, B, 3).value ** 2)

    direction, h = np.random.default_rng(1).standard_normal(WEIGHTS.shape), 1e-6
    slope = np.vdot(jax.jit(jax.grad(loss))(NET.weights), direction)
    expected = (loss(NET.weights + h * direction) - loss(NET.weights - h * direction)) / (2 * h)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("dtype", [np.float32, np.complex128])
def test_other_dtypes_and_trees(name, dtype):
    def shrink(y):
        return y / (2 + jnp.abs(y)).astype(y.dtype)

    stencil = ns.StencilLinearOperator.poisson((N, N), np.ones((), dtype).real, dtype=dtype)
    b = {"a": B.astype(dtype), "b": (DIRECTION * (1j if dtype == np.complex128 else 1)).astype(dtype)}
    tags = [lx.positive_semidefinite_tag]
    tree = lx.FunctionLinearOperator(lambda x: jax.tree.map(stencil.mv, x), jax.eval_shape(lambda: b), tags)
    solver = SOLVERS[name](rtol=1e-5, preconditioner=lambda r: jax.tree.map(shrink, r))
    x = lx.linear_solve(tree, b, solver).value
    for leaf, rhs in zip(jax.tree.leaves(x), jax.tree.leaves(b), strict=True):
        assert leaf.dtype == dtype
        np.testing.assert_allclose(DENSE @ np.asarray(leaf).ravel(), rhs.ravel(), atol=2e-4)


@pytest.mark.parametrize("name", FIXED)
def test_other_solvers_refuse_it(name):
    with pytest.raises(ValueError, match=r"may vary.*`FlexibleCG`.*`FGMRES`"):
        lx.linear_solve(A, B, FIXED[name](rtol=1e-8, preconditioner=lambda r: NET(r)))


BAD = {
    "another shape": (lambda r: r[0], ValueError, "must give vectors of the structure"),
    "another dtype": (lambda r: r.astype(jnp.float32), ValueError, "must give vectors of the structure"),
    "a tuple": (lambda r: (r, r), ValueError, "must give vectors of the structure"),
    "made, of another shape": (lambda A: lambda r: A.mv(r)[0], ValueError, "must give vectors"),
    "nothing that solves": (lambda A: A.undefined, AttributeError, "undefined"),
    "an error in a function of a vector": (lambda r: r @ jnp.ones(3), TypeError, "dot_general|contracting"),
    "text of the operator": (lambda A: A.shape and "text", TypeError, "must be, or make of the operator"),
    "a class": (Net, TypeError, "is the class `Net`"),
    "a number": (3.0, TypeError, "must be a preconditioner constructor"),
}


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("kind", BAD)
def test_bad_maps_are_refused(name, kind):
    given, error, message = BAD[kind]
    with pytest.raises(error, match=message):
        lx.linear_solve(A, B, SOLVERS[name](rtol=1e-8, preconditioner=given))


@pytest.mark.parametrize("name", SOLVERS)
def test_nan_is_the_reason_and_the_start_is_kept(name):
    def late(r):  # finite on the first residuals
        return jnp.where(jnp.max(jnp.abs(r)) > 0.1, r, jnp.nan)

    for given in (lambda r: jnp.nan * r, late)[: 2 if name == "flexible_cg" else 1]:
        solution = lx.linear_solve(A, B, SOLVERS[name](rtol=1e-12, preconditioner=given), throw=False)
        assert solution.stats["reason"] == ns.linear.REASONS.variable_failed
        assert np.linalg.norm(A.mv(solution.value) - B) <= np.linalg.norm(B)


def test_a_preconditioner_is_handed_over_once():
    jacobi = ns.preconditioners.Jacobi()
    solver = ns.CG(rtol=1e-8, preconditioner=jacobi)
    state = solver.init(A, {})
    lx.linear_solve(A, B, solver, state=state)
    with pytest.raises(ValueError, match=r"two preconditioners"):
        lx.linear_solve(A, B, solver, state=state, options={"preconditioner": jacobi(A)})
    # `lx.invert` hands over a state and the options that it was made from.
    inverse = lx.invert(A, ns.CG(rtol=1e-12), options={"preconditioner": jacobi(A)})
    np.testing.assert_allclose(A.mv(inverse.mv(B)), B, atol=1e-10)


def test_linear_parts_are_checked():
    wrong = ns.preconditioners.Variable(
        NET, linear=lx.IdentityLinearOperator(jax.ShapeDtypeStruct((3,), float))
    )
    with pytest.raises(ValueError, match="linear part of Variable must act on"):
        jax.grad(lambda b: jnp.sum(lx.linear_solve(A, b, ns.FGMRES(rtol=1e-8, preconditioner=wrong)).value))(
            B
        )
    with pytest.raises(TypeError, match=r"`Variable\(linear=...\)` must be"):
        ns.preconditioners.Variable(NET, linear=3)
    with pytest.raises(TypeError, match=r"`Variable\(function=...\)` must be"):
        ns.preconditioners.Variable(3)


TREE = {"a": jnp.zeros((3, 2)), "b": jnp.zeros(4)}


def tree_operator(matrix, kind):
    """A matrix on trees, as one that stores its entries and as a function."""
    structure = jax.eval_shape(lambda: TREE)
    flat, unravel = jax.flatten_util.ravel_pytree(TREE)
    if kind == "function":
        return lx.FunctionLinearOperator(
            lambda x: unravel(matrix @ jax.flatten_util.ravel_pytree(x)[0]), structure, PSD
        )
    sizes = {"a": ((3, 2), slice(0, 6)), "b": ((4,), slice(6, 10))}
    blocks = {
        i: {j: matrix[rows, columns].reshape(*m, *n) for j, (n, columns) in sizes.items()}
        for i, (m, rows) in sizes.items()
    }
    return lx.PyTreeLinearOperator(blocks, structure, PSD)


def flat_operator(matrix, kind):
    if kind == "function":
        return lx.FunctionLinearOperator(lambda x: matrix @ x, jax.ShapeDtypeStruct((10,), float), PSD)
    return lx.MatrixLinearOperator(matrix, PSD)


PSD = frozenset({lx.positive_semidefinite_tag, lx.symmetric_tag})
ON_TREES = [
    ("Jacobi", "pytree"),
    ("SSOR", "pytree"),
    ("IncompleteCholesky", "pytree"),
    ("Chebyshev", "function"),
]


@pytest.mark.parametrize("name, kind", ON_TREES)
def test_operators_on_trees_are_preconditioned_as_flat_ones(name, kind):
    root = np.random.default_rng(2).standard_normal((10, 10))
    matrix = jnp.asarray(root @ root.T + np.diag(10.0 ** np.arange(10)))
    operator, constructor = tree_operator(matrix, kind), getattr(ns.preconditioners, name)()
    preconditioner = constructor(operator)
    flat = constructor(flat_operator(matrix, kind))
    x = jnp.arange(1.0, 11.0)
    _, unravel = jax.flatten_util.ravel_pytree(TREE)
    for found, expected in (
        (preconditioner, flat),
        (preconditioner.transpose(), flat.transpose()),
        (
            preconditioner.refresh(tree_operator(2 * matrix, kind)),
            constructor(flat_operator(2 * matrix, kind)),
        ),
    ):
        value = jax.flatten_util.ravel_pytree(found.mv(unravel(x)))[0]
        np.testing.assert_allclose(value, expected.mv(x), rtol=1e-6)
    assert lx.is_positive_semidefinite(preconditioner)

    def solve(matrix, b):
        solver = ns.CG(rtol=1e-12, preconditioner=constructor)
        return jax.flatten_util.ravel_pytree(lx.linear_solve(tree_operator(matrix, kind), b, solver).value)[0]

    b = unravel(x)
    np.testing.assert_allclose(solve(matrix, b), np.linalg.solve(matrix, x), rtol=1e-8)
    slope = jax.grad(lambda m: jnp.sum(solve(m, b)))(matrix)
    y = np.linalg.solve(matrix, np.ones(10))
    np.testing.assert_allclose(slope, -np.outer(y, np.linalg.solve(matrix, x)), rtol=1e-6, atol=1e-12)
