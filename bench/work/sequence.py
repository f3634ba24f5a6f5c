"""Sequences of related linear systems by name: a family's, drawn at random, or small dense ones that drift.

A column says after `@` how its sequence is solved: `carried` hands the recycled subspace on from system to
system, `sorted` solves neighbours one after the other, `warm` starts from the solution before.  One that
carries nothing may be measured on fewer systems than the sequence has, spread evenly (`Settings.sample`).
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import polars as pl
import scipy.sparse as sp

from nsolve.gallery import families
from nsolve.gallery.drifting import KINDS as DRIFTING
from nsolve.gallery.drifting import Drifting
from nsolve.gallery.families import AbstractFamily

from ..engine.work import SLACK, Answer, Cell, Task, Work
from ..report.charts import Axis, Chart, Panel
from ..report.format import count, number, scientific, seconds, times
from ..report.tables import Table, Value, first


@dataclass(frozen=True)
class Systems:
    """Some systems in a row, as NumPy arrays whose leading axis numbers them.

    * `parameters`: what `operator(form)` makes an operator of; `vectors`: flat right-hand sides.
    * `features`: whose distances say how much two systems differ.
    * `matrices`: the entries of the matrices, for `each_matrix`.
    """

    parameters: Any
    vectors: np.ndarray
    features: np.ndarray
    matrices: np.ndarray

    def __len__(self) -> int:
        return len(self.vectors)

    def few(self, number: int) -> "Systems":
        """So many of the systems, spread evenly; all of them for 0."""
        if not number:
            return self
        return self.take(np.linspace(0, len(self) - 1, min(number, len(self))).round().astype(int))

    def take(self, numbers: np.ndarray) -> "Systems":
        """Some of the systems, in the order given."""
        fields = (self.parameters, self.vectors, self.features, self.matrices)
        return Systems(*jax.tree.map(lambda leaf: leaf[numbers], fields))


@dataclass(frozen=True)
class Like:
    """A kind of sequence, told apart by `text` and `size`: what programs are compiled for."""

    text: str
    size: int
    kind: Any = field(compare=False)

    def shapes(self, count: int) -> Any:
        """Of the tolerance, the parameters and the vectors of so many systems."""
        stacked = jax.tree.map(lambda s: jax.ShapeDtypeStruct((count, *s.shape), s.dtype), self.kind.shapes())
        return jax.ShapeDtypeStruct((), jnp.float64), *stacked


@dataclass(frozen=True)
class Sequence:
    """A kind of sequence, and the systems that were drawn of it."""

    like: Like
    systems: Systems

    @property
    def facts(self) -> dict[str, int]:
        return {"unknowns": self.systems.vectors.shape[1]}


@dataclass(frozen=True)
class Solved:
    """What a column claims of each system, in the order in which they were solved."""

    systems: Systems
    x: np.ndarray
    results: list[str]
    num_steps: np.ndarray
    num_matvecs: np.ndarray
    num_preconditioner_applications: np.ndarray


class FamilySequence:
    """Independent samples of a family."""

    def __init__(self, family: AbstractFamily):
        self.family = family

    def _one(self, key: jax.Array) -> tuple[Any, ...]:
        family, p = self.family, self.family.sample(key)
        return p, family.vector(p), family.features(p), family.operator(p).values

    def draw(self, count: int, seed: int) -> Systems:
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(count))
        return Systems(*jax.tree.map(np.asarray, jax.jit(lambda keys: jax.lax.map(self._one, keys))(keys)))

    def shapes(self) -> tuple[Any, Any]:
        """Of one system's parameter and vector."""
        return jax.eval_shape(self._one, jax.random.key(0))[:2]

    def operator(self, form: str) -> Callable[[Any], lx.AbstractLinearOperator]:
        return self.family.stencil if form == "stencil" else self.family.operator

    def to_form(self, form: str, parameters: Any, vectors: jax.Array) -> jax.Array:
        """Flat vectors as the operators of that form take them."""
        return jax.vmap(self.family.solution_field)(parameters, vectors) if form == "stencil" else vectors

    def flatten(self, form: str, x: jax.Array) -> jax.Array:
        return jax.vmap(self.family.flatten)(x) if form == "stencil" else x

    def each_matrix(self, systems: Systems) -> Iterator[sp.csr_array]:
        example = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), systems.parameters)
        pattern = self.family.operator(example).pattern
        for values in systems.matrices:
            yield sp.csr_array((values, pattern.indices, pattern.indptr), shape=pattern.shape)


