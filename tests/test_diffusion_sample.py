"""`sample`: gradients in everything, precision, batches, trajectories, memory, and what it refuses."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsolve import diffusion as D
from tests import diffusion_reference as reference
from tests.test_diffusion_laws import clean, slope

VP = D.VPLinear()


class Network(eqx.Module):
    """The mixture's posterior mean, with parameters to differentiate in, in every kind of prediction."""

    schedule: D.AbstractSchedule
    prediction: str = eqx.field(static=True)
    scale: jax.Array | float = 1.0

    def __call__(self, x, t):
        dtype, x, t = x.dtype, x.astype(float), t.astype(float)
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        x0 = self.scale * clean(x, alpha, sigma)
        eps = (x - alpha * x0) / sigma
        return {
            "x0": x0,
            "eps": eps,
            "v": alpha * eps - sigma * x0,
            "score": -eps / sigma,
            "flow": eps - x0,
        }[self.prediction].astype(dtype)


def denoiser(prediction="eps", schedule=VP, **options) -> D.Denoiser:
    return D.Denoiser(Network(schedule, prediction), prediction, schedule, **options)


X = jnp.asarray(reference.starts(3))
TIMES = np.asarray(D.log_snr_grid(5, end=0.05)(VP))


@pytest.mark.parametrize("prediction", ["x0", "v", "score", "flow"])
def test_predictions_are_one(prediction):
    expected = D.sample(denoiser("eps"), D.UniPC(2), X, TIMES).value
    np.testing.assert_allclose(
        D.sample(denoiser(prediction), D.UniPC(2), X, TIMES).value, expected, rtol=1e-10
    )


def test_faces_of_a_denoiser():
    t = 0.4
    alpha, sigma = VP.alpha(t), VP.sigma(t)
    x0 = clean(X, alpha, sigma)
    for prediction in ("eps", "v"):
        net = denoiser(prediction)
        np.testing.assert_allclose(net.x0(X, t), x0, rtol=1e-12)
        np.testing.assert_allclose(net.eps(X, t), (X - alpha * x0) / sigma, rtol=1e-12)
        np.testing.assert_allclose(net.score(X, t), -(X - alpha * x0) / sigma**2, rtol=1e-12)


# Gradients

SAMPLERS = {
    "unipc": (D.UniPC(2), None),
    "single": (D.DPMSolver(2, "single"), None),
    "sde": (D.DPMSolverPP(2, sde=0.7), jax.random.key(0)),
}


def of_x_T(sampler, key, step):
    return D.sample(denoiser(), sampler, X * (1 + step), TIMES, key).value


def of_the_network(sampler, key, step):
    net = denoiser("v")
    return D.sample(eqx.tree_at(lambda d: d.model.scale, net, 1.0 + step), sampler, X, TIMES, key).value


def of_the_schedule(sampler, key, step):
    schedule = D.VPLinear(beta_max=20.0 * (1 + step))
    return D.sample(denoiser(schedule=schedule), sampler, X, TIMES, key).value


def of_the_grid(sampler, key, step):
    return D.sample(denoiser(), sampler, X, jnp.asarray(TIMES) * (1 + step * np.arange(6.0) / 10), key).value


def of_the_coefficients(sampler, key, step):
    plan = sampler.plan(TIMES, VP)
    plan = eqx.tree_at(lambda p: p.weights, plan, plan.weights * (1 + step * np.cos(plan.weights)))
    return D.sample(denoiser(), plan, X, key=key).value


ARGUMENTS = [of_x_T, of_the_network, of_the_schedule, of_the_grid, of_the_coefficients]
#: One sampler in every argument, and every sampler in one; the rest is left to `make test-all`.
USUAL = [("unipc", argument) for argument in ARGUMENTS] + [("sde", of_the_schedule), ("single", of_the_grid)]
GRADIENTS = [
    pytest.param(sampler, argument, marks=[pytest.mark.full] * ((sampler, argument) not in USUAL))
    for sampler in SAMPLERS
    for argument in ARGUMENTS
]


@pytest.mark.parametrize("sampler, argument", GRADIENTS)
def test_gradients(sampler, argument):
    """Forward and reverse mode equal finite differences (of order four, so that 1e-6 is a test)."""

    @jax.jit
    def loss(step):
        return jnp.sum(jnp.sin(argument(*SAMPLERS[sampler], step)))

    h = 1e-3
    finite = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    forward, reverse = jax.jit(lambda step: (jax.jvp(loss, (step,), (1.0,))[1], jax.grad(loss)(step)))(0.0)
    np.testing.assert_allclose(forward, finite, rtol=1e-6)
    np.testing.assert_allclose(reverse, forward, rtol=1e-9)


