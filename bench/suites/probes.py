"""Every library is asked the questions that tempt one into a wrong answer."""

from ..engine.suite import Group, Suite
from ..work import probes

_SPD = (
    "cg",
    "flexible_cg",
    "solvax:pcg",
    "lineax:cg",
    "jax.scipy:cg",
    "scipy:cg",
    "pyamg:cg",
    "pyamg:ruge_stuben",
)
_ITERATIVE = (
    "cg", "flexible_cg", "minres", "bicgstab", "gmres", "fgmres",
    "solvax:pcg", "solvax:gmres", "solvax:gcrot",
    "lineax:cg", "lineax:bicgstab", "lineax:gmres",
    "jax.scipy:cg", "jax.scipy:bicgstab", "jax.scipy:gmres",
    "scipy:cg", "scipy:minres", "scipy:bicgstab", "scipy:gmres",
    "pyamg:cg", "pyamg:bicgstab", "pyamg:gmres", "pyamg:ruge_stuben",
)  # fmt: skip
_ALL = (*_ITERATIVE, "scipy:spsolve")

SUITE = Suite(
    "Probes: questions that tempt a solver into a wrong answer that it calls right",
    probes.WORK,
    (
        Group(["unit_vector", "nan", "zero"], _ALL),
        Group(["indefinite", "zero_curvature"], _SPD),
        Group(["consistent", "inconsistent"], _ALL),
        Group("recurrence", _ITERATIVE),
        Group(["same_function", "new_function"], _ALL),
        Group(["tolerances", "gradient", "jvp", "hvp", "vmap"], _ITERATIVE),
    ),
)
