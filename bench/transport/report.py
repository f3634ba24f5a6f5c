"""What records of transport problems say: time to each tolerance, derivatives, memory, batches."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.text import Text

from .. import specs, table
from ..record import Record
from .problems import options, without_eta

_Table = tuple[str, list[str], list[list[Text]], str]


def is_transport(record: Record) -> bool:
    """Whether a record is of a transport problem, solved or not."""
    from . import is_transport as known

    return known(record["problem"])


def tables(records: Sequence[Record]) -> Iterator[_Table]:
    """For each problem its title, headings, rows, and who is fastest; derivatives, memory and batches
    apart."""
    plain = [record for record in records if _kind(record) == "solve"]
    for group in groups(plain):
        yield _times(group)
    for kind, make in (("batch", _batches), ("gradient", _gradients), ("memory", _memory)):
        for group in groups([record for record in records if _kind(record) == kind]):
            yield make(group)


def groups(records: Sequence[Record], all_epsilons: bool = False) -> list[list[Record]]:
    """Records of one problem; with `all_epsilons` whatever its regularisation."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        name = without_eta(record["problem"]) if all_epsilons else record["problem"]
        found.setdefault((name, *table.system_key(record)[1:]), []).append(record)
    return list(found.values())


def epsilon(record: Record) -> float:
    """Of the largest cost; known for problems that could not be made, too."""
    part = specs.parse_part(record["problem"])
    return 1 / float((options(part.name) | part.options)["eta"])  # pyright: ignore[reportArgumentType]


def fastest(group: Sequence[Record]) -> str:
    """Which column is fastest to each tolerance, and how much slower the next library's best one is."""
    remarks = []
    for rtol in _tolerances(group):
        timed = [
            r for r in group if r["rtol"] == rtol and table.succeeded(r) and not table.is_exact_transport(r)
        ]  # fmt: skip
        timed.sort(key=_seconds)
        if not timed:
            remarks.append(f"to {table.scientific(rtol)} none")
            continue
        text = f"to {table.scientific(rtol)} {timed[0]['solver']}"
        others = [r for r in timed if table.library(r) != table.library(timed[0])]
        if others:
            text += f" ({_seconds(others[0]) / _seconds(timed[0]):.1f}x faster than {others[0]['solver']})"
        remarks.append(text)
    return f"Fastest: {'; '.join(remarks)}."


def _kind(record: Record) -> str:
    if "gradient" in specs.parse(record["solver"]).mode and "memory_bytes" not in record:
        return "gradient"
    if "memory_bytes" in record:
        return "memory"
    return "batch" if specs.parse_part(record["problem"]).name == "batch" else "solve"


def _title(record: Record) -> str:
    """`digits[cost=l1], 784 points, epsilon 8.3e-4 of the largest cost`."""
    name, points = without_eta(record["problem"]), f", {record['size']} points" if record["size"] else ""
    if "2d" in name and record["size"]:
        points = f", {record['size']}² points"
    return f"{name}{points}, epsilon {table.scientific(epsilon(record))} of the largest cost"


def _tolerances(group: Sequence[Record]) -> list[float]:
    return sorted({record["rtol"] for record in group}, reverse=True)


def _seconds(record: Record) -> float:
    return table.median_seconds(record) or float("inf")


def _times(group: Sequence[Record]) -> _Table:
    """A row is a column of the suite, with seconds and steps to each tolerance."""
    tolerances = _tolerances(group)
    headings = ["solver", *map(table.scientific, tolerances), "a step", "compile", "cost gap", "result"]
    rows = []
    for solver in dict.fromkeys(record["solver"] for record in group):
        found = {r["rtol"]: r for r in group if r["solver"] == solver}
        best = min(found.values(), key=lambda r: (not table.succeeded(r), r["rtol"]))
        values = [solver, *(_time_and_steps(found.get(rtol)) for rtol in tolerances)]
        values += [table.seconds(best.get("seconds_per_step")), table.seconds(best["compile_s"] or None)]
        values.append(table.scientific(best.get("cost_gap")))
        rows.append([*map(Text, values), _verdict(list(found.values()))])
    return _title(group[0]), headings, rows, fastest(group)


