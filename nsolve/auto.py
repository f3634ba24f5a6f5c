"""`auto`: looks at an operator, and makes a chain of solvers for it."""

import dataclasses
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import lineax as lx
from jax.core import Tracer

from . import preconditioners
from ._reasons import CODES
from .chain import Attempt, Chain
from .direct import SparseLU
from .direct.base import factor_cost, structural_deficiency
from .direct.memory import physical_memory
from .linear import CG, GMRES, MINRES
from .linear.base import AbstractIterativeSolver
from .linear.projected import Projected
from .monitor import AbstractMonitor, Both, Forecast
from .operators import SparseLinearOperator, StencilLinearOperator
from .operators.base import hermitian_tag, require_operator, tags_of
from .operators.convert import as_sparse, as_stencil, has_few_entries, knows_its_entries

PSD = lx.positive_semidefinite_tag

#: Systems of so few unknowns are factorised at once.
_SMALL = 2000
#: Seconds of a factorisation that are not worth looking at anything else, for definite and other matrices,
#: and that are worth waiting for where all else has failed.
_AT_ONCE, _SOON, _AT_MOST = 1.0, 10.0, 120.0
#: Matrices without zeros of up to so many rows are factorised, too.
_MOST_DENSE = 5000
#: Of a preconditioned step, for each entry of the matrix.
_SECONDS_OF_STEP = 5e-9
_MOST_ON_SINGULAR = 1000
#: The share of memory that factors may fill.
_SHARE = 0.5


class Looks(NamedTuple):
    """What is known of an operator before it is solved with."""

    size: int
    grid: StencilLinearOperator | None
    matrix: SparseLinearOperator | None
    tags: frozenset[object]
    #: Bytes and seconds of its factors, infinite where they are not to be had.
    bytes: float
    seconds: float

    @property
    def fits(self) -> bool:
        return self.bytes <= _SHARE * physical_memory() and self.seconds <= _AT_MOST

    def __str__(self) -> str:
        known = {PSD: "positive semidefinite", hermitian_tag: "Hermitian", lx.symmetric_tag: "symmetric"}
        words = [word for tag, word in known.items() if tag in self.tags][:1] or ["nothing tagged"]
        if self.grid is not None:
            words.insert(0, f"a stencil on a grid of {' x '.join(map(str, self.grid.shape))}")
        elif self.matrix is not None:
            words.insert(0, f"{self.matrix.nnz} entries")
        else:
            words.insert(0, "products only")
        return f"{self.size} unknowns ({'; '.join(words)})"


