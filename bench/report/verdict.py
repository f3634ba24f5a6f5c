"""What a set of records says, in words."""

import math
from collections.abc import Sequence

from bench.record import Record
from bench.table import (
    claims_success,
    common_rtol,
    error_name,
    is_exact_transport,
    is_product,
    library,
    median_seconds,
    scientific,
    setup_seconds,
    succeeded,
    system_key,
    system_label,
)


def verdict(records: Sequence[Record]) -> list[str]:
    """Sentences, most important first: who is fastest where, by how much, and what failed."""
    solves = [r for r in records if not is_product(r) and not is_exact_transport(r)]
    races = [race for race in _races(solves) if len(race) > 1]
    sentences = []
    if races:
        sentences.append(_who_wins(races))
        sentences += _margin(races)
    sentences.append(_failures(records))
    return sentences


def _races(records: Sequence[Record]) -> list[list[Record]]:
    """Per system, at its common tolerance, the fastest success of each library, fastest first.

    Time is set-up and solve; compilation, paid once for many systems, is left to the page's bars.
    """
    systems: dict[tuple, list[Record]] = {}
    for record in records:
        systems.setdefault(system_key(record), []).append(record)
    races = []
    for group in systems.values():
        rtol = common_rtol(group)
        best: dict[str, Record] = {}
        for record in group:
            if record.get("rtol") == rtol and succeeded(record) and median_seconds(record):
                old = best.get(library(record))
                if old is None or _time(record) < _time(old):
                    best[library(record)] = record
        races.append(sorted(best.values(), key=_time))
    return races


def _time(record: Record) -> float:
    """Set-up and solve: a factorisation must not win by being called set-up."""
    return (median_seconds(record) or math.inf) + (setup_seconds(record) or 0.0)


def _who_wins(races: list[list[Record]]) -> str:
    wins: dict[str, int] = {}
    for race in races:
        wins[library(race[0])] = wins.get(library(race[0]), 0) + 1
    ranking = sorted(wins.items(), key=lambda item: -item[1])
    count = len(races)
    (first, most), rest = ranking[0], ranking[1:]
    if count == 1:
        text = f"{first} solves {system_label(races[0][0])} fastest"
    elif not rest:
        text = f"{first} solves all {count} systems fastest"
    else:
        others = ", ".join(f"{name} on {number}" for name, number in rest)
        text = f"Of {count} systems, {first} solves {most} fastest, {others}"
    tolerances = {race[0]["rtol"] for race in races}
    if len(tolerances) == 1:
        errors = " or ".join(sorted({error_name(race[0]) for race in races}, reverse=True))
        text += f", to a true {errors} of {scientific(tolerances.pop())}"
    return text + ", set-up included, compilation not."


def _margin(races: list[list[Record]]) -> list[str]:
    """Our largest lead over the next library and our largest lag behind the fastest."""
    leads, lags = [], []
    for race in races:
        ours = next((r for r in race if library(r) == "nsolve"), None)
        if ours is None:
            continue
        others = [r for r in race if library(r) != "nsolve"]
        ratio = _time(others[0]) / _time(ours)
        (leads if ratio >= 1 else lags).append((ratio, ours, others[0]))
    sentences = []
    if leads:
        ratio, ours, other = max(leads, key=lambda lead: lead[0])
        sentences.append(
            f"nsolve's largest lead is {ratio:.2g}× on {system_label(ours)} "
            f"({ours['solver']} against {other['solver']})."
        )
    if lags:
        ratio, ours, other = min(lags, key=lambda lag: lag[0])
        sentences.append(
            f"Its largest lag is {1 / ratio:.2g}× on {system_label(ours)} "
            f"({ours['solver']} behind {other['solver']})."
        )
    return sentences


def _failures(records: Sequence[Record]) -> str:
    ran = [r for r in records if r["result"] != "missing"]
    failed = [r for r in ran if not succeeded(r)]
    if not failed:
        return f"All {len(ran)} runs succeeded." if len(ran) > 1 else ""
    text = f"{len(failed)} of {len(ran)} runs failed"
    lied = [r for r in failed if claims_success(r)]
    if lied:
        text += f", {len(lied)} of them while claiming success"
    return text + "."
