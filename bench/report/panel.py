"""One panel of a chart: which records of a frame it draws, and its marks as Altair's layers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import polars as pl

from . import style
from .tables import Derive

MARKS = ("line", "points", "bar", "image")
# Of a long line a screen shows no more points than this.
MOST_POINTS = 240
_FIGURES = 6  # significant ones of the numbers that marks show
_CROSS = "M-1,-1L1,1M1,-1L-1,1"
_FAILED = "datum.ok === false"


@dataclass(frozen=True)
class Axis:
    """A field of the frame and how it is laid out.

    `log` may be a function of the panel's frame; with `zero` a logarithmic axis begins at zero, as of 1 +
    x."""

    field: str
    title: str
    log: bool | Callable[[pl.DataFrame], bool] = False
    reverse: bool = False
    nominal: bool = False
    zero: bool = False

    def of(self, rows: pl.DataFrame) -> "Axis":
        """The same with `log` decided."""
        return replace(self, log=self.log(rows)) if callable(self.log) else self

    def encoding(self, kind: type, rows: pl.DataFrame, limits: Sequence[float] | None, bars: bool) -> Any:
        """As Altair's `X` or `Y`; `limits` are those of the scale, None for what the numbers span."""
        name = word(self.field)
        if self.nominal:
            axis = alt.Axis(labelLimit=0, labelPadding=7, domain=False, ticks=False, grid=False, labelAngle=0)
            return kind(f"{name}:N", title=self.title or None, sort=names_of(rows, self.field), axis=axis)
        if self.log:
            low, high = limits or _ends(rows[self.field].to_list())
            domain, ticks, labels = style.logarithmic(
                1 if self.zero else low, max(1, high) if self.zero else high
            )
            if self.zero:
                domain, ticks, labels = [0, domain[1]], [0, *ticks], ["0", *labels]
            worded = f"{json.dumps(labels, ensure_ascii=False)}[indexof({json.dumps(ticks)}, datum.value)]"
            axis = alt.Axis(values=ticks, labelExpr=worded)
            kinds: Any = "symlog" if self.zero else "log"
            scale = alt.Scale(type=kinds, domain=domain, nice=False, reverse=self.reverse)
        else:
            axis = alt.Axis(tickCount=4 if bars else 6)
            given = {} if limits is None else {"domain": list(limits), "nice": not bars and limits is None}
            scale = alt.Scale(type="linear", reverse=self.reverse, zero=bars, **given)
        return kind(f"{name}:Q", title=self.title, scale=scale, axis=axis)


@dataclass(frozen=True)
class Panel:
    """One frame: `mark` is `line`, `points` (a line with its points), `bar` or `image` (whose `y` names rows
    and `url` its pictures).

    `order`: the field along which a line runs, where that is not `x`.  `explode`: fields that
    hold lists, a mark for each entry; `place` is then the entry's number, and `after` is applied to them.
    `level`: a field whose value is drawn as a dotted line, such as the tolerance.  `text`: a field written
    beside each bar.  `domain`: a function of the panel's frame that gives the limits of `y`."""

    mark: str
    x: Axis
    y: Axis
    width: int = 480
    height: int | None = None
    explode: Sequence[str] = ()
    level: str | float | None = None
    text: str | None = None
    url: str | None = None
    order: str | None = None
    after: Derive | None = None
    domain: Callable[[pl.DataFrame], tuple[float, float] | None] | None = None

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"mark of a panel is {self.mark!r}: choose from {', '.join(MARKS)}")

    def frame(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, "Panel"]:
        """What is drawn, records in which both fields are numbers, and the panel with its axes decided."""
        if not all(isinstance(rows.schema.get(name), pl.List) for name in self.explode):
            return rows.clear(), self
        if self.explode:
            length = pl.col(self.explode[0]).list.len()
            rows = rows.filter(length > 0).with_columns(pl.int_ranges(length).alias("place"))
            rows = rows.explode("place", *self.explode)
            rows = rows if self.after is None else self.after(rows)
        axes = []
        for axis in (self.x, self.y):
            if axis.field not in rows.columns:
                return rows.clear(), self
            rows = rows.filter(pl.col(axis.field).is_not_null())
            if rows.is_empty():
                return rows, self
            axes.append(axis := axis.of(rows))
            if not axis.nominal:
                value = pl.col(axis.field).cast(pl.Float64)
                rows = rows.filter(value.is_finite() & ((value > 0) if axis.log and not axis.zero else True))
        if self.explode:
            rows = _thinned(rows, axes[0], axes[1].field)
        return rows, replace(self, x=axes[0], y=axes[1])

    def is_line(self) -> bool:
        return self.mark in ("line", "points")

    def has_enough(self, rows: pl.DataFrame) -> bool:
        """By default, two points of a line."""
        return not self.is_line() or rows[self.x.field].n_unique() > 1