def test_eta_is_differentiable():
    @jax.jit
    def loss(eta):
        return jnp.sum(jnp.sin(D.sample(denoiser(), D.DDIM(eta), X, TIMES, jax.random.key(0)).value))

    finite = (loss(0.5 + 1e-5) - loss(0.5 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.5), finite, rtol=1e-6)


def test_checkpoints_change_nothing_but_memory():
    grid = D.log_snr_grid(7, end=0.05)

    def gradient(checkpoints):
        def loss(x):
            x = D.sample(denoiser(), D.UniPC(2), x, grid, checkpoints=checkpoints, throw=False).value
            return jnp.sum(jnp.sin(x))

        return jax.jit(jax.grad(loss))(X)

    expected = gradient("none")
    for checkpoints in ("step", "sqrt", 3):
        np.testing.assert_allclose(gradient(checkpoints), expected, rtol=1e-12)


def test_memory_of_reverse_mode():
    """Compiled buffers against the number of evaluations: N states, 2 sqrt(N) of them, or a constant."""
    x = jnp.zeros((64, 2))

    def bytes_of(num_steps, checkpoints):
        plan = D.DDIM().plan(D.log_snr_grid(num_steps, end=0.05), VP)
        gradient = jax.grad(
            lambda x: jnp.sum(D.sample(denoiser(), plan, x, checkpoints=checkpoints, throw=False).value)
        )
        return jax.jit(gradient).lower(x).compile().memory_analysis().temp_size_in_bytes

    growth = {}
    for checkpoints in ("none", "step", "sqrt", 4):
        small, large = bytes_of(64, checkpoints), bytes_of(256, checkpoints)
        growth[checkpoints] = (large - small) / x.nbytes
    assert growth["none"] > 2 * growth["step"]
    assert 150 < growth["step"] < 450  # 192 more states, and as many registers
    assert growth["sqrt"] < 0.35 * growth["step"]  # 16 more
    assert growth[4] < 0.1 * growth["step"]  # only the plan itself grows


# State


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 5e-2), ("float16", 6e-3), ("float32", 2e-5)])
def test_precision(dtype, tolerance):
    """The state keeps its dtype; small numbers of bits cost no more than their rounding."""
    grid = D.log_snr_grid(12, end=0.05)
    exact = D.sample(denoiser(), D.DPMSolverPP(2), X, grid).value
    result = D.sample(denoiser(), D.DPMSolverPP(2), X.astype(dtype), grid).value
    assert result.dtype == dtype
    assert float(jnp.abs(result.astype(float) - exact).max()) < tolerance


def test_pytree_state():
    def model(x, t):
        return jax.tree.map(lambda leaf: leaf / (1 + t), x)

    tree = {"a": X, "b": (X[:, 0], jnp.ones(()))}
    result = D.sample(D.Denoiser(model, "eps", VP), D.UniPC(2), tree, TIMES).value
    for got, leaf in zip(jax.tree.leaves(result), jax.tree.leaves(tree), strict=True):
        alone = D.sample(D.Denoiser(model, "eps", VP), D.UniPC(2), leaf, TIMES).value
        np.testing.assert_allclose(got, alone, rtol=1e-14)


def test_noise_does_not_depend_on_the_batch():
    key, sampler = jax.random.key(1), D.DPMSolverPP(2, sde=True)
    whole = D.sample(denoiser(), sampler, X, TIMES, key).value
    part = D.sample(denoiser(), sampler, X[:2], TIMES, key).value
    np.testing.assert_allclose(whole[:2], part, rtol=1e-14)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(3))
    np.testing.assert_allclose(D.sample(denoiser(), sampler, X, TIMES, keys).value, whole, rtol=1e-14)
    last = D.sample(denoiser(), sampler, X[2:], TIMES, keys[2:]).value
    np.testing.assert_allclose(last, whole[2:], rtol=1e-14)


def test_trajectory():
    found = D.sample(denoiser(), D.DDIM(), X, TIMES, trajectory=True)
    x, path = found.value, found.trajectory
    assert path.x.shape == (6, 3, 2) and path.x0.shape == (5, 3, 2)
    np.testing.assert_array_equal(path.x[-1], x)
    np.testing.assert_array_equal(path.x[0], X)
    np.testing.assert_allclose(path.t, TIMES)
    np.testing.assert_allclose(path.x0[2], denoiser().x0(path.x[2], TIMES[2]), rtol=1e-10)


