"""Charts declared as data, and how they are drawn of a frame with Altair: for the page and for documents.

    Chart(
        "steps", "{problem}: iterations against size", needs="iteration counts at two sizes or more",
        group=("problem", "rtol"),
        panels=(Panel("points", Axis("unknowns", "unknowns", log=True), Axis("steps", "iterations")),),
    )

Panels stand side by side and share their colours (`bench.report.style`); a click on a name in the legend
hides its lines and shows them again, and every mark shows its numbers.  A failed record is a cross, and the
chart's notes say why it failed, and what could not be drawn at all.
"""

import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ..engine.record import write_whole
from . import style
from .tables import Derive, _filtered, _worded

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
    format: str = "~g"

    def of(self, rows: pl.DataFrame) -> "Axis":
        """The same with `log` decided."""
        return replace(self, log=self.log(rows)) if callable(self.log) else self

    def encoding(self, kind: type, rows: pl.DataFrame, limits: Sequence[float] | None, bars: bool) -> Any:
        """As Altair's `X` or `Y`; `limits` are those of the scale, None for what the numbers span."""
        name = _word(self.field)
        if self.nominal:
            axis = alt.Axis(labelLimit=0, labelPadding=7, domain=False, ticks=False, grid=False, labelAngle=0)
            return kind(f"{name}:N", title=self.title or None, sort=_names(rows, self.field), axis=axis)
        if self.log:
            low, high = limits or (rows[self.field].min(), rows[self.field].max())
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
            axis = alt.Axis(tickCount=6 if not bars else 4, format=self.format)
            given = {} if limits is None else {"domain": list(limits), "nice": not bars and limits is None}
            scale = alt.Scale(type="linear", reverse=self.reverse, zero=bars, **given)
        return kind(f"{name}:Q", title=self.title, scale=scale, axis=axis)


@dataclass(frozen=True)
class Panel:
    """One frame: `mark` is `line`, `points` (a line with its points), `bar` or `image` (whose `y` names rows
    and `url` its pictures).

    `explode`: fields that hold lists, a mark for each entry; `place` is then the entry's number.  `level`: a
    field whose value is drawn as a dotted line, such as the tolerance.  `text`: a field written beside each
    bar. `domain`: a function of the panel's frame that gives the limits of `y`."""

    mark: str
    x: Axis
    y: Axis
    width: int = 480
    height: int | None = None
    explode: Sequence[str] = ()
    level: str | float | None = None
    text: str | None = None
    url: str | None = None
    derive: Derive | None = None
    domain: Callable[[pl.DataFrame], tuple[float, float] | None] | None = None

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"mark of a panel is {self.mark!r}: choose from {', '.join(MARKS)}")

    def frame(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, "Panel"]:
        """What is drawn, records in which both fields are numbers, and the panel with its axes decided."""
        if self.derive is not None:
            rows = self.derive(rows)
        if not all(isinstance(rows.schema.get(name), pl.List) for name in self.explode):
            return rows.clear(), self
        if self.explode:
            length = pl.col(self.explode[0]).list.len()
            rows = rows.filter(length > 0).with_columns(pl.int_ranges(length).alias("place"))
            rows = rows.explode("place", *self.explode)
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


