"""One cell: what is measured follows from the problem and the column's mode."""

from typing import Any

from . import cost, digits, errors, order, problems
from .digits import Digits
from .networks import Images


def measure(cell: Any, settings: Any) -> dict[str, Any]:
    """The fields of a record; `kind` says which of the suite's questions it answers.

    There is no tolerance to meet: `rtol` is None, and `true_residual` the error that is left."""
    problem = problems.build(cell.problem)
    if isinstance(problem, Images):
        kind = "gradient" if "gradient" in cell.spec.mode else "overhead"
        ask = cost.reverse_mode if kind == "gradient" else cost.overhead
        found = ask(cell, settings, problem)
    elif "gradient" in cell.spec.mode:
        raise ValueError(f"gradients are measured on images, not on {cell.problem}")
    elif isinstance(problem, Digits):
        kind, found = "digits", digits.measure(cell, problem)
    else:
        kind = "order" if "order" in cell.spec.mode else "error"
        found = order.measure(cell, problem) if kind == "order" else errors.measure(cell, problem)
    return {"kind": kind, "rtol": None, **found}