def test_vmap_and_jit():
    expected = D.sample(denoiser(), D.UniPC(2), X, TIMES).value
    inside = jax.jit(lambda x: D.sample(denoiser(), D.UniPC(2), x, TIMES).value)(X)
    np.testing.assert_allclose(inside, expected, rtol=1e-12)
    one_by_one = jax.vmap(lambda x: D.sample(denoiser(), D.UniPC(2), x[None], TIMES).value[0])(X)
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-12)


def test_one_compilation_for_all_plans_of_a_size():
    traces = []

    def model(x, t):
        traces.append(1)
        return 0.5 * x

    net = D.Denoiser(model, "eps", VP)
    for sampler in (
        D.DPMSolverPP(2),
        D.DPMSolver(2),
        D.DPMSolverPP(2, variant="heun"),
        D.UniPC(2, corrector=False),
        D.UniPC(1),
        D.DEIS(2),
    ):
        for grid in (D.log_snr_grid(6), D.uniform_grid(6)):
            D.sample(net, sampler, X, grid)
    assert len(traces) == 1


def test_unrolled_loop():
    expected = D.sample(denoiser(), D.UniPC(2), X, TIMES).value
    for options in (
        {"unroll": 2},
        {"unroll": 5, "checkpoints": "none"},
        {"unroll": 2, "checkpoints": "sqrt"},
    ):
        np.testing.assert_allclose(
            D.sample(denoiser(), D.UniPC(2), X, TIMES, **options).value, expected, rtol=1e-12
        )


def test_tables_are_shared_by_equal_numbers_alone():
    def run(schedule, grid, sampler=D.DDIM()):  # noqa: B008
        network = D.Denoiser(lambda x, t: 0.1 * x, "eps", schedule)
        plan = sampler.plan(grid, schedule)
        result = D.sample(network, sampler, X, grid).value
        expected = reference.run_plan(plan, np.asarray(X), lambda x, a, s: (x - s * 0.1 * x) / a)
        np.testing.assert_allclose(result, expected, rtol=1e-12)

    grid = np.array([8.0, 5.0, 2.0])
    for last in (0.01, 0.02):
        run(D.Discrete(np.cumprod(1 - np.linspace(1e-3, last, 10))), grid)
    grid[1] = 4.0  # the same array with other numbers
    run(D.Discrete(np.cumprod(1 - np.linspace(1e-3, 0.02, 10))), grid)
    read = {"steepness": 1.0}
    schedule = D.FromFunctions(lambda t: -read["steepness"] * t, lambda t: jnp.log(t), 0.1, 9.0)
    for read["steepness"] in (1.0, 0.5):  # the same function that reads another number
        run(schedule, grid)

    class Steep(D.VPLinear):  # of somebody else, who reads a number that is no field
        def model_time(self, t):
            return read["steepness"] * t

    for read["steepness"] in (1.0, 0.5):
        told = D.Denoiser(lambda x, t: t * x, "eps", Steep())
        path = D.sample(told, D.DDIM(), X, D.log_snr_grid(2), trajectory=True).trajectory
        np.testing.assert_allclose(path.x0[0], told.x0(X, 1.0), rtol=1e-9)
    for sampler in (D.DPMSolverPP(2), D.DPMSolverPP(2, variant="heun"), D.DPMSolverPP(2, sde=False)):
        run(VP, D.log_snr_grid(5), sampler)
    traced = jax.jit(lambda x: D.sample(denoiser(), D.UniPC(1), x, TIMES).value)(X)
    np.testing.assert_allclose(D.sample(denoiser(), D.UniPC(1), X, TIMES).value, traced, rtol=1e-12)


class _Counting(D.AbstractSampler):
    """A class of somebody else: it counts how often its table is worked out."""

    order: int = 1
    key: object = None
    counted: list = eqx.field(default_factory=list, static=True)

    def table(self, grid, known):
        self.counted.append(len(grid))
        return D.DPMSolverPP(self.order, lower_order_final=False).table(grid, known)

    def cache_key(self):
        return self.key


