"""Entropic optimal transport to a true L1 error of both marginals of 1e-3 to 1e-12, beside ott-jax and POT.

`eta` is the inverse of epsilon in units of the largest cost. Every column gets the same dense cost matrix in
float64, except where form=points. A column that needs more than `limit_s` seconds has failed, and tighter
tolerances of the same problem are then not tried; the limits keep the suite at some 20 minutes on two cores.
"""

from functools import partial

from ..engine.suite import Group, Suite
from ..report import transport as report
from ..report.tables import Promises
from ..work import transport

_group = partial(Group, rtol=[1e-3, 1e-6, 1e-9, 1e-12], max_steps=1_000_000, repeats=5, limit_s=15.0)
# The three problems of the Sinkhorn-Newton-Sparse paper (arXiv:2401.12253).
_PAPER = ("assignment[eta=1200]", "digits[eta=1200]", "digits[cost=l1,eta=1200]")


def _epsilons(name: str, *options: str) -> list[str]:
    """From large to small."""
    return [f"{name}[{','.join((*options, f'eta={eta}'))}]" for eta in (10, 100, 1000, 10000)]


SUITE = Suite(
    "Transport: Sinkhorn and Newton at small epsilon",
    transport.WORK,
    (
        _group(
            _PAPER,
            ["sinkhorn_newton", "sinkhorn[relaxation=adaptive]", "sinkhorn[anderson=5]",
             "ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson"],
            size=500,
        ),
        _group(
            _PAPER,
            ["sinkhorn", "sinkhorn[decay=2]", "pot:log", "pot:stabilized", "pot:epsilon_scaling", "pot:emd"],
            size=500,
            rtol=[1e-3, 1e-6],
        ),
        _group(
            [*_epsilons("assignment"), *_epsilons("digits")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:anderson", "pot:stabilized"],
            size=500,
            rtol=1e-6,
            limit_s=5.0,
        ),
        _group(
            [*_epsilons("gaussian1d"), *_epsilons("gaussian1d", "cost=l1")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann", "pot:stabilized"],
            size=300,
            limit_s=3.0,
        ),
        _group(
            [*_epsilons("gaussian2d"), *_epsilons("gaussian2d", "cost=l1")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann", "pot:stabilized"],
            size=20,
            rtol=[1e-6, 1e-9],
            limit_s=4.0,
        ),
        _group(
            _epsilons("cloud"),
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann"],
            size=1000,
            rtol=[1e-6, 1e-9],
            limit_s=8.0,
        ),
        _group(
            ["assignment[eta=1000]", "cloud[eta=1000]"],
            ["sinkhorn_newton", "ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson"],
            size=2000,
            rtol=1e-9,
            repeats=1,
            limit_s=30.0,
        ),
        # 64 problems at once, and each of them alone.
        _group(
            ["batch[eta=100]", "batch[eta=1000]"],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn"],
            size=100,
            rtol=1e-9,
        ),
        # Derivatives against dense Newton.
        _group(
            ["assignment[eta=1000]", "cloud[eta=1000]"],
            ["sinkhorn_newton@gradient", "ott:sinkhorn@gradient"],
            size=500,
            rtol=1e-9,
        ),
        _group("cloud[eta=1000]", "sinkhorn_newton[form=points]@gradient", size=500, rtol=1e-9),
        # 10 000 x 10 000 points, no matrix: memory above that of a process with the points in it.
        _group(
            "cloud[eta=100]",
            ["sinkhorn_newton[form=points]", "sinkhorn[form=points]", "sinkhorn_newton[form=points]@gradient",
             "ott:sinkhorn[form=points,batch_size=500]"],
            size=10000,
            rtol=1e-3,
            memory=True,
            limit_s=0.0,
        ),
    ),
    tables=(Promises(report.promises, name="transport-promises"),),
)  # fmt: skip
