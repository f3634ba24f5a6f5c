"""UniPC: a predictor and a corrector that share the network's evaluations."""

from typing import Any, Literal

import equinox as eqx

from .._arrays import namespace
from ..phi import phi
from ..plan import Plan
from ..points import Points
from ._multistep import exact_moments, multistep, start_up
from .base import AbstractSampler, check_choice, check_order


class UniPC(AbstractSampler):
    """Unified predictor-corrector: each output serves to correct its own point and to predict the next.

    One evaluation a step. Order of the predictor `order`, one more with the corrector. The best general
    choice for few evaluations; with strong guidance leave the corrector out or choose `order=2`.

    - `order`: 1, 2, 3, ... outputs; start-up steps use as many as there are.
    - `corrector`: correct each point with its own output (the last is not: that would cost an evaluation).
    - `prediction`: interpolate the clean state (`"x0"`, robust with guidance) or the noise (`"eps"`).
    - `variant`: None uses the exact weights. `"bh1"`, `"bh2"`: the published shortcuts, which differ only in
      the predictor of order 2 and the corrector of order 1, at the same orders.
    - `lower_order_final`: the last steps use fewer outputs (published: always); None: where there are less
      than 15 steps, or the last is over 1.5 times as long in lam as the one before.

    Zhao et al., arXiv:2302.04867.
    """

    order: int = eqx.field(static=True, default=3)
    corrector: bool = eqx.field(static=True, default=True)
    prediction: Literal["x0", "eps"] = eqx.field(static=True, default="x0")
    variant: Literal["bh1", "bh2"] | None = eqx.field(static=True, default=None)
    lower_order_final: bool | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        check_order(self.order, 8)
        check_choice("prediction", self.prediction, ("x0", "eps"))
        check_choice("variant", self.variant, (None, "bh1", "bh2"))

    def table(self, grid: Points, known: int) -> Plan:
        orders = start_up(grid, self.order, self.lower_order_final)
        return multistep(
            grid,
            self.prediction,
            orders,
            orders if self.corrector else None,
            known=known,
            predictor_moments=self._moments,
            corrector_moments=self._moments,
        )

    def _moments(self, order: int, z: Any) -> list[Any]:
        """At two nodes the shortcuts replace phi_2(z) by B(h) / (2 h): 1/2 in bh1, phi_1(z) / 2 in bh2."""
        values = exact_moments(order, z)
        if order == 2 and self.variant is not None:
            values[1] = 0.5 * phi(1, z) if self.variant == "bh2" else 0.5 * namespace(z).ones_like(z)
        return values
