"""Records as one polars frame: a row a record, with the names and numbers that tables and charts are made of.

Beside a record's own fields (nested ones as `stages.value.trace_s`) there are

* `library`, `method` (the column without its preconditioner), `solver_name`, `preconditioner`, `mode`;
* `problem_name`, and the problem's options with their defaults, as `problem.contrast`;
* `ok` (the solver claimed success *and* the numbers confirm it), `reason` (why not, in words);
* `steps_of_each`, where a record's `steps` is a list;
* `steps`, `products`, `seconds` (median), `iqr`, `setup`, `total` (set-up and solve) of one system on
  average;
* `break_even`, where a record has a `train_s`;
* `system`, the problem and its size in words, `tolerance`, its rtol in words; `index`, the record's place.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from ..engine import spec as specs
from ..engine.record import Record
from ..engine.work import SLACK, known_works, work_of
from .format import is_number, scientific

_REASONS = {
    "max_steps_reached": "out of steps",
    "breakdown": "breakdown",
    "time_limit": "out of time",
    "stagnation": "stagnated",
    "singular": "singular matrix",
    "nonfinite_input": "NaN or Inf in the input",
    "nonfinite_output": "NaN or Inf in the answer",
    "missing": "not installed",
    "order_missed": "below its order",
}
_NUMBERS = (
    "steps",
    "products",
    "seconds",
    "fastest",
    "iqr",
    "setup",
    "total",
    "true_residual",
    "compile_s",
    "rtol",
)
# What makes two records the same system, and the same request.
SYSTEM = ("problem", "size", "dtype", "device", "seed")
CELL = (*SYSTEM, "length", "rtol")
_LEFT_OUT = ("env", "params", "settings", "schema", "key", "message")


def frame(records: Iterable[Record]) -> pl.DataFrame:
    """The records as a frame, in their order."""
    rows = [_row(index, record) for index, record in enumerate(records)]
    names = dict.fromkeys(name for row in rows for name in row)
    # A column is of one kind; one that mixes lists and numbers, or words and numbers, is text.
    columns = {name: _column(name, [row.get(name) for row in rows]) for name in names}
    made = pl.DataFrame(columns)
    return made.with_columns(break_even().alias("break_even")) if "train_s" in made.columns else made


def break_even() -> pl.Expr:
    """After how many solves a column with a field `train_s` has paid for its training, beside the fastest
    success without one on the same system and tolerance: infinity where it is not faster, null where it
    failed or nothing is there to beat."""
    rivals = pl.when(pl.col("ok") & pl.col("train_s").is_null()).then(pl.col("total"))
    saved = rivals.min().over(*CELL) - pl.col("total")
    solves = pl.when(saved > 0).then(pl.col("train_s") / saved).when(saved <= 0).then(math.inf)
    return pl.when(pl.col("ok") & pl.col("train_s").is_not_null()).then(solves)


def work_name(record: Record) -> str:
    """The kind of problem that a record is of; older ones do not say it."""
    if "work" in record:
        return record["work"]
    found = work_of(record["problem"], record.get("length"))
    return "linear" if found is None else found.name


def claims_success(record: Record) -> bool:
    """Whether the solver itself said that it succeeded."""
    return record["result"] == "successful"


def succeeded(record: Record) -> bool:
    """Whether the solver claimed success *and* the true residual confirms it.

    A residual that is missing confirms nothing (files hold NaN as null), except for a product
    `y = A x`, which has no tolerance to meet.
    """
    if not claims_success(record) or record.get("false_success"):
        return False
    residual, rtol = record.get("true_residual"), record.get("rtol")
    if rtol is None or specs.parse(record["solver"]).solver.name == "product":
        return "true_residual" not in record.get("nonfinite", ())
    rounding = record.get("rounding") or 0.0  # of potentials of transport problems
    return residual is not None and residual <= rtol * (1 + SLACK) + rounding


def reason(record: Record) -> str:
    """Why a record failed, in words; the empty string when it did not."""
    if succeeded(record):
        return ""
    some = ""
    if record.get("unsolved") or "solved" in record:  # of a sequence, or a batch
        count = record.get("count") or record.get("count_of_batch")
        missed = len(record["unsolved"]) if "unsolved" in record else count - record["solved"]
        some = f" ({missed} of {count} systems)"
    if claims_success(record):
        work = known_works().get(work_name(record))
        error = (work.error if work else "error").removeprefix("relative ")
        return f"says success, true {error} {scientific(record.get('true_residual'))}{some}"
    return _REASONS.get(record["result"], str(record["result"])) + some


def system_label(record: Record) -> str:
    """The problem and its size: `poisson2d 512`."""
    size = record.get("size")
    return record["problem"] if size in (None, "") else f"{record['problem']} {size}"


def _row(index: int, record: Record) -> dict[str, Any]:
    spec, part = specs.parse(record["solver"]), specs.parse_part(record["problem"])
    work = known_works().get(work_name(record))
    row = dict.fromkeys((*CELL, "num_steps", "true_residual", "compile_s"))
    row |= _flat({k: v for k, v in record.items() if k not in _LEFT_OUT})
    if isinstance(row.get("steps"), list):
        row["steps_of_each"] = row.pop("steps")
    options = dict(part.options)
    if work is not None and part.name in work.problems:
        defaults = {key: option.default for key, option in work.options(part.name).items()}
        options = defaults | options
    systems = record.get("count") or 1

    def each(total: Any) -> float | None:
        return total / systems if is_number(total) and systems != 1 else total if is_number(total) else None

    clock = record.get("solve_s") or {}
    seconds, setup = each(clock.get("median")), each(record.get("setup_s"))
    return row | {f"problem.{k}": v for k, v in options.items() if is_number(v) or isinstance(v, str)} | {
        "index": index,
        "work": work_name(record),
        "library": spec.peer,
        "method": str(specs.Spec(spec.peer, spec.solver, None, spec.mode)),
        "solver_name": spec.solver.name,
        "column": record["solver"].split("@")[0],
        "preconditioner": "" if spec.preconditioner is None else str(spec.preconditioner),
        "mode": ",".join(spec.mode),
        "problem_name": part.name,
        "system": system_label(record),
        "ok": succeeded(record),
        "claims": claims_success(record),
        "reason": reason(record),
        "tolerance": scientific(record.get("rtol")),
        "steps": each(record.get("num_steps")),
        "products": each(record.get("num_matvecs")),
        "seconds": seconds,
        "fastest": each(clock.get("min")),
        "iqr": each(clock.get("iqr")),
        "setup": setup,
        "total": None if seconds is None else seconds + (setup or 0.0),
        "load": ((record.get("env") or {}).get("load") or [None])[0],
    }  # fmt: skip


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in value.items():
        if isinstance(part, Mapping):
            found |= _flat(part, f"{prefix}{name}.")
        else:
            found[prefix + name] = part
    return found


def _column(name: str, values: Sequence[Any]) -> pl.Series:
    kinds = {type(v) for v in values if v is not None}
    if not kinds:
        return pl.Series(name, values, dtype=pl.Float64 if name in _NUMBERS else pl.Null)
    if kinds <= {int, float}:
        whole = kinds == {int} and all(abs(v) < 2**53 for v in values if v is not None)
        return pl.Series(name, values, dtype=pl.Int64 if whole else pl.Float64, strict=False)
    if kinds == {list}:
        entries = {type(x) for v in values if v for x in v} - {type(None)}
        if entries <= {int, float}:
            return pl.Series(name, values, dtype=pl.List(pl.Float64), strict=False)
        words = [None if v is None else [str(x) for x in v] for v in values]
        return pl.Series(name, words, dtype=pl.List(pl.String))
    if kinds == {bool}:
        return pl.Series(name, values, dtype=pl.Boolean)
    return pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)


def common_rtol(rtols: Iterable[float | None]) -> float | None:
    """The tolerance that most of the records share; of several the tightest."""
    found = [rtol for rtol in rtols]
    return max(set(found), key=lambda rtol: (found.count(rtol), -(rtol if rtol is not None else math.inf)))
