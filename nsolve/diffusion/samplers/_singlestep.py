"""Methods with several evaluations a step, as rows of a plan.

The stages of a step start from its first point x_s: u_i = a_i x_s + sum_j b_ij y_j. A plan knows only the
present point, so x_s is expressed by it: u_{i+1} = (a_{i+1} / a_i) (u_i - sum_j b_ij y_j) + sum_j b_{i+1,j}
y_j.
"""

from typing import Any

import numpy as np

from .._arrays import namespace
from ..plan import Form, Plan, build
from ..points import Points


def stage_rows(a: Any, b: Any) -> Any:
    """Rows (S, m, 1 + m) from a (S, m + 1) and b (S, m + 1, m); index 0 is the step's start, index m its
    end."""
    ratio = a[:, 1:] / a[:, :-1]
    change = b[:, 1:] - ratio[:, :, None] * b[:, :-1]
    return namespace(a, b).concatenate([ratio[:, :, None], change], axis=2)


def singlestep(
    form: Form, groups: list[tuple[np.ndarray, Points, Any, Any]], end: Points, width: int
) -> Plan:
    """The plan of steps that may differ in their numbers of stages.

    Each group holds the numbers of its steps (S,), their stages' points (S, m), and a, b as for `stage_rows`;
    `end` (1,) is the last point."""
    xp = namespace(*(a for _, _, a, _ in groups))
    order = np.argsort(
        np.concatenate([np.repeat(steps, at.shape[1]) for steps, at, _, _ in groups]), kind="stable"
    )
    rows, registers = [], []
    for steps, at, a, b in groups:
        stages = at.shape[1]
        flat = stage_rows(a, b).reshape(len(steps) * stages, 1 + stages)
        rows.append(xp.concatenate([flat, xp.zeros((flat.shape[0], width + 1 - stages))], axis=1))
        registers.append(np.tile(np.arange(stages), len(steps)))

    def merge(field: str) -> Any:
        parts = [getattr(at, field).reshape(-1) for _, at, _, _ in groups]
        return namespace(*parts, getattr(end, field)).concatenate(
            [_concatenate(parts)[order], getattr(end, field)]
        )

    visited = Points(merge("t"), merge("log_alpha"), merge("log_sigma"), end.schedule)
    return build(visited, form, np.concatenate(registers)[order], xp.concatenate(rows)[order])


def _concatenate(parts: list[Any]) -> Any:
    return namespace(*parts).concatenate(parts)
