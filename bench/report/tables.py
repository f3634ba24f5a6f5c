"""Tables declared as data, and how they are made of a frame and shown: in a terminal, as Markdown, in a page.

    Table(
        title="{system}, {unknowns:,} unknowns",
        group=("problem", "size"),              # a table for each
        rows=("solver",),                       # a row for each
        across="rtol",                          # values once for each, side by side
        values=(Value("solve", seconds, "seconds"),),
    )

A value is one or more polars expressions over the records of a row, and a function that puts what they give
into words.  `derive` may add columns to the whole frame beforehand, e.g. ratios to another column of the same
group.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from .format import NONE, number, scientific, seconds
from .frame import SYSTEM

Derive = Callable[[pl.DataFrame], pl.DataFrame]
FAILED = "✗"


class Value:
    """A column of a table: its heading, its format, and the expressions (or names of columns) that it shows.

    A name stands for the first entry that is not null.  `wide`: least width of a terminal at which it is
    worth its place.  Where nothing in the table has a value the column is left out, unless it must `stay`.
    `ok`: a failed record shows a cross instead.  `once`: of the whole line, also where others stand side by
    side."""

    def __init__(
        self,
        heading: str,
        show: Callable[..., str],
        *of: str | pl.Expr,
        wide: int = 0,
        stay: bool = False,
        ok: bool = False,
        once: bool = False,
    ):
        self.heading, self.show, self.wide, self.stay, self.ok, self.once = (
            heading,
            show,
            wide,
            stay,
            ok,
            once,
        )
        self.of = [first(e) if isinstance(e, str) else e for e in of]

    def of_row(self, rows: pl.DataFrame) -> tuple[Any, str]:
        """What to sort by, and what to show."""
        try:
            found = rows.select(e.alias(str(i)) for i, e in enumerate(self.of)).row(0)
        except pl.exceptions.ColumnNotFoundError:  # no record of the frame has it
            return None, NONE
        if self.ok and not rows["ok"].all():
            return None, FAILED
        return found[0], self.show(*found)


def first(name: str) -> pl.Expr:
    """The first entry of a column that is not null."""
    return pl.col(name).drop_nulls().first()


def has(rows: pl.DataFrame, *names: str) -> bool:
    return all(name in rows.columns for name in names)


@dataclass(frozen=True)
class Table:
    """What to show of which records; see the module.

    `title` and `note` are text with fields of the table's first record, or functions of its frame; `verdict`
    adds a last column that says what failed.  Entries of `across` are sorted by `across_key`."""

    title: str | Callable[[pl.DataFrame], str]
    values: Sequence[Value]
    name: str = ""
    group: Sequence[str] = SYSTEM
    rows: Sequence[str] = ("solver",)
    headings: Mapping[str, str] | None = None
    across: str | None = None
    across_heading: Callable[[Any], str] = str
    across_key: Callable[[Any], Any] | None = None
    where: pl.Expr | None = None
    derive: Derive | None = None
    note: str | Callable[[pl.DataFrame], str] = ""
    verdict: bool = True

    def render(self, rows: pl.DataFrame) -> Iterator["Rendered"]:
        """The tables of a frame, one for each group."""
        if self.where is not None:
            rows = filtered(rows, self.where)
        if rows.is_empty():
            return
        if self.derive is not None:
            rows = derived(rows, self.derive)
        group = [name for name in self.group if name in rows.columns]
        for part in rows.partition_by(group, maintain_order=True) if group else [rows]:
            if not part.is_empty():
                yield self._render(part)

    def _render(self, rows: pl.DataFrame) -> "Rendered":
        lines = rows.partition_by(list(self.rows), maintain_order=True)
        names = [(self.headings or {}).get(name, name) for name in self.rows]
        columns: list[tuple[str, Value, pl.Expr | None]] = []
        if self.across is None:
            columns = [(value.heading, value, None) for value in self.values]
        else:
            key = pl.col(self.across)
            for value in self.values:
                if value.once:
                    columns.append((value.heading, value, None))
                    continue
                entries = rows[self.across].drop_nulls().unique(maintain_order=True).to_list()
                for entry in _sorted(entries, self.across_key):
                    heading = self.across_heading(entry)
                    label = f"{value.heading}, {heading}" if value.heading else heading
                    columns.append((label, value, key == entry))
        cells = [[_cell(line, value, where) for _, value, where in columns] for line in lines]
        shown = [
            i for i, (_, value, _) in enumerate(columns)
            if value.stay or any(row[i][1] not in (NONE, "") for row in cells)
        ]  # fmt: skip
        body = []
        for line, found in zip(lines, cells, strict=True):
            keys = [(line[name][0], _named(name, line[name][0])) for name in self.rows]
            verdict = _verdict(line)
            last = [(verdict, verdict)] if self.verdict else []
            body.append(Row([*keys, *(found[i] for i in shown), *last], verdict == "ok"))
        return Rendered(
            worded(self.title, rows),
            [*names, *(columns[i][0] for i in shown), *(["result"] if self.verdict else [])],
            [*[False] * len(names), *[True] * len(shown), *([False] if self.verdict else [])],
            [*[0] * len(names), *(columns[i][1].wide for i in shown), *([0] if self.verdict else [])],
            body,
            worded(self.note, rows),
            rows,
        )


@dataclass(frozen=True)
class Row:
    """Cells as what to sort by and what to show; whether all of its records succeeded."""

    cells: list[tuple[Any, str]]
    ok: bool


@dataclass(frozen=True)
class Rendered:
    """A table in words.  `numeric` and `wide` are a column's; `rows` its lines; `frame` its records."""

    title: str
    headings: list[str]
    numeric: list[bool]
    wide: list[int]
    rows: list[Row]
    note: str
    frame: pl.DataFrame