class DriftingSequence:
    """Dense systems that drift."""

    def __init__(self, name: str, size: int):
        self.systems = Drifting(size, name)

    def draw(self, count: int, seed: int) -> Systems:
        matrices, vectors = self.systems.draw(seed, count)
        return Systems(matrices, vectors, matrices.reshape(count, -1), matrices)

    def shapes(self) -> tuple[Any, Any]:
        size = self.systems.size
        return jax.ShapeDtypeStruct((size, size), np.float64), jax.ShapeDtypeStruct((size,), np.float64)

    def operator(self, form: str) -> Callable[[Any], lx.AbstractLinearOperator]:
        if form == "stencil":
            raise ValueError(f"sequence {self.systems.kind!r} has no stencil; use form=sparse")
        return self.systems.operator

    def to_form(self, form: str, parameters: Any, vectors: jax.Array) -> jax.Array:
        return vectors

    def flatten(self, form: str, x: jax.Array) -> jax.Array:
        return x

    def each_matrix(self, systems: Systems) -> Iterator[sp.csr_array]:
        return map(sp.csr_array, systems.matrices)


def _family(name: str) -> Callable[..., FamilySequence]:
    kind = families.FAMILIES[name]

    @functools.wraps(kind, updated=())
    def make(*given: Any, **options: Any) -> FamilySequence:
        return FamilySequence(kind(*given, **options))

    return make


def _drifting(name: str) -> Callable[[int], DriftingSequence]:
    def make(size: int) -> DriftingSequence:
        if size < 20:
            raise ValueError(f"sequence {name!r} needs a size of at least 20 unknowns, got {size}")
        return DriftingSequence(name, size)

    make.__doc__ = DRIFTING[name][0].__doc__
    return make


PROBLEMS: dict[str, Callable[..., Any]] = {
    **{name: _family(name) for name, kind in families.FAMILIES.items() if kind.num_solves == 1},
    **{name: _drifting(name) for name in DRIFTING},
}


@functools.lru_cache(maxsize=2)
def _drawn(work: Work, text: str, size: int, count: int, seed: int) -> Sequence:
    """The same systems for every column."""
    kind = work.call(text, size=size)
    return Sequence(Like(text, size, kind), kind.draw(count, seed))


def _build(work: Work, cell: Cell) -> Sequence:
    assert cell.size is not None and cell.count is not None
    return _drawn(work, cell.problem, cell.size, cell.count, cell.seed)


def judge(sequence: Sequence, answer: Answer, task: Task) -> dict[str, Any]:
    """Judged in SciPy, system by system.

    `num_steps`, `num_matvecs`, `num_preconditioner_applications` and `solve_s` are totals over the `count`
    systems tried, `steps` and `matvecs` lists in the order of solution, `unsolved` places in it,
    `true_residual` the largest.  `successful` only where all are; a system called solved that is not makes a
    false success."""
    solved: Solved = answer.value
    residuals, nnz = [], 0
    matrices = sequence.like.kind.each_matrix(solved.systems)
    for matrix, b, x in zip(matrices, solved.systems.vectors, solved.x, strict=True):
        nnz = int(matrix.nnz)
        residuals.append(np.linalg.norm(b - matrix @ x) / (np.linalg.norm(b) or 1.0))
    met = np.asarray(residuals) <= task.rtol * (1 + SLACK)
    claimed = np.array([result == "successful" for result in solved.results])
    failures = [result for result in solved.results if result != "successful"]
    return {
        "nnz": nnz,
        "count": len(solved.systems),
        "result": failures[0] if failures else "successful",
        "false_success": bool(np.any(claimed & ~met)),
        "unsolved": np.flatnonzero(~(claimed & met)).tolist(),
        "true_residual": float(np.max(residuals)),
        "num_steps": int(solved.num_steps.sum()),
        "num_matvecs": int(solved.num_matvecs.sum()),
        "num_preconditioner_applications": int(solved.num_preconditioner_applications.sum()),
        "steps": solved.num_steps.tolist(),
        "matvecs": solved.num_matvecs.tolist(),
    }


_KIND = ("problem", "size", "dtype", "device", "seed", "rtol", "length")


