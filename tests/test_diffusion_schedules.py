"""Schedules, grids and the functions of exponential integrators against formulas in many digits."""

import math
from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nsolve import diffusion as D
from nsolve.diffusion.phi import lagrange, phi

HALF_PI = Decimal("1.5707963267948966192313216916397514420985846996876")
BETAS = np.linspace(1e-4, 0.02, 1000)
SCHEDULES = {
    "vp": D.VPLinear(),
    "vp constant": D.VPLinear(beta_min=3.0, beta_max=3.0),
    "cosine": D.VPCosine(),
    "ve": D.VE(),
    "edm": D.EDM(),
    "flow": D.Flow(),
    "flow shifted": D.Flow(shift=3.0),
    "discrete": D.Discrete(np.cumprod(1 - BETAS)),
    "functions": D.FromFunctions(
        lambda t: jnp.log1p(-t), lambda t: jnp.log(t) + 0.1 * jnp.sin(t), t_min=1e-3, t_max=0.999
    ),
}
named = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES.keys())


@named
@settings(max_examples=25, deadline=None)
@given(fraction=st.floats(0.0, 1.0))
def test_inverse(schedule, fraction):
    last = min(schedule.t_max, 0.999) if isinstance(schedule, D.Flow) else schedule.t_max
    t = np.asarray(schedule.t_min + fraction * (last - schedule.t_min))
    lam = schedule.lam(t)
    np.testing.assert_allclose(schedule.t_of_lam(lam), t, rtol=1e-8, atol=1e-10)


@named
def test_host_and_device_agree_and_differentiate(schedule):
    t = np.linspace(schedule.t_min, schedule.t_max, 8)[1:-1] + 0.01
    lam = schedule.lam(t)
    of_t = (schedule.log_alpha, schedule.log_sigma, schedule.lam)
    for function, at in (*((function, t) for function in of_t), (schedule.t_of_lam, lam)):
        host = function(at)
        assert isinstance(host, np.ndarray) and host.dtype == np.float64
        np.testing.assert_allclose(function(jnp.asarray(at)), host, rtol=1e-10, atol=1e-12)
        h = 1e-6
        slope = (function(at + h) - function(at - h)) / (2 * h)
        traced = jax.vmap(jax.grad(function))(jnp.asarray(at))
        np.testing.assert_allclose(traced, slope, rtol=1e-4, atol=1e-7)


def test_variance_preserving():
    for name in ("vp", "cosine", "discrete"):
        schedule = SCHEDULES[name]
        t = np.linspace(schedule.t_min, schedule.t_max, 50)
        np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1.0, rtol=1e-12)


@pytest.mark.parametrize("t", [1e-9, 1e-5, 1e-3, 0.3, 0.99])
def test_no_digit_is_lost_near_the_data(t):
    """sigma = sqrt(1 - alpha^2) at small t, in forty digits; the cosine by its series."""
    with localcontext() as context:
        context.prec = 40
        log_alpha = -(Decimal(t) ** 2) * (Decimal(20) - Decimal(0.1)) / 4 - Decimal(t) * Decimal(0.1) / 2
        linear = (1 - (2 * log_alpha).exp()).sqrt()

        def cosine_of(u):
            angle = (u + Decimal(0.008)) / (1 + Decimal(0.008)) * HALF_PI
            return sum((-1) ** k * angle ** (2 * k) / math.factorial(2 * k) for k in range(20))

        cosine = (1 - (cosine_of(Decimal(t)) / cosine_of(Decimal(0))) ** 2).sqrt()
    np.testing.assert_allclose(D.VPLinear().sigma(np.asarray(t)), float(linear), rtol=1e-14)
    np.testing.assert_allclose(D.VPCosine().sigma(np.asarray(t)), float(cosine), rtol=1e-12)


def test_published_formulas():
    t = np.linspace(0.1, 0.9, 5)
    np.testing.assert_allclose(D.VPLinear().alpha(t), np.exp(-0.25 * t**2 * 19.9 - 0.05 * t), rtol=1e-14)
    np.testing.assert_allclose(D.EDM().sigma(t), t)
    np.testing.assert_allclose(D.VE().sigma(t), 0.01 * 5000**t)
    shifted = 3 * t / (1 + 2 * t)
    np.testing.assert_allclose(D.Flow(shift=3.0).sigma(t), shifted)
    np.testing.assert_allclose(D.Flow(shift=3.0).alpha(t), 1 - shifted)
    np.testing.assert_allclose(D.Flow(shift=3.0).model_time(t), shifted)
    steps, products = np.arange(0.0, 1000.0, 111.0), np.cumprod(1 - BETAS)
    np.testing.assert_allclose(
        D.Discrete(products).alpha(steps) ** 2, products[steps.astype(int)], rtol=1e-13
    )


@named
@pytest.mark.parametrize("make", [D.log_snr_grid, D.uniform_grid, D.quadratic_grid, D.karras_grid])
def test_grids(schedule, make):
    end = schedule.t_min if schedule.t_min > 0 or make is not D.karras_grid else 1e-3
    start = 0.999 if isinstance(schedule, D.Flow) else schedule.t_max
    t = make(9, start=start, end=end)(schedule)
    assert t.shape == (10,) and t[0] == start and t[-1] == end and np.all(np.diff(t) < 0)
    even = {
        D.log_snr_grid: schedule.lam,
        D.uniform_grid: lambda t: t,
        D.quadratic_grid: np.sqrt,
        D.karras_grid: lambda t: np.exp(-schedule.lam(t) / 7.0),
    }[make](t)
    np.testing.assert_allclose(np.diff(even), np.diff(even).mean(), rtol=1e-5)


def test_karras_grid_is_the_papers():
    i = np.arange(18)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(D.karras_grid(17)(D.EDM()), sigma, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(z=st.floats(-50, 50), order=st.integers(1, 6))
def test_phi(z, order):
    """Against the series in sixty digits."""
    with localcontext() as context:
        context.prec = 60
        term, expected = 1 / Decimal(math.factorial(order)), Decimal(0)
        for k in range(1, 250):
            expected += term
            term *= Decimal(z) / (order + k)
    np.testing.assert_allclose(phi(order, np.asarray(z)), float(expected), rtol=2e-12)


@pytest.mark.parametrize("z", [0.0, 1e-6, -1e-3, 0.03, -2.0, 5.9, 6.1, -30.0])
def test_phi_in_single_precision_and_its_derivative(z):
    for order in (1, 2, 3):
        exact = float(phi(order, np.asarray(z)))
        single = phi(order, jnp.float32(z))
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact, rtol=2e-6)
        # phi_k' = phi_k - k phi_{k+1}, from the integral
        k = order
        derivative = exact - float(_one_less(k, z))
        np.testing.assert_allclose(jax.grad(lambda y, k=k: phi(k, y))(z), derivative, rtol=1e-8, atol=1e-12)


def _one_less(k, z):
    """int (1 - (1 - s)) e^{(1-s) z} s^{k-1}/(k-1)! ds = k phi_{k+1}."""
    return k * phi(k + 1, np.asarray(z))


def test_lagrange():
    nodes = np.array([[0.0, -1.0, -2.5, 1.0]])
    coefficients = lagrange(nodes)
    for j in range(4):
        values = np.polynomial.polynomial.polyval(nodes[0], coefficients[0, j])
        np.testing.assert_allclose(values, np.eye(4)[j], atol=1e-13)
