"""What records of tuned sequences say: steps beside the best fixed `omega`'s, time, the tuner's share."""

from collections.abc import Iterator, Sequence
from statistics import mean, stdev
from typing import Any

from rich.text import Text

from .. import specs, table
from ..record import Record
from . import tuners

HEADINGS = (
    "solver", "seeds", "steps", "late steps", "of best fixed", "total", "faster", "a step", "tuner",
    "residual", "result",
)  # fmt: skip


def is_tuned(record: Record) -> bool:
    """Whether a record is of such a sequence, be it solved or not."""
    from .problems import PROBLEMS

    return specs.parse_part(record["problem"]).name in PROBLEMS


def tables(records: Sequence[Record]) -> Iterator[tuple[str, list[str], list[list[Text]], str]]:
    """For each sequence its title, headings, rows and a remark; a row is the mean over the seeds.

    `steps`: of a system; `late steps`: of the last systems only, where learners have learned; `of best
    fixed`: the ratio of these to those of the best fixed `omega`, seed by seed; `total`: seconds of the whole
    sequence; `faster`: than SSOR-CG with `omega = 1`; `tuner`: share of the time that choosing and learning
    take, measured alone."""
    for group in groups(records):
        first = group[0]
        unknowns = next((f", {r['unknowns']:,} unknowns" for r in group if r.get("unknowns")), "")
        title = f"{table.system_label(first)}{unknowns}, {first['length']} systems in a row"
        title += f", rtol {table.scientific(first['rtol'])}"
        columns = dict.fromkeys(record["solver"] for record in group)
        rows = [_row([r for r in group if r["solver"] == solver], group) for solver in columns]
        yield title, list(HEADINGS), rows, _remark(group)


def groups(records: Sequence[Record]) -> list[list[Record]]:
    """Records of one sequence, all seeds together."""
    found: dict[Any, list[Record]] = {}
    for record in records:
        same = (record["problem"], record["size"], record["device"], record["rtol"], record["length"])
        found.setdefault(same, []).append(record)
    return list(found.values())


def best_fixed(record: Record, group: Sequence[Record]) -> Record | None:
    """What the best fixed `omega` did on the same systems: with the same seed, or where nothing but the
    learners is random, with any."""
    found = [r for r in group if _mode(r) == tuners.BEST_FIXED and table.succeeded(r)]
    same = [r for r in found if r["seed"] == record["seed"]]
    if same:
        return same[0]
    return found[0] if found and record["problem"].startswith("heat_trajectory") else None


def _mode(record: Record) -> str:
    return ",".join(mode for mode in specs.parse(record["solver"]).mode if mode not in tuners.STARTS)


def _row(records: Sequence[Record], group: Sequence[Record]) -> list[Text]:
    solved = [r for r in records if table.succeeded(r)]
    failed = [r for r in records if not table.succeeded(r)]
    values = [records[0]["solver"], str(len(records)), *["–"] * 8]
    if solved:
        seconds = mean(r["solve_s"]["median"] for r in solved)
        ratios = [
            r["last_steps"] / base["last_steps"] for r in solved if (base := best_fixed(r, group)) is not None
        ]
        ratio = f"{mean(ratios):.3f}" if ratios else "–"
        if len(ratios) > 1 and max(ratios) > min(ratios):
            ratio += f" ± {stdev(ratios):.3f}"
        shares = [r["tuner_s"] / r["solve_s"]["median"] for r in solved if "tuner_s" in r]
        plain = _seconds(group, "cg+ssor[omega=1.0]@warm")
        values[2:] = [
            table.number(mean(r["num_steps"] / r["count"] for r in solved)),
            table.number(mean(r["last_steps"] for r in solved)),
            ratio,
            table.seconds(seconds),
            f"{plain / seconds:.2f}x" if plain else "–",
            table.seconds(mean(r["seconds_per_step"] for r in solved)),
            f"{100 * mean(shares):.2f} %" if shares else "–",
            table.scientific(max(r["true_residual"] for r in solved)),
        ]
    verdict = "ok"
    if failed:
        verdict = table.reason(failed[0])
        if failed[0].get("count"):
            verdict += f"; {failed[0]['solved']} of {failed[0]['count']} solved"
        if len(records) > 1:
            verdict += f" ({len(failed)} of {len(records)} seeds)"
    return [*map(Text, values), Text(verdict, style="red" if failed else "green")]


def _seconds(group: Sequence[Record], solver: str) -> float | None:
    found = [r["solve_s"]["median"] for r in group if r["solver"] == solver and table.succeeded(r)]
    return mean(found) if found else None


def _remark(group: Sequence[Record]) -> str:
    """What the search of the best fixed value found, and which column took the least time."""
    text = []
    searches = [r for r in group if table.succeeded(r) and "search" in r]
    if searches:
        omegas = sorted({round(r["omega"], 3) for r in searches})
        found = [r["search"] for r in searches]
        least = mean(s["instance_optimal_last"] / s["best_fixed_last"] for s in found)
        values = " to ".join(f"{omega:g}" for omega in dict.fromkeys((omegas[0], omegas[-1])))
        text.append(
            f"Best fixed omega, found on {found[0]['systems']} of the systems: {values}. With the best omega "
            f"of the grid for each system its late steps would be multiplied by {least:.3f}."
        )
    timed = {r["solver"]: _seconds(group, r["solver"]) for r in group if table.succeeded(r)}
    if timed:
        best = min(timed, key=lambda solver: timed[solver] or 0.0)
        text.append(f"Least seconds: {best}, {table.seconds(timed[best])}.")
    return " ".join(text)
