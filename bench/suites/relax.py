"""Bandits choose the relaxation parameter from iteration counts alone, system after system."""

from functools import partial

from ..engine.suite import Group, Suite
from ..work import tuned

_group = partial(Group, repeats=1, max_steps=10000, count=5000)

SUITE = Suite(
    "Relax: omega of SOR and of SSOR-CG tuned along a sequence of 5000 systems",
    tuned.WORK,
    (
        _group(
            ["shifted_laplacian[law=low]", "shifted_laplacian[law=high]"],
            ["sor[omega=1.5]", "sor@best_fixed", "sor@tsallis_inf",
             "sor@tsallis_inf[estimator=importance-weighted]", "sor@tsallis_inf[bins=5]", "sor@cheb_cb",
             "sor@thompson_sampling", "sor@epsilon_greedy"],
            size=10,
            seed=range(10),
        ),
        _group(
            "heat_trajectory",
            ["cg@warm", "cg+ssor[omega=1.0]@warm", "cg+ssor@best_fixed,warm", "cg+ic@warm",
             "cg+ssor@tsallis_inf,warm", "cg+ssor@cheb_cb,warm",
             "cg+ssor[omega=1.0]@extrapolated", "cg+ssor@tsallis_inf,extrapolated",
             "cg+ssor@cheb_cb,extrapolated"],
            size=[100, 200],
        ),
        _group("heat_trajectory", ["cg+ssor[omega=1.5]@warm", "cg+ssor@tsallis_inf[bins=6],warm"], size=100),
        # Trajectories are the same for all seeds; what differs are the draws of the learners.
        _group(
            "heat_trajectory",
            ["cg+ssor@tsallis_inf,warm", "cg+ssor@tsallis_inf[bins=6],warm", "cg+ssor@cheb_cb,warm"],
            size=100,
            seed=[1, 2],
        ),
    ),
)  # fmt: skip
