"""Kernel systems `(K + nugget I) x = b`, dense matrices that are given by points: drawn in NumPy, and judged
there by entries of their own, a few rows at a time.

The size is the number of points.  Preconditioners that want to know the points or the nugget are told.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import polars as pl
import scipy.sparse.linalg as spla
from scipy.spatial.distance import cdist

from nsolve.operators.kernel import RadialName

from ..engine.options import Option
from ..engine.work import SLACK, Answer, Cell, Task, Work
from ..report import usual
from ..report.format import count, scientific, seconds
from ..report.tables import Table, Value
from .linear import true_residual

#: Entries of the matrix that stand in memory at a time.
_AT_A_TIME = 2**23
#: The kernels' closed forms, of distances in units of the length.
KERNELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gaussian": lambda s: np.exp(-(s**2) / 2),
    "exponential": lambda s: np.exp(-s),
    "matern32": lambda s: (1 + np.sqrt(3) * s) * np.exp(-np.sqrt(3) * s),
    "matern52": lambda s: (1 + np.sqrt(5) * s + 5 / 3 * s**2) * np.exp(-np.sqrt(5) * s),
}


@dataclass(frozen=True)
class KernelSystem:
    """`kernel` is a name of `KERNELS`, `points` are `(n, dim)`."""

    points: np.ndarray
    rhs: np.ndarray
    kernel: str
    length: float
    nugget: float

    @property
    def facts(self) -> dict[str, int]:
        return {"size": len(self.rhs), "unknowns": len(self.rhs)}

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Some rows of the matrix."""
        found = KERNELS[self.kernel](cdist(self.points[start:stop], self.points) / self.length)
        found[np.arange(len(found)), np.arange(start, start + len(found))] += self.nugget
        return found

    def dense(self) -> np.ndarray:
        """The matrix, `8 n^2` bytes."""
        n = len(self.rhs)
        matrix = np.empty((n, n))
        for start, stop in self._blocks():
            matrix[start:stop] = self.rows(start, stop)
        return matrix

    @property
    def matrix(self) -> spla.LinearOperator:
        """Its products, formed anew of the points."""

        def product(x: np.ndarray) -> np.ndarray:
            return np.concatenate([self.rows(start, stop) @ x for start, stop in self._blocks()])

        return spla.LinearOperator((len(self.rhs),) * 2, matvec=product, dtype=float)  # pyright: ignore

    def _blocks(self) -> list[tuple[int, int]]:
        n = len(self.rhs)
        each = max(_AT_A_TIME // n, 1)
        return [(start, min(start + each, n)) for start in range(0, n, each)]


def kernel_matrix(
    size: int,
    seed: int,
    kernel: RadialName = "matern32",
    dim: Annotated[int, Option(least=1)] = 2,
    length: Annotated[float, Option(least=0.0, strict=True)] = 0.2,
    nugget: Annotated[float, Option(least=0.0)] = 1e-6,
) -> KernelSystem:
    """`k(|x_i - x_j| / length)` of `size` points, uniform in the unit cube of `dim` dimensions, and `nugget`
    on the diagonal; the right-hand side is N(0, 1)."""
    rng = np.random.default_rng(seed)  # as `nsolve.gallery.kernel_matrix` draws
    return KernelSystem(
        rng.uniform(size=(size, dim)), rng.standard_normal(size), kernel, float(length), float(nugget)
    )


@functools.lru_cache(maxsize=2)
def _made(work: Work, text: str, size: int, seed: int) -> KernelSystem:
    return work.call(text, size=size, seed=seed)


def _build(work: Work, cell: Cell) -> KernelSystem:
    assert cell.size is not None
    return _made(work, cell.problem, cell.size, cell.seed)


def judge(system: KernelSystem, answer: Answer, task: Task) -> dict[str, Any]:
    """The true relative residual, in NumPy, and whether a claim was false."""
    error = true_residual(system.matrix, answer.value, system.rhs)
    if answer.result != "successful":
        return {"true_residual": error}
    return {"true_residual": error, "false_success": not error <= task.rtol * (1 + SLACK)}


_KERNEL_WORDS = {
    "gaussian": "Gaussian", "exponential": "Exponential", "matern32": "Matérn 3/2", "matern52": "Matérn 5/2",
}  # fmt: skip
_SPACES = {1: "on a line", 2: "in the plane", 3: "in space"}


def _title(rows: pl.DataFrame) -> str:
    first = rows.row(0, named=True)
    dim = first["problem.dim"]
    return (
        f"{_KERNEL_WORDS[first['problem.kernel']]}, {first['size']:,} points "
        f"{_SPACES.get(dim, f'in {dim} dimensions')}, length {first['problem.length']:g}, "
        f"nugget {scientific(first['problem.nugget'])}"
    )


EVERY_SOLVE = Table(
    title=_title,
    rows=("solver", "rtol"),
    values=(
        Value("steps", count, "num_steps", stay=True),
        Value("set-up", seconds, "setup_s"),
        Value("compile", lambda s: seconds(s or None), "compile_s", wide=96),
        Value("solve", seconds, "seconds", stay=True),
        Value("both", seconds, "total"),
        usual.RESIDUAL,
    ),
)
WORK = Work(
    "kernel",
    {"kernel_matrix": kernel_matrix},
    judge,
    columns=("nsolve", "scipy"),
    settings=("max_steps", "history"),
    least_size=2,
    build=_build,
    error="relative residual",
    tables=(EVERY_SOLVE,),
    charts=usual.CHARTS,
)
