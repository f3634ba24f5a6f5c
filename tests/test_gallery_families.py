"""Families of systems: what every one promises, and each one's equation."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
import scipy.sparse.linalg as spla

from nsolve.gallery.families import FAMILIES, Darcy, Heat, Helmholtz, Poisson, Thermal
from nsolve.gallery.fields import chebyshev_values, gaussian_random_field
from tests import gallery_reference as reference

OPTIONS = {"darcy, threshold": {"field": "threshold"}, "helmholtz, static": {"waves": 0}}
VARIANTS = [*FAMILIES, *OPTIONS]
SIZE = {name: 20 if name.startswith("helmholtz") else 12 for name in VARIANTS}
KEY = jax.random.key(3)


def family(name, larger=0):
    return FAMILIES[name.split(",")[0]](SIZE[name] + larger, **OPTIONS.get(name, {}))


def solve(system, parameter):
    """The sample's last solution, by SciPy's direct solver."""
    matrix, x = system.operator(parameter).as_scipy().tocsc(), None
    for _ in range(system.num_solves):
        x = spla.spsolve(matrix, np.asarray(system.vector(parameter, x if x is None else jnp.asarray(x))))
    return x


@pytest.mark.parametrize("name", VARIANTS)
class TestEveryFamily:
    def test_shapes_and_names(self, name):
        system = family(name)
        parameter = system.sample(KEY)
        size = system.operator(parameter).in_size()
        assert system.vector(parameter).shape == (size,)
        assert system.features(parameter).ndim == 1
        assert system.input_field(parameter).shape == (len(system.channels), *system.grid)
        assert system.solution_field(parameter, jnp.ones(size)).shape == system.grid
        assert system.solution_field(parameter, jnp.ones(size)).sum() == size

    def test_one_pattern_also_while_tracing(self, name):
        system = family(name, 1)  # a size that no other test has set up
        jax.eval_shape(lambda key: system.operator(system.sample(key)), KEY)
        first, second = (system.operator(system.sample(jax.random.key(k))) for k in (0, 1))
        assert first.pattern == second.pattern
        assert not np.array_equal(first.values, second.values)
        keys = jax.random.split(KEY, 2)
        stacked = jax.jit(jax.vmap(lambda key: system.operator(system.sample(key)).values))(keys)
        for key, values in zip(keys, stacked, strict=True):
            np.testing.assert_allclose(values, system.operator(system.sample(key)).values, rtol=1e-12)

    def test_tags_are_true(self, name):
        system = family(name)
        operator = system.operator(system.sample(KEY))
        matrix = operator.as_scipy().toarray()
        assert lx.is_symmetric(operator) and np.array_equal(matrix, matrix.T)
        smallest = np.linalg.eigvalsh(matrix)[0]
        if lx.is_positive_semidefinite(operator):
            assert smallest > 0
        else:
            assert name.startswith("helmholtz")
            assert (smallest < 0) == (name == "helmholtz")

    def test_derivatives_in_the_parameter(self, name):
        system = family(name)
        parameter = system.sample(KEY)
        x = jnp.linspace(-1, 1, system.operator(parameter).in_size())

        def residual(parameter):
            return jnp.sum((system.vector(parameter) - system.operator(parameter).mv(x)) ** 2)

        direction = jax.tree.map(jnp.ones_like, parameter)
        gradient = jax.jit(jax.grad(residual))(parameter)
        slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
        values = [
            float(residual(jax.tree.map(lambda p, d, e=e: p + e * d, parameter, direction)))
            for e in (-1e-5, 1e-5)
        ]
        assert slope == pytest.approx((values[1] - values[0]) / 2e-5, rel=1e-5)

    def test_stencil_and_reference(self, name):
        system = family(name)
        parameter = system.sample(KEY)
        matrix = system.operator(parameter)
        x = jax.random.normal(KEY, matrix.in_structure().shape)
        field = system.solution_field(parameter, x)
        np.testing.assert_array_equal(system.flatten(field), x)
        product = system.stencil(parameter).mv(field)
        np.testing.assert_allclose(system.flatten(product), matrix.mv(x), rtol=1e-9, atol=1e-9)
        # Cells that are no unknowns stay as they are, and have no part in the others.
        assert jnp.sum(product**2) == pytest.approx(jnp.sum(matrix.mv(x) ** 2))
        assert system.as_sparse(system.reference()).pattern == matrix.pattern
        reference = system.reference().as_scipy().toarray()
        assert lx.is_positive_semidefinite(system.reference())
        assert np.linalg.eigvalsh(reference)[0] > 0


class TestEquations:
    """Each against a matrix assembled without this library, or a solution known in closed form."""

    def test_darcy(self):
        system = Darcy(12)
        parameter = system.sample(KEY)
        other = reference.diffusion(np.asarray(parameter["permeability"]), 1 / 12)
        assert abs(system.operator(parameter).as_scipy() - other).max() < 1e-9
        assert np.all(np.asarray(system.vector(parameter)) == 1)
        threshold = Darcy(12, field="threshold").sample(KEY)["permeability"]
        assert set(np.unique(threshold)) == {3.0, 12.0}

    def test_poisson_reproduces_a_linear_solution(self):
        system = Poisson(10)
        x = (np.arange(10) + 0.5) / 10
        zero, one = np.zeros(10), np.ones(10)
        parameter = {"medium": np.ones((10, 10)), "source": np.zeros((10, 10)),
                     "walls": np.stack([2 * zero + x, 3 * one + x, 3 * x, 1 + 3 * x])}  # fmt: skip
        # u = 3 s + x with s down the rows: top s = 0, bottom s = 1, left x = 0, right x = 1.
        solution = solve(system, jax.tree.map(jnp.asarray, parameter))
        np.testing.assert_allclose(solution.reshape(10, 10), 3 * x[:, None] + x, atol=1e-12)

    def test_helmholtz_counts_the_modes_below_k(self):
        system = Helmholtz(24)
        parameter = {"medium": jnp.ones((24, 24)), "wave_number": jnp.full((24, 24), 4 * np.pi)}
        eigenvalues = np.linalg.eigvalsh(system.operator(parameter).as_scipy().toarray())
        modes = sum(i**2 + j**2 < 16 for i in range(1, 5) for j in range(1, 5))
        assert np.sum(eigenvalues < 0) == modes == 8

    def test_heat_decays_at_the_rate_of_its_mode(self):
        system = Heat(24, time=0.05, steps=10)
        x = (np.arange(24) + 0.5) / 24
        mode = np.sin(np.pi * x)[:, None] * np.sin(np.pi * x)
        parameter = {"start": jnp.asarray(mode), "conductivity": jnp.ones((24, 24))}
        np.testing.assert_allclose(
            solve(system, parameter).reshape(24, 24), np.exp(-2 * np.pi**2 * 0.05) * mode, rtol=1e-2
        )

    def test_thermal_entry_by_entry(self):
        n = 8
        system = Thermal(n)
        parameter = system.sample(KEY)
        a, slit = np.asarray(parameter["conductivity"]), np.zeros((n, n), bool)
        slit[2:6, 3:5] = True
        number = {cell: k for k, cell in enumerate(zip(*np.nonzero(~slit), strict=True))}
        matrix, b = np.zeros((len(number),) * 2), np.zeros(len(number))
        for (i, j), row in number.items():
            for neighbour in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                if neighbour in number:
                    face = 2 / (1 / a[i, j] + 1 / a[neighbour]) * n**2
                    matrix[row, row] += face
                    matrix[row, number[neighbour]] -= face
            for wall, side in ((0, "left"), (n - 1, "right")):
                if j == wall:
                    matrix[row, row] += 2 * a[i, j] * n**2
                    b[row] += 2 * a[i, j] * n**2 * float(parameter[side])
        np.testing.assert_allclose(system.operator(parameter).as_scipy().toarray(), matrix, atol=1e-9)
        np.testing.assert_allclose(system.vector(parameter), b, atol=1e-9)

    def test_thermal_goes_around_the_slit(self):
        system = Thermal(20)
        parameter = {**system.sample(KEY), "conductivity": jnp.ones((20, 20))}
        x = np.asarray(system.solution_field(parameter, jnp.asarray(solve(system, parameter))))
        left, right = float(parameter["left"]), float(parameter["right"])
        slit = x[5:15, 9:11]
        assert slit.shape == (10, 2) and np.all(slit == 0)
        assert left < x[:, 0].min() and x[:, -1].max() < right
        # Above the slit the flow is as through a narrow block, before it the block holds it up.
        np.testing.assert_allclose(x, x[::-1], atol=1e-8)
        np.testing.assert_allclose(x[slit.shape[0], 8] + x[slit.shape[0], 11], left + right, atol=1e-8)
        assert x[10, 11] - x[10, 8] > 2 * (x[0, 11] - x[0, 8])


def test_gaussian_field_has_its_covariance():
    size, alpha, tau = 8, 2.5, 7.0
    draw = jax.jit(jax.vmap(lambda key: gaussian_random_field(key, (size, size), alpha, tau)))
    fields = np.asarray(draw(jax.random.split(KEY, 20_000))).reshape(20_000, -1)
    x = (np.arange(size) + 0.5) / size
    basis = (
        np.cos(np.pi * np.arange(size)[:, None] * x) * np.where(np.arange(size) > 0, np.sqrt(2), 1)[:, None]
    )
    waves = np.pi**2 * np.add.outer(np.arange(size) ** 2, np.arange(size) ** 2)
    spectrum = tau ** (2 * alpha - 2) * (waves + tau**2) ** -alpha
    spectrum[0, 0] = 0
    modes = np.einsum("ai,bj->abij", basis, basis).reshape(size**2, size**2)
    expected = modes.T @ np.diag(spectrum.ravel()) @ modes
    sampled = fields.T @ fields / len(fields)
    # The sampled covariance's own standard deviation is at most sqrt(2 / 20 000) of the variances.
    assert np.abs(sampled - expected).max() < 0.05 * expected.max()
    assert np.abs(fields.mean(1)).max() < 1e-12


def test_gaussian_field_in_other_dimensions_and_bad_options():
    assert gaussian_random_field(KEY, (9,), 1.0).shape == (9,)
    assert gaussian_random_field(KEY, (3, 4, 5)).shape == (3, 4, 5)
    with pytest.raises(ValueError, match="`alpha` must exceed half"):
        gaussian_random_field(KEY, (8, 8), 1.0)
    with pytest.raises(ValueError, match="`tau` must be positive"):
        gaussian_random_field(KEY, (8, 8), 2.0, 0.0)


def test_chebyshev_values():
    x = 2 * (np.arange(5) + 0.5) / 5 - 1
    values = chebyshev_values(jnp.asarray([[0.0, 1.0], [2.0, 0.0], [0.0, 3.0]]), 5)
    expected = x + 2 * x[:, None] + 3 * (2 * x[:, None] ** 2 - 1) * x
    np.testing.assert_allclose(values, expected, atol=1e-14)
