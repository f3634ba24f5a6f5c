"""Tables for the terminal: records, and everything that has a name."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import diffusion, peers, problems, sequences, suite, table, transport
from .cells import wing
from .diffusion import report as diffusion_report
from .record import Record
from .relaxation import report as relaxation_report
from .sequences import report
from .transport import report as transport_report

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
    for title, headings, rows, note in _tables(records, console.width):
        # As Text, since rich would take the options in brackets for markup.
        view = Table(title=Text(title, style="italic"), title_justify="left")
        for heading in headings:
            text = heading in ("solver", "result")
            view.add_column(heading, overflow="fold", justify="left" if text else "right")
        for row in rows:
            view.add_row(*row)
        console.print(view)
        if note:
            console.print(Text(note))


def markdown(records: Sequence[Record]) -> str:
    """The same tables, with every column that has something to say, for documents."""
    lines = []
    for title, headings, rows, note in _tables(records, width=10_000):
        ends = ["---" if heading in ("solver", "result") else "---:" for heading in headings]
        lines += [f"**{title}**", ""]
        for row in (headings, ends, *([text.plain for text in row] for row in rows)):
            lines.append(f"| {' | '.join(row)} |")
        lines += ["", note, ""] if note else [""]
    return "\n".join(lines)


def _tables(records: Sequence[Record], width: int) -> Iterator[tuple[str, list[str], list[list[Text]], str]]:
    """Each system's title, headings, rows, and a sentence below them."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for row in records:
        if "length" in row or wing(row["problem"]) is not None:
            continue
        groups.setdefault(table.system_key(row), []).append(row)
    many_tolerances = len({row["rtol"] for row in records}) > 1
    for group in groups.values():
        wanted = [
            name
            for name, least in _COLUMNS
            if width >= least and any(_cell(row, name) != "–" for row in group)
        ]
        first = group[0]
        unknowns = f", {first['unknowns']:,} unknowns" if first.get("unknowns") else ""
        tail = "" if first["dtype"] == "float64" else f", {first['dtype']}"
        headings = ["solver", *["rtol"] * many_tolerances, "steps", *wanted, "solve", "residual", "result"]
        rows = [_row(row, wanted, many_tolerances) for row in group]
        yield f"{table.system_label(first)}{unknowns}{tail}", headings, rows, ""
    sequences_of = [row for row in records if "length" in row]
    yield from report.tables([row for row in sequences_of if not relaxation_report.is_tuned(row)])
    yield from relaxation_report.tables([row for row in sequences_of if relaxation_report.is_tuned(row)])
    yield from transport_report.tables([row for row in records if wing(row["problem"]) is transport])
    yield from diffusion_report.tables([row for row in records if wing(row["problem"]) is diffusion])


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
    view = Table(title="sequences (with --count)", title_justify="left")
    view.add_column("name")
    view.add_column("options", overflow="fold")
    view.add_column("what", overflow="fold")
    for name, what in sequences.KINDS.items():
        options = ", ".join(f"{key}={value}" for key, value in sequences.options(name).items())
        view.add_row(name, options, Text(what.strip().split("\n")[0].rstrip(".")))
    console.print(view)
    for kind, own in (("transport", transport), ("diffusion", diffusion)):
        view = Table(title=f"{kind} problems", title_justify="left")
        view.add_column("name")
        view.add_column("options", overflow="fold")
        view.add_column("what", overflow="fold")
        for name, make in own.PROBLEMS.items():
            options = ", ".join(f"{key}={value}" for key, value in own.options(name).items())
            view.add_row(name, options, Text((make.__doc__ or "").strip().split("\n")[0].rstrip(".")))
        console.print(view)
        view = Table(title=f"columns of {kind} problems", title_justify="left")
        for heading in ("peer", "version", "solvers"):
            view.add_column(heading, overflow="fold")
        for name in own.MODULES:
            module = own.find(name)
            version = module.version()
            view.add_row(
                name, Text(version or "missing", style="" if version else "red"), Text(_names(module.SOLVERS))
            )
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


def _row(row: Record, wanted: Sequence[str], with_rtol: bool) -> list[Text]:
    failed = not table.succeeded(row)
    values = [row["solver"]]
    if with_rtol:
        values.append(table.scientific(row["rtol"]))
    values.append("–" if row["num_steps"] is None else str(row["num_steps"]))
    values += [_cell(row, name) for name in wanted]
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
