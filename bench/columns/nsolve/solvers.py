"""Solvers and preconditioners of this project by their short names, made of the parts of a spec: for all
works."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import nsolve as ns

from ...engine.options import Option, options_of
from ...engine.spec import OWN, Part, Spec

SOLVER_CLASSES = {
    "cg": "CG",
    "flexible_cg": "FlexibleCG",
    "minres": "MINRES",
    "bicgstab": "BiCGStab",
    "gmres": "GMRES",
    "fgmres": "FGMRES",
    "gcro_dr": "GCRODR",
    "chebyshev": "Chebyshev",
    "sor": "SOR",
    "richardson": "Richardson",
    "refinement": "IterativeRefinement",
}
AUTO = "auto"
LEAST_SQUARES_CLASSES = {"lsmr": "LSMR", "lsqr": "LSQR", "cgls": "CGLS"}
DIRECT_CLASSES = {"sparse_lu": "SparseLU", "sparse_cholesky": "SparseCholesky"}
PRECONDITIONER_CLASSES = {
    "jacobi": "Jacobi",
    "block_jacobi": "BlockJacobi",
    "schwarz": "Schwarz",
    "ssor": "SSOR",
    "ic": "IncompleteCholesky",
    "ilu": "IncompleteLU",
    "ict": "ThresholdCholesky",
    "ilut": "ThresholdLU",
    "saddle_point": "SaddlePoint",
    "fsai": "SparseApproximateInverse",
    "chebyshev": "Chebyshev",
    "polynomial": "Polynomial",
    "multigrid": "Multigrid",
    "amg": "AlgebraicMultigrid",
    "shifted_laplacian": "ShiftedLaplacian",
    "nystrom": "Nystrom",
    "sketched_qr": "SketchedQR",
}
FORM = Option(choices=("sparse", "stencil"))
# Set by the benchmark for every column alike, or what no name can say: not parameters of a spec.
COMMON = ("rtol", "atol", "max_steps", "preconditioner", "history", "monitor", "key", "plan")


def _table(namespace: Any, classes: dict[str, str]) -> dict[str, dict[str, Option]]:
    there = {name: getattr(namespace, cls) for name, cls in classes.items() if hasattr(namespace, cls)}
    return {name: options_of(cls, COMMON) for name, cls in there.items()}


PRECONDITIONERS = _table(ns.preconditioners, PRECONDITIONER_CLASSES)
DIRECT = _table(ns, DIRECT_CLASSES)
SOLVERS = {name: {**options, "form": FORM} for name, options in _table(ns, SOLVER_CLASSES).items()}
# With damping they solve another problem than the one by which answers are judged.
LEAST_SQUARES = {name: {"form": FORM} for name, cls in LEAST_SQUARES_CLASSES.items() if hasattr(ns, cls)}


def make_solver(spec: Spec, **given: Any) -> Any:
    """The solver of a column, with what the benchmark sets for all; its preconditioner is not in it."""
    options = {name: value for name, value in spec.solver.params if name != "form"}
    return getattr(ns, (SOLVER_CLASSES | LEAST_SQUARES_CLASSES)[spec.solver.name])(**given, **options)


def make_direct(spec: Spec, rtol: Any) -> Any:
    """The direct solver of a column."""
    return getattr(ns, DIRECT_CLASSES[spec.solver.name])(rtol=rtol)


def make_preconditioner(part: Part, **given: Any) -> Callable[[Any], Any]:
    """The constructor `operator -> preconditioner` of a part, with what no name can say; `module:Name` is
    somebody else's."""
    if ":" in part.name:
        from ..user import made

        return made(part)
    return getattr(ns.preconditioners, PRECONDITIONER_CLASSES[part.name])(**(given | part.options))


def spec_of(solver: Any) -> Spec:
    """The column that a solver is: its class by its short name, and what differs from the defaults."""
    made = getattr(solver, "preconditioner", None)
    part = None if made is None else _part_of(made, PRECONDITIONER_CLASSES)
    return Spec(OWN, _part_of(solver, SOLVER_CLASSES | DIRECT_CLASSES), part)


def _part_of(made: Any, classes: dict[str, str]) -> Part:
    (name,) = [short for short, cls in classes.items() if cls == type(made).__name__]
    fields = [f for f in dataclasses.fields(made) if f.name not in COMMON]
    params = [(f.name, value) for f in fields if (value := getattr(made, f.name)) != f.default]
    return Part(name, tuple(sorted(params)))


def default_form(spec: Spec) -> str:
    """Geometric multigrid takes stencils only."""
    part = spec.preconditioner
    return "stencil" if part is not None and part.name in ("multigrid", "shifted_laplacian") else "sparse"


def check(spec: Spec) -> None:
    """ValueError where the classes refuse the values of a column's parameters."""
    if spec.solver.name in (*DIRECT, AUTO) and spec.preconditioner is not None:
        raise ValueError(f"{spec}: {spec.solver.name} takes no preconditioner")
    sketched = spec.preconditioner is not None and spec.preconditioner.name == "sketched_qr"
    if sketched and spec.solver.name not in LEAST_SQUARES:
        raise ValueError(f"{spec}: sketched_qr is for {', '.join(LEAST_SQUARES)}")
    try:
        if spec.solver.name in SOLVERS:
            _check_words(spec.solver, SOLVERS)
            make_solver(spec, rtol=1e-8)
        if spec.preconditioner is not None:
            if ":" not in spec.preconditioner.name:
                _check_words(spec.preconditioner, PRECONDITIONERS)
            make_preconditioner(spec.preconditioner)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{spec}: {error}") from None


def _check_words(part: Part, table: Mapping[str, Mapping[str, Option]]) -> None:
    """ValueError for a word where a name cannot say what belongs there, such as an array."""
    for key, value in part.params:
        option = table[part.name][key]
        if option.default is None and not option.choices and isinstance(value, str):
            raise ValueError(f"{key} of {part.name} cannot be said in a name; leave it out")
