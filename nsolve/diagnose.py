"""`diagnose`: what can be known of an operator before it is solved with, in one table."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree

from .direct.base import factor_cost, factor_fill
from .direct.equilibrate import equilibrate
from .direct.matching import deficiency, host_matrix, listed, row_maxima
from .direct.measures import (
    Condition,
    Definiteness,
    asymmetry,
    condition,
    definiteness,
    dominance,
    lanczos,
)
from .operators import StencilLinearOperator, as_sparse
from .operators.base import hermitian_tag, require_operator, tags_of
from .operators.convert import as_stencil, knows_its_entries
from .operators.tags import untagged


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What [`nsolve.diagnose`][nsolve.diagnose.diagnose] found; prints as a table.

    None stands for what is not known or does not apply.

    * `shape`, `dtype`, `entries` (stored and not zero), `nonfinite` (how many are NaN or infinite).
    * `structural_rank`, `deficiency`: the rank that these zeros allow, and in words what lowers it.
    * `zero_rows`, `zero_columns`: their numbers.  `zero_diagonal`: how many diagonal entries are zero.
    * `structurally_symmetric`, `symmetric`, `hermitian`; the latter two up to `asymmetry`, the largest
      difference relative to the largest entry.
    * `positive_definite`: `"proved"`, `"disproved"` or `"unknown"`, and `why`.
    * `entry_range`, `row_range`, `column_range`: smallest and largest moduli of entries, and of the largest
      entries of rows and columns; `scaled_range`: of entries after `nsolve.direct.equilibrate`.
    * `dominance`: the least ratio, over the rows, of the diagonal entry to the sum of the others.
    * `bandwidth`: below and above the diagonal.
    * `condition`, `scaled_condition`: numbers in the 1-norm, estimated, before and after scaling; `inf` where
      a factorisation met a zero pivot, None for the reason `condition_why`.  Without entries, a lower bound
      in the 2-norm.
    * `constant_null`: whether the operator maps constants to zero.
    * `null_vector`, `null_residual`: a vector of length one with `||A x|| / ||A||_F` near the smallest.
    * `fill`: entries of each factor of `SparseLU`, and `seconds` that it takes, as predicted.
    * `wrong_tags`: lineax's tags that the entries contradict, in words.
    * `advice`: what to do, most urgent first.
    """

    shape: tuple[int, int]
    dtype: Any
    kind: str
    entries: int | None = None
    nonfinite: int | None = None
    structural_rank: int | None = None
    deficiency: str = ""
    zero_rows: Any = None
    zero_columns: Any = None
    zero_diagonal: int | None = None
    structurally_symmetric: bool | None = None
    symmetric: bool | None = None
    hermitian: bool | None = None
    asymmetry: float | None = None
    positive_definite: str = "unknown"
    why: str = ""
    entry_range: tuple[float, float] | None = None
    row_range: tuple[float, float] | None = None
    column_range: tuple[float, float] | None = None
    scaled_range: tuple[float, float] | None = None
    dominance: float | None = None
    bandwidth: tuple[int, int] | None = None
    condition: float | None = None
    scaled_condition: float | None = None
    condition_why: str = ""
    constant_null: bool | None = None
    null_vector: Any = None
    null_residual: float | None = None
    fill: int | None = None
    seconds: float | None = None
    wrong_tags: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()

    def __repr__(self) -> str:
        width = 24
        rows = [f"{name:<{width}}{text}" for name, text in _rows(self) if text]
        return "\n".join([*rows, "advice", *(f"  * {text}" for text in self.advice)])


def diagnose(operator: lx.AbstractLinearOperator) -> Diagnosis:
    """Examines an operator: what it is, what is wrong with it, and which solver to use.

        print(ns.diagnose(A))

    * Operators that know their entries (sparse, stencils, lineax's explicit matrices, and sums and products
      of these) are examined entry by entry, in double precision: rank by the pattern, symmetry, definiteness,
      units, dominance, condition, null vectors, cost of a direct solve, tags that are not true.
    * Others are asked for a few dozen products: symmetry can then be disproved, not proved.

    Nothing is claimed without proof: `positive_definite` is `"proved"` by diagonal dominance or by a Cholesky
    factorisation of the matrix shifted down by more than rounding, `"disproved"` by the diagonal or a
    direction of negative curvature, else `"unknown"`.

    **Returns** a `Diagnosis`, whose fields a program can read.  **Cost:** some passes over the entries; where
    they take at most 2e7 entries and 1e10 operations also two sparse factorisations.  Values must be
    concrete: call it outside of `jit`.
    """
    require_operator(operator, "operator")
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(eqx.filter(operator, eqx.is_array))):
        raise TypeError("`diagnose` looks at numbers, but the operator is traced: call it outside of `jit`.")
    found = _of_entries(operator) if knows_its_entries(operator) else _of_products(operator)
    return dataclasses.replace(found, advice=_advice(found, tags_of(operator)))


