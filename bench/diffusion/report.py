"""What the records of the suite say, as tables: orders, errors, seconds, memory."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.text import Text

from .. import specs, table
from ..record import Record
from . import is_diffusion as known

#: Up to so many evaluations are few.
FEW = 10
#: What tuned plans are measured against.
RIVAL = "unipc[order=3]"
Table = tuple[str, list[str], list[list[Text]], str]


def is_diffusion(record: Record) -> bool:
    """Whether a record is of a diffusion problem, measured or not."""
    return known(record["problem"])


def kind(record: Record) -> str:
    """Which of the suite's questions a record answers; known of failed ones, too."""
    mode = specs.parse(record["solver"]).mode
    name = specs.parse_part(record["problem"]).name
    if name == "trained_digits":
        return "digits"
    if name == "images":
        return "gradient" if "gradient" in mode else "overhead"
    return "order" if "order" in mode else "error"


def tables(records: Sequence[Record]) -> Iterator[Table]:
    """For each problem and question a title, headings, rows and a remark."""
    for _, made in grouped_tables(records):
        yield made


def grouped_tables(records: Sequence[Record]) -> Iterator[tuple[list[Record], Table]]:
    """The tables, each with its records."""
    for wanted, make in _TABLES.items():
        for group in groups([record for record in records if kind(record) == wanted]):
            yield group, make(group)


