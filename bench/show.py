"""Tables for the terminal: records, and everything that has a name."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import peers, problems, suite, table
from .record import Record

# Least width of the terminal at which a column is worth its place, widest columns last to come.
_COLUMNS = (
    ("products", 120),
    ("set-up", 84),
    ("compile", 96),
    ("± iqr", 132),
    ("first call", 150),
    ("memory", 150),
)


def show(records: Sequence[Record], console: Console) -> None:
    """One table per system; its columns adapt to the terminal's width. Failed cells are rows with
    their reason."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for row in records:
        groups.setdefault(table.system_key(row), []).append(row)
    wanted = {
        name
        for name, width in _COLUMNS
        if console.width >= width and any(_cell(row, name) != "–" for row in records)
    }
    many_tolerances = len({row["rtol"] for row in records}) > 1
    for group in groups.values():
        first = group[0]
        unknowns = f", {first['unknowns']:,} unknowns" if first.get("unknowns") else ""
        tail = "" if first["dtype"] == "float64" else f", {first['dtype']}"
        # As Text, since rich would take the options in brackets for markup.
        title = Text(f"{table.system_label(first)}{unknowns}{tail}", style="italic")
        view = Table(title=title, title_justify="left")
        view.add_column("solver", overflow="fold")
        if many_tolerances:
            view.add_column("rtol", justify="right")
        view.add_column("steps", justify="right")
        for name, _ in _COLUMNS:
            if name in wanted:
                view.add_column(name, justify="right")
        view.add_column("solve", justify="right")
        view.add_column("residual", justify="right")
        view.add_column("result", overflow="fold")
        for row in group:
            view.add_row(*_row(row, wanted, many_tolerances))
        console.print(view)


def show_names(console: Console) -> None:
    """Problems, solvers, preconditioners, peers and suites."""
    view = Table(title="problems", title_justify="left")
    view.add_column("name")
    view.add_column("options", overflow="fold")
    view.add_column("what", overflow="fold")
    for name, make in problems.PROBLEMS.items():
        options = ", ".join(f"{key}={value}" for key, value in problems.options(name).items())
        what = (make.__doc__ or "").strip().split("\n")[0].rstrip(".")
        view.add_row(name, options, what)
    console.print(view)
    view = Table(title="columns: peer:solver+preconditioner (ours without a peer)")
    view.title_justify = "left"
    for heading in ("peer", "version", "solvers", "preconditioners"):
        view.add_column(heading, overflow="fold")
    for name in peers.MODULES:
        peer = peers.find(name)
        version = peer.version()
        view.add_row(
            name,
            Text(version or "missing", style="" if version else "red"),
            Text(_names(peer.solvers)),
            Text(_names(peer.preconditioners)),
        )
    console.print(view)
    view = Table(title="suites", title_justify="left")
    for heading in ("name", "cells", "what"):
        view.add_column(heading, overflow="fold")
    for name in suite.names():
        found = suite.load(name)
        view.add_row(name, str(len(found.cells)), Text(found.title))
    console.print(view)


def _row(row: Record, wanted: set[str], with_rtol: bool) -> list[Text]:
    failed = not table.succeeded(row)
    values = [row["solver"]]
    if with_rtol:
        values.append(table.scientific(row["rtol"]))
    values.append("–" if row["num_steps"] is None else str(row["num_steps"]))
    values += [_cell(row, name) for name, _ in _COLUMNS if name in wanted]
    values += [table.seconds(table.median_seconds(row)), table.scientific(row["true_residual"])]
    texts = [Text(value) for value in values]
    return [*texts, Text(table.reason(row) or "ok", style="red" if failed else "green")]


def _cell(row: Record, name: str) -> str:
    if name == "products":
        return "–" if row["num_matvecs"] is None else str(row["num_matvecs"])
    if name == "memory":
        size = row.get("peak_bytes")
        return "–" if size is None else f"{size / 2**20:.0f} MiB"
    value = {
        "set-up": row["setup_s"],
        "compile": row["compile_s"],
        "± iqr": (row["solve_s"] or {}).get("iqr"),
        "first call": row.get("first_call_s"),
    }[name]
    return table.seconds(value or None)  # nothing to compile is a dash, not zero seconds


def _names(named: Mapping[str, tuple[str, ...]]) -> str:
    return ", ".join(f"{name}[{', '.join(keys)}]" if keys else name for name, keys in named.items())