def _of_entries(operator: lx.AbstractLinearOperator) -> Diagnosis:
    bare = untagged(operator)
    given = as_sparse(bare)  # tags hide entries from lineax: a matrix tagged diagonal is asked for no others
    matrix = host_matrix(given.as_scipy())
    matrix = matrix.astype(np.result_type(matrix.dtype, np.float64))
    (m, n), size = matrix.shape, np.abs(matrix.data)
    lengths, heights = np.diff(matrix.indptr), np.bincount(matrix.indices, minlength=n)
    kind = "stencil" if isinstance(as_stencil(bare), StencilLinearOperator) else "sparse matrix"
    found = Diagnosis(
        (m, n),
        given.dtype,
        kind,
        entries=matrix.nnz,
        nonfinite=int(np.count_nonzero(~np.isfinite(matrix.data))),
        zero_rows=np.flatnonzero(lengths == 0),
        zero_columns=np.flatnonzero(heights == 0),
        bandwidth=given.pattern.bandwidth,
    )
    deficient = deficiency(matrix)
    rank: dict[str, Any] = {"structural_rank": deficient.rank}
    if deficient.rank < min(m, n):
        rank["deficiency"] = str(deficient)
    found = dataclasses.replace(found, **rank)
    if found.nonfinite:
        return found
    scaling, columns = equilibrate(matrix), matrix.T.tocsr()
    scaled = scaling.apply(matrix)
    found = dataclasses.replace(
        found,
        entry_range=_range(size),
        row_range=_range(row_maxima(matrix, size, 0.0)),
        column_range=_range(row_maxima(columns, np.abs(columns.data), 0.0)),
        scaled_range=_range(np.abs(scaled.data)),
        constant_null=_constant_null(matrix),
    )
    if m != n:
        return found
    eps = np.finfo(given.dtype).eps
    skew, off = asymmetry(matrix, True), asymmetry(matrix, False)
    pattern = np.array_equal(matrix.indptr, columns.indptr)
    pattern = pattern and np.array_equal(matrix.indices, columns.indices)
    hermitian = bool(skew <= 8 * eps)
    fill = factor_fill(given.pattern)
    if hermitian:
        definite = definiteness((matrix + matrix.conj().T).tocsr() / 2)
    else:
        definite = Definiteness("disproved", "it is not Hermitian")
    measured = Condition(np.inf, np.inf, "the pattern makes it singular")
    if deficient.rank == n:
        measured = condition(matrix, scaling, fill, pattern)
    found = dataclasses.replace(
        found,
        zero_diagonal=int(np.count_nonzero(matrix.diagonal() == 0)),
        structurally_symmetric=pattern,
        symmetric=bool(off <= 8 * eps),
        hermitian=hermitian,
        asymmetry=min(skew, off),
        positive_definite=definite.verdict,
        why=definite.why,
        dominance=dominance(matrix),
        condition=measured.number,
        scaled_condition=measured.scaled,
        condition_why=measured.why,
        null_vector=measured.vector,
        null_residual=measured.smallness,
        fill=fill.entries,
        seconds=factor_cost(given.pattern)[1],
    )
    return dataclasses.replace(found, wrong_tags=_wrong_tags(operator, found, definite, matrix))


