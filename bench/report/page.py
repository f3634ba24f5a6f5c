"""One self-contained HTML page out of records: a verdict, bars, curves, a table, the machine."""

import json
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench.curves import Curve, curves
from bench.diffusion import page as diffusion_page
from bench.diffusion.report import is_diffusion
from bench.figures import COLOURS
from bench.plots import residual_history, unknowns
from bench.record import Record, latest
from bench.table import (
    common_rtol,
    error_name,
    is_number,
    is_product,
    library,
    median_seconds,
    num_steps,
    number,
    reason,
    scientific,
    seconds,
    setup_seconds,
    spread_seconds,
    succeeded,
    system_key,
    system_label,
)
from bench.verdict import verdict

_HERE = Path(__file__).parent


def write_page(records: Sequence[Record], out: Path, title: str) -> Path:
    """Write the page to the file `out` and return its path.

    The page needs no network and no script to be read; bars of failed runs are hatched red with
    the reason beside them. Raises `ValueError` when there are no records or `out` cannot be
    written.
    """
    if not records:
        raise ValueError("records is empty: there is nothing to show; run a suite first")
    records = latest(records)
    if all(map(is_diffusion, records)):  # no tolerance, no solve to race for
        lead, sections = diffusion_page.lead(records), diffusion_page.sections(records)
    else:
        lead = " ".join(sentence for sentence in verdict(records) if sentence)
        sections = _systems(records)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">{escape(lead or title)}</p>',
        *sections,
        _environments(records),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title>\n<style>\n{(_HERE / 'page.css').read_text()}</style>"
        f"</head>\n<body>\n{chr(10).join(body)}\n"
        f"<script>\n{(_HERE / 'page.js').read_text()}</script></body></html>\n"
    )
    out = Path(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"out: cannot write {out} ({error.strerror}); choose another") from None
    return out


def _systems(records: Sequence[Record]) -> list[str]:
    """How the bars read, a section for each system, and every run."""
    systems: dict[tuple, list[Record]] = {}
    for record in records:
        systems.setdefault((*system_key(record), is_product(record)), []).append(record)
    return [_legend(records), *(_section(group) for group in systems.values()), _table(records)]


def _legend(records: Sequence[Record]) -> str:
    names = {error_name(record) for record in records}
    judged_by = " or ".join(
        {
            "relative residual": "the true residual ‖b − Ax‖/‖b‖ in float64",
            "marginal error": "the true L1 error of both marginals of its plan",
        }[name]
        for name in sorted(names, reverse=True)
    )
    return (
        '<p class="soft">Bars: median solve time in full colour, then set-up and, fainter, '
        "compilation, which are paid once. A bar that fades out goes on beyond the frame. Every "
        f"answer is judged by {judged_by}, whatever the solver says of itself.</p>"
        '<p class="modes"><span class="soft">bars show</span>'
        '<button data-mode="solve" aria-pressed="false">solve</button>'
        '<button data-mode="setup" aria-pressed="true">solve + set-up</button>'
        '<button data-mode="compile" aria-pressed="false">solve + set-up + compile</button></p>'
    )


def _section(group: list[Record]) -> str:
    """One system: bars at the tolerance most cells share, curves over iterations or tolerances."""
    rtol = common_rtol(group)
    shown = [r for r in group if r.get("rtol") == rtol]
    size = unknowns(group[0])
    facts = [f"{size:,} unknowns".replace(",", " ")] if size else []
    if is_product(group[0]):
        heading = f"{system_label(group[0])}: one product y = Ax"
    else:
        heading = system_label(group[0])
        facts.append(f"to a true {error_name(group[0])} of {scientific(rtol)}")
    facts += [str(group[0][name]) for name in ("dtype", "device") if group[0].get(name)]
    parts = [f"<h2>{escape(heading)}</h2>", f'<p class="soft">{escape(" · ".join(facts))}</p>']
    parts.append(_bars(shown))
    absent = sorted({r["solver"] for r in shown if r["result"] == "missing"})
    if absent:
        parts.append(f'<p class="bad soft">not installed: {escape(", ".join(absent))}</p>')
    parts.append(_convergence(shown))
    if any(r.get("rtol") != rtol for r in group):
        parts.append(_work_precision(group))
    return f"<section>{''.join(parts)}</section>"


