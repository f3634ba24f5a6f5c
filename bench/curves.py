"""Curves with named ends as an SVG string that takes its colours from the page's style sheet."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.table import power_of_ten

_WIDTH, _HEIGHT = 760.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 214.0, 14.0, 42.0
_CHARACTER, _LINE = 6.3, 14.0  # size of a label's letters, in the picture's units

# Lines of one library differ in their dashes.
_DASHES = ("none", "7 2", "2 2", "8 2 2 2", "12 4")


@dataclass(frozen=True)
class Curve:
    """One line: whose it is, a note for its end, its points, its colour class, why it failed."""

    solver: str
    note: str
    points: Sequence[tuple[float, float]]
    style: str
    failure: str = ""
    markers: bool = False


def curves(lines: Sequence[Curve], x_label: str, y_label: str, x_log: bool, x_reversed: bool = False) -> str:
    """Draw the lines on a logarithmic y axis; the empty string where there is nothing to draw."""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    if not xs:
        return ""
    horizontal = _Axis(min(xs), max(xs), x_log, _LEFT, _WIDTH - _RIGHT, x_reversed)
    vertical = _Axis(min(ys), min(max(ys), 1e6), True, _HEIGHT - _BOTTOM, _TOP)
    parts = [_grid(horizontal, vertical, x_label, y_label)]
    labels = _Labels()
    ends = []
    seen: Counter[str] = Counter()
    for line in lines:
        points = [(horizontal(x), vertical(y)) for x, y in line.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        dash = _DASHES[seen[line.style] % len(_DASHES)]
        seen[line.style] += 1
        shapes = f'<path d="{path}" stroke-dasharray="{dash}"/>'
        if line.markers:
            shapes += "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points)
        parts.append(_group(line, shapes))
        ends.append((points[-1], line))
    for (x, y), line in sorted(ends, key=lambda end: -end[0][1]):  # from the bottom up
        text = f"{line.solver} {line.note}".rstrip()
        height = labels.place(x + 8, y, text)
        shapes = ""
        if line.failure:
            shapes = f"<title>{escape(line.failure)}</title>"
            shapes += f'<path class="cross" d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
        if abs(height - y) > 5:
            shapes += f'<path class="leader" d="M{x:.1f} {y:.1f}L{x + 7:.1f} {height:.1f}"/>'
        shapes += f'<text x="{x + 9:.1f}" y="{height + 4:.1f}">{escape(text)}</text>'
        parts.append(_group(line, shapes))
    return (
        f'<svg class="curves" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" '
        f'aria-label="{escape(y_label)} against {escape(x_label)}">{"".join(parts)}</svg>'
    )


def _group(line: Curve, shapes: str) -> str:
    failed = " failed" if line.failure else ""
    return f'<g class="curve {line.style}{failed}" data-solver="{escape(line.solver)}">{shapes}</g>'


class _Axis:
    """Maps values to positions; logarithmic limits are whole decades or nearly so."""

    def __init__(self, low: float, high: float, log: bool, start: float, end: float, flip: bool = False):
        self.log = log
        self.low, self.high = (math.log10(low), math.log10(high)) if log else (low, high)
        if self.high - self.low < 1e-9:
            self.high = self.low + 1
        margin = 0.04 * (self.high - self.low)
        self.low, self.high = self.low - margin * log, self.high + margin
        self.start, self.end = (end, start) if flip else (start, end)

    def __call__(self, value: float) -> float:
        value = math.log10(value) if self.log else value
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return self.start + share * (self.end - self.start)

    def ticks(self, most: int) -> list[tuple[float, str]]:
        """Positions and names of at most about `most` round values."""
        if not self.log:
            step = 10 ** math.floor(math.log10((self.high - self.low) / most))
            step = max(1, next(step * k for k in (1, 2, 5, 10) if self.high / (step * k) <= most))
            return [(self(k * step), f"{k * step:g}") for k in range(int(self.high / step) + 1)]
        first, last = math.ceil(self.low), math.floor(self.high)
        if last - first < 1:  # less than two decades: 1, 2, 5
            values = [k * 10.0**e for e in range(first - 2, last + 2) for k in (1, 2, 5)]
            inside = [v for v in values if self.low <= math.log10(v) <= self.high]
            return [(self(v), f"{v:g}") for v in inside]
        stride = max(1, math.ceil((last - first) / most))
        return [(self(10.0**e), power_of_ten(e)) for e in range(first, last + 1, stride)]


class _Labels:
    """Places labels one after the other, each at the nearest height that is still free."""

    def __init__(self) -> None:
        self.taken: list[tuple[float, float, float]] = []

    def place(self, x: float, y: float, text: str) -> float:
        right = x + _CHARACTER * len(text)
        for shift in (0, *range(-2, -300, -2), *range(2, 300, 2)):
            height = y + shift
            if not _TOP <= height <= _HEIGHT - _BOTTOM:
                continue
            if all(abs(height - h) >= _LINE or right < left or x > end for left, end, h in self.taken):
                break
        else:
            height = y
        self.taken.append((x, right, height))
        return height


def _grid(horizontal: _Axis, vertical: _Axis, x_label: str, y_label: str) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for y, name in vertical.ticks(6):
        parts.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{name}')
        parts.append("</text>")
    for x, name in horizontal.ticks(6):
        parts.append(f'<path class="grid" d="M{x:.1f} {_TOP}V{bottom}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">')
        parts.append(f"{name}</text>")
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="axis" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">')
    parts.append(f"{escape(x_label)}</text>")
    height = (_TOP + bottom) / 2
    parts.append(
        f'<text class="axis" transform="translate(13 {height}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)
