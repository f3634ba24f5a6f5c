"""What every verb returns: `value`, `result`, `stats`; `throw`; a short table."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import nsolve as ns

D = ns.diffusion
GRID = D.log_snr_grid(6)
X = jnp.linspace(-1, 1, 6).reshape(3, 2)
POISSON = ns.SparseLinearOperator.from_scipy(ns.StencilLinearOperator.poisson((6, 6), 1 / 7).as_scipy())
POISSON = lx.TaggedLinearOperator(POISSON, lx.positive_semidefinite_tag)
CLOUD = ns.transport.PointCloud(jnp.linspace(0, 1, 5)[:, None], jnp.linspace(0, 2, 4)[:, None], epsilon=0.1)


class Net(eqx.Module):
    scale: jax.Array

    def __call__(self, x, t):
        return self.scale * x


def denoiser(broken):
    return D.Denoiser(Net(jnp.asarray(jnp.nan if broken else 0.5)), "x0", D.VPLinear())


def consistency():
    return D.KrylovConsistency(lx.MatrixLinearOperator(jnp.ones((1, 2))), jnp.ones(1), num_steps=1)


def chain(broken, throw):
    solver = ns.CG(rtol=1e-8, max_steps=1 if broken else None)
    return ns.solve_sequence(lambda _: POISSON, jnp.ones(2), jnp.ones((2, 36)), solver, throw=throw)


# `call(broken, throw)`, what a failure is, how it is raised, what counts its work.
VERBS = {
    "linear_solve": (
        lambda broken, throw: lx.linear_solve(
            POISSON, jnp.ones(36), ns.CG(rtol=1e-8, max_steps=1 if broken else None), throw=throw
        ),
        *(lx.RESULTS.max_steps_reached, "CG: All of `max_steps` were taken", "num_steps"),
    ),
    "solve_sequence": (
        chain,
        *(lx.RESULTS.max_steps_reached, "a system was not solved.*CG: All of `max_steps`", "num_steps"),
    ),
    "transport.solve": (
        lambda broken, throw: ns.transport.solve(
            CLOUD, solver=ns.transport.Sinkhorn(rtol=1e-6, max_steps=1 if broken else 5000), throw=throw
        ),
        *(lx.RESULTS.max_steps_reached, "transport.solve: all of `max_steps` were taken", "num_steps"),
    ),
    "sinkhorn_divergence": (
        lambda broken, throw: ns.transport.sinkhorn_divergence(
            *(CLOUD.x, CLOUD.y),
            solver=ns.transport.Sinkhorn(rtol=1e-6, max_steps=1 if broken else 5000),
            epsilon=0.1,
            throw=throw,
        ),
        *(lx.RESULTS.max_steps_reached, "transport.solve: all of `max_steps` were taken", "num_steps"),
    ),
    "sample": (
        lambda broken, throw: D.sample(denoiser(broken), D.DDIM(), X, GRID, throw=throw),
        *(lx.RESULTS.breakdown, "the network returned NaN or infinity at evaluation 0", "num_evaluations"),
    ),
    "sample_adaptive": (
        lambda broken, throw: D.sample_adaptive(
            denoiser(broken), D.AdaptiveMultistep(2), X, throw=throw, shared_steps=True
        ),
        *(lx.RESULTS.breakdown, "sample_adaptive: the network returned NaN", "num_evaluations"),
    ),
    "sample_predictor_corrector": (
        lambda broken, throw: D.sample_predictor_corrector(
            denoiser(broken), X, GRID, jax.random.key(0), throw=throw
        ),
        *(lx.RESULTS.breakdown, "the network returned NaN", "num_evaluations"),
    ),
    "sample_interpolant": (
        lambda broken, throw: D.sample_interpolant(
            D.Interpolant(), denoiser(broken).model, X, np.linspace(0, 1, 4), throw=throw
        ),
        *(lx.RESULTS.breakdown, "the network returned NaN", "num_evaluations"),
    ),
    "sample_decomposed": (
        lambda broken, throw: D.sample_decomposed(denoiser(broken), consistency(), X, GRID, throw=throw),
        *(lx.RESULTS.breakdown, "the network or the consistency returned NaN", "num_evaluations"),
    ),
    "sample_ensemble_kalman": (
        lambda broken, throw: D.sample_ensemble_kalman(
            denoiser(broken), lambda x: x[:, :1], jnp.ones(1), 1.0, X, GRID, jax.random.key(0), throw=throw
        ),
        *(lx.RESULTS.breakdown, "the network or `forward` returned NaN", "num_evaluations"),
    ),
    "sample_feynman_kac": (
        lambda broken, throw: D.sample_feynman_kac(
            denoiser(broken), 1.0, X, GRID, jax.random.key(0), throw=throw
        ),
        *(lx.RESULTS.breakdown, "a network or the reward returned NaN", "num_evaluations"),
    ),
    "invert": (
        lambda broken, throw: D.invert(denoiser(broken), D.DDIM(), X, GRID, throw=throw),
        *(lx.RESULTS.breakdown, "the network returned NaN", "num_evaluations"),
    ),
}


@pytest.mark.parametrize("verb", VERBS)
def test_one_shape_of_result(verb):
    call, failure, words, count = VERBS[verb]
    good, bad = call(False, True), call(True, False)
    for solution, expected in ((good, lx.RESULTS.successful), (bad, failure)):
        assert isinstance(solution.result, lx.RESULTS)
        assert np.all(solution.result == expected)
        assert np.all(np.asarray(solution.stats[count]) >= 0)
        assert all(eqx.is_array_like(leaf) for leaf in jax.tree.leaves((solution.value, solution.stats)))
    assert np.all(np.asarray(good.stats[count]) > 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(good.value))
    with pytest.raises((RuntimeError, FloatingPointError), match=words):
        call(True, True)
    text = str(good)
    assert count in text and len(text.splitlines()) < 25 and max(map(len, text.splitlines())) < 110
    if not isinstance(good, lx.Solution):
        assert "successful" in text.splitlines()[0] and "successful" not in str(bad)
    else:
        assert "converged" in text and "max_steps" in str(bad)


def test_it_goes_through_transformations():
    """A solution and its statistics are pytrees that keep their kind and their order."""
    call = VERBS["sample"][0]
    found = jax.jit(lambda: call(False, False))()
    assert type(found) is D.Sample and type(found.stats) is type(call(False, False).stats)
    batch = jax.vmap(lambda x: D.sample(denoiser(False), D.DDIM(), x[None], GRID, throw=False))(X)
    assert batch.value.shape == (3, 1, 2) and "3 successful" in str(batch)


def test_a_state_that_is_not_finite_is_the_callers():
    found = D.sample(denoiser(False), D.DDIM(), X.at[0, 0].set(jnp.nan), GRID, throw=False)
    assert found.result == lx.RESULTS.nonfinite_input


def test_potentials_start_another_solve():
    """`value` is what `y0` takes, as for linear solves."""
    solver = ns.transport.Sinkhorn(rtol=1e-6, max_steps=5000)
    first = ns.transport.solve(CLOUD, solver=solver)
    again = ns.transport.solve(CLOUD, solver=solver, y0=first.value)
    assert again.stats["num_steps"] <= 1 < first.stats["num_steps"]


def test_nothing_waits_where_nothing_is_raised():
    """Arguments are still on their way when the call returns."""
    calls = {
        "sample": lambda x: D.sample(denoiser(False), D.DDIM(), x, GRID, throw=False),
        "sample_adaptive": lambda x: D.sample_adaptive(
            denoiser(False), D.AdaptiveMultistep(2), x, throw=False, shared_steps=True
        ),
        "transport.solve": lambda x: ns.transport.solve(
            ns.transport.PointCloud(np.zeros((3, 2)), np.ones((3, 2)), epsilon=0.1),
            x[:, 0],
            solver=ns.transport.Sinkhorn(rtol=1e-3, max_steps=5),
            throw=False,
        ),
    }

    @jax.jit
    def late(x):  # long enough that three calls return before
        matrix = jnp.full((700, 700), x[0, 0])
        return x + 0 * jax.lax.fori_loop(0, 40, lambda _, m: m @ matrix / 700, matrix)[0, 0]

    for call in calls.values():
        jax.block_until_ready(call(late(jnp.abs(X))).value)  # compiles
    pending = late(jnp.abs(X))
    found = {name: call(pending) for name, call in calls.items()}
    assert not pending.is_ready()
    for name, solution in found.items():
        assert np.isfinite(jax.tree.leaves(solution.value)[0]).all(), name


@pytest.mark.parametrize("solver", [ns.transport.Sinkhorn, ns.transport.SinkhornNewton])
def test_a_solve_of_transport_that_ends_early_is_no_worse_than_its_start(solver):
    rng = np.random.default_rng(0)
    geometry = ns.transport.PointCloud(*rng.standard_normal((2, 12, 2)), epsilon=0.05)

    def missing(f, g):
        plan = np.exp((np.add.outer(f, g) - np.asarray(geometry.cost_matrix())) / 0.05) / 144
        return np.abs(plan.sum(1) - 1 / 12).sum() + np.abs(plan.sum(0) - 1 / 12).sum()

    exact = ns.transport.solve(geometry, certificate=False)
    for start in (
        (np.zeros(12), np.zeros(12)),
        tuple(np.asarray(part) + 0.01 * rng.standard_normal(12) for part in exact.value),
    ):
        found = ns.transport.solve(
            geometry, solver=solver(max_steps=2), y0=start, certificate=False, throw=False
        )
        assert found.result == lx.RESULTS.max_steps_reached
        np.testing.assert_allclose(found.marginal_error, missing(*map(np.asarray, found.value)), rtol=1e-9)
        assert found.marginal_error <= missing(*start)