def test_tables_of_others_are_shared_where_they_give_a_key():
    def run(*samplers):
        return [np.asarray(D.sample(denoiser(), sampler, X, TIMES).value) for sampler in samplers]

    unknown = _Counting()
    run(unknown, unknown)
    assert len(unknown.counted) == 2
    first, other = _Counting(key=("mine", 1)), _Counting(order=2, key=("mine", 2))
    results = run(first, first, other)
    assert (len(first.counted), len(other.counted)) == (1, 1)
    expected = run(*(D.DPMSolverPP(order, lower_order_final=False) for order in (1, 1, 2)))
    np.testing.assert_allclose(results, expected, rtol=1e-12)
    with pytest.raises(TypeError, match=r"`_Counting.cache_key\(\)` must be hashable"):
        run(_Counting(key=np.ones(2)))


def test_transform_sees_every_clean_state():
    net = denoiser(transform=lambda x0, t: jnp.clip(x0, -0.3, 0.3))
    path = D.sample(net, D.DPMSolverPP(2), X, TIMES, trajectory=True).trajectory
    assert float(jnp.abs(path.x0).max()) <= 0.3
    plan = D.DPMSolverPP(2).plan(TIMES, VP)
    expected = reference.run_plan(plan, np.asarray(X), lambda *a: np.clip(reference.clean(*a), -0.3, 0.3))
    np.testing.assert_allclose(path.x[-1], expected, rtol=1e-10)


def test_the_end_without_noise_is_the_clean_state():
    for sampler in (D.DDIM(), D.DPMSolverPP(3), D.UniPC(3)):
        grid = np.array([80.0, 10, 2, 0.5, 0.1, 0.0])
        found = D.sample(denoiser(schedule=D.EDM()), sampler, 80.0 * X, grid, trajectory=True)
        np.testing.assert_allclose(found.value, found.trajectory.x0[-1], rtol=1e-9, atol=1e-12)


def test_the_start_without_signal():
    """Flow matching begins at t = 1 exactly; the first step is then Euler's."""
    flow = D.Flow()
    fine = reference.run_plan(D.UniPC(2).plan(np.linspace(1.0, 0.05, 1281), flow), np.asarray(X))
    for sampler in (D.DDIM(), D.DPMSolverPP(2), D.UniPC(2)):
        errors = []
        for num_steps in (20, 40, 80):
            plan = sampler.plan(np.linspace(1.0, 0.05, num_steps + 1), flow)
            errors.append(float(np.abs(reference.run_plan(plan, np.asarray(X)) - fine).max()))
        assert slope([20, 40, 80], errors) > 0.8
    x = D.sample(denoiser("flow", flow), D.UniPC(2), X, np.linspace(1.0, 0.05, 6)).value
    plan = D.UniPC(2).plan(np.linspace(1.0, 0.05, 6), flow)
    np.testing.assert_allclose(x, reference.run_plan(plan, np.asarray(X)), rtol=1e-10)


# What it refuses