def _time_and_steps(record: Record | None) -> str:
    if record is None:
        return ""
    if not table.succeeded(record):
        return "✗"
    parts = [record.get(name) for name in ("num_sweeps", "num_newton_steps")]
    steps = " + ".join(str(part) for part in parts if part is not None) or table.number(record["num_steps"])
    return (
        f"{table.seconds(table.median_seconds(record))} ({steps})"
        if record["num_steps"]
        else (table.seconds(table.median_seconds(record)))
    )


def _verdict(records: Sequence[Record]) -> Text:
    failed = [record for record in records if not table.succeeded(record)]
    if not failed:
        return Text("ok", style="green")
    worst = max(failed, key=lambda r: (table.claims_success(r), r["rtol"]))
    text = f"{table.reason(worst)} at {table.scientific(worst['rtol'])}"
    if not table.claims_success(worst) and table.is_number(worst.get("true_residual")):
        text += f", got to {table.scientific(worst['true_residual'])}"
    return Text(text, style="red")


def _batches(group: Sequence[Record]) -> _Table:
    headings = [
        "solver",
        "rtol",
        "solved",
        "all at once",
        "one by one",
        "slowest one",
        "of slowest",
        "result",
    ]
    rows = []
    for r in group:
        ratio = "–"
        if r["solve_s"] and r.get("slowest_s"):
            ratio = f"{r['solve_s']['min'] / r['count_of_batch'] / r['slowest_s']:.2f}x"
        values = [
            r["solver"],
            table.scientific(r["rtol"]),
            f"{r.get('solved', '–')} of {r.get('count_of_batch', '–')}",
            *(table.seconds(v) for v in (table.median_seconds(r), r.get("one_by_one_s"), r.get("slowest_s"))),
            ratio,
        ]
        rows.append([*map(Text, values), _verdict([r])])
    note = "`of slowest`: seconds per problem of the batch, of those of the slowest one when solved alone."
    return f"{_title(group[0])}, solved at once", headings, rows, note


def _gradients(group: Sequence[Record]) -> _Table:
    headings = [
        "solver", "rtol", "forward", "cost gradient", "error", "potential gradient", "error", "of forward",
        "result",
    ]  # fmt: skip
    rows = []
    for r in group:
        values = [r["solver"], table.scientific(r["rtol"]), table.seconds(r.get("forward_s"))]
        for which in ("cost", "potential"):
            values.append(table.seconds(r.get(f"{which}_gradient_s")))
            values.append(table.scientific(r.get(f"{which}_gradient_error")))
        forward, both = r.get("forward_s"), r.get("potential_gradient_s")
        values.append(f"{both / forward:.2f}x" if forward and both else "–")
        rows.append([*map(Text, values), _verdict([r])])
    note = (
        "Value and gradient together, in costs (or points) and weights: of the regularised cost, and of"
        " <f, v> with a random v; errors against dense Newton in NumPy."
        " `of forward`: seconds of the second, of those of a solve alone."
    )
    return f"{_title(group[0])}: gradients", headings, rows, note


def _mebibytes(size: float | None) -> str:
    return "–" if size is None else f"{size / 2**20:.0f} MiB"


def _memory(group: Sequence[Record]) -> _Table:
    headings = ["solver", "rtol", "solving", "compiling", "seconds", "steps", "marginal error", "result"]
    rows = []
    for r in group:
        values = [
            r["solver"],
            table.scientific(r["rtol"]),
            *(_mebibytes(r[name]) for name in ("memory_bytes", "compile_memory_bytes")),
            table.seconds(table.median_seconds(r)),
            table.number(r.get("num_steps")),
            table.scientific(r.get("true_residual")),
        ]
        rows.append([*map(Text, values), _verdict([r])])
    note = "The largest resident set while a program runs, above what a fresh process with the points holds."
    return f"{_title(group[0])}: memory", headings, rows, note