def _of_products(operator: lx.AbstractLinearOperator) -> Diagnosis:
    """By products with a few vectors."""
    into, out = operator.in_structure(), operator.out_structure()
    with jax.numpy_dtype_promotion("standard"):
        dtype = jnp.result_type(*jax.tree.leaves(into))
    found = Diagnosis((operator.out_size(), operator.in_size()), dtype, "products only")
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), into)
    flat, unravel = ravel_pytree(zeros)
    mv = jax.jit(lambda x: ravel_pytree(operator.mv(unravel(x)))[0])

    def product(x: np.ndarray) -> np.ndarray:
        return np.asarray(mv(jnp.asarray(x, flat.dtype)))

    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, flat.size))
    if jnp.issubdtype(flat.dtype, jnp.complexfloating):
        x, y = x + 1j * y, y - 1j * rng.permutation(x)
    ax = product(x)
    constant = product(np.ones(flat.size))
    eps, largest = float(jnp.finfo(flat.dtype).eps), np.linalg.norm(ax) / max(np.linalg.norm(x), 1)
    null = bool(np.linalg.norm(constant) <= 100 * eps * largest * np.sqrt(flat.size))
    found = dataclasses.replace(found, nonfinite=int(np.count_nonzero(~np.isfinite(ax))), constant_null=null)
    if into != out or found.nonfinite or flat.size == 0:
        return found
    ay = product(y)
    room = 100 * eps * (np.linalg.norm(ax) * np.linalg.norm(y) + np.linalg.norm(ay) * np.linalg.norm(x))
    looks_hermitian = abs(np.vdot(y, ax) - np.vdot(ay, x)) <= room
    if not looks_hermitian:
        found = dataclasses.replace(found, hermitian=False)
        definite = Definiteness("disproved", "it is not Hermitian")
    else:
        _, tridiagonal = lanczos(product, flat.size, flat.dtype, 40)
        ritz = np.linalg.eigvalsh(tridiagonal)
        definite = Definiteness("unknown", "products cannot prove it")
        if ritz[0] < -100 * eps * np.abs(ritz).max():
            definite = Definiteness("disproved", "a direction of negative curvature was found", True)
        least = np.abs(ritz).min()
        bound = float(np.abs(ritz).max() / least) if least > 0 else np.inf
        if definite.verdict == "unknown":
            found = dataclasses.replace(found, condition=bound, condition_why="at least, by Lanczos")
    found = dataclasses.replace(found, positive_definite=definite.verdict, why=definite.why)
    return dataclasses.replace(found, wrong_tags=_wrong_tags(operator, found, definite, None))


def _wrong_tags(
    operator: lx.AbstractLinearOperator, found: Diagnosis, definite: Definiteness, matrix: Any
) -> tuple[str, ...]:
    tags, wrong = tags_of(operator), []
    if lx.symmetric_tag in tags and found.symmetric is False:
        wrong.append("symmetric_tag: the matrix is not symmetric")
    if tags & {hermitian_tag, lx.positive_semidefinite_tag} and found.hermitian is False:
        wrong.append("positive_semidefinite_tag or hermitian_tag: the matrix is not Hermitian")
    if lx.positive_semidefinite_tag in tags and definite.not_semidefinite:
        wrong.append(f"positive_semidefinite_tag: {definite.why}")
    if matrix is None:
        return tuple(wrong)
    if lx.negative_semidefinite_tag in tags and np.any(matrix.diagonal().real > 0):
        wrong.append("negative_semidefinite_tag: there are positive diagonal entries")
    below, above = found.bandwidth or (0, 0)
    for tag, holds in (
        (lx.diagonal_tag, below == above == 0),
        (lx.tridiagonal_tag, max(below, above) <= 1),
        (lx.lower_triangular_tag, above == 0),
        (lx.upper_triangular_tag, below == 0),
        (lx.unit_diagonal_tag, bool(np.all(matrix.diagonal() == 1))),
    ):
        if tag in tags and not holds:
            wrong.append(f"{tag!r}: there are other entries")
    return tuple(wrong)


def _advice(found: Diagnosis, tags: frozenset[object]) -> tuple[str, ...]:
    """Most urgent first: what makes any solve fail, then how to solve."""
    advice, (m, n) = [], found.shape
    if found.nonfinite:
        advice.append(f"{found.nonfinite} numbers are NaN or infinite: mend what assembles the operator.")
        return tuple(advice)
    advice += [f"Take the tag off that is not true: {text}." for text in found.wrong_tags]
    if found.deficiency:
        advice.append(
            f"Singular whatever the values: {found.deficiency}. Check the assembly and constraints, or take "
            "the least-squares solution of `LSMR`."
        )
        return tuple(advice)
    if m != n:
        return (*advice, "Not square: `LSMR` or `LSQR` for least squares or minimum norm.")
    if n == 0:
        return (*advice, "There is nothing to solve.")
    eps = float(jnp.finfo(found.dtype).eps)
    scaled, number = found.scaled_condition, found.condition
    if found.constant_null:
        krylov = "`MINRES`" if found.hermitian else "`GMRES`"
        advice.append(
            f"Constants are in the null space: solvable only for vectors in the range, by {krylov}; for "
            "others `Projected` gives the least-squares solution; or fix one value."
        )
        return tuple(advice)
    if scaled is not None and scaled * eps > 0.1:
        where = "" if found.null_vector is None else _where(found.null_vector)
        return (
            *advice,
            f"Singular to rounding in {found.dtype}{where}: trust no solution; `LSMR` gives the one of least "
            "squares and smallest norm.",
        )
    if number is not None and number * eps > 1e-2:
        advice.append(f"Expect a relative error up to {min(1, number * eps):.0e} in {found.dtype}.")
    if number is not None and scaled is not None and scaled < 1e-3 * number:
        advice.append("Rows or columns are in different units: `ns.Equilibrated(solver)` scales them.")
    if found.zero_diagonal:
        advice.append(
            f"{found.zero_diagonal} diagonal entries are zero: `Jacobi`, `SOR` and `IncompleteLU` fail as it "
            "stands; `ns.Equilibrated` permutes rows, `SparseLU`, `ThresholdLU` and `MINRES` (for Hermitian "
            "matrices) need no diagonal."
        )
    return (*advice, _solver(found, tags))