def _compared(rows: pl.DataFrame) -> pl.DataFrame:
    """`fewer`: steps of the first column with the same preconditioner over a column's own; `a_step`:
    seconds."""
    base = [*_KIND, "preconditioner"]
    is_base = pl.col("index") == pl.col("index").first().over(base)
    fewer = pl.col("steps").first().over(base) / pl.col("steps")
    return rows.with_columns(
        pl.when(pl.col("ok") & ~is_base).then(fewer).alias("fewer"),
        pl.col("ok").first().over(base).alias("base_ok"),
        (pl.col("seconds") / pl.col("steps").clip(1)).alias("a_step"),
        (pl.col("seconds") + pl.col("setup").fill_null(0)).alias("each"),
    )


def _fewer(value: float | None, base_ok: bool | None) -> str:
    """A lower bound where the base ran out of steps."""
    return times(value) if value is None or base_ok else f"≥ {times(value)}"


def fastest(rows: pl.DataFrame) -> str:
    """Which column took the least time per system, and how it compares with the best Krylov solver for
    general matrices and the best that hands a subspace on."""
    timed = rows.filter(pl.col("ok") & pl.col("seconds").is_not_null()).sort("seconds")
    if timed.is_empty():
        return "No column solved all of its systems."
    best, least = timed["solver"][0], timed["seconds"][0]
    text = f"Least seconds: {best}, {seconds(least)} a system"
    for what, test in (
        ("carried", pl.col("mode").str.contains("carried")),
        ("GMRES", pl.col("solver_name") == "gmres"),
    ):
        chosen = timed.filter(test)
        if len(chosen) and chosen["solver"][0] != best:
            other = chosen["seconds"][0]
            text += f"; best {what}: {chosen['solver'][0]}, {seconds(other)} ({other / least:.1f}x)"
    return text + "."


EVERY_SEQUENCE = Table(
    title="{system}, {unknowns:,} unknowns, {length} systems in a row, rtol {rtol:g}, means per system",
    group=_KIND,
    derive=_compared,
    values=(
        Value("systems", count, "count"),
        Value("steps", number, "steps"),
        Value("products", number, "products"),
        Value("fewer", _fewer, first("fewer"), first("base_ok")),
        Value("solve", seconds, "seconds"),
        Value("a step", seconds, "a_step", wide=100),
        Value("residual", scientific, "true_residual"),
    ),
    note=fastest,
)


def _each_system(rows: pl.DataFrame) -> pl.DataFrame:
    """The place in the sequence of each system that was solved: sampled ones stand where they belong."""
    length = pl.col("steps_of_each").list.len()
    return rows.filter(pl.col("steps").is_not_null()).with_columns(
        ((pl.col("length") - 1) / pl.max_horizontal(length - 1, 1)).alias("stride")
    )


SEQUENCE = Chart(
    "sequence",
    "{system}: steps of each system (rtol {rtol:g}, preconditioner: {preconditioner_or_none})",
    needs="cells that are sequences (a suite's groups with a count)",
    group=(*_KIND, "preconditioner"),
    derive=lambda rows: _each_system(rows).with_columns(
        pl.col("preconditioner").replace("", "none").alias("preconditioner_or_none"),
        pl.struct("products", "ok", "reason")
        .map_elements(
            lambda r: number(r["products"]) + ("" if r["ok"] else f"  ✗ {r['reason']}"),
            return_dtype=pl.String,
        )
        .alias("told"),
    ),  # fmt: skip
    panels=(
        Panel(
            "line",
            Axis("at", "system, in the order of solution"),
            Axis("steps_of_each", "iterations", log=True),
            explode=("steps_of_each",),
            width=420,
            after=lambda rows: rows.with_columns((1 + pl.col("place") * pl.col("stride")).alias("at")),
        ),
        Panel(
            "bar",
            Axis("products", "products per system"),
            Axis("solver", "", nominal=True),
            text="told",
            width=260,
        ),
    ),
)
WORK = Work(
    "sequence",
    PROBLEMS,
    judge,
    columns=("nsolve", "solvax"),
    settings=("max_steps", "sample"),
    counted=True,
    least_size=2,
    build=_build,
    error="relative residual",
    tables=(EVERY_SEQUENCE,),
    charts=(SEQUENCE,),
)
