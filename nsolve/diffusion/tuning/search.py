"""Plans found by evolution: a choice for every step, and where the steps are.

What a user cares for (a perceptual distance, a downstream score) often has no gradient. `search_plan` needs
none: it breeds schedules of per-step choices and grids by a score that the user gives, as USF/S3
(arXiv:2312.07243: form of prediction, order, corrector and more for every step) and AutoDiffusion
(arXiv:2309.10438: which times) do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..._progress import progress_bar
from .._arrays import on_host
from ..grids import grid_points
from ..plan import Plan, build
from ..samplers._multistep import Step, exact_moments, is_free_of_noise
from ..schedules import AbstractSchedule


@dataclass(frozen=True)
class Choice:
    """How one step is made: which output is interpolated, through how many of them, and whether its end is
    corrected."""

    form: Literal["x0", "eps"] = "x0"
    order: int = 2
    corrector: bool = False


def plan_of_choices(choices: Sequence[Choice], grid: Any, schedule: AbstractSchedule) -> Plan:
    """The plan that makes step i of the grid as `choices[i]` says, in any mixture.

    Orders beyond the outputs at hand are cut. Steps in different forms need one another's points: the noise
    seen at an earlier point is (x - alpha x0) / sigma there, and that x is a combination of the present one
    and the registers.
    """
    points = grid_points(grid, schedule)
    if points.final:
        raise ValueError("`grid` must not end in a step to sigma = 0, which leaves nothing to choose.")
    n = len(points) - 1
    if len(choices) != n:
        raise ValueError(f"`choices` must hold one choice for each of {n} steps, got {len(choices)}.")
    alpha, sigma = points.alpha, points.sigma
    steps = {form: Step(form, points, 0.0) for form in ("x0", "eps")}
    orders = np.minimum([choice.order for choice in choices], np.arange(n) + 1)
    if is_free_of_noise(points):
        orders[-1] = 1

    def unit(column: int) -> np.ndarray:
        return np.eye(n + 1)[column]

    def output(j: int, form: str, seen: list[np.ndarray]) -> np.ndarray:
        return unit(1 + j) if form == "x0" else (seen[j] - alpha[j] * unit(1 + j)) / sigma[j]

    def made(
        i: int, choice: Choice, nodes: np.ndarray, start: np.ndarray, seen: list[np.ndarray]
    ) -> np.ndarray:
        """The end of step i from `start`, through the outputs at `nodes`."""
        weights = steps[choice.form].weights(np.array([i]), nodes[None], exact_moments)[0]
        outputs = [output(j, choice.form, seen) for j in nodes.tolist()]
        return steps[choice.form].decay[i] * start + np.tensordot(weights, np.array(outputs), 1)

    # Points are written as combinations of the present point (column 0) and the outputs x0 at all points.
    seen, start, rows = [unit(0)], unit(0), []
    for i, choice in enumerate(choices):
        nodes = i - np.arange(orders[i])
        following = made(i, choice, nodes, start, seen)
        rows.append(following)
        if i + 1 == n:
            break
        # The new point becomes the present one: x_i = (x_{i+1} - outputs) / factor.
        back = np.concatenate([[1.0], -following[1:]]) / following[0]
        start, *seen = (point[0] * back + np.concatenate([[0.0], point[1:]]) for point in [start, *seen])
        seen.append(unit(0))
        start = (
            made(i, choice, np.concatenate([[i + 1], nodes]), start, seen) if choice.corrector else unit(0)
        )
    table = np.array(rows)
    # Output j lies in register j mod width, so it is lost when output j + width comes.
    used = np.abs(table[:, 1:]) > 1e-13 * np.abs(table).max(axis=1, keepdims=True)
    width = int((np.arange(n) - used.argmax(axis=1)).max()) + 1
    weights = np.zeros((n, width + 2))
    weights[:, 0] = table[:, 0]
    for i in range(n):
        for j in range(max(0, i - width + 1), i + 1):
            weights[i, 1 + j % width] = table[i, 1 + j]
    return build(points, "x0", np.arange(n) % width, weights)


_Genome = tuple[tuple[Choice, ...], tuple[float, ...]]


@dataclass(frozen=True)
class SearchResult:
    """The best plan, its score, the choices and times that make it, and the best score of every
    generation."""

    plan: Plan
    score: float
    choices: tuple[Choice, ...]
    times: np.ndarray
    scores: np.ndarray


def search_plan(
    score: Callable[[Plan], float],
    grid: Any,
    schedule: AbstractSchedule,
    *,
    forms: Sequence[Literal["x0", "eps"]] = ("x0", "eps"),
    max_order: int = 3,
    correctors: bool = True,
    move_times: bool = True,
    population: int = 32,
    generations: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> SearchResult:
    """Breed plans: keep the best quarter, cross and mutate them.

    - `score`: of a plan, lower is better: `lambda p: distance(ns.diffusion.sample(denoiser, p, x_T).value)`.
      NaN counts as worst. Called once for every new plan, at most `population * (generations + 1)` times.
    - `grid`: where to begin; its ends and its number of steps stay.
    - `forms`, `max_order`, `correctors`, `move_times`: what may be chosen.

    The first generation holds every uniform choice (all steps alike), so the result is never worse than
    these.
    """
    for name, value in (("population", population), ("generations", generations), ("max_order", max_order)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    schedule = on_host(schedule)
    points = grid_points(grid, schedule)
    times = points.t
    n = len(points) - 1
    if move_times and not np.isfinite(points.lam).all():
        raise ValueError("`grid` begins or ends without signal or noise: pass move_times=False.")
    generator = np.random.default_rng(seed)
    options = [
        Choice(form, order, corrector)
        for form in forms
        for order in range(1, max_order + 1)
        for corrector in ((False, True) if correctors else (False,))
    ]

    start = tuple(float(t) for t in times)

    def mutated(genome: _Genome) -> _Genome:
        choices, where = list(genome[0]), np.array(genome[1])
        for i in range(n):
            if generator.random() < 1.0 / n:
                choices[i] = options[generator.integers(len(options))]
        if move_times and n > 1:
            lam = np.asarray(schedule.lam(where))
            gaps = np.diff(lam) * np.exp(0.2 * generator.normal(size=n) * (generator.random(n) < 0.5))
            inner = lam[0] + np.cumsum(gaps)[:-1] * (lam[-1] - lam[0]) / gaps.sum()
            where = np.concatenate([where[:1], np.asarray(schedule.t_of_lam(inner)), where[-1:]])
        return tuple(choices), tuple(float(t) for t in where)

    def crossed(one: _Genome, other: _Genome) -> _Genome:
        cut = int(generator.integers(n + 1))
        return one[0][:cut] + other[0][cut:], one[1] if generator.random() < 0.5 else other[1]

    known: dict[_Genome, float] = {}

    def judge(genome: _Genome) -> float:
        if genome not in known:
            value = float(score(plan_of_choices(genome[0], np.array(genome[1]), schedule)))
            known[genome] = value if np.isfinite(value) else np.inf
            bar.advance(task)
        return known[genome]

    best_scores = []
    with progress_bar(progress) as bar:
        task = bar.add_task("search", total=population * (generations + 1))
        pool: list[_Genome] = [((choice,) * n, start) for choice in options]
        pool += [mutated(pool[int(generator.integers(len(pool)))]) for _ in range(population - len(pool))]
        for generation in range(generations + 1):
            pool = sorted(dict.fromkeys(pool), key=judge)[: max(2, population // 4)]
            best_scores.append(judge(pool[0]))
            bar.update(task, description=f"search, best {best_scores[-1]:.3e}")
            if generation < generations:
                parents = list(pool)
                while len(pool) < population:
                    one, other = (parents[int(k)] for k in generator.integers(len(parents), size=2))
                    pool.append(mutated(crossed(one, other)))
    best = pool[0]
    if not np.isfinite(known[best]):
        raise FloatingPointError("`score` was finite for no plan.")
    plan = plan_of_choices(best[0], np.array(best[1]), schedule)
    return SearchResult(plan, known[best], best[0], np.array(best[1]), np.array(best_scores))