def auto(
    operator: lx.AbstractLinearOperator,
    rtol: Any = 1e-6,
    atol: Any = 0.0,
    max_steps: int | None = None,
    monitor: AbstractMonitor | None = None,
    nullspace: Any = None,
) -> Chain:
    """Looks at an operator, and chooses solvers and preconditioners to try in turn: a `Chain`.

    ```python
    solver = ns.auto(A, rtol=1e-8)
    print(solver)                                # which solvers, and why
    solution = lx.linear_solve(A, b, solver)
    print(solution.stats["attempts"])            # what came of each
    ```

    | operator | chain |
    |---|---|
    | up to 2000 unknowns, or factorised within seconds by prediction | `SparseLU` |
    | positive semidefinite, a compact stencil | `CG` with `Multigrid`; `SparseLU` |
    | positive semidefinite, sparse | `CG` with `IncompleteCholesky`; `SparseLU`, or `CG` with `Jacobi` |
    | Hermitian, sparse | `SparseLU`; `MINRES` |
    | other, sparse | `GMRES` with `IncompleteLU`; `SparseLU`; `GMRES` with `ThresholdLU`, and without |
    | products only | `CG`, `MINRES` or `GMRES(restart=50)`, by the tags |

    `SparseLU` has a place where its factors are predicted to fill at most half the memory and to take at most
    two minutes.  What comes before it has a budget of steps that take about as long as a factorisation.  An
    attempt that another follows is left early where its residual falls too slowly (`nsolve.Forecast`).
    A concrete matrix without tags whose entries are Hermitian with a positive diagonal is supposed to be
    positive definite for as long as `CG` does not find otherwise.  Where a concrete matrix turns out
    singular, a Krylov method takes the place of `SparseLU`: consistent systems have solutions.  Under `jit`
    the chain is fixed by what is static: class, tags and pattern.  Of a concrete stencil the levels of
    `Multigrid` are planned here (`Multigrid.planned`), since a solve would not see its coefficients.

    With `nullspace`, `"constant"` or vectors, as of `Projected`, the operator is singular, the chain has no
    `SparseLU`, and the answer is the least-squares solution of the smallest norm.

    **Arguments:** a square operator, and the solvers' `rtol`, `atol`, `max_steps` and `monitor`.  **Raises**
    `ValueError` for a pattern that makes every matrix singular, naming rows and columns.  **Cost:** an
    ordering of the pattern, once for each; of concrete matrices that are factorised at once the
    factorisation, which is kept for the solve.
    """
    require_operator(operator, "operator")
    if operator.in_size() != operator.out_size():
        raise ValueError(
            f"`auto` is for square operators, and this one is {operator.out_size()} x {operator.in_size()}: "
            "use `LSMR` for the least-squares or minimum-norm solution."
        )
    looks = _look(operator)
    if nullspace is not None:
        looks = looks._replace(bytes=math.inf)  # of factors that are of no use
    tolerances = {"rtol": rtol, "atol": atol}
    common = {**tolerances, "max_steps": max_steps, "monitor": monitor}
    if looks.matrix is None and looks.grid is None:
        chain = [_by_products(looks.tags, common)]
        return Chain(tuple(_projected(attempt, nullspace) for attempt in chain), str(looks))
    compact = looks.grid is not None and all(abs(s) <= 1 for o in looks.grid.offsets for s in o)
    multigrid = PSD in looks.tags and compact and looks.size > _SMALL
    direct = Attempt(SparseLU(**tolerances), _price(looks))
    worth = _AT_ONCE if PSD in looks.tags else _SOON
    if not multigrid and looks.fits and (looks.size <= _SMALL or looks.seconds <= worth):
        return Chain((_unless_singular(operator, looks, direct, common),), str(looks))
    chain = _iterative(operator, looks, multigrid, common)
    if looks.fits:
        place = 0 if isinstance(chain[0].solver, MINRES) else 1
        chain = [*chain[:place], direct, *chain[place:]]
    chain = [*map(_left_early, chain[:-1]), chain[-1]]
    return Chain(tuple(_projected(attempt, nullspace) for attempt in chain), str(looks))


def _projected(attempt: Attempt, nullspace: Any) -> Attempt:
    """The attempt at a singular operator, if it is one."""
    if nullspace is None:
        return attempt
    return dataclasses.replace(attempt, solver=Projected(attempt.solver, nullspace))


def _left_early(attempt: Attempt) -> Attempt:
    """The attempt, given up where it would not end in time."""
    solver, forecast = attempt.solver, Forecast()
    if not isinstance(solver, AbstractIterativeSolver):
        return attempt
    monitor = forecast if solver.monitor is None else Both(solver.monitor, forecast)
    return dataclasses.replace(attempt, solver=dataclasses.replace(solver, monitor=monitor))


def _look(operator: lx.AbstractLinearOperator) -> Looks:
    # Nothing is computed, and signs of numbers stay unknown, as they are to the solve.
    tags, grid = eqx.filter_eval_shape(lambda op: (tags_of(op), as_stencil(op)), operator)
    size = operator.in_size()
    small_and_full = size <= _MOST_DENSE and knows_its_entries(operator)
    if grid is None and not has_few_entries(operator) and not small_and_full:
        return Looks(size, None, None, tags, math.inf, math.inf)
    matrix = eqx.filter_eval_shape(as_sparse, operator)
    deficient = structural_deficiency(matrix.pattern)
    if deficient:
        raise ValueError(
            f"`operator` is singular whatever the values of its entries: {deficient}. A least-squares "
            "solution comes from `LSMR`."
        )
    cost = (0.0, 0.0) if size <= _SMALL else factor_cost(matrix.pattern)
    return Looks(size, grid, matrix, tags, *cost)


def _price(looks: Looks) -> str:
    if looks.size <= _SMALL:
        return "few unknowns, factorised at once"
    return f"factors predicted to take {looks.bytes / 2**30:.2g} GiB and {looks.seconds:.1g} s"


