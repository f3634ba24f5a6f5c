"""Entropic optimal transport to a true L1 error of both marginals of 1e-3 to 1e-12, beside ott-jax and POT.

`eta` is the inverse of epsilon in units of the largest cost. Every column gets the same dense cost matrix in
float64, except where form=points. A column that needs more than `limit_s` seconds has failed, and tighter
tolerances of the same problem are then not tried; the limits keep the suite at some 20 minutes on two cores.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import polars as pl

from ..engine.suite import Group, Suite
from ..report.format import mebibytes, scientific, seconds
from ..report.tables import Promises, Row, matching, told
from ..report.transport import prepared
from ..work import transport

NEWTON = "sinkhorn_newton"
OTT = ("ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson")


# --- what the suite is for ---


def promises(rows: pl.DataFrame) -> Iterator[Row]:
    """Our figures beside the peers'; lines whose records are missing are left out."""
    rows = prepared(rows)
    for name, problem in (
        ("random assignment, n = 500", {"problem": "assignment[eta=1200]", "size": 500}),
        ("digits, squared L2", {"problem": "digits[eta=1200]"}),
        ("digits, L1", {"problem": "digits[cost=l1,eta=1200]"}),
    ):
        yield from _steps(rows, f"{name}, epsilon 1/1200, steps to 1e-12", {**problem, "rtol": 1e-12})
        for peers in (OTT, ("pot:log",), ("pot:stabilized",)):
            yield from _seconds(rows, f"{name}, epsilon 1/1200, to 1e-6", {**problem, "rtol": 1e-6}, peers)
    for name in ("assignment", "cloud"):
        of = {"problem": f"{name}[eta=1000]", "size": 2000, "rtol": 1e-9}
        yield from _seconds(rows, f"{name}, n = 2000, epsilon 1e-3, to 1e-9", of, OTT)
    yield from _memory(rows)
    yield from _gradients(rows)
    yield from _batches(rows)


def _steps(rows: pl.DataFrame, work: str, of: dict[str, Any]) -> Iterator[Row]:
    found = rows.filter(matching({**of, "solver": OTT}) & pl.col("ok")).sort("num_steps").head(1)
    for ours in rows.filter(matching({**of, "solver": NEWTON}) & pl.col("ok")).iter_rows(named=True):
        beside: tuple[Any, ...] = ()
        for least in found.iter_rows(named=True):
            words = f"`{least['solver']}`: {least['num_steps']} sweeps"
            beside = words, least["num_steps"] / ours["num_steps"]
        yield told(work, ours["told"], *beside)


def _seconds(rows: pl.DataFrame, work: str, of: dict[str, Any], peers: Sequence[str]) -> Iterator[Row]:
    """Ours beside the fastest of some columns; where none of them got there, beside their limit."""
    found = rows.filter(matching({**of, "solver": peers}))
    ours = rows.filter(matching({**of, "solver": NEWTON}) & pl.col("ok"))["seconds"]
    if found.is_empty() or ours.is_empty():
        return
    mine, solved = ours[0], found.filter("ok").sort("seconds")
    name = f"`{peers[0]}`" if len(peers) == 1 else "no mode of ott-jax"
    if not solved.is_empty():
        solver, theirs = solved["solver"][0], solved["seconds"][0]
        yield told(work, seconds(mine), f"`{solver}`: {seconds(theirs)}", theirs / mine)
    elif (found["result"] == "time_limit").all():
        limit = found["limit_s"].max()
        beside = f"{name}: not in {limit:g} s" if len(peers) == 1 else f"{name} in {limit:g} s"
        yield told(work, seconds(mine), beside, f"> {limit / mine:.0f}")
    else:
        yield told(work, seconds(mine), f"{name}: {', '.join(found['reason'].unique().sort())}")


def _memory(rows: pl.DataFrame) -> Iterator[Row]:
    held = (pl.col("asks") == "memory") & pl.col("ok") & (pl.col("library") == "nsolve")
    for row in rows.filter(held & pl.col("memory_bytes").is_not_null()).iter_rows(named=True):
        matrix = row["size"] ** 2 * 8
        what = "gradient of" if row["mode"] == "gradient" else "solving"
        work = f"{what} {row['size']} points against as many, `{row['solver']}`"
        beside = f"the matrix alone: {mebibytes(matrix)}"
        yield told(work, mebibytes(row["memory_bytes"]), beside, matrix / row["memory_bytes"])