@dataclass(frozen=True)
class Chart:
    """What to draw of which records; see the module.

    `needs` says in words what is missing where nothing can be drawn.  `enough`: what has to be there, by
    default two points of one line.  `colour`: the field that lines are told apart by; `colours` are settled
    ones. `stack`: panels below each other.  `note`: text below the title, with fields."""

    name: str
    title: str | Callable[[pl.DataFrame], str]
    panels: Sequence[Panel]
    needs: str
    group: Sequence[str] = ("problem", "size", "dtype", "device", "seed")
    where: pl.Expr | None = None
    derive: Derive | None = None
    enough: Callable[[pl.DataFrame], bool] | None = None
    colour: str = "solver"
    stack: bool = False
    note: str | Callable[[pl.DataFrame], str] = ""
    crosses: bool = True
    colours: Mapping[str, str] = field(default_factory=dict)

    def draw(self, rows: pl.DataFrame) -> Iterator["Drawn"]:
        """A chart for each group of which enough is there."""
        if self.where is not None:
            rows = _filtered(rows, self.where)
        if rows.is_empty():
            return
        if self.derive is not None:
            rows = _whole(self.derive(rows))
        group = [name for name in self.group if name in rows.columns]
        parts = rows.partition_by(group, maintain_order=True) if group else [rows]
        for part in sorted(parts, key=lambda part: part["index"].min()):  # a derivation may have sorted them
            found = [panel.frame(part) for panel in self.panels]
            frames, panels = [frame for frame, _ in found], [panel for _, panel in found]
            if any(frame.is_empty() for frame in frames):
                continue
            if not (self.enough or panels[0].has_enough)(frames[0]):
                continue
            drawn = {name for frame in frames for name in frame[self.colour].to_list()}
            names = [name for name in _names(part, self.colour) if name in drawn]
            lines = [_worded(self.note, part), *self._notes(part, drawn)]
            yield Drawn(
                self.name,
                _file_name(self.name, part, group),
                _worded(self.title, part),
                [line for line in lines if line],
                *self._made(panels, frames, names),
                part,
            )

    def _notes(self, rows: pl.DataFrame, drawn: set[str]) -> Iterator[str]:
        """Which columns failed and why, but for bars, which say it themselves; and which are not drawn."""
        for title, is_drawn in (("× ", True), ("not drawn: ", False)):
            if is_drawn and not (self.crosses and self.panels[0].is_line()):
                continue
            found = []
            for name in _names(rows, self.colour):
                line = rows.filter(pl.col(self.colour) == name)
                why = "; ".join(_names(line.filter(~pl.col("ok")), "reason"))
                if (name in drawn) == is_drawn and (why or not is_drawn):
                    found.append(f"{name} ({why})" if why else name)
            if found:
                yield title + ", ".join(found)

    def _made(
        self, panels: Sequence[Panel], frames: Sequence[pl.DataFrame], names: Sequence[str]
    ) -> tuple[Any, dict]:
        """The picture, and the data that it names."""
        colours, dashes, wide = style.styles(names, self.colours)
        key = _word(self.colour)
        made, data = [], {}
        shown = alt.selection_point(
            f"shown_{_word(self.name)}", fields=[key], bind="legend", toggle="true",
            value=[{key: name} for name in names],
        )  # fmt: skip
        for number, (panel, rows) in enumerate(zip(panels, frames, strict=True)):
            values = data[f"panel{number}"] = _values(rows, panel, self.colour)
            base = alt.Chart(alt.NamedData(f"panel{number}")).encode(tooltip=_tips(values, rows, self.colour))
            scale = {"legend": alt.Legend(title=None) if panel.is_line() else None, "sort": None}
            colour = alt.Color(f"{key}:N", scale=_scale(colours), **scale)
            if panel.is_line():
                faint = alt.when(shown, empty=True).then(alt.value(1.0)).otherwise(alt.value(0.0))
                dash = alt.StrokeDash(f"{key}:N", scale=_scale(dashes), **scale)
                is_wide = f"indexof({json.dumps([name for name in names if wide[name]])}, datum.{key}) >= 0"
                width = alt.when(is_wide).then(alt.value(style.WIDE)).otherwise(alt.value(style.NARROW))
                base = base.encode(opacity=faint)
                layers = _lines(
                    base, panel, rows, {"color": colour, "strokeDash": dash, "strokeWidth": width}
                )
                if self.crosses and not rows["ok"].all():
                    layers.append(_crosses(base, panel))
                    if panel.explode:  # at the end of the line
                        ends = rows.group_by("index", maintain_order=True).last()
                        data[f"ends{number}"] = _values(ends, panel, self.colour)
                        layers[-1].data = alt.NamedData(f"ends{number}")
                if number == 0:  # once: the other panels know it by its name
                    layers[0] = layers[0].properties(name="lines").add_params(shown)
            elif panel.mark == "bar":
                layers, panel = _bars(base, panel, rows, colour, first=number == 0)
            else:
                layers = _images(base, panel, rows)
            level = rows[panel.level].min() if isinstance(panel.level, str) else panel.level
            if level is not None:
                data[f"level{number}"] = [{"level": level}]
                rule = alt.Chart(alt.NamedData(f"level{number}")).mark_rule(style="level")
                layers.append(rule.encode(y="level:Q"))
            rows_high = 26 * rows[panel.y.field].n_unique() if panel.y.nominal else 320
            made.append(alt.layer(*layers).properties(width=panel.width, height=panel.height or rows_high))
        if len(made) == 1:
            return made[0], data
        return alt.vconcat(*made) if self.stack else alt.hconcat(*made), data


@dataclass(frozen=True)
class Drawn:
    """A chart of some records: `chart` is its kind's name, `name` fit for a file, `notes` lines below the
    title; `picture` is Altair's, of the named `data`."""

    chart: str
    name: str
    title: str
    notes: list[str]
    picture: Any
    data: dict[str, list[dict[str, Any]]]
    frame: pl.DataFrame

    def spec(self, background: str = "transparent", titled: bool = True) -> dict[str, Any]:
        """As Vega-Lite, in the style of the house; the title and the notes inside unless the page has
        them."""
        spec = self.picture.to_dict(validate=False)  # which takes seconds of a page
        spec |= {"datasets": self.data, "config": style.configured(background)}
        if titled:
            panels = spec.get("hconcat") or spec.get("vconcat") or [spec]
            wide = [panel["width"] + 110 for panel in panels]
            most = int((max(wide) if "vconcat" in spec else sum(wide)) / style.CHARACTER)
            notes = [line for note in self.notes for line in textwrap.wrap(note, most)]
            spec["title"] = {"text": self.title} | ({"subtitle": notes} if notes else {})
        return spec

    def save(self, folder: Path) -> list[Path]:
        """Write PNG and SVG into the folder, on white; each whole or not at all."""
        import vl_convert

        text = json.dumps(self.spec("white"))
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.svg"]
        write_whole(paths[0], vl_convert.vegalite_to_png(text, scale=2))
        write_whole(paths[1], _numbered(vl_convert.vegalite_to_svg(text)).encode())
        return paths


