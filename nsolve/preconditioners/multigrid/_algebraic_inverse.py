"""What `AlgebraicMultigrid` makes: in a file of its own, since solvers import preconditioners."""

import numpy as np
from jax.core import Tracer

from ...direct.base import DirectInverse


class AlgebraicMultigridInverse(DirectInverse):
    """One cycle of algebraic multigrid; printed, it shows its levels."""

    @property
    def table(self) -> list[tuple[int, int]]:
        """Unknowns and nonzeros of each level; empty while tracing, and where there is no hierarchy."""
        from ...kernels import factors

        state = self.state
        if isinstance(state.key, Tracer) or np.ndim(state.key) > 1:
            return []
        return factors.table(state.recipe, state.indptr, state.indices, state.values, state.key)

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
        if len(table) == 1:
            what = "one level: nothing is coarsened"
        return "\n".join([f"{head}: {what}", *rows])
