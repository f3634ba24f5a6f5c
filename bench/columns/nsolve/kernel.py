"""This project's solvers on kernel systems, whose matrix is never formed: each product evaluates the kernel.

Stopping rule: `||b - A x||_2 <= rtol ||b||_2` on the true residual.  Preconditioners are told the points and
the nugget where they ask for them: `kl_cholesky` the points; `nystrom` the nugget, as its shift; and
`block_jacobi` has blocks of near points, by halves along the longest side, of at most `block_size`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import nsolve as ns
from nsolve.operators import RadialKernel
from nsolve.preconditioners import kl_cholesky

from ...engine.measure import clock
from ...engine.options import Option
from ...engine.spec import Part, Spec
from ...engine.work import Offer
from ...work.kernel import KernelSystem
from . import solvers
from .linear import NsolveRun

#: Those for positive definite matrices that need products only.
SOLVERS = {
    name: {key: option for key, option in solvers.SOLVERS[name].items() if key != "form"}
    for name in ("cg", "flexible_cg", "minres")
}
PRECONDITIONERS = {
    "jacobi": {},
    "block_jacobi": {"block_size": Option(256, least=1)},
    "nystrom": {"rank": Option(256, least=1)},
    "kl_cholesky": {"neighbours": Option(30, least=0)},
}


class KernelRun(NsolveRun):
    """One solver with one preconditioner.

    A solve may take minutes, so there is none before the one that is timed: it is compiled ahead, and the
    set-up is made twice, so that what compiles in it counts as compilation."""

    ahead = True

    def system(self) -> tuple[Any, jax.Array]:
        problem: KernelSystem = self.task.problem
        kernel = RadialKernel(problem.kernel, problem.length)  # pyright: ignore
        matrix = ns.KernelLinearOperator(problem.points, kernel, problem.nugget)
        return matrix, jnp.asarray(problem.rhs)

    def preconditioner(self, part: Part) -> Callable[[Any], Any]:
        problem: KernelSystem = self.task.problem
        given: dict[str, Any] = {
            key: part.options.get(key, option.default)
            for key, option in PRECONDITIONERS.get(part.name, {}).items()
        }
        if part.name == "block_jacobi":
            return lambda matrix: ns.preconditioners.BlockJacobi(blocks=near(problem.points, **given))(matrix)
        if part.name == "nystrom":
            return ns.preconditioners.Nystrom(shift=problem.nugget, **given)
        if part.name == "kl_cholesky":
            return ns.preconditioners.KLCholesky(problem.points, **given)
        return super().preconditioner(part)

    def setup(self) -> Any:
        _, first = clock(self._set_up)
        state, again = clock(self._set_up)
        self.seconds = {"setup_s": min(first, again), "compile_s": max(0.0, first - again)}
        return state

    def _set_up(self) -> Any:
        for found_again in (kl_cholesky._plan, kl_cholesky.coarse_to_fine):  # the order of the points
            found_again.cache_clear()
        return super().setup()

    def compile(self, state: Any) -> Any:
        program, seconds = clock(lambda: super(KernelRun, self).compile(state))
        self.seconds["compile_s"] += seconds
        return program


def near(points: np.ndarray, block_size: int) -> np.ndarray:
    """The number of each point's block."""
    labels, to_do, count = np.empty(len(points), int), [np.arange(len(points))], 0
    while to_do:
        members = to_do.pop()
        if len(members) <= block_size:
            labels[members] = count
            count += 1
            continue
        at = points[members]
        order = members[np.argsort(at[:, np.argmax(np.ptp(at, axis=0))], kind="stable")]
        to_do += [order[: len(order) // 2], order[len(order) // 2 :]]
    return labels


def _check(spec: Spec, part: Part) -> None:
    # What the table has is checked by its options.
    plain = spec.preconditioner is None or spec.preconditioner.name in PRECONDITIONERS
    solvers.check(replace(spec, preconditioner=None) if plain else spec)


OFFER = Offer(KernelRun, SOLVERS, PRECONDITIONERS, check=_check)