def _solver(found: Diagnosis, tags: frozenset[object]) -> str:
    """One line: which solver, and why."""
    definite, direct = found.positive_definite == "proved", found.seconds is not None and found.seconds < 1
    if definite:
        tag = "" if lx.positive_semidefinite_tag in tags else "Tag it `lx.positive_semidefinite_tag`; "
        if found.kind == "stencil":
            return f"{tag}`CG` with `Multigrid`."
        cheap = f"`SparseCholesky` (about {found.seconds:.1g} s), or " if direct else ""
        return f"{tag}{cheap}`CG` with `IncompleteCholesky`."
    if direct:
        return f"`SparseLU`: a direct solve takes about {found.seconds:.1g} s and needs no tuning."
    if found.hermitian or (found.hermitian is None and found.positive_definite == "disproved"):
        return "`MINRES`, which needs symmetry, not definiteness."
    if found.kind == "products only":
        if found.hermitian is False:
            return "`GMRES`, with a preconditioner made from a simpler operator that knows its entries."
        return "`MINRES` if it is Hermitian, `CG` if it is positive definite: products cannot prove it."
    return "`GMRES` with `IncompleteLU`; where that stagnates, a larger `restart`."


def _constant_null(matrix: Any) -> bool:
    ones = np.ones(matrix.shape[1])
    sums, sizes = np.abs(matrix @ ones), abs(matrix) @ ones
    return bool(matrix.nnz and np.all(sums <= 64 * np.finfo(np.float64).eps * sizes.max()))


def _where(vector: np.ndarray) -> str:
    size = np.abs(vector)
    largest = np.flatnonzero(size > 0.5 * size.max())
    return f" (the unknowns {listed(largest)} are hardly determined)"


def _range(size: Any) -> tuple[float, float] | None:
    size = np.asarray(size)[np.asarray(size) > 0]
    return (float(size.min()), float(size.max())) if size.size else None


def _rows(found: Diagnosis) -> list[tuple[str, str]]:
    """The table's rows; empty ones are not shown."""
    m, n = found.shape

    def span(numbers: tuple[float, float] | None) -> str:
        return f"{numbers[0]:.3g} ... {numbers[1]:.3g}" if numbers else ""

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3g}"

    def yes(value: bool | None) -> str:
        return "" if value is None else "yes" if value else "no"

    known = "unknown" if found.condition is None and found.condition_why else number(found.condition)
    known += f" ({found.condition_why})" if found.condition_why else ""
    symmetric = {True: "yes", False: "no", None: ""}[found.symmetric]
    if found.asymmetry and found.symmetric is not None:
        symmetric += f" (differs by {found.asymmetry:.1e})"
    return [
        ("size", f"{m} x {n}, {found.dtype}, {found.kind}"),
        (
            "entries",
            "" if found.entries is None else f"{found.entries} ({found.entries / max(m, 1):.1f} a row)",
        ),
        ("not finite", str(found.nonfinite) if found.nonfinite else ""),
        ("structural rank", "" if found.structural_rank is None else f"{found.structural_rank}"),
        ("", found.deficiency),
        ("zeros on the diagonal", str(found.zero_diagonal) if found.zero_diagonal else ""),
        ("symmetric pattern", yes(found.structurally_symmetric)),
        ("symmetric", symmetric),
        ("Hermitian", yes(found.hermitian) if found.hermitian != found.symmetric else ""),
        ("positive definite", f"{found.positive_definite}: {found.why}" if found.why else ""),
        ("moduli of entries", span(found.entry_range)),
        ("  scaled", span(found.scaled_range)),
        ("largest of rows", span(found.row_range)),
        ("largest of columns", span(found.column_range)),
        ("diagonal dominance", number(found.dominance)),
        ("bandwidth", "" if found.bandwidth is None else "{} below, {} above".format(*found.bandwidth)),
        ("condition", known),
        ("  scaled", number(found.scaled_condition)),
        ("constants", "in the null space" if found.constant_null else ""),
        ("direct solve", "" if found.fill is None else f"{found.fill} entries, about {found.seconds:.1g} s"),
        *(("wrong tag", text) for text in found.wrong_tags),
    ]