def _bars(records: list[Record]) -> str:
    rows = [r for r in records if r["result"] != "missing"]
    rows.sort(key=lambda r: (not succeeded(r), sum(_once_and_again(r)[:2])))
    good = [_once_and_again(r) for r in rows if succeeded(r)] or [_once_and_again(r) for r in rows]
    longest = max((solve + setup for solve, setup, _ in good), default=0.0) or 1.0
    return f'<div class="bars">{"".join(_bar(r, longest) for r in rows)}</div>'


def _once_and_again(record: Record) -> tuple[float, float, float]:
    values = (median_seconds(record), setup_seconds(record), record.get("compile_s"))
    solve, setup, compiling = (float(v) if is_number(v) else 0.0 for v in values)  # type: ignore[arg-type]
    return solve, setup, compiling


def _bar(record: Record, longest: float) -> str:
    solve, setup, compiling = _once_and_again(record)
    over = " over" if solve + setup > 1.001 * longest else ""
    name = escape(record["solver"])
    figures = [f"<b>{seconds(median_seconds(record))}</b>"]
    steps = num_steps(record)
    steps_text = f"{number(steps)} step{'s' * (steps != 1)}" if steps and is_number(steps) else ""
    figures.append(f'<span class="steps">{steps_text}</span>')
    once = [
        f"{word} {seconds(value)}"
        for word, value in (("set-up", setup), ("compile", compiling))
        if value > 1e-5
    ]
    if is_number(record.get("first_call_s")):
        once.append(f"first call {seconds(record['first_call_s'])}")
    figures.append(f'<span class="once">{" · ".join(once)}</span>')
    if not succeeded(record):
        figures.append(f'<span class="why">✗ {escape(_why(record))}</span>')
    return (
        f'<div class="bar {_style(record)}{"" if succeeded(record) else " failed"}" '
        f'data-solver="{name}" data-solve="{solve}" data-setup="{setup}" '
        f'data-compile="{compiling}"><span class="name">{name}</span>'
        f'<span class="track{over}"><i class="solve" style="width:{100 * solve / longest:.2f}%">'
        f'</i><i class="setup" style="width:{100 * setup / longest:.2f}%"></i>'
        f'<i class="compile" style="width:0"></i></span>'
        f'<span class="figures">{"".join(figures)}</span></div>'
    )


def _why(record: Record) -> str:
    text, residual = reason(record), record.get("true_residual")
    if is_number(residual) and "says success" not in text:
        text += f", true {error_name(record)} {scientific(residual)}".replace("relative ", "")
    return text


def _style(record: Record) -> str:
    name = library(record)
    return f"lib-{name.replace('.', '-')}" if name in COLOURS else "lib-other"


def _convergence(records: list[Record]) -> str:
    histories = [(r, residual_history(r)) for r in records]
    drawn = [(r, h) for r, h in histories if len(h) > 1]
    if not drawn:
        return ""
    counts = [len(h) - 1 for _, h in drawn]
    logarithmic = max(counts) > 20 * min(counts)
    first = 1 if logarithmic else 0
    lines = [
        Curve(
            r["solver"],
            str(len(h) - 1),
            [(k, float(h[k])) for k in _thin(first, len(h))],
            _style(r),
            reason(r),
        )
        for r, h in drawn
    ]
    picture = curves(lines, "iterations", "relative residual", x_log=logarithmic)
    undrawn = [r["solver"] for r, h in histories if len(h) <= 1 and r["result"] != "missing"]
    note = f" No residual history: {', '.join(undrawn)}." if undrawn else ""
    return f"<figure>{picture}<figcaption>Convergence.{escape(note)}</figcaption></figure>"


