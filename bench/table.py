"""How a record reads: names, numbers and verdicts, the same in every table, picture and page."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.diffusion import is_diffusion
from bench.record import Record
from bench.transport import is_transport

# Rounding in `||b - A x||` itself: the slack with which "meets the tolerance" is judged.
RESIDUAL_SLACK = 1e-6

_REASONS = {
    "max_steps_reached": "out of steps",
    "breakdown": "breakdown",
    "time_limit": "out of time",
    "stagnation": "stagnated",
    "singular": "singular matrix",
    "nonfinite_input": "NaN or Inf in the input",
    "nonfinite_output": "NaN or Inf in the answer",
    "missing": "not installed",
    "order_missed": "below its order",
}
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def claims_success(record: Record) -> bool:
    """Whether the solver itself said that it succeeded."""
    return record["result"] == "successful"


def succeeded(record: Record) -> bool:
    """Whether the solver claimed success *and* the true residual confirms it.

    A residual that is missing confirms nothing (files hold NaN as null), except for a product
    `y = A x`, which has no tolerance to meet.
    """
    if not claims_success(record) or record.get("false_success"):
        return False
    residual, rtol = record.get("true_residual"), record.get("rtol")
    if rtol is None or is_product(record):
        return True
    rounding = record.get("rounding") or 0.0  # of potentials of transport problems
    return residual is not None and residual <= rtol * (1 + RESIDUAL_SLACK) + rounding


def error_name(record: Record) -> str:
    """What the column `true_residual` of a record holds, in words."""
    if is_diffusion(record["problem"]):
        return "error"
    return "marginal error" if is_transport(record["problem"]) else "relative residual"


def is_product(record: Record) -> bool:
    """Whether a record times one product with the matrix rather than a solve."""
    return record["solver"].split(":")[-1].split("[")[0] == "product"


def is_exact_transport(record: Record) -> bool:
    """Whether a record is of a transport problem without regularisation: the reference, not a rival."""
    return record["solver"] == "pot:emd"


def reason(record: Record) -> str:
    """Why a record failed, in words; the empty string when it did not."""
    if succeeded(record):
        return ""
    if claims_success(record):
        error = error_name(record).removeprefix("relative ")
        return f"says success, true {error} {scientific(record.get('true_residual'))}"
    return _REASONS.get(record["result"], str(record["result"]))


def key(record: Record) -> tuple[str, ...]:
    """What makes two records the same cell of a benchmark."""
    return (*system_key(record), record["solver"], repr(record.get("rtol")), repr(record.get("length")))


def system_key(record: Record) -> tuple[str, ...]:
    """What makes two records the same system: everything but the solver and its tolerance."""
    fields = ("problem", "size", "dtype", "device", "seed")
    return tuple(repr(record.get(name)) for name in fields)


def common_rtol(records: Sequence[Record]) -> float | None:
    """The tolerance that most of the records share; of several the tightest."""
    counts = Counter(record.get("rtol") for record in records)
    return max(counts, key=lambda rtol: (counts[rtol], -(rtol or 0)))


def library(record: Record) -> str:
    """The library that a record belongs to: the peer before the colon, or `nsolve`."""
    solver = record["solver"].split("[")[0].split("+")[0]
    return solver.split(":")[0] if ":" in solver else "nsolve"


def system_label(record: Record) -> str:
    """The problem and its size: `poisson2d 512`."""
    size = record.get("size")
    if isinstance(size, list | tuple):
        size = "×".join(str(side) for side in size)
    return record["problem"] if size in (None, "") else f"{record['problem']} {size}"


def systems(record: Record) -> int:
    """How many systems a record's totals are of: one, unless it is of a sequence."""
    return record.get("count") or 1


def per_system(record: Record, total: float | None) -> float | None:
    """A total of a record, of one of its systems on average; None for what is no number."""
    return total / systems(record) if is_number(total) and total is not None else None


def median_seconds(record: Record) -> float | None:
    """Median solve seconds of a system, or None where nothing was timed."""
    return per_system(record, (record.get("solve_s") or {}).get("median"))


def spread_seconds(record: Record) -> float | None:
    """Interquartile range of the solve seconds of a system."""
    return per_system(record, (record.get("solve_s") or {}).get("iqr"))


def setup_seconds(record: Record) -> float | None:
    """Set-up seconds of a system; a sequence's set-up is its sorting."""
    return per_system(record, record.get("setup_s"))


def num_steps(record: Record) -> float | None:
    """Iterations of a system; of a sequence the mean."""
    steps = record.get("num_steps")
    return steps if systems(record) == 1 else per_system(record, steps)


def number(value: float | None) -> str:
    """`12 -> '12'`, `12.34 -> '12.3'`; a dash where there is nothing."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def seconds(value: float | None) -> str:
    """`0.0123 -> '12.3 ms'`, three significant digits; a dash where there is nothing."""
    if not is_number(value):
        return "–"
    assert value is not None
    if value == 0:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{value / 1e-9:.3g} ns"


def scientific(value: float | None) -> str:
    """`9.93e-09 -> '9.9e-9'`, `0.25 -> '0.25'`; a dash for None; `NaN` and `inf` as they are."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else "inf"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    mantissa = mantissa.removesuffix(".0")
    return f"{mantissa}e{int(exponent)}"


def power_of_ten(exponent: int) -> str:
    """`-8 -> '10⁻⁸'`."""
    return "10" + str(exponent).translate(_SUPERSCRIPTS)