def remarks(records: Sequence[Record]) -> list[str]:
    """How the suite's columns compare, a sentence each."""
    sentences, ratios = [], []
    for group in groups([r for r in records if kind(r) == "error" and r["size"] <= FEW]):
        for size in {r["size"] for r in group}:
            found = {column(r): r["true_residual"] for r in group if r["size"] == size and table.succeeded(r)}
            tuned = [error for name, error in found.items() if name.startswith("tuned")]
            if tuned and RIVAL in found:
                ratios.append(found[RIVAL] / min(tuned))
    if ratios:
        sentences.append(
            f"Up to {FEW} evaluations the best tuned plan leaves an error {min(ratios):.2g} to"
            f" {max(ratios):.2g} times smaller than {RIVAL}."
        )
    for group in groups([r for r in records if kind(r) == "overhead"]):
        times = {r["solver"]: table.median_seconds(r) for r in group if table.succeeded(r)}
        for name, theirs in times.items():
            ours = times.get(name.removeprefix("diffusers:"))
            if name.startswith("diffusers:") and ours and theirs:
                sentences.append(
                    f"{group[0]['problem']}: {theirs / ours:.1f} times less time in the sampler than {name}."
                )
    return sentences


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """Records of one problem."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        found.setdefault((record["problem"], record["dtype"], record["seed"]), []).append(record)
    return list(found.values())


def column(record: Record) -> str:
    """A column without its mode."""
    return record["solver"].split("@")[0]


def by_solver(group: Sequence[Record]) -> dict[str, list[Record]]:
    """Records of each column, from few to many evaluations or steps."""
    found: dict[str, list[Record]] = {}
    for record in sorted(group, key=lambda r: r["size"] or 0):
        found.setdefault(column(record), []).append(record)
    return found


def _verdict(records: Sequence[Record]) -> Text:
    reasons = list(dict.fromkeys(table.reason(r) for r in records if not table.succeeded(r)))
    return Text("; ".join(reasons), style="red") if reasons else Text("ok", style="green")


def _orders(group: Sequence[Record]) -> Table:
    of_law = specs.parse_part(group[0]["problem"]).name == "gaussian"
    headings = ["solver", "stated order", "measured", "constant", "steps", "error", "result"]
    rows = []
    for r in group:
        order = r.get("order")
        values = [column(r), table.number(r.get("stated_order")), "–" if order is None else f"{order:.2f}"]
        values += [table.scientific(r.get("constant")), table.number((r.get("steps") or [None])[-1])]
        rows.append([*map(Text, [*values, table.scientific(r.get("true_residual"))]), _verdict([r])])
    doublings = len(next((r["steps"] for r in group if r.get("steps")), [1])) - 1
    what = "from exact starting values"
    if of_law:
        what = "of the distribution, noise and start-up steps and all, which limit a multistep method to 2"
    note = (
        f"Slope of the error over {doublings} doublings of the steps in float64, {what}; `constant` is the"
        " error over the step in lam to the power of the order."
    )
    return f"{group[0]['problem']}: order", headings, rows, note


def _errors(group: Sequence[Record]) -> Table:
    sizes = sorted({r["size"] for r in group})
    rows = []
    for solver, line in by_solver(group).items():
        found = {r["size"]: r for r in line}
        rows.append([*map(Text, [solver, *(_error(found.get(size)) for size in sizes)]), _verdict(line)])
    of_law = any(r.get("error_kind") == "w2" for r in group)
    what = "2-Wasserstein distance of the distributions" if of_law else "RMS distance from the exact flow"
    headings = ["solver", *map(str, sizes), "result"]
    return f"{group[0]['problem']}: {what} after so many evaluations", headings, rows, leaders(group)


def _error(record: Record | None) -> str:
    if record is None or not table.succeeded(record):
        return "" if record is None else "✗"
    used = record.get("num_evaluations", record["size"])
    return table.scientific(record["true_residual"]) + ("" if used == record["size"] else f" ({used})")


def leaders(group: Sequence[Record]) -> str:
    """Who leaves the smallest error after how many evaluations."""
    parts: dict[str, list[str]] = {}
    for size in sorted({r["size"] for r in group}):
        good = [r for r in group if r["size"] == size and table.succeeded(r)]
        if len(good) > 1:
            parts.setdefault(column(min(good, key=lambda r: r["true_residual"])), []).append(str(size))
    return "Smallest: " + "; ".join(f"{name} at {', '.join(at)}" for name, at in parts.items()) + "."


def _seconds(group: Sequence[Record]) -> Table:
    headings = ["solver", "steps", "seconds", "a step", "compile", "compiled anew", "result"]
    rows = []
    for r in group:
        others = r.get("of_order")
        values = [column(r), table.number(r["size"]), table.seconds(table.median_seconds(r))]
        values += [table.seconds(r.get("seconds_per_step")), table.seconds(r.get("compile_s"))]
        values.append("–" if others is None else f"{len(r['compiled'])} of {len(others)}")
        rows.append([*map(Text, values), _verdict([r])])
    note = (
        "`compiled anew`: of all samplers of that order and so many evaluations, those with a program of"
        " their own."
    )
    return f"{group[0]['problem']}, {group[0]['dtype']}: what the sampler itself takes", headings, rows, note


def _memory(group: Sequence[Record]) -> Table:
    sizes = sorted({r["size"] for r in group})
    rows = []
    for solver, line in by_solver(group).items():
        found = {r["size"]: r for r in line if table.succeeded(r)}
        values = [solver]
        for size in sizes:
            r = found.get(size)
            seconds = "" if r is None else f" ({table.seconds(table.median_seconds(r))})"
            values.append("✗" if r is None else f"{r['temporary_bytes'] / 2**20:.1f} MiB{seconds}")
        rows.append([*map(Text, values), _verdict(line)])
    note = "What the compiled program allocates beside arguments and results, and the seconds of a gradient."
    headings = ["solver", *(f"{size} steps" for size in sizes), "result"]
    return f"{group[0]['problem']}: reverse mode", headings, rows, note


def _pictures(group: Sequence[Record]) -> Table:
    sizes = sorted({r["size"] for r in group})
    rows = []
    for solver, line in by_solver(group).items():
        found = {r["size"]: r for r in line}
        values = [solver, *(_error(found.get(size)) for size in sizes)]
        values += [table.scientific(found.get(size, {}).get("energy_distance")) for size in sizes]
        rows.append([*map(Text, values), _verdict(line)])
    energy = next((r["reference_energy"] for r in group if "reference_energy" in r), None)
    note = (
        "RMS distance from 200 steps with the same start after so many evaluations, and the energy distance"
        f" of the samples to the data; that of the 200 steps is {table.scientific(energy)}."
    )
    headings = ["solver", *map(str, sizes), *(f"energy, {size}" for size in sizes), "result"]
    return f"{group[0]['problem']}: distance from the network's own solution", headings, rows, note


_TABLES: dict[str, Callable[[Sequence[Record]], Table]] = {
    "order": _orders,
    "error": _errors,
    "overhead": _seconds,
    "gradient": _memory,
    "digits": _pictures,
}
