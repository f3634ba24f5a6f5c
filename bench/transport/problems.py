"""The gallery's transport problems by name: costs whose largest entry is 1, weights, and what is known of the
answer.

`eta` is the inverse of `epsilon` in units of the largest cost, as in the literature on Sinkhorn-Newton:
`eta=1000` is `epsilon = 1e-3 max(C)`.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from nsolve.gallery import clouds

from ..peers.base import Missing
from ..specs import Part, check_name, check_part, parse_part

#: Up to so many entries a cost matrix is made; above, its rows are made when needed.
LARGEST_MATRIX = 10_000_000
COSTS = ("squared_l2", "l1")

#: The Gaussians of the line and of the plane: mean and standard deviation along each axis, of both.
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


def assignment(size: int, seed: int = 0, eta: float = 100) -> Problem:
    """Random assignment: costs uniform on [0, 1], uniform weights."""
    cost, a, b = clouds.assignment(seed, size, float)
    return Problem("assignment", size, 1 / eta, a, b, cost)


def digits(seed: int = 0, cost: str = "squared_l2", eta: float = 100) -> Problem:
    """Two handwritten digits on 28 x 28 pixels, with the usual background of 1 % of the largest value."""
    side = 28
    try:
        a, b = clouds.digits(seed, side)
    except ImportError:
        raise Missing("scikit-learn is not installed (pip install 'nsolve[peers]')") from None
    return Problem("digits", side * side, 1 / eta, a, b, _cost(clouds.grid_points(side, 2), cost))


def gaussian1d(size: int, seed: int = 0, cost: str = "squared_l2", eta: float = 100) -> Problem:
    """Two Gaussian densities at the points of a grid on [0, 1]; closed form for squared costs."""
    return _gaussians("gaussian1d", size, cost, eta, *_NORMALS[1])


def gaussian2d(size: int, seed: int = 0, cost: str = "squared_l2", eta: float = 100) -> Problem:
    """Two Gaussian densities at the points of a grid on the unit square; closed form for squared costs."""
    return _gaussians("gaussian2d", size, cost, eta, *_NORMALS[2])


def cloud(size: int, seed: int = 0, dim: int = 3, eta: float = 100) -> Problem:
    """Points uniform in the unit cube against normal ones, squared Euclidean costs, uniform weights."""
    x, y, a, b = clouds.cube_and_normal(seed, size, dim, float)
    problem = Problem("cloud", size, 1 / eta, a, b, points=(x, y))
    largest = max(float(problem.cost_rows(rows).max()) for rows in problem.blocks())
    return Problem("cloud", size, 1 / eta, a, b, points=(x / largest**0.5, y / largest**0.5))


def batch(size: int, seed: int = 0, count: int = 64, eta: float = 100) -> Problem:
    """`count` random assignments to be solved at once."""
    each = [assignment(size, seed=count * seed + i) for i in range(count)]
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


def options(name: str) -> dict[str, object]:
    """The options of a problem with their defaults."""
    parameters = inspect.signature(PROBLEMS[name]).parameters
    return {k: p.default for k, p in parameters.items() if k not in ("size", "seed")}


def is_sized(name: str) -> bool:
    """Whether the problem comes in sizes (the digits do not)."""
    return "size" in inspect.signature(PROBLEMS[name]).parameters


def parse(text: str) -> Part:
    """A problem's name with options, checked."""
    part = parse_part(text)
    check_part("transport problem", part, {name: options(name) for name in PROBLEMS})
    given = part.options
    if "cost" in given:
        check_name("cost", str(given["cost"]), COSTS)
    for name in ("eta", "dim", "count"):
        value = given.get(name, 1)
        if isinstance(value, bool | str) or not value > 0:
            raise ValueError(f"{name} of {text!r} must be a positive number, got {value!r}")
    return part


@functools.lru_cache(maxsize=2)
def build(text: str, size: int | None, seed: int) -> Problem:
    """Make a problem; `size` is ignored by those that have one size only."""
    part = parse(text)
    if not is_sized(part.name):
        return PROBLEMS[part.name](seed=seed, **part.options)
    if size is None or size < 1:
        raise ValueError(f"transport problem {part.name!r} needs a size of at least 1, got {size}")
    return PROBLEMS[part.name](size=size, seed=seed, **part.options)


def without_eta(text: str) -> str:
    """The problem but for its regularisation, e.g. `digits[cost=l1]`."""
    part = parse_part(text)
    return str(Part(part.name, tuple(p for p in part.params if p[0] != "eta")))


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
