"""What `AlgebraicMultigrid` makes: in a file of its own, since solvers import preconditioners."""

import dataclasses
from typing import Any

import lineax as lx
import numpy as np
from jax.core import Tracer

from ...direct.base import DirectInverse
from ...operators.base import tags_of
from ..base import constant
from .algebraic import TAGS, AlgebraicMultigrid


class AlgebraicMultigridInverse(DirectInverse):
    """One cycle of algebraic multigrid; printed, it shows its levels."""

    def refresh(self, operator: lx.AbstractLinearOperator) -> DirectInverse:
        made = self.constructor
        assert isinstance(made, AlgebraicMultigrid)
        if self.state.side == "T":
            return self.transpose().refresh(operator.transpose()).transpose()
        values, pattern = made.entries(operator)
        if pattern != self.state.pattern or operator.in_structure() != self.structure:
            raise ValueError(
                f"`refresh` needs an operator with the pattern that the preconditioner was made for, "
                f"{self.state.pattern} of {self.structure}, but was given {pattern} of "
                f"{operator.in_structure()}. Make a new preconditioner instead."
            )
        if self.state.origin is None:
            return made.build(constant(operator))  # pyright: ignore[reportReturnType]
        state = self.state.refresh(values)
        return dataclasses.replace(self, state=state, tags=tags_of(operator) & TAGS)

    @property
    def table(self) -> list[tuple[int, int]]:
        """Unknowns and nonzeros of each level; empty while tracing, and where there is no hierarchy."""
        return getattr(self._hierarchy, "table", [])

    @property
    def is_frozen(self) -> bool:
        """Whether a refresh has kept the levels' patterns; False while tracing."""
        return getattr(self._hierarchy, "is_frozen", False)

    @property
    def _hierarchy(self) -> Any:
        from ...kernels import factors

        state = self.state
        if isinstance(state.key, Tracer) or np.ndim(state.key) > 1:
            return None
        return factors.hierarchy(state.recipe, *state.arrays, key=state.key)

    def __repr__(self) -> str:
        state, made = self.state, self.constructor
        head = f"AlgebraicMultigrid preconditioner ({getattr(made, 'method', '')}, {self.in_size()} unknowns)"
        if isinstance(state.key, Tracer) or np.ndim(state.key) > 1:
            return head
        table = self.table
        if not table:
            return f"{head}: no hierarchy"
        total = sum(entries for _, entries in table)
        rows = ["level    unknowns    nonzeros   share"]
        for k, (size, entries) in enumerate(table):
            rows.append(f"{k:<5}{size:>12}{entries:>12}{entries / total:>8.1%}")
        what = f"V(1,1), operator complexity {total / table[0][1]:.2f}"
        what += ", refreshed on the patterns of an earlier matrix" if self.is_frozen else ""
        if len(table) == 1:
            what = "one level: nothing is coarsened"
        return "\n".join([f"{head}: {what}", *rows])
