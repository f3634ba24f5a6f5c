"""Charts declared as data, and how they are drawn of a frame with Altair: on the page and in the documentation.

    Chart(
        "steps", "{problem}: iterations against size", needs="iteration counts at two sizes or more",
        group=("problem", "rtol"),
        panels=(Panel("line", Axis("unknowns", "unknowns", log=True), Axis("steps", "iterations", log=True)),),
    )

Panels stand side by side and share their colours; a click on a name in the legend hides and shows its lines, and
every mark shows its numbers.  Colour says which library where a chart has several, so that one library keeps its
colour from chart to chart (the Okabe-Ito palette, told apart by colour-blind readers), and dashes tell its columns
apart; where all are one library's, a colour is a column.  A failed record is a cross.
"""

import colorsys
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ..engine.record import write_whole
from ..engine.spec import parse
from .tables import Derive, _filtered, _worded, derived

# The Okabe-Ito colours, darkened where they would be too light on white.
COLOURS = {
    "nsolve": "#0072B2",
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
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#D98E00", "#56B4E9", "#5B4A9E", "#8C6D31", "#B8336A", "#2F4F4F",
    "#7A9E00", "#B07AA1", "#A0522D", "#6E6E6E",
)  # fmt: skip
FAILURE = "#C00000"
_DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [12, 4], [4, 1], [1, 3])
FORMATS = ("png", "svg", "html")


@dataclass(frozen=True)
class Axis:
    """A field of the frame and how it is laid out; `names` are field of the marks' tooltips instead of its own."""

    field: str
    title: str
    log: bool = False
    reverse: bool = False
    nominal: bool = False
    format: str = "~g"

    def encoding(self, kind: type, low_high: tuple[float, float] | None = None, zero: bool = False) -> Any:
        name = _word(self.field)
        if self.nominal:
            return kind(f"{name}:N", title=self.title or None, sort=None, axis=alt.Axis(labelLimit=300))
        options: dict[str, Any] = {"type": "log" if self.log else "linear", "reverse": self.reverse}
        if low_high is not None:
            options |= {"domain": list(low_high), "clamp": False}
        elif not self.log:
            options["zero"] = zero
        axis = alt.Axis(tickCount=6, labelFlush=False, labelOverlap=True)
        if self.format != "~g":
            axis = alt.Axis(format=self.format, tickCount=6, labelOverlap=True)
        elif self.log:
            axis = alt.Axis(format="~g", tickCount=6, labelOverlap="greedy", labelSeparation=4)
        return kind(f"{name}:Q", title=self.title, scale=alt.Scale(**options), axis=axis)


@dataclass(frozen=True)
class Panel:
    """One frame: `mark` is `line`, `points` (a line with its points), `bar` or `image` (whose `y` names rows and
    `url` its pictures).

    `order`: the field along which a line runs, where it is not `x`.
    `explode`: fields that hold lists, a mark for each entry; `place` is then the entry's number.  `level`: a field
    whose value is drawn as a dotted line, such as the tolerance.  `text`: a field written beside each bar.
    `derive` is applied to the panel's records, `after` once lists are exploded.  `domain`: a function of the panel's frame that gives the limits of `y`."""

    mark: str
    x: Axis
    y: Axis
    width: int = 480
    height: int | None = None
    order: str | None = None
    explode: Sequence[str] = ()
    level: str | float | None = None
    text: str | None = None
    url: str | None = None
    derive: Derive | None = None
    after: Derive | None = None
    domain: Callable[[pl.DataFrame], tuple[float, float] | None] | None = None


