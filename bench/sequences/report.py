"""What records of sequences say: means per system, ratios, and which column is fastest."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from .. import specs, table
from ..record import Record


def preconditioner(record: Record) -> str:
    """The column's preconditioner, the empty string where there is none."""
    part = specs.parse(record["solver"]).preconditioner
    return "" if part is None else str(part)


def method(record: Record) -> str:
    """The column without its preconditioner."""
    spec = specs.parse(record["solver"])
    return str(specs.Spec(spec.peer, spec.solver, None, spec.mode))


def tables(records: Sequence[Record]) -> Iterator[tuple[str, list[str], list[list[Text]], str]]:
    """For each kind of sequence and tolerance its title, headings, rows, and who is fastest.

    Steps, products and seconds are means per system; `fewer` is the ratio of steps to the first column with
    the same preconditioner, a lower bound (≥) where that one ran out of steps."""
    headings = [
        "solver", "systems", "steps", "products", "fewer", "solve", "a step", "residual", "result"
    ]  # fmt: skip
    for group in _groups(records):
        first = group[0]
        unknowns = f", {first['unknowns']:,} unknowns" if first.get("unknowns") else ""
        title = f"{table.system_label(first)}{unknowns}, {first['length']} systems in a row"
        title += f", rtol {table.scientific(first['rtol'])}, means per system"
        yield title, headings, [_row(record, _base(record, group)) for record in group], fastest(group)


def fastest(group: Sequence[Record]) -> str:
    """Which column took the least time per system, and how it compares with the best Krylov solver for
    general matrices and the best that hands a subspace on."""
    timed = [r for r in group if table.succeeded(r) and table.median_seconds(r)]
    if not timed:
        return "No column solved all of its systems."
    best = min(timed, key=_seconds)
    text = f"Least seconds: {best['solver']}, {table.seconds(_seconds(best))} a system"
    for what, chosen in (
        ("carried", [r for r in timed if "carried" in specs.parse(r["solver"]).mode]),
        ("GMRES", [r for r in timed if specs.parse(r["solver"]).solver.name == "gmres"]),
    ):
        if chosen and (other := min(chosen, key=_seconds)) is not best:
            ratio = _seconds(other) / _seconds(best)
            text += f"; best {what}: {other['solver']}, {table.seconds(_seconds(other))} ({ratio:.1f}x)"
    return text + "."


def steps_table(records: Sequence[Record]) -> str:
    """Markdown: for each kind of sequence the mean steps, a row per preconditioner and tolerance, a column
    per method, and who is fastest.

    A cross marks a column that did not solve all of its systems."""
    kinds: dict[str, list[list[Record]]] = {}
    for group in _groups(records):
        first = group[0]
        unknowns = f", {first['unknowns']:,} unknowns" if first.get("unknowns") else ""
        title = f"**{table.system_label(first)}{unknowns}, {first['length']} systems**"
        kinds.setdefault(title, []).append(group)
    lines = []
    for title, groups in kinds.items():
        methods = list(dict.fromkeys(method(r) for group in groups for r in group))
        heads = [m.split("@")[0] for m in methods]
        methods.sort(key=lambda m: (heads.index(m.split("@")[0]), m))  # more handed on, further right
        lines += [title, "", f"| preconditioner | rtol | {' | '.join(f'`{m}`' for m in methods)} |"]
        lines.append(f"|---|---|{'---:|' * len(methods)}")
        for name in dict.fromkeys(preconditioner(r) for group in groups for r in group):
            for group in groups:
                found = {method(r): r for r in group if preconditioner(r) == name}
                cells = [_steps(found[m]) if m in found else "" for m in methods]
                if found:
                    rtol = table.scientific(group[0]["rtol"])
                    lines.append(f"| {name or 'none'} | {rtol} | {' | '.join(cells)} |")
        lines += [
            "",
            *(f"* To {table.scientific(g[0]['rtol'])}. {_quoted(fastest(g), g)}" for g in groups),
            "",
        ]
    return "\n".join(lines)


def products_table(records: Sequence[Record]) -> str:
    """Markdown: products in all, a row per column and a column per kind of sequence."""
    kinds = list(dict.fromkeys(r["problem"] for r in records))
    lines = [f"| solver | {' | '.join(kinds)} |", f"|---|{'---:|' * len(kinds)}"]
    for solver in dict.fromkeys(r["solver"] for r in records):
        found = {r["problem"]: r for r in records if r["solver"] == solver}
        cells = ["" if k not in found else _total(found[k]) for k in kinds]
        lines.append(f"| `{solver}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    groups: dict[Any, list[Record]] = {}
    for record in records:
        same = (*table.system_key(record), repr(record["rtol"]), record["length"])
        groups.setdefault(same, []).append(record)
    return list(groups.values())


def _base(record: Record, group: Sequence[Record]) -> Record:
    return next(r for r in group if preconditioner(r) == preconditioner(record))


def _seconds(record: Record) -> float:
    return table.median_seconds(record) or float("inf")


def _row(record: Record, base: Record) -> list[Text]:
    solved, fewer = table.succeeded(record), "–"
    steps, most = table.num_steps(record), table.num_steps(base)
    if steps and most and solved and record is not base:
        bound = "" if table.succeeded(base) else "≥ "
        fewer = f"{bound}{most / steps:.1f}x"
    values = [
        record["solver"],
        str(record.get("count") or "–"),
        table.number(steps),
        table.number(table.per_system(record, record.get("num_matvecs"))),
        fewer,
        table.seconds(table.median_seconds(record)),
        table.seconds(record.get("seconds_per_step")),
        table.scientific(record.get("true_residual")),
    ]
    verdict = "ok" if solved else table.reason(record)
    if not solved and record.get("unsolved"):
        verdict += f" ({len(record['unsolved'])} of {record['count']} systems)"
    return [*map(Text, values), Text(verdict, style="green" if solved else "red")]


def _steps(record: Record) -> str:
    mark = "" if table.succeeded(record) else " ✗"
    return f"{table.number(table.num_steps(record))}{mark}"


def _total(record: Record) -> str:
    products = record.get("num_matvecs")
    return f"{'–' if products is None else products}{'' if table.succeeded(record) else ' ✗'}"


def _quoted(text: str, group: Sequence[Record]) -> str:
    """With the columns' names as code, so that Markdown leaves their brackets alone."""
    for solver in sorted({r["solver"] for r in group}, key=len, reverse=True):
        text = text.replace(f": {solver},", f": `{solver}`,")
    return text