def _by_products(tags: frozenset[object], common: dict[str, Any]) -> Attempt:
    if PSD in tags:
        return Attempt(CG(**common), "products only; tagged positive semidefinite")
    if hermitian_tag in tags:
        return Attempt(MINRES(**common), "products only; tagged symmetric or Hermitian")
    return Attempt(GMRES(**common, restart=50), "products only; nothing tagged")


def _unless_singular(
    operator: lx.AbstractLinearOperator, looks: Looks, direct: Attempt, common: dict[str, Any]
) -> Attempt:
    """The direct solver, unless a concrete matrix is seen to be singular."""
    if _is_traced(operator):
        return direct
    with jax.ensure_compile_time_eval():  # also where a function that closes over the operator is traced
        state = direct.solver.init(operator, {})
        code, reciprocal_condition = int(state.counts[0]), float(state.reciprocal_condition)
    if code != CODES["singular_matrix"]:
        return direct
    why = f"singular to rounding (reciprocal condition {reciprocal_condition:.0e}): "
    why += "the system may be consistent all the same"
    # Where no preconditioner can be made of the matrix, long runs seldom end well.
    limited = {**common, "max_steps": _MOST_ON_SINGULAR} if common["max_steps"] is None else common
    krylov = MINRES(**limited) if hermitian_tag in looks.tags else GMRES(**limited, restart=50)
    return Attempt(krylov, why)


def _iterative(
    operator: lx.AbstractLinearOperator, looks: Looks, multigrid: bool, common: dict[str, Any]
) -> list[Attempt]:
    """What is tried where factors are dear."""
    assert looks.matrix is not None
    pattern, limited = looks.matrix.pattern, dict(common)
    if looks.fits and common["max_steps"] is None:  # the direct solver waits: as long as that would take
        limited["max_steps"] = max(200, int(looks.seconds / (_SECONDS_OF_STEP * pattern.nnz)))
    supposed, why = frozenset(), "tagged positive semidefinite"
    untold = PSD not in looks.tags and looks.grid is None and not _is_traced(operator)
    if untold and _might_be_definite(operator):
        supposed, why = frozenset([PSD]), "Hermitian with a positive diagonal: supposed positive definite"
    minres = Attempt(MINRES(**common), "tagged symmetric or Hermitian, perhaps indefinite")
    incomplete, jacobi = preconditioners.IncompleteCholesky(), preconditioners.Jacobi()
    if multigrid:
        hierarchy = preconditioners.Multigrid()
        if not _is_traced(operator):
            with jax.ensure_compile_time_eval():
                hierarchy = hierarchy.planned(operator)
        first = Attempt(CG(**limited, preconditioner=hierarchy), "a grid; " + why)
        return [first, Attempt(CG(**common, preconditioner=incomplete), why)]
    if PSD in looks.tags or supposed:
        return [
            Attempt(CG(**limited, preconditioner=incomplete), why, supposed),
            minres
            if hermitian_tag in looks.tags - {PSD} and supposed
            else Attempt(CG(**common, preconditioner=jacobi), why, supposed),
        ]
    if hermitian_tag in looks.tags:
        return [minres]
    last = Attempt(GMRES(**common, restart=100), "nothing is asked of the matrix")
    ilut = GMRES(**common, restart=50, preconditioner=preconditioners.ThresholdLU())
    if not (pattern.diagonal_positions < pattern.nnz).all():
        return [Attempt(ilut, "nothing tagged, and zeros on the diagonal"), last]
    ilu = GMRES(**limited, restart=50, preconditioner=preconditioners.IncompleteLU())
    stronger = Attempt(ilut, "fill, and pivots off the diagonal")
    return [Attempt(ilu, "nothing tagged, and a full diagonal"), stronger, last]


def _is_traced(operator: lx.AbstractLinearOperator) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(operator))


def _might_be_definite(operator: lx.AbstractLinearOperator) -> bool:
    with jax.ensure_compile_time_eval():
        matrix = as_sparse(operator).as_scipy()
    diagonal = matrix.diagonal()
    if not ((diagonal.real > 0) & (diagonal.imag == 0)).all():
        return False
    return abs(matrix - matrix.conj().T).max() == 0