def show(tables: Sequence[Rendered], console: Console) -> None:
    """Print tables; their columns adapt to the terminal's width, failed rows end in red."""
    for table in tables:
        wanted = [i for i, least in enumerate(table.wide) if console.width >= least]
        # As Text, since rich would take the options in brackets for markup.
        view = RichTable(title=Text(table.title, style="italic"), title_justify="left")
        for i in wanted:
            view.add_column(
                table.headings[i], overflow="fold", justify="right" if table.numeric[i] else "left"
            )
        for row in table.rows:
            cells = [Text(row.cells[i][1]) for i in wanted]
            if table.headings[-1] == "result":
                cells[-1].style = "green" if row.ok else "red"
            view.add_row(*cells)
        console.print(view)
        if table.note:
            console.print(Text(table.note))


def markdown(tables: Sequence[Rendered]) -> str:
    """The same tables, with every column, for documents."""
    lines = []
    for table in tables:
        if table.title:
            lines += [f"**{table.title}**", ""]
        lines.append(f"| {' | '.join(table.headings)} |")
        lines.append(f"|{'|'.join('---:' if n else '---' for n in table.numeric)}|")
        for row in table.rows:
            lines.append(f"| {' | '.join(shown for _, shown in row.cells)} |")
        lines += ["", table.note, ""] if table.note else [""]
    return "\n".join(lines).rstrip() + "\n"


@dataclass(frozen=True)
class Promise:
    """A line of a table of promises: what is measured, our figure, and one or several beside it.

    Filters are fields of records, as `{"problem": "poisson2d", "size": 512, "solver": "cg"}`; a list of
    `solver` stands for the best of them.  Lines whose records are missing are left out."""

    work: str
    ours: Mapping[str, Any]
    beside: Mapping[str, Mapping[str, Any]] = ()  # pyright: ignore
    value: str = "seconds"
    show: Callable[[float | None], str] = seconds


@dataclass(frozen=True)
class Promises:
    """A table of what a suite is for: our figure, the mark beside it, and the ratio.

    A line may also be `told` in words."""

    lines: Sequence[Promise | Row] | Callable[[pl.DataFrame], Iterable[Promise | Row]]
    name: str = "promises"
    title: str = ""

    def render(self, rows: pl.DataFrame) -> Iterator[Rendered]:
        body = []
        for line in self.lines(rows) if callable(self.lines) else self.lines:
            if isinstance(line, Row):
                body.append(line)
                continue
            ours = best(rows, line.ours, line.value)
            if ours is None:
                continue
            found = {
                name: best(rows, {**line.ours, **other}, line.value)
                for name, other in dict(line.beside).items()
            }
            found = {name: value for name, value in found.items() if value is not None}
            if line.beside and not found:
                continue
            for name, theirs in found.items() or [("", None)]:
                beside = f"{name}: {line.show(theirs)}" if theirs is not None else ""
                ratio = f"{theirs / ours:.1f}" if theirs is not None and ours else ""
                body.append(
                    Row(
                        [(line.work, line.work), (ours, line.show(ours)), (theirs, beside), (ratio, ratio)],
                        True,
                    )
                )
        if body:
            heads = ["work", "nsolve", "beside", "ratio"]
            yield Rendered(self.title, heads, [False, True, False, True], [0] * 4, body, "", rows)


