"""Draws the tables and pictures of the documentation from the records in `docs/benchmarks`.

    make docs-figures

rewrites the tables between the markers of the pages and the pictures in `docs/images`; a test checks that the
tables are those of the records.  Make the records anew with `nsolve-bench run SUITE --out
docs/benchmarks/SUITE.jsonl`.

A suite's tables stand between markers of their names, those of its kind of work between markers of the
suite's.
"""

import functools
import shutil
import tempfile
from pathlib import Path

import polars as pl

from bench.engine import record, suite
from bench.report import frame, tables

DOCS = Path(__file__).parent
RECORDS = DOCS / "benchmarks"
#: Suites whose promises look at the records of others too.
ALSO = {"foundation": ("geometric",)}
#: Suites of which the pages have their own tables only, not one for each system.
SHORT = ("collection", "hard", "media", "preconditioners")


def _is(problem: str, **fields: object) -> pl.Expr:
    tests = [pl.col(name) == value for name, value in fields.items()]
    return pl.all_horizontal(pl.col("problem").str.starts_with(problem), *tests)


#: Name of the picture, suite, chart, and the records that it is drawn of.
PICTURES = (
    ("poisson-512", "foundation", "time", _is("poisson2d", size=512)),
    ("lognormal-convergence", "quick", "convergence", _is("lognormal2d", size=128)),
    ("poisson-steps", "quick", "size", _is("poisson2d")),
    ("darcy-recycled", "recycle", "sequence", _is("darcy", size=80, rtol=1e-8, preconditioner="")),
    ("relax-regret", "relax", "regret", _is("shifted_laplacian[law=high]", size=10)),
    ("heat-tuned", "relax", "tuning", _is("heat_trajectory", size=200)),
    ("transport-assignment", "transport", "transport", _is("assignment[eta=1200]", size=500)),
    ("transport-digits", "transport", "transport", _is("digits[cost=l1,eta=1200]")),
    ("transport-epsilon", "transport", "epsilon", _is("assignment[", size=500)),
    ("diffusion-work-precision", "diffusion", "evaluations", _is("ring")),
    ("diffusion-orders", "diffusion", "order", _is("mixture1d")),
    ("diffusion-memory", "diffusion", "reverse", _is("images[batch=4")),
    ("hard-profile", "hard", "profile", pl.len().over("solver_name", "preconditioner", "library") >= 10),
    ("diffusion-digits", "diffusion", "digits", _is("trained_digits")),
)


@functools.cache
def rows(name: str, *also: str) -> pl.DataFrame:
    """The records of a suite."""
    found = [row for one in (name, *also) for row in record.latest(record.read(RECORDS / f"{one}.jsonl"))]
    return frame.frame(found)


def recorded() -> list[str]:
    return sorted(path.stem for path in RECORDS.glob("*.jsonl"))


@functools.cache
def all_tables() -> dict[str, str]:
    """Each marker of the pages with its tables."""
    found: dict[str, list[tables.Rendered]] = {}
    for name in recorded():
        chosen = suite.load(name)
        for table in chosen.tables:
            found.setdefault(table.name, []).extend(table.render(rows(name, *ALSO.get(name, ()))))
        for table in chosen.work.tables:
            marker = table.name or name
            if name not in SHORT:
                found.setdefault(marker, []).extend(table.render(rows(name)))
    return {name: tables.markdown(made) for name, made in found.items()}


def fill(page: str, name: str, text: str) -> str:
    """The page with the text between the markers of that name."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = page.split(start)
    _, after = rest.split(end)
    # Markdown reads a table only after an empty line.
    return f"{before}{start}\n\n{text.strip()}\n\n{end}{after}"


def page_of(name: str) -> Path:
    """The one page that has the markers of a table."""
    (page,) = (path for path in DOCS.glob("*.md") if f"<!-- {name} -->" in path.read_text())
    return page


def main() -> None:
    for name, text in all_tables().items():
        page = page_of(name)
        page.write_text(fill(page.read_text(), name, text))
    for name, suite_name, kind, where in PICTURES:
        if suite_name not in recorded():
            continue
        chosen = suite.load(suite_name)
        (chart,) = (c for c in (*chosen.charts, *chosen.work.charts) if c.name == kind)
        drawn = next(iter(chart.draw(rows(suite_name).filter(where))))
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(drawn.save(Path(folder))[0], DOCS / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
