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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from ..engine.record import write_whole
from . import style
from .frame import SYSTEM
from .panel import Axis, Panel, bars, crosses, images, lines, names_of, tips, values_of, word
from .tables import Derive, derived, filtered, worded

__all__ = ["Axis", "Chart", "Drawn", "Panel"]


@dataclass(frozen=True)
class Chart:
    """What to draw of which records; see the module.

    `needs` says in words what is missing where nothing can be drawn.  `enough`: what has to be there, by
    default two points of one line.  `colour`: the field that lines are told apart by.
    `stack`: panels below each other."""

    name: str
    title: str | Callable[[pl.DataFrame], str]
    panels: Sequence[Panel]
    needs: str
    group: Sequence[str] = SYSTEM
    where: pl.Expr | None = None
    derive: Derive | None = None
    enough: Callable[[pl.DataFrame], bool] | None = None
    colour: str = "solver"
    stack: bool = False

    def draw(self, rows: pl.DataFrame) -> Iterator["Drawn"]:
        """A chart for each group of which enough is there."""
        if self.where is not None:
            rows = filtered(rows, self.where)
        if rows.is_empty():
            return
        if self.derive is not None:
            rows = _whole(derived(rows, self.derive))
        group = [name for name in self.group if name in rows.columns]
        parts = rows.partition_by(group, maintain_order=True) if group else [rows]
        parts.sort(key=lambda part: min(part["index"].to_list()))  # a derivation may have reordered them
        for part in parts:
            found = [panel.frame(part) for panel in self.panels]
            frames, panels = [frame for frame, _ in found], [panel for _, panel in found]
            if any(frame.is_empty() for frame in frames):
                continue
            if not (self.enough or panels[0].has_enough)(frames[0]):
                continue
            drawn = {name for frame in frames for name in frame[self.colour].to_list()}
            names = [name for name in names_of(part, self.colour) if name in drawn]
            yield Drawn(
                self.name,
                _file_name(self.name, part, group),
                worded(self.title, part),
                [*self._notes(part, drawn)],
                *self._made(panels, frames, names),
                part,
            )

    def _notes(self, rows: pl.DataFrame, drawn: set[str]) -> Iterator[str]:
        """Which columns failed and why, but for bars, which say it themselves; and which are not drawn."""
        for title, is_drawn in (("× ", True), ("not drawn: ", False)):
            if is_drawn and not self.panels[0].is_line():
                continue
            found = []
            for name in names_of(rows, self.colour):
                line = rows.filter(pl.col(self.colour) == name)
                why = "; ".join(names_of(line.filter(~pl.col("ok")), "reason"))
                if (name in drawn) == is_drawn and (why or not is_drawn):
                    found.append(f"{name} ({why})" if why else name)
            if found:
                yield title + ", ".join(found)

    def _made(
        self, panels: Sequence[Panel], frames: Sequence[pl.DataFrame], names: Sequence[str]
    ) -> tuple[Any, dict]:
        """The picture, and the data that it names."""
        colours, dashes, wide = style.styles(names)
        key = word(self.colour)
        made, data = [], {}
        every: Any = [{key: name} for name in names]
        shown = alt.selection_point(
            f"shown_{word(self.name)}", fields=[key], bind="legend", toggle="true", value=every
        )
        has_lines = any(panel.is_line() for panel in panels)  # bars name themselves
        legend = alt.Legend(title=None, columns=1 + len(names) // 24) if has_lines else None
        for number, (panel, rows) in enumerate(zip(panels, frames, strict=True)):
            values = data[f"panel{number}"] = values_of(rows, panel, self.colour)
            base = alt.Chart(alt.NamedData(f"panel{number}")).encode(tooltip=tips(values, rows, self.colour))
            scale = {"legend": legend, "sort": None}
            colour = alt.Color(f"{key}:N", scale=_scale(colours), **scale)
            if panel.is_line():
                faint = alt.when(shown, empty=True).then(alt.value(1.0)).otherwise(alt.value(0.0))
                dash = alt.StrokeDash(f"{key}:N", scale=_scale(dashes), **scale)
                is_wide = f"indexof({json.dumps([name for name in names if wide[name]])}, datum.{key}) >= 0"
                width = alt.when(is_wide).then(alt.value(style.WIDE)).otherwise(alt.value(style.NARROW))
                base = base.encode(opacity=faint)
                layers = lines(base, panel, rows, {"color": colour, "strokeDash": dash, "strokeWidth": width})
                if not rows["ok"].all():
                    layers.append(crosses(base, panel))
                    if panel.explode:  # at the end of the line
                        ends = rows.group_by("index", maintain_order=True).last()
                        data[f"ends{number}"] = values_of(ends, panel, self.colour)
                        layers[-1].data = alt.NamedData(f"ends{number}")
                if not any(other.is_line() for other in panels[:number]):  # the others know it by its name
                    layers[0] = layers[0].properties(name="lines").add_params(shown)
            elif panel.mark == "bar":
                named = any(other.y == panel.y for other in panels[:number])
                layers, panel = bars(base, panel, rows, colour, first=not named)
            else:
                layers = images(base, panel, rows)
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
        """As Vega-Lite, in the style of the house; with the title and the notes, unless the page has them."""
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


def _whole(rows: pl.DataFrame) -> pl.DataFrame:
    """What a derivation made of several records has no outcome of its own, and a place of its own."""
    usual = {"index": pl.int_range(pl.len()), "ok": pl.lit(True), "reason": pl.lit("")}
    return rows.with_columns(value.alias(name) for name, value in usual.items() if name not in rows.columns)


def _numbered(svg: str) -> str:
    """An SVG whose clip paths are numbered from 1; Vega counts on from picture to picture."""
    numbers = {
        name: f"clip{n}" for n, name in enumerate(dict.fromkeys(re.findall(r'id="(clip\d+)"', svg)), 1)
    }
    return re.sub(r"(?<=[\"#])clip\d+(?=[\")])", lambda found: numbers[found[0]], svg)


def _scale(looks: Mapping[str, Any]) -> alt.Scale:
    return alt.Scale(domain=[*looks], range=[*looks.values()])


def _file_name(name: str, rows: pl.DataFrame, group: Sequence[str]) -> str:
    """The chart's kind, then what its group is: `time-poisson2d-512-1e-08`; what is the same everywhere is
    left out."""
    usual = {"dtype": "float64", "device": "cpu", "seed": 0}
    parts = [rows[key][0] for key in group if rows[key][0] not in (None, "", usual.get(key))]
    words = [f"{part:g}" if isinstance(part, float) else str(part) for part in parts]
    return re.sub(r"[^\w.-]+", "-", "-".join([name, *words])).strip("-")
