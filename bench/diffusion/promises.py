"""What the suite is for, as one table of Markdown: our figure, what stands beside it, and the ratio."""

import re
from collections.abc import Sequence

from .. import table
from ..record import Record
from . import report

DIFFUSERS = "diffusers:"


def promises(records: Sequence[Record]) -> str:
    """The table; lines whose records are missing are left out."""
    good = [r for r in records if table.succeeded(r)]
    lines = ["| work | nsolve | beside | ratio |", "|---|---:|---|---:|"]
    return "\n".join([*lines, *_orders(records), *_errors(good), *_seconds(good), *_memory(good)]) + "\n"


def tuned(records: Sequence[Record]) -> str:
    """What tuning is worth: a row a mixture, errors after so many evaluations by default and tuned."""
    errors = [r for r in records if report.kind(r) == "error" and table.succeeded(r)]
    sizes = sorted({r["size"] for r in errors if report.column(r).startswith("tuned")})
    lines = [
        "| mixture | " + " | ".join(f"{size} evaluations" for size in sizes) + " |",
        "|---|" + "---:|" * len(sizes),
    ]
    for group in report.groups(errors):
        cells = []
        for size in sizes:
            found = {report.column(r): r["true_residual"] for r in group if r["size"] == size}
            best = [error for name, error in found.items() if name.startswith("tuned")]
            if best and report.RIVAL in found:
                cells.append(f"{table.scientific(found[report.RIVAL])} → {table.scientific(min(best))}")
            else:
                cells.append("")
        if any(cells):
            lines.append(f"| `{group[0]['problem']}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def orders(records: Sequence[Record]) -> list[Record]:
    """The records of the table of orders."""
    return [r for r in records if report.kind(r) == "order"]


def _orders(records: Sequence[Record]) -> list[str]:
    stated = [r for r in orders(records) if r.get("stated_order")]
    if not stated:
        return []
    met = [r for r in stated if table.succeeded(r)]
    farthest = min(r["order"] - r["stated_order"] for r in met)
    work = f"samplers of their stated order (the farthest below it: {-farthest:.2f})"
    return [f"| {work} | {len(met)} of {len(stated)} | | |"]


def _errors(records: Sequence[Record]) -> list[str]:
    """Tuned plans beside UniPC-3 of ours and the best of diffusers."""
    lines = []
    for group in report.groups([r for r in records if report.kind(r) == "error"]):
        for size in sorted({r["size"] for r in group}):
            found = {report.column(r): r["true_residual"] for r in group if r["size"] == size}
            tuned = [error for name, error in found.items() if name.startswith("tuned")]
            theirs = {name: error for name, error in found.items() if name.startswith(DIFFUSERS)}
            beside = {report.RIVAL: found[report.RIVAL]} if report.RIVAL in found else {}
            if theirs:
                best = min(theirs, key=lambda name: theirs[name])
                beside[best] = theirs[best]
            for name, error in beside.items() if tuned else ():
                lines.append(
                    f"| {group[0]['problem']}, error after {size} evaluations, tuned plan |"
                    f" {table.scientific(min(tuned))} | `{name}`: {table.scientific(error)} |"
                    f" {error / min(tuned):.1f} |"
                )
    return lines


def _seconds(records: Sequence[Record]) -> list[str]:
    lines = []
    for group in report.groups([r for r in records if report.kind(r) == "overhead"]):
        found = {r["solver"]: r for r in group}
        for name, r in found.items():
            ours = table.median_seconds(r)
            if name.startswith(DIFFUSERS) or not ours:
                continue
            beside, ratio = "", ""
            same = DIFFUSERS + re.sub(r",?unroll=\d+", "", name)  # which is nothing to them
            theirs = table.median_seconds(found[same]) if same in found else None
            if theirs:
                beside, ratio = f"diffusers: {table.seconds(theirs)}", f"{theirs / ours:.1f}"
            work = f"{r['problem']}, {r['size']} steps of `{name}`, the sampler itself"
            lines.append(f"| {work} | {table.seconds(ours)} | {beside} | {ratio} |")
            work = f"the same, compiling; programs of {len(r['of_order'])} samplers of that order"
            lines.append(
                f"| {work} | {table.seconds(r['compile_s'])}; {1 + len(set(r['compiled']) - {name})} | | |"
            )
    return lines


def _memory(records: Sequence[Record]) -> list[str]:
    lines = []
    for solver, line in report.by_solver([r for r in records if report.kind(r) == "gradient"]).items():
        first, last = line[0], line[-1]
        if first is last:
            continue
        work = f"`{solver}`: memory of a gradient, {first['size']} and {last['size']} steps"
        small, large = (r["temporary_bytes"] / 2**20 for r in (first, last))
        steps = f"steps: {last['size'] / first['size']:g}"
        lines.append(f"| {work} | {small:.1f} and {large:.1f} MiB | {steps} | {large / small:.1f} |")
    return lines
