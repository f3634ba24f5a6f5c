"""The table of diffusion models: schedules, in closed form."""

import numpy as np

from nsolve import diffusion as D

from ..contract import Subject

_t = np.array([0.11, 0.3, 0.5, 0.77, 0.9])


def _preserving(log_alpha):
    return lambda t: (log_alpha(t), 0.5 * np.log(-np.expm1(2 * log_alpha(t))))


def _cosine(t):
    return np.log(np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2))


def _row(schedule, closed_form) -> Subject:
    def call(t):
        lam = schedule.lam(t)
        return schedule.log_alpha(t), schedule.log_sigma(t), lam, schedule.t_of_lam(lam)

    def reference(t):
        log_alpha, log_sigma = closed_form(t)
        return log_alpha, log_sigma, log_alpha - log_sigma, t

    # differences of values of size ten, where a schedule is steep
    return Subject(f"diffusion-{type(schedule).__name__}", call, (_t,), reference, slope_rtol=1e-6)


SUBJECTS = [
    _row(D.VPLinear(), _preserving(lambda t: -0.25 * t**2 * 19.9 - 0.05 * t)),
    _row(D.VPCosine(), _preserving(_cosine)),
    _row(D.VE(), lambda t: (0 * t, np.log(0.01 * 5000.0**t))),
    _row(D.EDM(), lambda t: (0 * t, np.log(t))),
    _row(D.Flow(shift=3.0), lambda t: (np.log((1 - t) / (1 + 2 * t)), np.log(3 * t / (1 + 2 * t)))),
]
