"""Optimal transport by name: costs whose largest entry is 1, weights, and what is known of the answer; and
what an answer is worth, in NumPy.

`eta` is the inverse of `epsilon` in units of the largest cost, as in the literature on Sinkhorn-Newton:
`eta=1000` is `epsilon = 1e-3 max(C)`.  A cell's `rtol` is the L1 error of both marginals, `|P 1 - a|_1 + |P^T
1 - b|_1`.  A column may be asked for derivatives: `sinkhorn_newton@gradient`.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np

from nsolve.gallery import clouds
from nsolve.gallery import transport_reference as reference

from ..engine.options import Option
from ..engine.spec import Part, parse_part
from ..engine.work import SLACK, Answer, Cell, Missing, Task, Work
from ..report import transport as report

# Up to so many entries a cost matrix is made; above, its rows are made when needed.
LARGEST_MATRIX = 10_000_000
# Up to so many entries plans are summed in extended precision, as float64 would err by as much as 1e-12
# itself, and the exact cost without regularisation is computed.
MOST_EXTENDED = MOST_EXACT = 5_000_000
Cost = Literal["squared_l2", "l1"]
Eta = Annotated[float, Option(least=0.0, strict=True)]
Number = Annotated[int, Option(least=1)]
# Problems that come as points.
POINTS = ("cloud",)

# The Gaussians of the line and of the plane: mean and standard deviation along each axis, of both.
_NORMALS: dict[int, tuple[clouds.Normal, clouds.Normal]] = {
    1: ([(0.45, 0.07)], [(0.55, 0.055)]),
    2: ([(0.45, 0.07), (0.5, 0.06)], [(0.55, 0.06), (0.45, 0.07)]),
}


@dataclass(frozen=True)
class Problem:
    """Weights `a` `(n,)` and `b` `(m,)` and the cost: a matrix `(n, m)`, or the points `(n, d)`, `(m, d)`
    that it comes from.

    A batch has a leading axis on all three.  `closed_form` holds the sharp and the regularised cost where
    both are known, up to the discretisation."""

    name: str
    size: int
    epsilon: float
    a: np.ndarray
    b: np.ndarray
    matrix: np.ndarray | None = None
    points: tuple[np.ndarray, np.ndarray] | None = None
    closed_form: tuple[float, float] | None = None
    _cached: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @property
    def shape(self) -> tuple[int, int]:
        return self.a.shape[-1], self.b.shape[-1]

    @property
    def facts(self) -> dict[str, Any]:
        return {"size": self.size, "unknowns": sum(self.shape), "epsilon": self.epsilon}

    @property
    def is_batch(self) -> bool:
        return self.a.ndim == 2

    @property
    def cost(self) -> np.ndarray:
        """The cost matrix, made from the points where need be; ValueError where it would be too large."""
        if self.matrix is not None:
            return self.matrix
        n, m = self.shape
        if n * m > LARGEST_MATRIX:
            raise ValueError(f"{self.name} of size {self.size} has no cost matrix: use form=points")
        if "cost" not in self._cached:
            self._cached["cost"] = self.cost_rows(slice(None))
        return self._cached["cost"]

    def cost_rows(self, rows: slice) -> np.ndarray:
        """Some rows of the cost matrix."""
        if self.matrix is not None:
            return self.matrix[rows]
        assert self.points is not None
        x, y = self.points
        return np.sum((x[rows, None, :] - y[None, :, :]) ** 2, axis=-1)

    def blocks(self) -> Iterator[slice]:
        """Slices of rows that fit into memory."""
        n, m = self.shape
        step = max(1, 2_000_000 // m)
        return (slice(start, min(n, start + step)) for start in range(0, n, step))

    def single(self, i: int) -> "Problem":
        """A problem of a batch."""
        assert self.matrix is not None
        return Problem("one", self.size, self.epsilon, self.a[i], self.b[i], self.matrix[i])


def assignment(size: int, seed: int, eta: Eta = 100.0) -> Problem:
    """Random assignment: costs uniform on [0, 1], uniform weights."""
    cost, a, b = clouds.assignment(seed, size, float)
    return Problem("assignment", size, 1 / eta, a, b, cost)


def digits(seed: int, cost: Cost = "squared_l2", eta: Eta = 100.0) -> Problem:
    """Two handwritten digits on 28 x 28 pixels, with the usual background of 1 % of the largest value."""
    side = 28
    try:
        a, b = clouds.digits(seed, side)
    except ImportError:
        raise Missing("scikit-learn is not installed (pip install 'nsolve[peers]')") from None
    return Problem("digits", side * side, 1 / eta, a, b, _cost(clouds.grid_points(side, 2), cost))


def gaussian1d(size: int, seed: int, cost: Cost = "squared_l2", eta: Eta = 100.0) -> Problem:
    """Two Gaussian densities at the points of a grid on [0, 1]; closed form for squared costs."""
    return _gaussians("gaussian1d", size, cost, eta, *_NORMALS[1])


def gaussian2d(size: int, seed: int, cost: Cost = "squared_l2", eta: Eta = 100.0) -> Problem:
    """Two Gaussian densities at the points of a grid on the unit square; closed form for squared costs."""
    return _gaussians("gaussian2d", size, cost, eta, *_NORMALS[2])


def cloud(size: int, seed: int, dim: Number = 3, eta: Eta = 100.0) -> Problem:
    """Points uniform in the unit cube against normal ones, squared Euclidean costs, uniform weights."""
    x, y, a, b = clouds.cube_and_normal(seed, size, dim, float)
    problem = Problem("cloud", size, 1 / eta, a, b, points=(x, y))
    largest = max(float(problem.cost_rows(rows).max()) for rows in problem.blocks())
    return Problem("cloud", size, 1 / eta, a, b, points=(x / largest**0.5, y / largest**0.5))


def batch(size: int, seed: int, count: Number = 64, eta: Eta = 100.0) -> Problem:
    """`count` random assignments to be solved at once."""
    each = [assignment(size, count * seed + i) for i in range(count)]
    a, b, cost = (np.stack([getattr(one, name) for one in each]) for name in ("a", "b", "matrix"))
    return Problem("batch", size, 1 / eta, a, b, cost)


PROBLEMS: dict[str, Callable[..., Problem]] = {
    "assignment": assignment,
    "digits": digits,
    "gaussian1d": gaussian1d,
    "gaussian2d": gaussian2d,
    "cloud": cloud,
    "batch": batch,
}


def _cost(points: np.ndarray, cost: str) -> np.ndarray:
    """Costs between points of the unit cube, divided by the number of its dimensions."""
    apart = np.abs(points[:, None, :] - points[None, :, :])
    return np.sum(apart if cost == "l1" else apart**2, axis=-1) / points.shape[1]


def _gaussians(
    name: str, size: int, cost: str, eta: float, first: clouds.Normal, second: clouds.Normal
) -> Problem:
    points, a, b = clouds.gaussian_densities(size, first, second)
    epsilon, scale = 1 / eta, 1 / len(first)
    closed_form = None
    # Densities and plan must be as wide as a cell at least, or the grid is too coarse for them.
    narrowest = min(np.sqrt(epsilon / scale / 2), *(deviation for _, deviation in (*first, *second)))
    if cost == "squared_l2" and narrowest * (size - 1) >= 1:
        sharp, whole = clouds.gaussian_transport(first, second, epsilon / scale)
        closed_form = scale * sharp, scale * whole
    return Problem(name, size, epsilon, a, b, _cost(points, cost), closed_form=closed_form)


def _build(work: Work, cell: Cell) -> Problem:
    return _made(cell.problem, cell.size, cell.seed)


@functools.lru_cache(maxsize=2)
def _made(text: str, size: int | None, seed: int) -> Problem:
    return WORK.call(text, size=size, seed=seed)


@dataclass(frozen=True)
class Coupling:
    """What a column hands over: its plan is `exp((f_i + g_j - C_ij) / epsilon)`, times `a_i b_j` where
    `weighted`; or `plan` itself, which is not `regularised` where it solves the problem without.

    `gradients` holds, by the name of a functional, its gradients in the costs or in both clouds of points,
    then in both weights (see `exact_gradients`)."""

    f: np.ndarray | None = None
    g: np.ndarray | None = None
    weighted: bool = False
    plan: np.ndarray | None = None
    regularised: bool = True
    gradients: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)


def judge(problem: Problem, answer: Answer, task: Task) -> dict[str, Any]:
    """The fields of a record that say how good the plan is.

    `marginal_error` (also `true_residual`, the field that all works share) is `|P1 - a|_1 + |P^T 1 - b|_1`;
    `rounding` is how much of it potentials of the exact solution would have when rounded to float64: an error
    above the tolerance by no more than that is not held against a column.  `cost` is the plan's, `cost_gap`
    what it is above the exact one; `cost_gradient_error` and `potential_gradient_error` are relative 2-norms,
    each the worst of the arguments.  Of a batch, all are of the worst problem; it is solved where all of them
    are."""

    def met(row: Mapping[str, Any]) -> bool:
        return row["true_residual"] <= task.rtol * (1 + SLACK) + row["rounding"]

    if problem.is_batch:
        value = answer.value
        each = [
            figures(problem.single(i), Coupling(f, g, value.weighted))
            for i, (f, g) in enumerate(zip(value.f, value.g, strict=True))
        ]
        # One that is no number is the worst.
        row = max(each, key=lambda one: np.nan_to_num(one["true_residual"], nan=np.inf))
        row |= {"count_of_batch": len(each), "solved": sum(map(met, each))}
        success = row["solved"] == len(each)
    else:
        row = figures(problem, answer.value)
        success = met(row)
    if "gradient" in task.spec.mode:  # columns do not say of themselves how the solve inside ended
        errors = gradient_errors(problem, answer.value, task.cell) if answer.value.gradients else {}
        finite = all(map(np.isfinite, errors.values()))
        result = "max_steps_reached" if not success else "successful" if finite else "nonfinite_output"
        return row | {"result": result} | errors
    if answer.result == "successful":
        row["false_success"] = not success
    exact = exact_cost(task.cell.problem, task.cell.size, task.cell.seed)
    return row if exact is None else row | {"exact_cost": exact, "cost_gap": row["cost"] - exact}


def figures(problem: Problem, found: Coupling) -> dict[str, Any]:
    """Marginals and costs of one plan, from its potentials in the log domain, in extended precision where the
    problem is small."""
    n, m = problem.shape
    kind = np.longdouble if n * m <= MOST_EXTENDED else np.float64
    a, b, epsilon = problem.a.astype(kind), problem.b.astype(kind), kind(problem.epsilon)
    log_a, log_b = np.log(a), np.log(b)
    rows, columns = np.zeros(n, kind), np.zeros(m, kind)
    cost, entropy = kind(0), kind(0)
    if found.plan is None:
        assert found.f is not None and found.g is not None
        u, v = np.asarray(found.f, kind) / epsilon, np.asarray(found.g, kind) / epsilon
        if not found.weighted:
            u, v = u - log_a, v - log_b
    with np.errstate(all="ignore"):
        for block in problem.blocks():
            c = problem.cost_rows(block).astype(kind)
            if found.plan is None:
                ratio = u[block, None] + v[None, :] - c / epsilon  # log of P / (a b^T)
                plan = np.exp(ratio + log_a[block, None] + log_b[None, :])
            else:
                plan = found.plan[block].astype(kind)
                ratio = np.log(plan) - log_a[block, None] - log_b[None, :]
            entropy += np.sum(plan * np.where(plan > 0, ratio, 0))
            rows[block] = plan.sum(axis=1)
            columns += plan.sum(axis=0)
            cost += np.sum(plan * c)
        entropy += a.sum() * b.sum() - rows.sum()
        row_error, column_error = np.abs(rows - a).sum(), np.abs(columns - b).sum()
    error = float(row_error + column_error)
    row = {
        "true_residual": error,
        "marginal_error": error,
        "row_error": float(row_error),
        "column_error": float(column_error),
        "cost": float(cost),
        "regularised_cost": float(cost + epsilon * entropy),
        "rounding": 0.0,
    }
    if problem.closed_form is not None and found.regularised:
        sharp, regularised = problem.closed_form
        row["closed_form_error"] = abs(row["regularised_cost"] / regularised - 1)
        row["sharp_closed_form_error"] = abs(row["cost"] / sharp - 1)
    if found.plan is None:
        # exp of a sum of numbers that are each off by half a unit in the last place, in both marginals.
        size = np.sum(a * np.abs(u)) + np.sum(b * np.abs(v))
        row["rounding"] = float(2 * size * np.finfo(np.float64).eps / 2)
    return row


def exact_cost(text: str, size: int | None, seed: int) -> float | None:
    """The least cost without regularisation, or None where that would take too long."""
    part = parse_part(text)
    return _exact_cost(str(Part(part.name, tuple(p for p in part.params if p[0] != "eta"))), size, seed)


@functools.lru_cache(maxsize=64)
def _exact_cost(text: str, size: int | None, seed: int) -> float | None:
    problem = WORK.call(text, size=size, seed=seed)
    n, m = problem.shape
    if problem.is_batch or n * m > MOST_EXACT:
        return None
    if n == m and np.ptp(problem.a) == 0 and np.ptp(problem.b) == 0:
        from scipy.optimize import linear_sum_assignment

        return float(problem.cost[linear_sum_assignment(problem.cost)].sum() / n)
    try:
        import ot
    except ImportError:
        raise Missing("POT is not installed (pip install 'nsolve[peers]')") from None
    return float(ot.emd2(problem.a, problem.b, problem.cost, numItermax=10_000_000))


def direction(n: int) -> np.ndarray:
    """The random `v`, which sums to zero, of the functional `<f, v>`."""
    v = np.random.default_rng(n).standard_normal(n)
    return v - v.mean()


@functools.lru_cache(maxsize=2)
def exact_gradients(text: str, size: int | None, seed: int) -> dict[str, reference.Gradients]:
    """By dense Newton, of the regularised `cost`, and of the functional `<f, v>` of a `potential`."""
    problem = _made(text, size, seed)
    given = problem.cost, problem.a, problem.b
    found = reference.potentials(*given, problem.epsilon)
    plan = reference.plan(*given, *found, problem.epsilon)
    v = direction(len(problem.a))
    return {
        "cost": reference.cost_gradients(plan, found),
        "potential": reference.potential_gradients(plan, v, problem.a, problem.epsilon),
    }


def gradient_errors(problem: Problem, value: Coupling, cell: Cell) -> dict[str, float]:
    """Relative errors; of gradients in weights the mean, which has no meaning, is left out."""
    errors = {}
    for name, (*in_data, in_a, in_b) in value.gradients.items():
        exact = exact_gradients(cell.problem, cell.size, cell.seed)[name]
        wanted: Any = [exact.cost]
        if problem.points is not None and len(in_data) == 2:
            wanted = reference.in_points(exact.cost, *problem.points)
        pairs = [*zip(in_data, wanted, strict=True)]
        pairs += [(x - x.mean(), y - y.mean()) for x, y in ((in_a, exact.a), (in_b, exact.b))]
        relative = [np.linalg.norm(x - y) / np.linalg.norm(y) for x, y in pairs]
        errors[f"{name}_gradient_error"] = float(np.max(relative))  # NaN where one is
    return errors


WORK = Work(
    "transport",
    PROBLEMS,
    judge,
    columns=("nsolve", "ott", "pot"),
    settings=("max_steps", "limit_s"),
    build=_build,
    error="marginal error",
    tables=report.TABLES,
    charts=report.CHARTS,
)