REFUSED = {
    "growing": (np.array([0.1, 0.5]), "strictly from large to small"),
    "twice": (np.array([0.9, 0.5, 0.5, 0.1]), "twice the same noise at positions 1 and 2"),
    "no noise inside": (np.array([0.9, 0.0, -0.1]), "strictly|sigma = 0|range"),
    "nan": (np.array([0.9, np.nan, 0.1]), "finite"),
    "one": (np.array([0.9]), "two or more"),
    "matrix": (np.ones((2, 2)), "two or more"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_grids(name):
    grid, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        D.sample(denoiser(), D.DDIM(), X, grid)


def test_bad_traced_grid():
    run = jax.jit(lambda t: D.sample(denoiser(), D.DDIM(), X, t).value)
    with pytest.raises(Exception, match="strictly from large to small"):
        jax.block_until_ready(run(jnp.array([0.9, 0.4, 0.5, 0.1])))


def test_sigma_zero_inside():
    with pytest.raises(ValueError, match="sigma = 0 at position 1"):
        D.sample(denoiser(schedule=D.EDM()), D.DDIM(), X, np.array([1.0, 0.0, 0.0]))


def test_no_signal_and_eps():
    schedule = D.Discrete(np.linspace(0.999, 0.0, 10))
    grid = np.arange(9.0, -1.0, -3.0)
    with pytest.raises(ValueError, match="no signal"):
        D.sample(denoiser("eps", schedule), D.DDIM(), X, grid)
    assert np.isfinite(D.sample(denoiser("v", schedule), D.DDIM(), X, grid).value).all()
    with pytest.raises(ValueError, match="needs noise and signal"):
        D.sample(denoiser("v", schedule), D.DDIM(), X, D.log_snr_grid(4))


def test_order_above_the_number_of_steps():
    for sampler in (D.UniPC(5), D.DPMSolverPP(4), D.DPMSolverPP(3, "fast")):
        assert np.isfinite(D.sample(denoiser(), sampler, X, D.log_snr_grid(2)).value).all()


def test_wrong_network():
    for model, message in (
        (lambda x, t: x[:, :1], "shape of the state"),
        (lambda x, t: (x, x), "structure of the state"),
    ):
        with pytest.raises(ValueError, match=message):
            D.sample(D.Denoiser(model, "eps", VP), D.DDIM(), X, TIMES)


def test_network_that_fails():
    net = D.Denoiser(lambda x, t: jnp.where(t < 0.5, jnp.nan, x), "eps", VP)
    first = int(np.argmax(TIMES[:-1] < 0.5))
    with pytest.raises(FloatingPointError, match=f"NaN or infinity at evaluation {first}"):
        D.sample(net, D.DDIM(), X, TIMES)
    assert np.isnan(D.sample(net, D.DDIM(), X, TIMES, throw=False).value).all()
    with pytest.raises(Exception, match="NaN or infinity"):
        jax.block_until_ready(jax.jit(lambda x: D.sample(net, D.DDIM(), x, TIMES).value)(X))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: D.sample(denoiser(), D.DDIM(1.0), X, TIMES), ValueError, "`key` is missing: DDIM"),
        (
            lambda: D.sample(denoiser(), D.DDIM(1.0), X, TIMES, 0).value,
            TypeError,
            "`key` must be a jax.random key",
        ),
        (lambda: D.sample(lambda x, t: x, D.DDIM(), X, TIMES), TypeError, "`denoiser`"),
        (lambda: D.sample(denoiser(), D.DDIM(), X), ValueError, "`grid` is missing"),
        (lambda: D.sample(denoiser(), "ddim", X, TIMES), TypeError, "`sampler`.* got str"),
        (lambda: D.sample(denoiser(), D.DDIM, X, TIMES), TypeError, "`sampler`.* got the class DDIM"),
        (
            lambda: D.sample(denoiser(), D.DDIM().plan(TIMES, VP), X, TIMES).value,
            ValueError,
            "`grid` must be None",
        ),
        (lambda: D.sample(denoiser(), D.DDIM(), jnp.ones(3, int), TIMES), TypeError, "`x_T`"),
        (lambda: D.sample(denoiser(), D.DDIM(), jnp.ones(3, complex), TIMES), TypeError, "two reals"),
        (lambda: D.sample(denoiser(), D.DDIM(), {}, TIMES), ValueError, "no array"),
        (lambda: D.sample(denoiser(), D.DDIM(), X, TIMES, checkpoints=0), ValueError, "`checkpoints`"),
        (
            lambda: D.sample(denoiser(), D.DDIM(), X, TIMES, checkpoints=True).value,
            ValueError,
            "`checkpoints`",
        ),
        (lambda: D.sample(denoiser(), D.DDIM(), X, TIMES, unroll=0), ValueError, "`unroll`"),
        (
            lambda: D.sample(denoiser(), D.DDIM(), X, TIMES, unroll=2, checkpoints=3).value,
            ValueError,
            "`unroll`",
        ),
        (lambda: D.Denoiser(lambda x, t: x, "noise", VP), ValueError, "`prediction`"),
        (lambda: D.Denoiser(lambda x, t: x, "eps", "vp"), TypeError, "`schedule`"),
        (lambda: D.Denoiser(3, "eps", VP), TypeError, "`model`"),
        (lambda: D.UniPC(0), ValueError, "`order`"),
        (lambda: D.UniPC(2, variant="bh3"), ValueError, "`variant`"),
        (lambda: D.DPMSolver(4, "single"), ValueError, "`order`"),
        (lambda: D.DPMSolverPP(2, "single", sde=True), ValueError, "`sde`"),
        (lambda: D.DDIM(1.5), ValueError, "`eta`"),
        (lambda: D.DDPM("medium"), ValueError, "`variance`"),
        (lambda: D.Flow(shift=0.0), ValueError, "`shift`"),
        (lambda: D.Discrete(np.array([0.5, 0.9])), ValueError, "fall strictly"),
        (lambda: D.Discrete(np.array(0.5)), ValueError, "`alphas_cumprod`"),
        (lambda: D.log_snr_grid(0), ValueError, "`num_steps`"),
        (lambda: D.karras_grid(5, rho=0.0), ValueError, "`rho`"),
        (lambda: D.DDIM().plan(TIMES, VP, known=1), ValueError, "`known`"),
        (lambda: D.UniPC(3).plan(TIMES, VP, known=5), ValueError, "`known`"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