def _thin(first: int, length: int, most: int = 240) -> list[int]:
    """At most about `most` indices, the last among them: a screen shows no more."""
    stride = max(1, (length - first) // most)
    return sorted({*range(first, length, stride), length - 1})


def _work_precision(group: list[Record]) -> str:
    lines: dict[str, list[Record]] = {}
    for record in group:
        residual, time = record.get("true_residual"), median_seconds(record)
        if residual and is_number(residual) and time:
            lines.setdefault(record["solver"], []).append(record)
    shown = []
    for name, line in lines.items():
        line.sort(key=lambda r: -(r.get("rtol") or 0))
        points = [(float(r["true_residual"]), median_seconds(r) or 0.0) for r in line]
        failures = [r for r in line if not succeeded(r)]
        why = f"{len(failures)} of {len(line)} failed" if failures else ""
        shown.append(Curve(name, "", points, _style(line[0]), why, markers=True))
    reached = f"true {error_name(group[0])} reached"
    picture = curves(shown, reached, "solve seconds", x_log=True, x_reversed=True)
    return (
        f"<figure>{picture}<figcaption>Work against precision: one point per tolerance asked for."
        "</figcaption></figure>"
    )


_COLUMNS: tuple[tuple[str, bool], ...] = (
    ("problem", False),
    ("solver", False),
    ("rtol", True),
    ("steps", True),
    ("solve", True),
    ("spread", True),
    ("set-up", True),
    ("compile", True),
    ("true residual", True),
    ("result", False),
)


def _table(records: Sequence[Record]) -> str:
    head = "".join(f"<th{' class=n' * numeric}>{name}</th>" for name, numeric in _COLUMNS)
    rows = "".join(_row(record) for record in records)
    return (
        "<section><h2>Every run</h2>"
        '<p class="soft">Click a heading to sort. Spread is the interquartile range.</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        "</div></section>"
    )


def _row(record: Record) -> str:
    spread = spread_seconds(record)
    setup, compiling = setup_seconds(record), record.get("compile_s")
    residual, solve, steps = (
        record.get("true_residual"),
        median_seconds(record),
        num_steps(record),
    )
    cells: list[tuple[Any, str]] = [
        (system_label(record), system_label(record)),
        (record["solver"], record["solver"]),
        (record.get("rtol"), scientific(record.get("rtol"))),
        (steps, number(steps)),
        (solve, seconds(solve)),
        (spread, seconds(spread)),
        (setup, seconds(setup)),
        (compiling, seconds(compiling)),
        (residual, scientific(residual)),
        (reason(record) or "ok", reason(record) or "ok"),
    ]
    tags = []
    for (name, numeric), (value, text) in zip(_COLUMNS, cells, strict=True):
        kind = "n" if numeric else "result" if name == "result" else ""
        value = "" if value is None else value
        tags.append(f'<td class="{kind}" data-value="{escape(str(value))}">{escape(text)}</td>')
    return f'<tr class="{"" if succeeded(record) else "failed"}">{"".join(tags)}</tr>'


def _environments(records: Sequence[Record]) -> str:
    """The machine: once if all records agree (but for the load), else each with its count."""
    counts: Counter[str] = Counter()
    for record in records:
        env = {k: v for k, v in (record.get("env") or {}).items() if k != "load"}
        counts[json.dumps(env, sort_keys=True)] += 1
    parts = ["<section><h2>Measured on</h2>"]
    for text, count in counts.most_common():
        if len(counts) > 1:
            parts.append(f'<p class="soft">{count} of {len(records)} runs</p>')
        facts = [(name, _fact(value)) for name, value in json.loads(text).items()]
        facts.append(("date", ", ".join(sorted({str(r.get("time"))[:10] for r in records}))))
        pairs = "".join(f"<dt>{escape(n)}</dt><dd>{escape(v)}</dd>" for n, v in facts)
        parts.append(f"<dl>{pairs}</dl>")
    return "".join(parts) + "</section>"


def _fact(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return {True: "yes", False: "no", None: "unknown", "": "none"}.get(value, str(value))
