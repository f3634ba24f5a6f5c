"""One HTML page out of records that needs no network: what they say, charts, tables, every run, the
machine."""

import functools
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import altair as alt
import jinja2
import polars as pl
from markupsafe import Markup, escape

from ..engine.record import Record, latest, write_whole
from ..engine.suite import Suite
from .charts import Drawn
from .format import is_number
from .frame import SYSTEM, frame
from .tables import Rendered
from .usual import EVERY_RUN, system_title
from .verdict import verdict

_HERE = Path(__file__).parent
# Headings of table columns that hold names of the benchmark's columns.
_NAMES = ("solver", "column", "method")
# Of the versions that a record keeps, those that every column rests on.
_BASE = ("nsolve", "jax", "jaxlib", "equinox", "numpy", "scipy", "numba")
_FACTS = {"cpu": "processor", "threads": "threads", "system": "system", "python": "Python",
          "commit": "commit", "cache": "compilation cache", "xla_flags": "XLA flags"}  # fmt: skip


@dataclass
class Section:
    """Charts and tables of the same records, under one heading."""

    title: str
    charts: list[Drawn] = field(default_factory=list)
    tables: list[Rendered] = field(default_factory=list)


def write_page(records: Iterable[Record], out: Path, suite: Suite) -> Path:
    """Write the page of a suite's records to the file `out` and return its path.

    It can be read without scripts; with them charts can be drawn, tables sorted and filtered.  Failed runs
    are red, with the reason.  Raises ValueError when there are no records or `out` cannot be written."""
    records = latest(records)
    if not records:
        raise ValueError("records is empty: there is nothing to show; run a suite first")
    rows, work = frame(records), suite.work
    sections = [
        *_sections(rows, suite.tables, suite.charts),
        *_sections(rows, work.tables, work.charts),
        Section("Every run", [], [*EVERY_RUN.render(rows)]),
    ]
    text = _template().render(
        title=suite.title,
        verdict=verdict(rows, work),
        sections=[_shown(section) for section in sections],
        machines=_machines(records, rows),
        css=Markup((_HERE / "page.css").read_text()),
        script=Markup((_HERE / "page.js").read_text()),
        libraries=Markup(_libraries()) if any(section.charts for section in sections) else None,
    )
    write_whole(Path(out), text.encode())
    return Path(out)


def _template() -> jinja2.Template:
    files = jinja2.FileSystemLoader(_HERE)
    environment = jinja2.Environment(
        loader=files, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["code"] = lambda text: Markup(
        re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text)))
    )
    return environment.get_template("page.html.j2")


@functools.cache
def _libraries() -> str:
    """Vega, Vega-Lite (that of Altair's charts) and Vega-Embed, as one script."""
    import vl_convert

    version = ".".join(alt.SCHEMA_VERSION.split(".")[:2])
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", version)
    return bundle.replace("</script", r"<\/script")


def _sections(rows: pl.DataFrame, tables: Sequence[Any], charts: Sequence[Any]) -> list[Section]:
    """A section for each system, in the order of the records; what goes over several sizes follows the last
    of its problem, and what goes over several problems stands with what is of the same records."""
    found: dict[Any, tuple[Any, Section]] = {}
    made: list[tuple[pl.DataFrame, str, Any]] = []
    made += [(drawn.frame, drawn.title, drawn) for chart in charts for drawn in chart.draw(rows)]
    made += [(table.frame, table.title, table) for declared in tables for table in declared.render(rows)]
    for part, title, thing in made:
        # A frame that is derived of several records may lack some of this.
        known = [name for name in SYSTEM if name in part.columns]
        part = part if "index" in part.columns else part.with_row_index()
        systems = part.group_by(known, maintain_order=True).agg(pl.col("index").min())
        problems, last = systems["problem"].unique(), systems["index"].max()  # where the last system begins
        if len(systems) == 1:
            values = systems.row(0, named=True)
            key: Any = ("system", *(values.get(name) for name in SYSTEM))
            key = next((other for other in found if _agree(key, other)), key)
            title, place = system_title(part), (last, 0)
        elif len(problems) == 1 and title:
            key = ("problem", problems[0])
            title, place = f"{problems[0]}: all of its systems", (last, 1)
        else:
            key = ("records", *sorted(set(part["index"].to_list())))
            title, place = title or "In short", (last, 2)
        section = found.setdefault(key, (place, Section(title)))[1]
        if isinstance(thing, Drawn):
            section.charts.append(thing)
        else:
            section.tables.append(thing)
    return [section for _, section in sorted(found.values(), key=lambda entry: entry[0])]


def _agree(one: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether two systems are the same as far as both say what they are."""
    return len(one) == len(other) and all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))


def _shown(section: Section) -> dict[str, Any]:
    """A section as the template takes it."""
    return {
        "title": section.title,
        "charts": [
            {"title": drawn.title, "notes": drawn.notes, "spec": drawn.spec(titled=False)}
            for drawn in section.charts
        ],
        "tables": [_table(table, section.title) for table in section.tables],
    }


def _table(table: Rendered, above: str) -> dict[str, Any]:
    columns = list(zip(*(row.cells for row in table.rows), strict=True))
    numeric = [
        all(is_number(value) for value, _ in column if value is not None)
        and any(v is not None for v, _ in column)
        for column in columns
    ]
    return {
        "title": "" if table.title == above else table.title,
        "note": table.note,
        "headings": [
            {"text": text, "numeric": is_numeric, "names": text in _NAMES, "result": text == "result"}
            for text, is_numeric in zip(table.headings, numeric, strict=True)
        ],
        "rows": [
            {"ok": row.ok, "cells": [("" if value is None else value, shown) for value, shown in row.cells]}
            for row in table.rows
        ],
    }


def _machines(records: Sequence[Record], rows: pl.DataFrame) -> list[dict[str, Any]]:
    """What the runs were measured on: once if all agree but for the load, else each with its count."""
    numbers: dict[str, list[int]] = {}
    for number, record in enumerate(records):
        env = {name: value for name, value in (record.get("env") or {}).items() if name != "load"}
        numbers.setdefault(json.dumps(env, sort_keys=True), []).append(number)
    machines = []
    for text, those in sorted(numbers.items(), key=lambda entry: -len(entry[1])):
        env, runs = json.loads(text), [records[number] for number in those]
        versions = env.get("versions") or {}
        took_part = rows[those].filter(pl.col("result") != "missing")
        peers = {
            row["library"]: row.get("version")
            for row in took_part.unique("library", maintain_order=True).to_dicts()
        }
        loads = [record["env"]["load"][0] for record in runs if (record.get("env") or {}).get("load")]
        facts = {
            "runs": f"{len(runs)} of {len(records)}" if len(numbers) > 1 else "",
            "date": ", ".join(sorted(Counter(str(r["time"])[:10] for r in runs if r.get("time")))),
            **{words: _fact(env.get(name)) for name, words in _FACTS.items()},
            "load": f"{min(loads):g} to {max(loads):g}" if loads else "",
            "libraries": _fact({name: version for name, version in peers.items() if version}),
            "below them": _fact({n: versions[n] for n in _BASE if n in versions and n not in peers}),
        }
        if env.get("dirty"):
            facts["commit"] += ", with changes that are not committed"
        machines.append({name: value for name, value in facts.items() if value})
    return machines


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return "" if value is None else str(value)
