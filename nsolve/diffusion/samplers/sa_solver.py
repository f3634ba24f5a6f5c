"""SA-Solver: an Adams predictor and corrector for diffusion SDEs with any amount of noise."""

from typing import Any, Literal

import equinox as eqx

from .._arrays import namespace
from ..plan import Plan
from ..points import Points
from ._multistep import exact_moments, multistep, start_up
from .base import AbstractSampler, check_choice


class SASolver(AbstractSampler):
    """Exponential Adams predictor-corrector for the reverse SDE with noise scale tau.

    One evaluation a step; each output corrects its own point and predicts the next. The order (of the drift,
    where there is noise) is that of the predictor, and with a corrector of order c the smaller of c and one
    more than the predictor's. tau = 0 is the ODE (where UniPC is the same method), tau = 1 the reverse SDE. A
    little noise mends the network's errors: with tens of evaluations samples are better than those of the
    ODE.

    - `predictor_order`: the number of outputs of the predictor, 1 to 8; `order` is this.
    - `corrector_order`: that of the corrector, the new output included, 2 to 8; 0 for none. The last point is
      not corrected.
    - `tau`: a number, or a function of the time at which a step starts (times (N,) of the schedule to (N,)),
      say 1 in the middle of the noise's range and 0 elsewhere. tau^2 is the eta of `DPMSolverPP(sde=eta)`.
    - `prediction`: interpolate the clean state (`"x0"`, recommended) or the noise (`"eps"`).
    - `lower_order_final`: the last steps use fewer outputs (published: always); None: where there are less
      than 15 steps, or the last is over 1.5 times as long in lam as the one before.
    - `legacy`: the published weights of two outputs, which have 1/2 in place of phi_2 (same orders).

    Xue et al., arXiv:2309.05019. The integrals of lam^k e^lam are done here without cancellation.
    """

    predictor_order: int = eqx.field(static=True, default=3)
    corrector_order: int = eqx.field(static=True, default=4)
    tau: Any = 1.0
    prediction: Literal["x0", "eps"] = eqx.field(static=True, default="x0")
    lower_order_final: bool | None = eqx.field(static=True, default=None)
    legacy: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        _check_count("predictor_order", self.predictor_order, range(1, 9))
        _check_count("corrector_order", self.corrector_order, (0, *range(2, 9)))
        check_choice("prediction", self.prediction, ("x0", "eps"))
        if isinstance(self.tau, float | int) and not self.tau >= 0:
            raise ValueError(f"`tau` must not be negative, got {self.tau}.")

    @property
    def order(self) -> int:
        return self.predictor_order

    def table(self, grid: Points, known: int) -> Plan:
        orders = start_up(grid, self.predictor_order, self.lower_order_final)
        corrector_orders = None
        if self.corrector_order:
            corrector_orders = start_up(grid, self.corrector_order - 1, self.lower_order_final)
        return multistep(
            grid,
            self.prediction,
            orders,
            corrector_orders,
            eta=self._eta(grid),
            known=known,
            predictor_moments=self._moments,
            corrector_moments=self._moments,
        )

    def _eta(self, grid: Points) -> Any:
        if not callable(self.tau):
            return self.tau**2
        starts = grid.t[:-1]
        tau = self.tau(starts)
        xp = namespace(starts, tau)
        eta = xp.asarray(tau, float) ** 2
        if eta.shape != starts.shape:
            raise ValueError(
                f"`tau` must map times of shape {starts.shape} to numbers of that shape, got {eta.shape}."
            )
        if self.prediction == "x0":
            return eta
        # Noise in a step that ends at sigma = 0 would be there to stay.
        return xp.where(xp.isinf(grid.lam[1:]), 0.0, eta)

    def _moments(self, order: int, z: Any) -> list[Any]:
        values = exact_moments(order, z)
        if order == 2 and self.legacy and self.prediction == "x0":
            values[1] = 0.5 * namespace(z).ones_like(z)
        return values


def _check_count(name: str, value: Any, choices: Any) -> None:
    if isinstance(value, bool) or value not in choices:
        raise ValueError(f"`{name}` must be one of {tuple(choices)}, got {value!r}.")