@dataclass(frozen=True)
class Chart:
    """What to draw of which records; see the module.

    `needs` says in words what is missing where nothing can be drawn.  `enough`: what has to be there, by default
    two points of one line.  `colour`: the field that lines are told apart by.  `highlight`: a test of records whose
    lines are thick."""

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
    note: str = ""
    crosses: bool = True
    colours: Mapping[str, str] = field(default_factory=dict)

    def draw(self, rows: pl.DataFrame) -> Iterator["Drawn"]:
        """A chart for each group of which enough is there."""
        if self.where is not None:
            rows = _filtered(rows, self.where)
        if rows.is_empty():
            return
        if self.derive is not None:
            rows = derived(rows, self.derive)
        group = [name for name in self.group if name in rows.columns]
        for part in rows.partition_by(group, maintain_order=True) if group else [rows]:
            frames = [self._frame(part, panel) for panel in self.panels]
            if any(frame.is_empty() for frame in frames):
                continue
            if not (self.enough or _two_points(self.panels[0]))(frames[0]):
                continue
            yield Drawn(self.name, _file_name(self.name, part, group), _worded(self.title, part), self._made(part, frames), part)

    def _frame(self, rows: pl.DataFrame, panel: Panel) -> pl.DataFrame:
        """What a panel draws: records in which its fields are numbers."""
        if panel.derive is not None:
            rows = panel.derive(rows)
        if not {*panel.explode} <= {*rows.columns}:
            return rows.clear()
        if panel.explode:
            rows = rows.filter(pl.col(panel.explode[0]).list.len() > 0)
            place = pl.int_ranges(pl.col(panel.explode[0]).list.len())
            rows = rows.with_columns(place.alias("place")).explode("place", *panel.explode)
            if panel.after is not None:
                rows = panel.after(rows)
        for axis in (panel.x, panel.y):
            if axis.field not in rows.columns:
                return rows.clear()
            rows = rows.filter(pl.col(axis.field).is_not_null())
            if axis.log:
                value = pl.col(axis.field).cast(pl.Float64)
                rows = rows.filter(value.is_finite() & (value > 0))
        return rows

    def _made(self, rows: pl.DataFrame, frames: Sequence[pl.DataFrame]) -> alt.TopLevelMixin:
        names = rows[self.colour].unique(maintain_order=True).to_list()
        drawn = {name for frame in frames for name in frame[self.colour].unique().to_list()}
        colours, dashes = styles([name for name in names if name in drawn], self.colours)
        hidden = alt.selection_point(fields=[_word(self.colour)], bind="legend", toggle="true", name=f"shown_{_word(self.name)}")
        made = [self._panel(panel, frame, colours, dashes, hidden) for panel, frame in zip(self.panels, frames, strict=True)]
        together = made[0] if len(made) == 1 else alt.vconcat(*made, spacing=8) if self.stack else alt.hconcat(*made)
        return together.properties(title=_worded(self.title, rows)).add_params(hidden)

    def _panel(
        self, panel: Panel, rows: pl.DataFrame, colours: dict[str, str], dashes: dict[str, list[int]], shown: alt.Parameter
    ) -> Any:
        key = _word(self.colour)
        legend = alt.Legend(title=None, symbolStrokeWidth=2.5, labelLimit=320, symbolSize=220, columns=1)
        single_bar, along = panel.mark == "bar", panel.order or panel.x.field
        colour = alt.Color(
            f"{key}:N",
            scale=alt.Scale(domain=list(colours), range=list(colours.values())),
            legend=None if panel.mark in ("bar", "image") else legend,
            sort=None,
        )
        fields = list(dict.fromkeys((self.colour, panel.x.field, panel.y.field, "rtol", "seconds", "steps", "reason")))
        tips = [
            alt.Tooltip(_word(name), title=name, type="quantitative", format=".4g")
            if rows[name].dtype.is_numeric()
            else alt.Tooltip(_word(name), title=name, type="nominal")
            for name in fields
            if name in rows.columns and rows[name].null_count() < len(rows)
        ]
        needed = {self.colour, panel.x.field, panel.y.field, along, "ok", *fields, "index", panel.text, panel.url, panel.level}
        data = alt.Data(values=_values(rows.select([n for n in rows.columns if n in needed])))
        limits = panel.domain(rows) if panel.domain is not None else None
        base = alt.Chart(data).encode(tooltip=tips)
        opacity = alt.when(shown).then(alt.value(1.0)).otherwise(alt.value(0.06))
        layers: list[Any] = []
        x, y = panel.x.encoding(alt.X), panel.y.encoding(alt.Y, limits)
        if panel.mark in ("line", "points"):
            dash = alt.StrokeDash(
                f"{key}:N", scale=alt.Scale(domain=list(dashes), range=list(dashes.values())), legend=legend, sort=None
            )
            detail = ["index"] if panel.explode else []
            mark = base.mark_line(point=False, strokeWidth=2, clip=True, interpolate="linear").encode(
                x=x, y=y, color=colour, strokeDash=dash, opacity=opacity, order=alt.Order(f"{_word(along)}:Q"),
                detail=[f"{name}:N" for name in detail],
            )  # fmt: skip
            layers.append(mark)
            size = 28 if panel.mark == "points" else 8
            layers.append(
                base.mark_point(filled=True, size=size, clip=True, opacity=1).encode(x=x, y=y, color=colour, opacity=opacity)
            )
            if self.crosses and not rows["ok"].all():
                bad = base.transform_filter("datum.ok === false")
                if panel.explode:  # at the end of the line
                    ends = rows.filter(~pl.col("ok")).group_by("index", maintain_order=True).last()
                    bad = alt.Chart(alt.Data(values=_values(ends.select([n for n in ends.columns if n in needed])))).encode(tooltip=tips)
                layers.append(
                    bad.mark_point(shape="M-1,-1L1,1M1,-1L-1,1", size=70, stroke=FAILURE, strokeWidth=2, clip=True).encode(
                        x=x, y=y, opacity=opacity
                    )
                )
        elif single_bar:
            x = panel.x.encoding(alt.X, zero=True)
            solid = alt.when("datum.ok === false").then(alt.value(0.35)).otherwise(alt.value(1.0))
            layers.append(base.mark_bar().encode(x=x, y=y, color=colour, opacity=solid))
            if panel.text:
                layers.append(
                    base.mark_text(align="left", dx=4, fontSize=10.5).encode(
                        x=x, y=y, text=f"{panel.text}:N",
                        color=alt.when("datum.ok === false").then(alt.value(FAILURE)).otherwise(alt.value("#555555")),
                    )
                )  # fmt: skip
        elif panel.mark == "image":
            layers.append(base.mark_image(width=panel.width // 3, height=22).encode(x=x, y=y, url=f"{panel.url}:N"))
        else:
            raise ValueError(f"mark of a panel is {panel.mark!r}: choose line, points, bar or image")
        if panel.level is not None:
            level = rows[panel.level].min() if isinstance(panel.level, str) else panel.level
            if level is not None:
                rule = alt.Chart(alt.Data(values=[{"level": level}])).mark_rule(strokeDash=[2, 3], color="#777777")
                layers.append(rule.encode(y=alt.Y("level:Q")))
        height = panel.height or (22 * rows[panel.y.field].n_unique() + 10 if panel.y.nominal else 320)
        return alt.layer(*layers).properties(width=panel.width, height=height)


@dataclass(frozen=True)
class Drawn:
    """A chart of some records: `chart` is its kind's name, `name` fit for a file."""

    chart: str
    name: str
    title: str
    picture: Any
    frame: pl.DataFrame

    def spec(self) -> dict[str, Any]:
        """As Vega-Lite, with the style of the house."""
        return styled(self.picture).to_dict()

    def save(self, folder: Path) -> list[Path]:
        """Write PNG and SVG into the folder; each whole or not at all."""
        import vl_convert

        text = json.dumps(self.spec())
        paths = [folder / f"{self.name}.png", folder / f"{self.name}.svg"]
        write_whole(paths[0], vl_convert.vegalite_to_png(text, scale=2))
        write_whole(paths[1], vl_convert.vegalite_to_svg(text).encode())
        return paths


def styled(chart: Any) -> Any:
    """The house's style."""
    return (
        chart.configure_view(stroke=None)
        .configure_axis(grid=True, gridColor="#E6E6E6", domainColor="#999999", tickColor="#999999", labelFontSize=11,
                        titleFontSize=12, titleFontWeight="normal")
        .configure_title(anchor="start", fontSize=14, offset=12)
        .configure_legend(labelFontSize=11)
        .configure(background="transparent", padding=6, font="sans-serif")
    )  # fmt: skip


def styles(names: Sequence[str], given: Mapping[str, str] = {}) -> tuple[dict[str, str], dict[str, list[int]]]:  # noqa: B006
    """Colours and dashes of columns: those of their libraries where there are several, and no two alike."""
    libraries = {name: _library(name) for name in names}
    by_library = len(set(libraries.values())) > 1 and max(
        list(libraries.values()).count(library) for library in libraries.values()
    ) <= len(_DASHES)
    colours, dashes, seen = {}, {}, {}
    for place, name in enumerate(names):
        library = libraries[name]
        number = seen[library] = seen.get(library, -1) + 1
        if by_library:
            base = COLOURS.get(library, PALETTE[(len(COLOURS) + list(seen).index(library)) % len(PALETTE)])
            colours[name], dashes[name] = _shade(base, number), list(_DASHES[number % len(_DASHES)])
        else:
            colours[name] = PALETTE[place % len(PALETTE)]
            dashes[name] = list(_DASHES[place // len(PALETTE) % len(_DASHES)])
        colours[name] = given.get(name, colours[name])
    return colours, dashes


def _library(name: str) -> str:
    try:
        return parse(name).peer
    except ValueError:
        return name


def _shade(colour: str, number: int) -> str:
    """The colour for a library's first column, lighter and darker for those that follow."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    light = min(0.72, max(0.22, light + (0, 0.16, -0.12, 0.28, -0.2, 0.08, 0.22)[number % 7]))
    return "#" + "".join(f"{round(255 * part):02x}" for part in colorsys.hls_to_rgb(hue, light, saturation))


def _two_points(panel: Panel) -> Callable[[pl.DataFrame], bool]:
    if panel.mark in ("bar", "image"):
        return lambda rows: True
    return lambda rows: rows[panel.x.field].n_unique() > 1


def _values(rows: pl.DataFrame) -> list[dict[str, Any]]:
    return [{_word(k): v for k, v in row.items() if v is not None} for row in rows.to_dicts()]


def _word(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _file_name(name: str, rows: pl.DataFrame, group: Sequence[str]) -> str:
    """The chart's kind, then what its group is: `time-poisson2d-512-1e-08`; what is the same everywhere is left
    out."""
    usual = {"dtype": "float64", "device": "cpu", "seed": 0}
    parts = [rows[key][0] for key in group if rows[key][0] not in (None, "", usual.get(key))]
    words = [f"{part:g}" if isinstance(part, float) else str(part) for part in parts]
    return re.sub(r"[^\w.-]+", "-", "-".join([name, *words])).strip("-")