def _lines(base: Any, panel: Panel, rows: pl.DataFrame, looks: dict[str, Any]) -> list[Any]:
    limits = panel.domain(rows) if panel.domain is not None else None
    if limits is None and panel.y.log:
        level = rows[panel.level].to_list() if isinstance(panel.level, str) else [panel.level]
        values = [v for v in [*rows[panel.y.field].to_list(), *level] if v]
        limits = min(values), max(values)
    x, y = panel.x.encoding(alt.X, rows, None, False), panel.y.encoding(alt.Y, rows, limits, False)
    base = base.encode(x=x, y=y)
    order = alt.Order(f"{_word(panel.x.field)}:Q")
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


def _crosses(base: Any, panel: Panel) -> Any:
    axes = {"x": f"{_word(panel.x.field)}:Q", "y": f"{_word(panel.y.field)}:Q"}
    return base.transform_filter(_FAILED).mark_point(shape=_CROSS, style="cross", clip=True).encode(**axes)


def _bars(base: Any, panel: Panel, rows: pl.DataFrame, colour: Any, first: bool) -> tuple[list[Any], Panel]:
    """Bars with their text; only the first panel names the rows."""
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
        text = alt.Text(f"{_word(panel.text)}:N")
        for test, look in ((f"!({_FAILED})", "figures"), (_FAILED, "failures")):
            layers.append(base.transform_filter(test).mark_text(style=look).encode(text=text))
    return layers, replace(panel, width=width)


def _images(base: Any, panel: Panel, rows: pl.DataFrame) -> list[Any]:
    columns = rows[panel.x.field].n_unique()
    high = (panel.height or 26 * rows[panel.y.field].n_unique()) / rows[panel.y.field].n_unique()
    x, y = (axis.encoding(kind, rows, None, False) for axis, kind in ((panel.x, alt.X), (panel.y, alt.Y)))
    mark = base.mark_image(width=panel.width / columns - 6, height=high - 3)
    return [mark.encode(x=x, y=y, url=f"{_word(panel.url or 'url')}:N")]


def _whole(rows: pl.DataFrame) -> pl.DataFrame:
    """What a derivation made of several records has no outcome of its own, and a place of its own."""
    usual = {"index": pl.int_range(pl.len()), "ok": pl.lit(True), "reason": pl.lit("")}
    return rows.with_columns(value.alias(name) for name, value in usual.items() if name not in rows.columns)


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


def _values(rows: pl.DataFrame, panel: Panel, colour: str) -> list[dict[str, Any]]:
    """What marks are made of, and what they show: of a point of a long line only what is its own."""
    names = [colour, panel.x.field, panel.y.field, "ok", panel.text, panel.url]
    names += ["index"] if panel.explode else ["rtol", "seconds", "steps", "true_residual", "reason"]
    rows = rows.select(name for name in dict.fromkeys(names) if name in rows.columns)
    rows = rows.with_columns(pl.selectors.float().round_sig_figs(_FIGURES))
    return [{_word(k): v for k, v in row.items() if v is not None} for row in rows.to_dicts()]


def _tips(values: Sequence[Mapping[str, Any]], rows: pl.DataFrame, colour: str) -> list[alt.Tooltip]:
    found = {name for value in values for name in value}
    tips = []
    for name in rows.columns:
        word = _word(name)
        if word in found and name not in ("ok", "index", "told", "once"):
            kind: dict[str, Any] = {"type": "nominal"}
            if rows[name].dtype.is_numeric():
                kind = {"type": "quantitative", "format": ".4~g"}
            tips.append((name != colour, alt.Tooltip(word, title=name.replace("_", " "), **kind)))
    return [tip for _, tip in sorted(tips, key=lambda pair: pair[0])]


def _numbered(svg: str) -> str:
    """An SVG whose clip paths are numbered from 1; Vega counts on from picture to picture."""
    numbers = {
        name: f"clip{n}" for n, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)), 1)
    }
    return re.sub(r"(?<=[\"#])clip\d+(?=[\")])", lambda found: numbers[found[0]], svg)


def _scale(looks: Mapping[str, Any]) -> alt.Scale:
    return alt.Scale(domain=[*looks], range=[*looks.values()])


def _names(rows: pl.DataFrame, name: str) -> list[Any]:
    return rows[name].unique(maintain_order=True).to_list()


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _file_name(name: str, rows: pl.DataFrame, group: Sequence[str]) -> str:
    """The chart's kind, then what its group is: `time-poisson2d-512-1e-08`; what is the same everywhere is
    left out."""
    usual = {"dtype": "float64", "device": "cpu", "seed": 0}
    parts = [rows[key][0] for key in group if rows[key][0] not in (None, "", usual.get(key))]
    words = [f"{part:g}" if isinstance(part, float) else str(part) for part in parts]
    return re.sub(r"[^\w.-]+", "-", "-".join([name, *words])).strip("-")
