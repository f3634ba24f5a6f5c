"""The suite's part of the page: a picture and a table for each question."""

import base64
import io
from collections.abc import Sequence
from html import escape
from itertools import cycle

import numpy as np
from matplotlib.image import imsave

from ..curves import Curve, curves
from ..figures import COLOURS
from ..record import Record
from ..specs import OWN
from ..table import succeeded
from . import digits, report


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


def _strips(group: Sequence[Record]) -> str:
    """The pictures that each sampler drew, a row a sampler and a column a number of evaluations."""
    sizes = sorted({r["size"] for r in group})
    drawn = [r for r in group if "pictures" in r]
    if not drawn:
        return ""
    head = "".join(f"<th>{size} evaluations</th>" for size in sizes)
    rows = [f"<tr><td>200 steps</td><td>{_image(drawn[0]['reference_pictures'])}</td></tr>"]
    for solver, line in report.by_solver(drawn).items():
        found = {r["size"]: _image(r["pictures"]) for r in line}
        cells = "".join(f"<td>{found.get(size, '')}</td>" for size in sizes)
        rows.append(f"<tr><td>{escape(solver)}</td>{cells}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr><th>solver</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _image(text: str) -> str:
    """A strip of pictures, inside the page itself."""
    file = io.BytesIO()
    imsave(file, np.kron(digits.strip(text), np.ones((2, 2))), cmap="gray", vmin=0, vmax=255, format="png")
    return f'<img alt="samples" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _numeric(heading: str) -> str:
    if heading == "result":
        return ' class="result"'
    return "" if heading == "solver" else ' class="n"'


def _picture(group: Sequence[Record]) -> str:
    """The curves of a table, where there are any: error or memory against evaluations or steps."""
    wanted = report.kind(group[0])
    if wanted == "digits":
        return _strips(group)
    if wanted == "error":
        value, axis, what = "true_residual", "network evaluations", "error"
    elif wanted == "gradient":
        value, axis, what = "temporary_bytes", "steps", "bytes"
    else:
        return ""
    lines = []
    colours = cycle(name for name in COLOURS if name != OWN)
    for solver, line in report.by_solver([r for r in group if succeeded(r)]).items():
        points = [(float(r["size"]), float(r[value])) for r in line]
        if len(points) > 1:
            # A colour is a column here; the house's own is kept for the best.
            name = OWN if solver.startswith("tuned") else next(colours)
            lines.append(Curve(solver, "", points, f"lib-{name.replace('.', '-')}", markers=True))
    return f"<figure>{curves(lines, axis, what, x_log=True)}</figure>" if lines else ""
