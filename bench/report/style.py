"""How charts look: colours and dashes of columns, ticks of logarithmic axes, fonts.

Colour says which library where a chart has several, so that one library keeps its colour from chart to chart
(the Okabe-Ito palette, told apart by colour-blind readers); its columns are shades of it.  Where all are one
library's, a colour is a column.  No two columns of a chart have the same colour and the same dash, and where
lines coincide, nsolve's are the wide ones underneath.
"""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

from ..engine.spec import OWN, parse
from .format import power_of_ten

# The Okabe-Ito colours, darkened where they would be too light on white.
COLOURS = {
    OWN: "#0072B2",
    "scipy": "#D98E00",
    "pyamg": "#009E73",
    "jax.scipy": "#CC79A7",
    "lineax": "#D55E00",
    "solvax": "#56B4E9",
    "petsc": "#5B4A9E",
    "amgcl": "#8C6D31",
    "ott": "#009E73",
    "pot": "#D55E00",
    "diffusers": "#D98E00",
}
PALETTE = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#D98E00", "#56B4E9", "#5B4A9E", "#8C6D31", "#B8336A",
    "#2F4F4F", "#7A9E00", "#B07AA1", "#A0522D", "#6E6E6E",
)  # fmt: skip
FAILURE = "#C00000"
DASHES = ((1, 0), (6, 3), (2, 2), (9, 2, 2, 2), (12, 4), (4, 1), (1, 3))
# How much lighter (or darker) than a library's colour its columns are; as many as there are dashes.
_SHADES = (0, -0.13, 0.14, 0.26, -0.2, 0.07, 0.2)
WIDE, NARROW = 3.8, 1.8
FONT = 13  # pixels: read on a phone as well
CHARACTER = 6.6  # pixels of an average one, a little too wide


def styles(names: Sequence[str]) -> tuple[dict[str, str], dict[str, list[int]], dict[str, bool]]:
    """Colours and dashes of columns by name, no two alike, and whose lines are wide."""
    libraries = [library(name) for name in names]
    kinds = list(dict.fromkeys(libraries))
    by_library = len(kinds) > 1 and max(libraries.count(kind) for kind in kinds) <= len(DASHES)
    colours, dashes, wide = {}, {}, {}
    for place, (name, kind) in enumerate(zip(names, libraries, strict=True)):
        if by_library:
            number, which = libraries[:place].count(kind), kinds.index(kind)
            others = [colour for colour in PALETTE if colour not in COLOURS.values()]
            shade = _shaded(COLOURS.get(kind, others[which % len(others)]), _SHADES[number])
            # Libraries begin at different dashes, so that lines on top of each other are all seen.
            dash = 0 if kind == OWN and not number else number + which
        else:
            shade, dash = PALETTE[place % len(PALETTE)], place // len(PALETTE)
        colours[name] = shade
        dashes[name] = [*DASHES[dash % len(DASHES)]]
        wide[name] = by_library and kind == OWN
    return colours, dashes, wide


def library(name: str) -> str:
    """The library of a column; none where it is not one."""
    try:
        return parse(name).peer
    except ValueError:
        return ""


def _shaded(colour: str, lighter: float) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    light = min(0.72, max(0.18, light + lighter))
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, light, saturation))


def logarithmic(low: float, high: float) -> tuple[list[float], list[float], list[str]]:
    """Limits, ticks and their labels of a logarithmic axis that holds the positive numbers `low` to `high`.

    Ticks are powers of ten, and where there are fewer than three also twice and five times those; a tick that
    is missing at an end is included, so that there are two at least."""
    low, high = float(f"{low:.3g}"), float(f"{high:.3g}")
    margin = max((high / low) ** 0.04, 1.08)
    low, high = low / margin, high * margin
    exponents = range(math.floor(math.log10(low)) - 1, math.floor(math.log10(high)) + 2)
    for digits in ((1,), (1, 2, 5)):
        ticks = [float(f"{digit}e{exponent}") for exponent in exponents for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > 2:
            break
    if len(inside) < 2:
        inside = [max(t for t in ticks if t <= low), *inside, min(t for t in ticks if t >= high)]
        low, high = min(low, inside[0]), max(high, inside[-1])
    inside = inside[:: math.ceil(len(inside) / 8)]
    plain = all(1e-3 <= tick < 1e5 for tick in inside)
    return [low, high], inside, [f"{tick:,g}" if plain else _power(tick) for tick in inside]


def _power(tick: float) -> str:
    mantissa, exponent = f"{tick:.0e}".split("e")
    power = power_of_ten(int(exponent))
    return power if mantissa == "1" else f"{mantissa}·{power}"


def configured(background: str) -> dict[str, Any]:
    """The house's style as Vega-Lite's `config`."""
    return {
        "background": background,
        "font": "sans-serif",
        "padding": 8,
        "view": {"stroke": None},
        "axis": {
            "labelFontSize": FONT, "titleFontSize": FONT, "titleFontWeight": "normal", "gridColor": "#E8E8E8",
            "domainColor": "#999999", "tickColor": "#999999", "labelColor": "#333333",
            "titleColor": "#333333", "labelOverlap": "greedy", "labelSeparation": 6,
        },
        "title": {
            "anchor": "start", "frame": "group", "fontSize": 15, "fontWeight": 500, "subtitleFontSize": FONT,
            "subtitlePadding": 5, "offset": 12, "color": "#1D1F23", "subtitleColor": "#666666",
        },
        "legend": {
            "labelFontSize": FONT, "labelLimit": 0, "labelColor": "#333333", "symbolType": "stroke",
            "symbolSize": 500, "symbolLimit": 1000, "symbolStrokeWidth": 2.5, "rowPadding": 5,
            "orient": "right",
        },
        "concat": {"spacing": 28},
        "style": {
            "figures": {"color": "#555555", "fontSize": FONT, "align": "left", "dx": 5},
            "failures": {"color": FAILURE, "fontSize": FONT, "align": "left", "dx": 5},
            "cross": {"color": FAILURE, "strokeWidth": 2.2, "filled": False, "size": 80},
            "level": {"color": "#777777", "strokeDash": [2, 3]},
        },
    }  # fmt: skip


def room_for_text(values: Sequence[float], texts: Sequence[str], width: int) -> tuple[int, float]:
    """The width of a panel of bars and the end of its axis, so that the text beside each bar is inside."""
    lengths = [CHARACTER * len(text) + 10 for text in texts]
    width = max(width, round(1.25 * max(lengths, default=0)))
    ends = [value * width / (width - length) for value, length in zip(values, lengths, strict=True)]
    return width, max(ends, default=0.0) or 1e-3
