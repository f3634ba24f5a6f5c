"""DEIS, Runge-Kutta, EDM, PNDM and the accelerated samplers: what the laws and the golden records leave
open."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from nsolve import diffusion as D
from tests import diffusion_reference as reference

VP = D.VPLinear()


def slope(steps, errors) -> float:
    return -float(np.polyfit(np.log2(steps), np.log2(errors), 1)[0])


# --- DEIS: the coefficients


SCHEDULES = {"vp": VP, "cosine": D.VPCosine(), "ve": D.VE(), "edm": D.EDM(), "flow": D.Flow(shift=3.0)}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("variable", ["t", "rho"])
def test_deis_integrates_lagrange_polynomials(name, variable):
    """Every weight against adaptive quadrature in lam, also over steps that are far too long."""
    schedule = SCHEDULES[name]
    times = schedule.t_of_lam(np.array([-3.5, -1.5, -1.0, 1.0, 3.0]))
    plan = D.DEIS(3, variable).plan(times, schedule)
    points = D.Points.of(schedule, times)

    def w(lam):
        return schedule.t_of_lam(np.asarray(lam)) if variable == "t" else np.exp(-lam)

    for i in range(4):
        nodes = range(max(i - 2, 0), i + 1)
        for j in nodes:
            others = [w(points.lam[k]) for k in nodes if k != j]

            def integrand(lam, others=others, j=j):
                basis = np.prod([(w(lam) - other) / (w(points.lam[j]) - other) for other in others])
                return -basis * np.exp(-lam)

            exact = quad(integrand, points.lam[i], points.lam[i + 1], epsabs=0, epsrel=1e-12)[0]
            weight = plan.weights[i + 1, 1 + j % 3] / points.alpha[i + 1]
            np.testing.assert_allclose(weight, exact, rtol=1e-10)


def test_deis_on_an_even_grid_in_rho_is_adams_bashforth():
    plan = D.DEIS(4, "rho").plan(np.linspace(9.0, 1.0, 9), D.EDM())
    np.testing.assert_allclose(
        plan.weights[6, 1 + np.array([5, 4, 3, 2]) % 4], -np.array([55, -59, 37, -9]) / 24, rtol=1e-12
    )


# --- One method under two names


IDENTITIES = {
    "DEIS in log rho is UniP": (D.DEIS(3, "log_rho"), D.UniPC(3, corrector=False, prediction="eps"), 20),
    "IPNDM is DEIS in t": (D.IPNDM(3), D.DEIS(3, "t"), 8),
    "RF-Solver is the midpoint rule": (D.RFSolver(), D.FlowRK("midpoint"), 8),
    "Heun without churn is Heun": (D.EDMHeun(), D.RhoRK("heun"), 8),
    "EDM's family holds the midpoint": (D.EDMHeun(alpha=0.5), D.RhoRK("midpoint"), 8),
    "Euler in rho is DDIM": (D.RhoRK("euler"), D.DDIM(), 8),
    "Euler in the flow's time is DDIM": (D.FlowRK("euler"), D.DDIM(), 8),
    "one output of DEIS is DDIM": (D.DEIS(1, "t"), D.DDIM(), 8),
    "published IPNDM-1 is DDIM": (D.IPNDM(1, legacy=True), D.DDIM(), 8),
}


@pytest.mark.parametrize("name", IDENTITIES)
def test_identities(name):
    first, second, steps = IDENTITIES[name]
    grid = VP.t_of_lam(np.linspace(-2.5, 2.0, steps + 1))
    x = reference.starts(4)
    one, other = (reference.run_plan(s.plan(grid, VP), x) for s in (first, second))
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


# --- Evaluations, and registers that know the past


COUNTS = [
    (D.PNDM("S"), 9),
    (D.PNDM("F"), 17),
    (D.PNDM("PLMS"), 9),
    (D.EDMHeun(), 16),
    (D.AcceleratedDDIM(), 8),
    (D.AcceleratedDDIM(reuse=False), 15),
    (D.AcceleratedDDPM(), 8),
    (D.RhoRK("rk4"), 32),
    (D.RFSolver(), 16),
    (D.DEIS(3), 8),
]


@pytest.mark.parametrize("sampler, count", COUNTS, ids=[repr(sampler) for sampler, _ in COUNTS])
def test_number_of_evaluations(sampler, count):
    assert sampler.plan(D.log_snr_grid(8), VP).num_evaluations == count


@pytest.mark.parametrize("known", [1, 2, 3, 5])
def test_pndm_carries_on_from_known_outputs(known):
    """Start-up steps that lie in the past are left out, and the rest is the same."""
    grid = VP.t_of_lam(np.linspace(-2.5, 2.0, 9))
    whole, rest = D.PNDM("F").plan(grid, VP), D.PNDM("F").plan(grid, VP, known=known)
    skipped = 4 * min(known, 3) + max(known - 3, 0)
    assert rest.num_evaluations == whole.num_evaluations - skipped
    if known >= 3:  # the registers of outputs, which are the first four
        np.testing.assert_array_equal(rest.weights[1:], whole.weights[1 + skipped :, [0, 1, 2, 3, 4, -1]])
    else:
        np.testing.assert_array_equal(rest.weights[1:], whole.weights[1 + skipped :])
    np.testing.assert_array_equal(rest.registers, whole.registers[skipped:])


# --- The ends of the noise


FREE_OF_NOISE = [
    D.DEIS(3, "t"),
    D.DEIS(3, "rho"),
    D.DEIS(3, "log_rho"),
    D.IPNDM(4),
    D.IPNDM(4, legacy=True),
    D.PNDM("S"),
    D.PNDM("F"),
    D.PNDM("PLMS", legacy=True),
    D.RhoRK("heun"),
    D.RhoRK("rk4"),
    D.RhoRK("ssprk3"),
    D.RhoRK("ralston3"),
    D.FlowRK("heun"),
    D.FlowRK("rk4"),
    D.RFSolver(),
    D.EDMHeun(),
    D.EDMHeun(churn=3.0),
    D.EDMHeun(alpha=0.5),
    D.AcceleratedDDIM(),
    D.AcceleratedDDIM(reuse=False),
    D.AcceleratedDDPM(),
]


@pytest.mark.parametrize("sampler", FREE_OF_NOISE, ids=repr)
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("schedule", [VP, D.Flow(), D.EDM()], ids=lambda schedule: type(schedule).__name__)
def test_one_point_of_data_is_reached(sampler, steps, schedule):
    """A grid may end at sigma = 0. With one point of data the noise of a trajectory is constant, so all
    methods that integrate a constant arrive, and those that add noise must have taken it away."""
    grid = np.linspace(0.8, 0.0, steps + 1)
    plan = sampler.plan(grid, schedule)
    normal = np.random.default_rng(0).normal(size=(40, 4, 2))
    point = np.array([0.3, -0.8])
    result = reference.run_plan(
        plan,
        reference.starts(4),
        lambda x, *_: np.broadcast_to(point, x.shape),
        noise=lambda row: normal[row],
    )
    np.testing.assert_allclose(result, np.broadcast_to(point, result.shape), atol=1e-12)


FLOW_STEPS = {
    "euler": lambda u, x, s, h: x + h * u(x, s),
    "midpoint": lambda u, x, s, h: x + h * u(x + 0.5 * h * u(x, s), s + 0.5 * h),
    "heun": lambda u, x, s, h: x + 0.5 * h * (u(x, s) + u(x + h * u(x, s), s + h)),
    "kutta3": lambda u, x, s, h: _kutta3(u, x, s, h),
}


def _kutta3(u, x, s, h):
    a = u(x, s)
    b = u(x + 0.5 * h * a, s + 0.5 * h)
    return x + h / 6 * (a + 4 * b + u(x + h * (2 * b - a), s + h))


@pytest.mark.parametrize("name", FLOW_STEPS)
def test_flows_from_pure_noise(name):
    """From t = 1, where a flow has no signal, in its own time: the textbook's loop."""
    schedule = D.Flow(shift=3.0)
    grid = np.linspace(1.0, 0.05, 7)

    def velocity(x, s):
        x0 = reference.clean(x, 1 - s, s)
        return (x - x0) / s

    x = reference.starts(4)
    s = schedule.model_time(grid)
    for start, end in zip(s[:-1], s[1:], strict=True):
        x = FLOW_STEPS[name](velocity, x, start, end - start)
    for sampler in [D.FlowRK(name), *([D.RFSolver()] if name == "midpoint" else [])]:
        result = reference.run_plan(sampler.plan(grid, schedule), reference.starts(4))
        np.testing.assert_allclose(result, x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("prediction", ["flow", "x0", "v"])
def test_networks_at_pure_noise(prediction):
    """All predictions that say something where there is no signal give the same sample from there to the
    data."""
    schedule, grid = D.Flow(), np.linspace(1.0, 0.0, 6)

    def network(x, t):
        x0 = 0.3 * jnp.tanh(x + t)
        eps = (x - (1 - t) * x0) / t
        return {"x0": x0, "flow": eps - x0, "v": (1 - t) * eps - t * x0}[prediction]

    def x0_of(x, alpha, sigma):
        return 0.3 * np.tanh(x + sigma)

    result = D.sample(
        D.Denoiser(network, prediction, schedule), D.RFSolver(), jnp.asarray(reference.starts(4)), grid
    ).value
    expected = reference.run_plan(D.RFSolver().plan(grid, schedule), reference.starts(4), x0_of)
    np.testing.assert_allclose(result, expected, rtol=1e-11, atol=1e-12)


# --- EDM


def test_churn_differentiates():
    """In churn, the noise's scale and the grid, backwards, where parts of the grid are without churn, and
    also where the cap on churn binds."""
    grid = np.array([9.0, 6.0, 0.5, 0.1])

    def some_number(churn, scale, shift):
        weights = D.EDMHeun(churn, 0.2, 7.0, scale).plan(grid + shift, D.EDM()).weights
        return jnp.sum(weights * np.cos(np.arange(weights.size)).reshape(weights.shape))

    gradient = jax.jit(jax.grad(some_number, argnums=(0, 1, 2)))
    for churn in (0.8, 3.0):
        at = np.array([churn, 1.1, 0.0])
        finite = [(some_number(*(at + h)) - some_number(*(at - h))) / 2e-5 for h in 1e-5 * np.eye(3)]
        np.testing.assert_allclose(gradient(*at), finite, rtol=1e-6, atol=1e-8)


def test_churn_leaves_the_distribution():
    """Fresh noise raises the variance to that of a noisier time: with many steps only the drift's error is
    left."""
    errors = [_variance_error(D.EDMHeun(churn=1e3, churn_max=2.0), n) for n in (20, 40, 80, 160)]
    assert slope([20, 40, 80, 160], errors) > 0.8 and errors[-1] < 0.02
    assert _variance_error(D.EDMHeun(churn=1e3, churn_max=2.0, noise_scale=1.2), 160) > 0.05


def _variance_error(sampler, num_steps: int, data: float = 0.5) -> float:
    """Relative error of the variance of samples for normal data of a given variance.

    The network is linear, so the sample is, too: in x_T and in each row's noise. Their factors come from one
    run over the unit vectors."""
    schedule = D.VPLinear()
    points = D.Points.of(schedule, schedule.t_of_lam(np.linspace(-1.5, 2.0, num_steps + 1)))
    plan = sampler.plan(points.t, schedule)
    unit = np.eye(plan.num_evaluations + 2)
    unit[0] *= np.sqrt(points.alpha[0] ** 2 * data + points.sigma[0] ** 2)

    def x0_of(x, alpha, sigma):
        return alpha * data / (alpha**2 * data + sigma**2) * x

    factors = reference.run_plan(plan, unit[0], x0_of, noise=lambda row: unit[row + 1])
    return float(abs(np.sum(factors**2) / (points.alpha[-1] ** 2 * data + points.sigma[-1] ** 2) - 1))


# --- Li et al.


def test_accelerated_ddpm_has_weak_order_two():
    steps = [20, 40, 80, 160]
    accelerated = [_variance_error(D.AcceleratedDDPM(), n) for n in steps]
    euler = [_variance_error(D.DDPM(), n) for n in steps]
    assert abs(slope(steps, accelerated) - 2) < 0.15, accelerated
    assert abs(slope(steps, euler) - 1) < 0.15, euler
    assert accelerated[-1] < 0.1 * euler[-1]


@pytest.mark.parametrize("reuse", [True, False])
def test_accelerated_ddim_is_what_its_authors_wrote(reuse):
    """Their formula in alpha^2, with the integral's closed form; the other output from the past or by a step
    back."""
    schedule = D.VPCosine()
    points = D.Points.of(schedule, schedule.t_of_lam(np.linspace(-1.5, 2.0, 7)))
    square, rho = points.alpha**2, np.exp(-points.lam)

    def eps(x, i):
        return (x - points.alpha[i] * reference.clean(x, points.alpha[i], points.sigma[i])) / points.sigma[i]

    def ddim(x, noise, i, j):
        return points.alpha[j] * (x / points.alpha[i] + (rho[j] - rho[i]) * noise)

    x = reference.starts(4)
    past = eps(x, 0)
    x = ddim(x, past, 0, 1)
    for i in range(1, 6):
        here = eps(x, i)
        if not reuse:
            past = eps(ddim(x, here, i, i - 1), i - 1)
        area = square[i] * (rho[i + 1] - rho[i]) + np.arcsin(points.alpha[i + 1]) - np.arcsin(points.alpha[i])
        bend = points.alpha[i + 1] / (square[i] - square[i - 1]) * area
        x = ddim(x, here, i, i + 1) + bend * (past - here)
        past = here
    result = reference.run_plan(D.AcceleratedDDIM(reuse).plan(points.t, schedule), reference.starts(4))
    np.testing.assert_allclose(result, x, rtol=1e-11)


# --- Bad input


BAD = {
    "order 0": (lambda: D.DEIS(0), "`order`"),
    "order 5 of IPNDM": (lambda: D.IPNDM(5), "`order`"),
    "unknown variable": (lambda: D.DEIS(2, "lam"), "`variable`"),  # type: ignore
    "published log rho": (lambda: D.DEIS(2, "log_rho", legacy=True), "`legacy`"),
    "unknown kind": (lambda: D.PNDM("T"), "`kind`"),  # type: ignore
    "unknown tableau": (lambda: D.RhoRK("rk5"), "`tableau`"),  # type: ignore
    "unknown tableau of a flow": (lambda: D.FlowRK("rk5"), "`tableau`"),  # type: ignore
    "negative churn": (lambda: D.EDMHeun(churn=-1.0), "`churn`"),
    "negative noise": (lambda: D.EDMHeun(noise_scale=-1.0), "`noise_scale`"),
    "stage at the start": (lambda: D.EDMHeun(alpha=0.0), "`alpha`"),
    "no history": (lambda: D.RhoRK().plan(D.log_snr_grid(4), VP, known=1), "`known`"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "sampler",
    [
        D.DEIS(2, "t"),
        D.DEIS(2, "t", legacy=True),
        D.DEIS(2, "rho"),
        D.IPNDM(2),
        D.PNDM("F"),
        D.PNDM("F", legacy=True),
        D.RhoRK("rk4"),
        D.EDMHeun(),
        D.EDMHeun(churn=1.0),
        D.AcceleratedDDIM(),
        D.AcceleratedDDIM(reuse=False),
        D.AcceleratedDDPM(),
    ],
    ids=repr,
)
def test_no_signal_is_refused(sampler):
    with pytest.raises(ValueError, match="no signal"):
        sampler.plan(np.linspace(1.0, 0.1, 6), D.Flow())
