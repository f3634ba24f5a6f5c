"""Sequences whose solver has its relaxation parameter tuned as they go: `nsolve-bench run relax`.

A column says after `@` who chooses `omega`: a tuner, e.g. `sor@tsallis_inf` or `cg+ssor@cheb_cb,warm`; or
`best_fixed`, the value of the grid that costs least on systems sampled from the sequence beforehand.  Without
any of them `omega` stays as it is.  `warm` starts from the solution before, `extrapolated` from
the line through the last two.

What the learners must show and where the two sequences come from: Khodak, Chow, Balcan & Talwalkar (2024),
arXiv:2310.02246.
"""

from ..specs import OWN, Spec, check_name, check_part, parse_part
from .problems import PROBLEMS as PROBLEMS
from .problems import options as options
from .tuners import BEST_FIXED as BEST_FIXED
from .tuners import OPTIONS as TUNER_OPTIONS
from .tuners import STARTS as STARTS


def check(spec: Spec) -> None:
    """ValueError where a column cannot solve these sequences."""
    if spec.peer != OWN:
        raise ValueError(f"{spec}: only nsolve's own solvers are tuned along a sequence")
    tuners = [parse_part(mode, whole=str(spec)) for mode in spec.mode if mode not in STARTS]
    for tuner in tuners:
        check_name(f"mode of {spec}", tuner.name, (*TUNER_OPTIONS, *STARTS))
        check_part("tuner", tuner, TUNER_OPTIONS)
    if len(tuners) > 1:
        raise ValueError(f"{spec} names several tuners; a sequence has one")
    if tuners and not is_tunable(spec):
        raise ValueError(f"{spec} has no omega to tune: use sor, or cg+ssor")
    if "form" in spec.solver.options:
        raise ValueError(f"{spec}: these sequences are sparse matrices; leave out form")


def is_tunable(spec: Spec) -> bool:
    """Whether there is an `omega`."""
    return spec.solver.name == "sor" or bool(spec.preconditioner and spec.preconditioner.name == "ssor")
