"""The suite's part of the page: a picture and a table for each question."""

from collections.abc import Sequence
from html import escape

from ..curves import Curve, curves
from ..figures import COLOURS
from ..record import Record
from ..table import library, scientific, succeeded
from . import report


def lead(records: Sequence[Record]) -> str:
    """What the records say, in a few sentences."""
    orders = [r for r in records if report.kind(r) == "order" and r["result"] != "missing"]
    good = [r for r in orders if succeeded(r)]
    sentences = [f"{len(good)} of {len(orders)} samplers show the order that they state."] if orders else []
    sentences += report.remarks(records)
    return " ".join(sentences)


def sections(records: Sequence[Record]) -> list[str]:
    """HTML, a section for each table of the suite."""
    return [_section(group, made) for group, made in report.grouped_tables(records)]


def _section(group: Sequence[Record], made: report.Table) -> str:
    title, headings, rows, note = made
    head = "".join(f"<th{_numeric(name)}>{escape(name)}</th>" for name in headings)
    body = "".join(
        f"<tr{'' if row[-1].plain == 'ok' else ' class=failed'}>"
        + "".join(
            f"<td{_numeric(name)}>{escape(cell.plain)}</td>" for name, cell in zip(headings, row, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f"<section><h2>{escape(title)}</h2>{_picture(group)}"
        f'<p class="soft">{escape(note)}</p>'
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
        "</section>"
    )


def _numeric(heading: str) -> str:
    if heading == "result":
        return ' class="result"'
    return "" if heading == "solver" else ' class="n"'


def _picture(group: Sequence[Record]) -> str:
    """The curves of a table, where there are any: error or memory against evaluations or steps."""
    wanted = report.kind(group[0])
    if wanted == "error":
        value, axis, what = "true_residual", "network evaluations", "error"
    elif wanted == "gradient":
        value, axis, what = "temporary_bytes", "steps", "bytes"
    else:
        return ""
    lines = []
    for solver, line in report.by_solver([r for r in group if succeeded(r)]).items():
        points = [(float(r["size"]), float(r[value])) for r in line]
        if len(points) > 1:
            name = library(line[0])
            style = f"lib-{name}" if name in COLOURS else "lib-other"
            lines.append(Curve(solver, scientific(points[-1][1]), points, style, markers=True))
    return f"<figure>{curves(lines, axis, what, x_log=True)}</figure>" if lines else ""