def lines(base: Any, panel: Panel, rows: pl.DataFrame, looks: dict[str, Any]) -> list[Any]:
    limits = panel.domain(rows) if panel.domain is not None else None
    if limits is None and panel.y.log:
        level = rows[panel.level].to_list() if isinstance(panel.level, str) else [panel.level]
        values = [v for v in [*rows[panel.y.field].to_list(), *level] if v]
        limits = _ends(values)
    x, y = panel.x.encoding(alt.X, rows, None, False), panel.y.encoding(alt.Y, rows, limits, False)
    base = base.encode(x=x, y=y)
    order = alt.Order(f"{word(panel.order or panel.x.field)}:Q")
    detail = {"detail": "index:N"} if panel.explode else {}
    line = base.mark_line(clip=True).encode(order=order, **looks, **detail)
    if panel.mark == "points":
        return [
            line,
            base.mark_point(filled=True, size=34, clip=True, opacity=1).encode(color=looks["color"]),
        ]
    # Seen by the pointer only: a line's numbers are those of its points.
    over = alt.Chart(base.data).encode(x=x, y=y, tooltip=base.encoding.tooltip)
    return [line, over.mark_point(size=60, opacity=0, filled=True, clip=True)]


def crosses(base: Any, panel: Panel) -> Any:
    axes = {"x": f"{word(panel.x.field)}:Q", "y": f"{word(panel.y.field)}:Q"}
    return base.transform_filter(_FAILED).mark_point(shape=_CROSS, style="cross", clip=True).encode(**axes)


def bars(base: Any, panel: Panel, rows: pl.DataFrame, colour: Any, first: bool) -> tuple[list[Any], Panel]:
    """Bars with their text; only the first panel of the same rows names them."""
    values = [float(value) for value in rows[panel.x.field].to_list()]
    texts = rows[panel.text].to_list() if panel.text else [""] * len(values)
    width, end = style.room_for_text(values, texts, panel.width)
    x, y = panel.x.encoding(alt.X, rows, (0.0, end), True), panel.y.encoding(alt.Y, rows, None, True)
    if not first:
        y = y.axis(None)
    base = base.encode(x=x, y=y)
    solid = alt.when(_FAILED).then(alt.value(0.35)).otherwise(alt.value(1.0))
    layers = [base.mark_bar(height=17, clip=True).encode(color=colour, opacity=solid)]
    if panel.text:
        text = alt.Text(f"{word(panel.text)}:N")
        for test, look in ((f"!({_FAILED})", "figures"), (_FAILED, "failures")):
            layers.append(base.transform_filter(test).mark_text(style=look).encode(text=text))
    return layers, replace(panel, width=width)


def images(base: Any, panel: Panel, rows: pl.DataFrame) -> list[Any]:
    columns = rows[panel.x.field].n_unique()
    high = (panel.height or 26 * rows[panel.y.field].n_unique()) / rows[panel.y.field].n_unique()
    x, y = (axis.encoding(kind, rows, None, False) for axis, kind in ((panel.x, alt.X), (panel.y, alt.Y)))
    mark = base.mark_image(width=panel.width / columns - 6, height=high - 3)
    return [mark.encode(x=x, y=y, url=f"{word(panel.url or 'url')}:N")]


def _thinned(rows: pl.DataFrame, x: Axis, y: str) -> pl.DataFrame:
    """Of each record the points that a screen shows: the highest and the lowest in each of many strips, and
    both ends."""
    along = pl.col(x.field).cast(pl.Float64)
    along = (along + x.zero).log() if x.log else along
    low, high = along.min().over("index"), along.max().over("index")
    strips = ((along - low) / (high - low) * (MOST_POINTS // 2 - 1.001)).fill_nan(0).floor()
    rows = rows.with_columns(strips.alias("strip"))
    place, strip = pl.col("place"), ("index", "strip")
    kept = [place.sort_by(y).first().over(strip), place.sort_by(y).last().over(strip)]
    kept += [place.min().over("index"), place.max().over("index")]
    return rows.filter(
        (pl.len().over("index") <= MOST_POINTS) | pl.any_horizontal(place == keep for keep in kept)
    ).drop("strip")


def values_of(rows: pl.DataFrame, panel: Panel, colour: str) -> list[dict[str, Any]]:
    """What marks are made of, and what they show: of a point of a long line only what is its own."""
    names = [colour, panel.x.field, panel.y.field, "ok", panel.text, panel.url, panel.order]
    names += ["index"] if panel.explode else ["rtol", "seconds", "steps", "true_residual", "reason"]
    rows = rows.select(name for name in dict.fromkeys(names) if name in rows.columns)
    rows = rows.with_columns(pl.selectors.float().round_sig_figs(_FIGURES))
    return [{word(k): v for k, v in row.items() if v is not None} for row in rows.to_dicts()]


def tips(values: Sequence[Mapping[str, Any]], rows: pl.DataFrame, colour: str) -> list[alt.Tooltip]:
    found = {name for value in values for name in value}
    tips = []
    for name in rows.columns:
        key = word(name)
        if key in found and name not in ("ok", "index", "told", "once"):
            kind: dict[str, Any] = {"type": "nominal"}
            if rows[name].dtype.is_numeric():
                kind = {"type": "quantitative", "format": ".4~g"}
            tips.append((name != colour, alt.Tooltip(key, title=name.replace("_", " "), **kind)))
    return [tip for _, tip in sorted(tips, key=lambda pair: pair[0])]


def _ends(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def names_of(rows: pl.DataFrame, name: str) -> list[Any]:
    return rows[name].unique(maintain_order=True).to_list()


def word(name: str) -> str:
    return re.sub(r"\W", "_", name)
