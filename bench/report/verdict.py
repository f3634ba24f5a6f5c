"""What a set of records says, in words."""

import polars as pl

from ..engine.spec import OWN
from ..engine.work import Work
from .format import scientific
from .frame import SYSTEM

# Nobody's rivals: one product with the matrix, and transport without regularisation, the reference.
_REFERENCES = ("product", "emd")


def verdict(rows: pl.DataFrame, work: Work) -> list[str]:
    """Sentences about the records of a work, most important first; the last says how many failed.

    Those of `work.remarks`, or who is fastest where and by how much."""
    said = race(rows, work.error) if work.remarks is None else work.remarks(rows)
    return [sentence for sentence in (*said, failures(rows)) if sentence]


def race(rows: pl.DataFrame, error: str) -> list[str]:
    """Who is fastest on how many systems, our largest lead and our largest lag, and what training pays.

    On each system, at the tolerance that most of its records share, the fastest success of each library runs;
    what has no tolerance has no race.  Time is set-up and solve, so that a factorisation does not win by
    being called set-up; compilation, paid once for many systems, is left to the charts."""
    rows = rows.filter(~pl.col("solver_name").is_in(_REFERENCES) & pl.col("rtol").is_not_null())
    if rows.is_empty():
        return []
    usual = (
        rows.group_by(*SYSTEM, "rtol", maintain_order=True)
        .len()
        .sort("len", "rtol", descending=[True, False], maintain_order=True)
        .unique(SYSTEM, keep="first", maintain_order=True)
    )
    finished = rows.join(usual, on=[*SYSTEM, "rtol"], how="semi", nulls_equal=True).filter(
        pl.col("ok") & (pl.col("seconds") > 0)
    )
    best = finished.sort("total", maintain_order=True).unique(
        [*SYSTEM, "library"], keep="first", maintain_order=True
    )
    races = [race for race in best.partition_by(SYSTEM, maintain_order=True) if len(race) > 1]
    races.sort(key=lambda race: min(race["index"].to_list()))
    return [*([_winners(races, error)] if races else []), *_margins(races), *_training(rows)]


def _winners(races: list[pl.DataFrame], error: str) -> str:
    firsts = pl.concat(race.head(1) for race in races)
    (first, most), *rest = (
        firsts["library"].value_counts(sort=True).sort("count", descending=True, maintain_order=True).rows()
    )
    if len(races) == 1:
        text = f"{first} solves {firsts['system'][0]} fastest"
    elif not rest:
        text = f"{first} solves all {len(races)} systems fastest"
    else:
        others = ", ".join(f"{name} on {number}" for name, number in rest)
        text = f"Of {len(races)} systems, {first} solves {most} fastest, {others}"
    if firsts["rtol"].n_unique() == 1:
        text += f", to a true {error} of {scientific(firsts['rtol'][0])}"
    return text + ", set-up included, compilation not."


def _margins(races: list[pl.DataFrame]) -> list[str]:
    """Our largest lead over the next library and our largest lag behind the fastest."""
    ratios = []
    for race in races:
        ours, others = (race.filter((pl.col("library") == OWN) == own) for own in (True, False))
        if len(ours) and len(others):
            ours, other = ours.row(0, named=True), others.row(0, named=True)
            ratios.append((other["total"] / ours["total"], ours, other))
    sentences = []
    if leads := [entry for entry in ratios if entry[0] >= 1]:
        ratio, ours, other = max(leads, key=lambda entry: entry[0])
        sentences.append(
            f"nsolve's largest lead is {ratio:.2g}× on {ours['system']} "
            f"({ours['solver']} against {other['solver']})."
        )
    if lags := [entry for entry in ratios if entry[0] < 1]:
        ratio, ours, other = min(lags, key=lambda entry: entry[0])
        whose = "Its" if leads else "nsolve's"
        sentences.append(
            f"{whose} largest lag is {1 / ratio:.2g}× on {ours['system']} "
            f"({ours['solver']} behind {other['solver']})."
        )
    return sentences


def _training(rows: pl.DataFrame) -> list[str]:
    """How soon what was trained has paid for it, at best."""
    if "break_even" not in rows.columns or rows["break_even"].is_null().all():
        return []
    trained = rows.filter(pl.col("break_even").is_not_null()).sort("break_even", maintain_order=True)
    paid = trained.filter(pl.col("break_even").is_finite())
    if paid.is_empty():
        return ["No training pays for itself on these systems."]
    first = paid.row(0, named=True)
    count = f"{max(1, -(-first['break_even'] // 1)):,.0f}"
    return [
        f"Training pays for itself on {len(paid)} of {len(trained)} systems, soonest after {count} solves of "
        f"{first['system']} ({first['solver']})."
    ]


def failures(rows: pl.DataFrame) -> str:
    """How many runs failed, and how many of those said that they did not."""
    ran = rows.filter(pl.col("result") != "missing")
    failed = ran.filter(~pl.col("ok"))
    if failed.is_empty():
        return f"All {len(ran)} runs succeeded." if len(ran) > 1 else ""
    lies = failed["claims"].sum()
    return f"{len(failed)} of {len(ran)} runs failed" + (
        f", {lies} of them while claiming success." if lies else "."
    )
