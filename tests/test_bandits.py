"""Laws of all tuners, and each one's formulas against a plain reference."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from nsolve.sequence import (
    ChebCB,
    EpsilonGreedy,
    Fixed,
    ThompsonSampling,
    TsallisINF,
    best_fixed,
    instance_optimal,
    regret,
)
from nsolve.sequence.base import draw
from nsolve.sequence.cheb_cb import box_least_squares
from nsolve.sequence.tsallis_inf import tsallis_probabilities

D = 6
T = 1000
ARMS = jnp.linspace(1.0, 2.0, D)
BOUNDS = (-1.0, 3.0)
LEARNERS = {
    "reduced-variance": TsallisINF(ARMS),
    "importance-weighted": TsallisINF(ARMS, "importance-weighted"),
    "binned": TsallisINF(ARMS, bins=3, bounds=BOUNDS),
    "cheb-cb": ChebCB(ARMS, BOUNDS),
    "thompson": ThompsonSampling(ARMS),
    "thompson-binned": ThompsonSampling(ARMS, bins=3, bounds=BOUNDS),
    "epsilon-greedy": EpsilonGreedy(ARMS, epsilon=10.0),
}
TUNERS = LEARNERS | {"fixed": Fixed(1.5)}
CONTEXTUAL = {name: LEARNERS[name] for name in ("binned", "cheb-cb", "thompson-binned")}

all_tuners = pytest.mark.parametrize("tuner", TUNERS.values(), ids=TUNERS)
learners = pytest.mark.parametrize("tuner", LEARNERS.values(), ids=LEARNERS)
contextual = pytest.mark.parametrize("tuner", CONTEXTUAL.values(), ids=CONTEXTUAL)


@eqx.filter_jit
def play(tuner, costs, contexts, key):
    """Runs a tuner over a table of costs: last state, arms, costs paid."""

    def step(state, system):
        row, context = system
        index = tuner.select(state, context)
        return tuner.update(state, index, row[index], context), (index, row[index])

    state, (arms, paid) = jax.lax.scan(step, tuner.init(key), (costs, contexts))
    return state, arms, paid


def problem(seed=0, best=2, noise=2.0):
    """Costs of all arms, shape (T, D), the cheapest being `best`; and contexts that say nothing."""
    rng = np.random.default_rng(seed)
    costs = 40 + 15 * np.abs(np.arange(D) - best) + noise * rng.standard_normal((T, D))
    return jnp.asarray(costs), jnp.asarray(rng.uniform(*BOUNDS, T))


def contextual_problem(seed=0):
    """The best arm moves along with the context; as good on average is every arm in the middle."""
    rng = np.random.default_rng(seed)
    contexts = rng.uniform(*BOUNDS, T)
    best = 1 + (contexts - BOUNDS[0]) / (BOUNDS[1] - BOUNDS[0])
    costs = 40 + 200 * (np.asarray(ARMS) - best[:, None]) ** 2 + rng.standard_normal((T, D))
    return jnp.asarray(costs), jnp.asarray(contexts)


# Laws


@all_tuners
def test_states_keep_their_structure(tuner):
    key = jax.random.key(0)
    before = eqx.filter_eval_shape(tuner.init, key)
    after = eqx.filter_eval_shape(lambda k: tuner.update(tuner.init(k), 0, 3, 0.5), key)
    assert jax.tree.structure(before) == jax.tree.structure(after)
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert (a.shape, a.dtype, a.weak_type) == (b.shape, b.dtype, b.weak_type)
    index = eqx.filter_eval_shape(lambda k: tuner.select(tuner.init(k), 0.5), key)
    assert (index.shape, index.dtype) == ((), jnp.int32)


@learners
def test_states_are_in_the_default_precision(tuner):
    def dtypes():
        state = eqx.filter_eval_shape(tuner.init, jax.random.key(0))
        return {x.dtype for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)}

    assert dtypes() == {jnp.dtype("float64")}
    with jax.enable_x64(False):
        assert dtypes() == {jnp.dtype("float32")}


@learners
def test_single_precision_learns_as_well(tuner):
    with jax.enable_x64(False):
        costs, contexts = problem()
        single = jax.tree.map(lambda x: x.astype(jnp.float32), tuner)
        _, arms, _ = play(single, costs.astype(jnp.float32), contexts.astype(jnp.float32), jax.random.key(0))
    assert np.mean(np.asarray(arms[-200:]) == 2) > 0.8


@all_tuners
def test_a_scan_equals_single_steps(tuner):
    costs, contexts = problem()
    _, arms, _ = play(tuner, costs, contexts, jax.random.key(1))

    @eqx.filter_jit
    def step(state, row, context):
        index = tuner.select(state, context)
        return tuner.update(state, index, row[index], context), index

    state = tuner.init(jax.random.key(1))
    for row, context, arm in zip(costs[:40], contexts[:40], arms[:40], strict=True):
        state, index = step(state, row, context)
        assert index == arm


@learners
def test_vmap_over_seeds_equals_a_loop(tuner):
    costs, contexts = problem()
    keys = jax.random.split(jax.random.key(0), 3)
    _, together, _ = eqx.filter_vmap(play, in_axes=(None, None, None, 0))(tuner, costs, contexts, keys)
    for key, arms in zip(keys, together, strict=True):
        _, alone, _ = play(tuner, costs, contexts, key)
        np.testing.assert_array_equal(arms, alone)
    assert len({tuple(arms.tolist()) for arms in together}) == 3


@learners
def test_a_draw_depends_on_the_state_alone(tuner):
    costs, contexts = problem()
    _, first, _ = play(tuner, costs, contexts, jax.random.key(0))
    state, second, _ = play(tuner, costs, contexts, jax.random.key(0))
    np.testing.assert_array_equal(first, second)
    select = eqx.filter_jit(tuner.select)
    assert select(state, jnp.array(0.5)) == select(state, jnp.array(0.5))


@learners
@pytest.mark.parametrize("best", [0, 5])
def test_the_best_arm_is_found(tuner, best):
    costs, contexts = problem(best=best)
    _, arms, paid = play(tuner, costs, contexts, jax.random.key(0))
    assert best_fixed(costs)[0] == best
    assert np.mean(np.asarray(arms[-300:]) == best) > 0.85
    uniform = costs.mean(axis=1)
    assert regret(paid, best_fixed(costs)[1])[-1] < 0.3 * regret(uniform, best_fixed(costs)[1])[-1]


@learners
def test_the_unit_of_costs_does_not_matter(tuner):
    costs, contexts = problem()
    _, arms, _ = play(tuner, costs, contexts, jax.random.key(0))
    for unit in (2.0**-20, 2.0**12):
        _, same, _ = play(tuner, unit * costs, contexts, jax.random.key(0))
        np.testing.assert_array_equal(arms, same)


@learners
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf, 1e300])
def test_an_arm_that_fails_is_shunned_and_poisons_nothing(tuner, bad):
    costs, contexts = problem()
    # arm 2 would be the best; each arm's very first system fails too
    costs = costs.at[:, 2].set(bad).at[:3].set(bad)
    state, arms, _ = play(tuner, costs, contexts, jax.random.key(0))
    assert not any(
        jnp.isnan(x).any() for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)
    )
    assert np.mean(np.asarray(arms[-300:]) == 2) < 0.2
    if bad != 1e300:  # at such a cost nothing else can be told apart
        assert np.mean(np.isin(np.asarray(arms[-300:]), [1, 3])) > 0.7


@learners
def test_only_costs_that_are_not_finite_teach_nothing(tuner):
    start = tuner.init(jax.random.key(0))
    state = eqx.filter_jit(tuner.update)(start, jnp.array(1), jnp.array(jnp.nan), jnp.array(0.5))
    assert state.count == 1
    for name, value in state._asdict().items():
        if name not in ("key", "count"):
            np.testing.assert_array_equal(value, getattr(start, name))


@contextual
def test_a_context_that_is_no_number_teaches_nothing(tuner):
    costs, contexts = contextual_problem()
    start, _, _ = play(tuner, costs, contexts, jax.random.key(0))
    state = eqx.filter_jit(tuner.update)(start, 1, 50.0, jnp.array(jnp.nan))
    for name, value in state._asdict().items():
        if name not in ("key", "count"):
            np.testing.assert_array_equal(value, getattr(start, name))
    select = eqx.filter_jit(tuner.select)
    assert select(start, jnp.array(jnp.nan)) == select(start, jnp.array(1.0))


@contextual
def test_contexts_outside_of_the_bounds(tuner):
    state = tuner.init(jax.random.key(0))
    for wrong in (3.5, -2, np.nan, jnp.array(7.0)):
        with pytest.raises(ValueError, match=r"`context` is .*outside of `bounds` = \(-1.0, 3.0\)"):
            tuner.select(state, wrong)
        with pytest.raises(ValueError, match="`context` is"):
            tuner.update(state, 0, 1.0, wrong)
    with pytest.raises(ValueError, match="`context` is None, but this tuner needs one"):
        tuner.select(state, None)
    with pytest.raises(ValueError, match="`context` must be a scalar"):
        tuner.select(state, jnp.zeros(2))
    tuner.check_context(jnp.linspace(*BOUNDS, 5))
    with pytest.raises(ValueError, match=r"`context` is 4.0 \(entry 1; 2 are\)"):
        tuner.check_context(np.array([0.0, 4.0, 5.0]))
    # traced: clipped
    costs, contexts = contextual_problem()
    state, _, _ = play(tuner, costs, contexts, jax.random.key(0))
    select = eqx.filter_jit(tuner.select)
    assert select(state, jnp.array(99.0)) == select(state, jnp.array(BOUNDS[1]))
    assert select(state, jnp.array(-99.0)) == select(state, jnp.array(BOUNDS[0]))


@all_tuners
def test_contexts_are_optional_where_nothing_depends_on_them(tuner):
    if tuner in CONTEXTUAL.values():
        return
    state = tuner.init(jax.random.key(0))
    tuner.check_context(None)
    tuner.check_context(99.0)
    eqx.filter_eval_shape(lambda: tuner.update(state, tuner.select(state, None), 3.0, None))


@learners
def test_a_missing_key_is_named(tuner):
    with pytest.raises(ValueError, match="`key` is None"):
        tuner.init(None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TsallisINF([1.0, 2.0]), r"`arms` must be .* shapes \[\(\), \(\)\]"),
        (lambda: TsallisINF({"a": jnp.ones(2), "b": jnp.ones(3)}), "`arms` must be"),
        (lambda: ThompsonSampling(()), "`arms` must be"),
        (lambda: ChebCB(jnp.zeros(0), BOUNDS), "`arms` is empty"),
        (lambda: TsallisINF(ARMS, "best"), "`estimator` must be one of .* not 'best'"),
        (lambda: TsallisINF(ARMS, bins=0), "`bins` must be a positive integer, not 0"),
        (lambda: TsallisINF(ARMS, bins=2), "`bins` = 2 needs `bounds`"),
        (lambda: ChebCB(ARMS, (1, 0)), "`bounds` must be finite and in order"),
        (lambda: ChebCB(ARMS, (0, np.inf)), "`bounds` must be finite and in order"),
        (lambda: ChebCB(ARMS, 3), "`bounds` must be a pair"),
        (lambda: ChebCB(ARMS, BOUNDS, degree=1.5), "`degree` must be a non-negative integer, not 1.5"),
        (lambda: EpsilonGreedy(ARMS, -1.0), "`epsilon` must be a non-negative number, not -1.0"),
        (lambda: EpsilonGreedy(ARMS, np.nan), "`epsilon` must be a non-negative number"),
        (lambda: Fixed(None), "`value` must be"),
        (lambda: best_fixed(jnp.zeros(3)), r"`costs` must have shape \(T, d\)"),
        (lambda: instance_optimal(jnp.zeros((0, 3))), r"`costs` must have shape \(T, d\)"),
        (lambda: regret(jnp.zeros(3), jnp.zeros(4)), "`costs` and `reference` must both"),
    ],
)
def test_bad_arguments_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_arms_may_be_any_pytree():
    tuner = TsallisINF({"bounds": np.arange(8.0).reshape(4, 2), "degree": np.arange(4)})
    assert tuner.num_arms == 4
    arm = eqx.filter_jit(tuner.arm)(jnp.array(2))
    np.testing.assert_array_equal(arm["bounds"], [4.0, 5.0])
    assert arm["degree"] == 2
    fixed = Fixed((1.5, np.ones(2)))
    assert fixed.num_arms == 1
    assert jax.tree.map(np.shape, fixed.arm(fixed.select(fixed.init()))) == ((), (2,))


def test_draws_follow_the_distribution():
    p = jnp.array([0.0, 0.5, 0.2, 0.0, 0.3, 0.0])
    key = jax.random.key_data(jax.random.key(0))
    draws = jax.vmap(lambda count: draw(key, count, p))(jnp.arange(20000))
    frequencies = np.bincount(draws, minlength=6) / 20000
    np.testing.assert_allclose(frequencies, p, atol=0.015)
    assert frequencies[0] == frequencies[3] == frequencies[5] == 0


# Tsallis-INF


@pytest.mark.parametrize("d", [1, 2, 20, 1000])
def test_probabilities_solve_the_normalisation(d):
    rng = np.random.default_rng(d)
    for spread in (0.0, 1e-6, 0.3, 5.0, 300.0, 1e6):
        losses = spread * (rng.standard_normal(d) + 3)
        least = losses.min()

        def excess(x, losses=losses):
            return (4 / (losses - x) ** 2).sum() - 1

        x = optimize.brentq(excess, least - 2 * np.sqrt(d) - 1, least - 1.999999, xtol=1e-14, rtol=1e-15)
        reference = 4 / (losses - x) ** 2
        p = np.asarray(tsallis_probabilities(jnp.asarray(losses)))
        assert abs(p.sum() - 1) < 1e-14
        # the reference's own x is only as good as the rounding of losses
        np.testing.assert_allclose(p, reference, rtol=1e-12 + 4e-15 * spread)


@pytest.mark.parametrize("estimator", ["reduced-variance", "importance-weighted"])
def test_tsallis_inf_against_its_history(estimator):
    """All estimates made anew, from the whole history, for each system and each bin."""
    bins, reduced = 2, estimator == "reduced-variance"
    tuner = TsallisINF(ARMS, estimator, bins=bins, bounds=BOUNDS)
    rng = np.random.default_rng(0)
    state = tuner.init(jax.random.key(3))
    draw_ = eqx.filter_jit(
        lambda state, context: (tuner.probabilities(state, context), tuner.select(state, context))
    )
    update = eqx.filter_jit(tuner.update)
    probabilities = jax.jit(tsallis_probabilities)
    history = [[] for _ in range(bins)]
    for _ in range(150):
        context = jnp.asarray(rng.uniform(*BOUNDS))
        bin_ = int(context > 1.0)
        costs = np.array([h[0] for h in history[bin_]])
        eta = (4 if reduced else 2) / np.sqrt(len(costs) + 1)
        losses = np.zeros(D)
        if len(costs) and costs.max() > costs.min():
            scaled = 0.5 * (costs - costs.min()) / (costs.mean() - costs.min())
        else:
            scaled = np.zeros(len(costs))
        for loss, (_, arm, p, baseline) in zip(scaled, history[bin_], strict=True):
            losses += baseline
            losses[arm] += (loss - baseline[arm]) / p
        p = np.asarray(probabilities(eta * losses))
        own, index = draw_(state, context)
        np.testing.assert_allclose(own, p, rtol=1e-9)
        index = int(index)
        cost = float(rng.gamma(4.0) * (1 + index))
        baseline = np.where(p >= eta**2, 0.5, 0.0) if reduced else np.zeros(D)
        history[bin_].append((cost, index, p[index], baseline))
        state = update(state, jnp.array(index), jnp.array(cost), context)
    if reduced:  # else the baseline was not at work
        assert sum(h[3].any() for histories in history for h in histories) > 20


# ChebCB


def test_box_least_squares_against_scipy():
    rng = np.random.default_rng(0)
    fit = jax.jit(box_least_squares)
    met = set()
    for trial in range(200):
        m = 6
        rows = rng.integers(1, 30)
        points = rng.uniform(-1, 1, rows) if trial % 3 else np.full(rows, 0.3)
        matrix = np.polynomial.chebyshev.chebvander(points, m - 1)
        data = rng.standard_normal(rows) * 10 ** rng.uniform(-1, 3)
        limits = 10 ** rng.uniform(-1, 3) * np.append(1, 2 / np.arange(1, m)) * (0 if trial == 7 else 1)
        gram, moments = matrix.T @ matrix, matrix.T @ data
        start = rng.standard_normal(m) * limits.max()
        x = np.asarray(fit(gram, moments, limits, start))
        assert (np.abs(x) <= limits).all()
        ridge = np.sqrt(np.finfo(float).eps) * np.trace(gram) / m
        if limits.max() > 0:
            extended = np.vstack([matrix, np.sqrt(ridge) * np.eye(m)])
            reference = optimize.lsq_linear(
                extended, np.append(data, np.zeros(m)), (-limits, limits), method="bvls", tol=1e-14
            )
            objective = x @ (gram + ridge * np.eye(m)) @ x - 2 * moments @ x + data @ data
            assert objective <= 2 * reference.cost * (1 + 1e-9) + 1e-10 * data @ data
        met.add(int((np.abs(x) == limits).sum()))
    assert len(met) > 4  # few and many active limits alike


def test_cheb_cb_fits_each_arm_to_its_history():
    tuner = ChebCB(ARMS, BOUNDS)
    rng = np.random.default_rng(1)
    contexts = rng.uniform(*BOUNDS, T)
    costs = 30 + 10 * np.exp(contexts[:, None] / 2) * np.linspace(0.5, 2, D) + rng.standard_normal((T, D))
    state, arms, paid = play(tuner, jnp.asarray(costs), jnp.asarray(contexts), jax.random.key(0))
    arms, paid = np.asarray(arms), np.asarray(paid)
    x = (contexts - 1) / 2
    often = [arm for arm in range(D) if np.sum(arms == arm) >= 10]
    assert len(often) >= 3
    for arm in often:
        played = arms == arm
        features = np.polynomial.chebyshev.chebvander(x[played], 5)
        # the constraints as they were when the arm was last fitted
        seen = paid[: np.flatnonzero(played)[-1] + 1]
        limits = np.append(seen.max(), 2 * np.ptp(seen) / np.arange(1, 6))
        fit = optimize.lsq_linear(features, paid[played], (-limits, limits), method="bvls").x
        np.testing.assert_allclose(
            features @ state.coefficients[arm], features @ fit, rtol=1e-3 if played.sum() < 50 else 1e-5
        )
    np.testing.assert_allclose(tuner.predict(state, 0.7), [f(0.7) for f in _series(state)], rtol=1e-12)


def _series(state):
    return [np.polynomial.Chebyshev(c, domain=BOUNDS) for c in np.asarray(state.coefficients)]


def test_cheb_cb_probabilities_are_inverse_gap_weights():
    tuner = ChebCB(ARMS, BOUNDS, degree=3)
    costs, contexts = contextual_problem()
    state, arms, paid = play(tuner, costs, contexts, jax.random.key(0))
    predicted = np.asarray(tuner.predict(state, 2.0))
    p = np.asarray(tuner.probabilities(state, 2.0))
    assert p.argmax() == predicted.argmin()
    assert abs(p.sum() - 1) < 1e-14
    # The squared errors, from predictions made anew.

    def step(now, system):
        arm, cost, context = system
        return tuner.update(now, arm, cost, context), (tuner.predict(now, context)[arm] - cost) ** 2

    errors = jax.lax.scan(step, tuner.init(jax.random.key(0)), (arms, paid, contexts))[1].sum()
    alpha = (np.pi + 2 / np.pi * np.log(9)) / 10 * np.ptp(np.asarray(paid))
    gamma = 2 * T * np.sqrt(D * T / (errors + 2 * alpha**2 * T))
    others = np.arange(D) != predicted.argmin()
    np.testing.assert_allclose(p[others], 1 / (D + gamma * (predicted - predicted.min()))[others], rtol=1e-9)


@contextual
def test_a_context_is_worth_more_than_the_best_fixed_arm(tuner):
    costs, contexts = contextual_problem()
    _, _, paid = play(tuner, costs, contexts, jax.random.key(0))
    best, optimal = best_fixed(costs)[1], instance_optimal(costs)[1]
    assert paid[-300:].mean() < 0.95 * best[-300:].mean()
    if isinstance(tuner, ChebCB):
        assert paid[-300:].mean() < 1.05 * optimal[-300:].mean()
    _, _, blind = play(TsallisINF(ARMS), costs, contexts, jax.random.key(0))
    assert blind[-500:].mean() > 0.99 * best[-300:].mean()


# The others


def test_thompson_sampling_keeps_means_and_variances():
    tuner = ThompsonSampling(ARMS)
    costs, contexts = problem()
    state, arms, paid = play(tuner, costs + 1e6, contexts, jax.random.key(0))
    arms, paid = np.asarray(arms), np.asarray(paid)
    assert sorted(arms[:D].tolist()) == list(range(D))  # each once first
    for arm in range(D):
        own = paid[arms == arm]
        assert state.rounds[0, arm] == len(own)
        np.testing.assert_allclose(state.mean[0, arm], own.mean(), rtol=1e-14)
        np.testing.assert_allclose(
            state.deviation[0, arm], ((own - own.mean()) ** 2).sum(), rtol=1e-6, atol=1e-6
        )


def test_thompson_sampling_draws_from_the_posterior():
    """Of two arms the first wins as often as one Student variable is below the other."""
    tuner = ThompsonSampling(jnp.arange(2))
    state = tuner.init(jax.random.key(0))
    update = eqx.filter_jit(tuner.update)
    for arm, cost in ((0, 8.0), (1, 9.0), (0, 12.0), (1, 14.0), (1, 10.0), (0, 9.0), (0, 10.0)):
        state = update(state, jnp.array(arm), jnp.array(cost))
    keys = jax.random.key_data(jax.random.split(jax.random.key(1), 20000))
    drawn = jax.jit(jax.vmap(lambda key: tuner.select(state._replace(key=key))))(keys)
    wins = np.mean(np.asarray(drawn) == 0)
    rng = np.random.default_rng(0)
    first, second = np.array([8.0, 12.0, 9.0, 10.0]), np.array([9.0, 14.0, 10.0])
    prior = max((first.var() * 4 + second.var() * 3) / 7, (0.1 * np.append(first, second).mean()) ** 2)
    samples = []
    for own in (first, second):
        n = len(own)
        scale = (prior + n * own.var() / 2) / (1 + n / 2)
        samples.append(own.mean() + np.sqrt(scale / n) * rng.standard_t(2 + n, 400000))
    assert abs(wins - np.mean(samples[0] < samples[1])) < 0.015


def test_epsilon_greedy_explores_first_and_ever_less():
    tuner = EpsilonGreedy(ARMS, epsilon=20.0)
    costs, contexts = problem()
    _, arms, _ = play(tuner, costs, contexts, jax.random.key(0))
    arms = np.asarray(arms)
    assert np.bincount(arms[:120], minlength=D).min() > 8
    # sum of 120 / t over the second half, a sixth of which hits the best arm anyhow
    expected = 120 * np.log(2) * 5 / 6
    assert abs((arms[T // 2 :] != 2).sum() - expected) < 30


def test_oracles():
    costs = jnp.array([[1, 5, 3], [4, 1, 3], [9, 9, 3]])
    arm, paid = best_fixed(costs)
    assert arm == 2
    np.testing.assert_array_equal(paid, [3, 3, 3])
    arms, paid = instance_optimal(costs)
    np.testing.assert_array_equal(arms, [0, 1, 2])
    np.testing.assert_array_equal(paid, [1, 1, 3])
    np.testing.assert_array_equal(regret(costs[:, 0], paid), [0, 3, 9])
    failing = jnp.array([[1.0, jnp.nan], [9.0, 1.0]])
    assert best_fixed(failing)[0] == 0
    np.testing.assert_array_equal(instance_optimal(failing)[1], [1.0, 1.0])