def _gradients(rows: pl.DataFrame) -> Iterator[Row]:
    rows = rows.filter((pl.col("asks") == "gradient") & pl.col("potential_gradient_s").is_not_null())
    ours, theirs = (rows.filter(pl.col("solver") == f"{name}@gradient") for name in (NEWTON, "ott:sinkhorn"))
    both = ours.join(theirs, on=["problem", "size", "rtol"], how="left", suffix="_theirs")
    for row in both.iter_rows(named=True):
        for which, name in (("cost", "the cost's"), ("potential", "a potential's")):
            error, time, their_error, their_time = (
                row[f"{which}_gradient_{field}"] for field in ("error", "s", "error_theirs", "s_theirs")
            )
            ratio = f"{time / row['forward_s']:.2f}x a solve"
            work = f"{name} gradient, {_label(row)}: error and time ({ratio})"
            mine, beside = f"{scientific(error)} in {seconds(time)}", ()
            if their_time is not None:
                beside = f"ott-jax: {scientific(their_error)} in {seconds(their_time)}", their_time / time
            yield told(work, mine, *beside)


def _batches(rows: pl.DataFrame) -> Iterator[Row]:
    ours = (pl.col("asks") == "batch") & (pl.col("solver") == NEWTON)
    for row in rows.filter(ours & pl.col("count_of_batch").is_not_null()).iter_rows(named=True):
        count, each = row["count_of_batch"], row["fastest"] / row["count_of_batch"]
        work = f"{count} problems at once, {_label(row)}: seconds of one; {row['solved']} solved"
        beside = f"the slowest alone: {seconds(row['slowest_s'])}"
        yield told(work, seconds(each), beside, row["slowest_s"] / each)


def _label(row: dict[str, Any]) -> str:
    return f"{row['problem_name']}, n = {row['size']}, epsilon 1/{row['problem.eta']:g}"


# --- cells ---

_group = partial(Group, rtol=[1e-3, 1e-6, 1e-9, 1e-12], max_steps=1_000_000, repeats=5, limit_s=15.0)
# The three problems of the Sinkhorn-Newton-Sparse paper (arXiv:2401.12253).
_PAPER = ("assignment[eta=1200]", "digits[eta=1200]", "digits[cost=l1,eta=1200]")


def _epsilons(name: str, *options: str) -> list[str]:
    """From large to small."""
    return [f"{name}[{','.join((*options, f'eta={eta}'))}]" for eta in (10, 100, 1000, 10000)]


SUITE = Suite(
    "Transport: Sinkhorn and Newton at small epsilon",
    transport.WORK,
    (
        _group(
            _PAPER,
            ["sinkhorn_newton", "sinkhorn[relaxation=adaptive]", "sinkhorn[anderson=5]",
             "ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson"],
            size=500,
        ),
        _group(
            _PAPER,
            ["sinkhorn", "sinkhorn[decay=2]", "pot:log", "pot:stabilized", "pot:epsilon_scaling", "pot:emd"],
            size=500,
            rtol=[1e-3, 1e-6],
        ),
        _group(
            [*_epsilons("assignment"), *_epsilons("digits")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:anderson", "pot:stabilized"],
            size=500,
            rtol=1e-6,
            limit_s=5.0,
        ),
        _group(
            [*_epsilons("gaussian1d"), *_epsilons("gaussian1d", "cost=l1")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann", "pot:stabilized"],
            size=300,
            limit_s=3.0,
        ),
        _group(
            [*_epsilons("gaussian2d"), *_epsilons("gaussian2d", "cost=l1")],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann", "pot:stabilized"],
            size=20,
            rtol=[1e-6, 1e-9],
            limit_s=4.0,
        ),
        _group(
            _epsilons("cloud"),
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn", "ott:lehmann"],
            size=1000,
            rtol=[1e-6, 1e-9],
            limit_s=8.0,
        ),
        _group(
            ["assignment[eta=1000]", "cloud[eta=1000]"],
            ["sinkhorn_newton", "ott:sinkhorn", "ott:momentum", "ott:lehmann", "ott:anderson"],
            size=2000,
            rtol=1e-9,
            repeats=1,
            limit_s=30.0,
        ),
        # 64 problems at once, and each of them alone.
        _group(
            ["batch[eta=100]", "batch[eta=1000]"],
            ["sinkhorn_newton", "sinkhorn", "ott:sinkhorn"],
            size=100,
            rtol=1e-9,
        ),
        # Derivatives against dense Newton.
        _group(
            ["assignment[eta=1000]", "cloud[eta=1000]"],
            ["sinkhorn_newton@gradient", "ott:sinkhorn@gradient"],
            size=500,
            rtol=1e-9,
        ),
        _group("cloud[eta=1000]", "sinkhorn_newton[form=points]@gradient", size=500, rtol=1e-9),
        # 10 000 x 10 000 points, no matrix: memory above that of a process with the points in it.
        _group(
            "cloud[eta=100]",
            ["sinkhorn_newton[form=points]", "sinkhorn[form=points]", "sinkhorn_newton[form=points]@gradient",
             "ott:sinkhorn[form=points,batch_size=500]"],
            size=10000,
            rtol=1e-3,
            memory=True,
            limit_s=0.0,
        ),
    ),
    tables=(Promises(promises, name="transport-promises"),),
)  # fmt: skip