def told(work: str, ours: str, beside: str = "", ratio: float | str = "") -> Row:
    """A line of promises whose figures are in words already."""
    shown = ratio if isinstance(ratio, str) else f"{ratio:.1f}"
    return Row([(work, work), (ours, ours), (beside, beside), (ratio, shown)], True)


def best(rows: pl.DataFrame, fields: Mapping[str, Any], value: str) -> float | None:
    """The least figure among the successful records that match."""
    found = rows.filter(matching(fields) & pl.col("ok"))
    return found[value].min() if value in found.columns and not found.is_empty() else None  # pyright: ignore


def matching(fields: Mapping[str, Any]) -> pl.Expr:
    """The records with these fields; a list admits each of its entries."""
    tests = [pl.col(k).is_in(v) if isinstance(v, list | tuple) else pl.col(k) == v for k, v in fields.items()]
    return pl.all_horizontal(tests) if tests else pl.lit(True)


def ratio(value: str, to: pl.Expr, over: Sequence[str]) -> pl.Expr:
    """A column over that of the record that `to` picks out in the same group; null where there is none."""
    return pl.col(value) / pl.col(value).filter(to).first().over(over)


def derived(rows: pl.DataFrame, derive: Derive) -> pl.DataFrame:
    """With what the declaration adds; as it is where no record got as far as to have what that needs."""
    try:
        return derive(rows)
    except pl.exceptions.ColumnNotFoundError:
        return rows


def filtered(rows: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    """The records that meet a condition; none where no record has what it asks about."""
    try:
        return rows.filter(where)
    except pl.exceptions.ColumnNotFoundError:
        return rows.clear()


def _cell(line: pl.DataFrame, value: Value, where: pl.Expr | None) -> tuple[Any, str]:
    if where is not None:
        line = line.filter(where)
    return (None, "") if line.is_empty() else value.of_row(line)


def _verdict(rows: pl.DataFrame) -> str:
    """`ok`, or why records of a row failed, the plainest lie first."""
    failed = rows.filter(~pl.col("ok")).sort("claims", descending=True, maintain_order=True)
    if failed.is_empty():
        return "ok"
    words = list(dict.fromkeys(failed["reason"].to_list()))
    some = f" ({len(failed)} of {len(rows)})" if len(rows) > len(failed) else ""
    return "; ".join(words[:2]) + some


def _named(name: str, value: Any) -> str:
    if name == "rtol" and isinstance(value, float):
        return scientific(value)
    return number(value) if isinstance(value, float) else value if isinstance(value, str) else str(value)


def _sorted(values: list[Any], key: Callable[[Any], Any] | None) -> list[Any]:
    """By the key; else numbers from small to large (tolerances from loose to tight), words as they come."""
    if key is not None:
        return sorted(values, key=key)
    if all(isinstance(v, float) and v < 1 for v in values):
        return sorted(values, reverse=True)
    return sorted(values) if all(isinstance(v, int | float) for v in values) else values


def worded(text: str | Callable[[pl.DataFrame], str], rows: pl.DataFrame) -> str:
    """A declaration's text with what it says of the records; a dash for a field that none of them has."""
    if callable(text):
        return text(rows)
    known = [name for name in rows.columns if rows[name].null_count() < len(rows)]
    return text.format_map(_Fields({name: rows[name].drop_nulls().first() for name in known}))


class _Nothing:
    """A dash, whatever the format."""

    def __format__(self, spec: str) -> str:
        return NONE


class _Fields(dict):
    def __missing__(self, name: str) -> _Nothing:
        return _Nothing()
