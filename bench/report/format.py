"""How a number reads, the same in every table, picture and page."""

import math
from typing import Any

NONE = "–"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def is_number(value: Any) -> bool:
    """Whether `value` is a finite real number (a bool is not)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def text(value: Any) -> str:
    """Words as they are, a dash where there is nothing."""
    return NONE if value is None else str(value)


def number(value: float | None) -> str:
    """`12 -> '12'`, `12.34 -> '12.3'`; a dash where there is nothing."""
    if value is None:
        return NONE
    if not math.isfinite(value):
        return scientific(value)
    return str(value) if isinstance(value, int) else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def count(value: float | None) -> str:
    """As `number`, but a whole number without its decimals."""
    return number(int(value) if value is not None and math.isfinite(value) and value == int(value) else value)


def fixed(digits: int) -> Any:
    """Formats with so many decimals."""
    return lambda value: NONE if value is None else f"{value:.{digits}f}"


def times(value: float | None) -> str:
    """`3.14159 -> '3.1x'`."""
    return (
        NONE
        if value is None or not math.isfinite(value)
        else f"{value:.2f}x"
        if value < 10
        else f"{value:.1f}x"
    )


def solves(value: float | None) -> str:
    """After how many solves something has paid for itself: `41.2 -> '42 solves'`, `inf -> 'never'`."""
    if value is None or math.isnan(value):
        return NONE
    return "never" if math.isinf(value) else f"{max(1, math.ceil(value)):,} solves"


def percent(value: float | None) -> str:
    return NONE if value is None else f"{100 * value:.2f} %"


def mebibytes(value: float | None) -> str:
    return (
        NONE if value is None else f"{value / 2**20:.0f} MiB" if value > 2**25 else f"{value / 2**20:.1f} MiB"
    )


def seconds(value: float | None) -> str:
    """`0.0123 -> '12.3 ms'`, three significant digits; a dash where there is nothing."""
    if value is None or not is_number(value):
        return NONE
    if value == 0:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(value) >= scale * 0.9995:
            return f"{value / scale:#.3g}".rstrip(".") + f" {unit}"
    return f"{value / 1e-9:.3g} ns"


def scientific(value: float | None) -> str:
    """`9.93e-09 -> '9.9e-9'`, `0.25 -> '0.25'`; a dash for None; `NaN` and `inf` as they are."""
    if value is None:
        return NONE
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
