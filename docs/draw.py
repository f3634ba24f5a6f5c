"""Draws the tables and pictures of the documentation from the records in `docs/benchmarks`.

    python docs/draw.py

rewrites the tables between the markers of the pages and the pictures in `docs/images`; a test
checks that the tables are those of the records.  Make the records anew with `nsolve-bench run SUITE --fresh
--out docs/benchmarks/SUITE.jsonl` and `nsolve-bench probes --out docs/benchmarks/probes.jsonl`.
"""

import io
import json
import re
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from bench import plots, probes, record, show, stages, table
from bench.diffusion.promises import orders as diffusion_orders
from bench.diffusion.promises import promises as diffusion_promises
from bench.diffusion.promises import tuned as diffusion_tuned
from bench.sequences import report
from bench.transport.promises import promises as transport_promises
from nsolve.gallery import drifting

DOCS = Path(__file__).parent
RECORDS = DOCS / "benchmarks"
# name of the picture, suite, problem, size (None: all), kind of plot
PICTURES = (
    ("poisson-512", "foundation", "poisson2d", 512, "time"),
    ("lognormal-convergence", "quick", "lognormal2d", 128, "convergence"),
    ("poisson-steps", "quick", "poisson2d", None, "size"),
    ("darcy-recycled", "recycle", "darcy", 80, "sequence"),
    ("relax-regret", "relax", "shifted_laplacian[law=high]", 10, "regret"),
    ("heat-tuned", "relax", "heat_trajectory", 200, "tuning"),
    ("transport-assignment", "transport", "assignment[eta=1200]", 500, "transport"),
    ("transport-digits", "transport", "digits[cost=l1,eta=1200]", 784, "transport"),
    ("transport-epsilon", "transport", "assignment[", 500, "epsilon"),
    ("diffusion-work-precision", "diffusion", "ring", None, "evaluations"),
    ("diffusion-orders", "diffusion", "mixture1d", None, "order"),
    ("diffusion-memory", "diffusion", "images[batch=4", None, "reverse"),
    ("diffusion-digits", "diffusion", "trained_digits", None, "digits"),
)


def promises() -> str:
    """What the foundation suite is for: our figure, the mark, and the ratio."""
    geometric = RECORDS / "geometric.jsonl"
    records = record.read(RECORDS / "foundation.jsonl")
    records += record.read(geometric) if geometric.exists() else []
    rows = {(r["problem"], r["size"], r["solver"]): r for r in records}

    def solve(solver, size=512):
        return rows["poisson2d", size, solver]["solve_s"]["median"]

    def total(solver, size=512):
        row = rows["poisson2d", size, solver]
        return row["setup_s"] + row["solve_s"]["median"]

    def first(solver):
        return rows["poisson2d", 512, solver]["first_call_s"]

    lines = ["| work | nsolve | beside | ratio |", "|---|---:|---|---:|"]

    def line(work, ours, theirs):
        for name, seconds in theirs.items():
            figure, mark = table.seconds(ours), table.seconds(seconds)
            lines.append(f"| {work} | {figure} | {name}: {mark} | {seconds / ours:.1f} |")

    line(
        "product, 1024² sparse",
        solve("product", 1024),
        {
            "SciPy": solve("scipy:product", 1024),
            "JAX's BCOO": solve("jax.scipy:product[form=bcoo]", 1024),
        },
    )
    for form, ours in (("sparse", "cg"), ("stencil", "cg[form=stencil]")):
        theirs = {name: solve(f"{name}:cg[form={form}]") for name in ("jax.scipy", "lineax")}
        if form == "stencil":
            theirs["solvax"] = solve("solvax:cg[form=stencil]")
        line(f"CG, 512², {form}", solve(ours), theirs)
    line("CG, 512², sparse", solve("cg"), {"PETSc": solve("petsc:cg"), "SciPy": solve("scipy:cg")})
    line("IC(0)-CG, 512², with set-up", total("cg+ic"), {"PETSc": total("petsc:cg+icc")})
    algebraic = {
        "AMGCL": "amgcl:smoothed_aggregation+cg",
        "hypre": "petsc:cg+hypre",
        "PyAMG": "pyamg:ruge_stuben+cg",
    }
    line(
        "geometric multigrid-CG, 512², with set-up",
        total("cg+multigrid"),
        {f"{name}, algebraic": total(solver) for name, solver in algebraic.items()},
    )
    if geometric.exists():
        peers = ("petsc:cg+mg", "petsc:cg+mg[smoother=jacobi]")
        line(
            "geometric multigrid-CG, 511², with set-up",
            total("cg+multigrid", 511),
            {"PETSc, geometric": min(total(solver, 511) for solver in peers)},
        )
    line("first call of CG, 512², sparse", first("cg"), {"lineax": first("lineax:cg[form=sparse]")})
    lines.append(
        f"| first call of geometric multigrid-CG, 512² | {table.seconds(first('cg+multigrid'))} | | |"
    )
    return "\n".join(lines) + "\n"


def phases() -> str:
    """Where the time of a solve goes: our solvers of the suite foundation."""
    lines = ["| solver | steps | set-up | compile, once | solve |", "|---|---:|---:|---:|---:|"]
    for row in record.read(RECORDS / "foundation.jsonl"):
        if row["problem"] == "poisson2d" and row["size"] == 512 and ":" not in row["solver"]:
            # without a preconditioner there is nothing to set up
            setup = table.seconds(row["setup_s"]) if "+" in row["solver"] else "–"
            times = (table.seconds(row["compile_s"]), table.seconds(row["solve_s"]["median"]))
            cells = [f"`{row['solver']}`", str(row["num_steps"]), setup, *times]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def honesty() -> str:
    """The probes of every library, a row each."""
    lines = (RECORDS / "probes.jsonl").read_text().splitlines()
    console = Console(file=io.StringIO(), width=400)
    console.print(probes.table([json.loads(line) for line in lines]))
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    return "\n".join(re.sub(r" {2,}", " ", line).rstrip() for line in text.strip().splitlines()) + "\n"


def recycling() -> dict[str, str]:
    """The suite recycle: mean steps of the large sequences, products of the small ones, every figure."""
    rows = record.read(RECORDS / "recycle.jsonl")
    small = [r for r in rows if r["problem"] in drifting.KINDS]
    large = [r for r in rows if r not in small]
    return {
        "recycling": report.steps_table(large),
        "drifting": report.products_table(small),
        "recycle": show.markdown(rows),
    }


def relaxation() -> dict[str, str]:
    """The suite relax: a table a sequence, means over the seeds."""
    return {"relax": show.markdown(record.read(RECORDS / "relax.jsonl"))}


def transport_tables() -> dict[str, str]:
    """The suite transport: what it is for, and every figure."""
    rows = record.read(RECORDS / "transport.jsonl")
    return {"transport-promises": transport_promises(rows), "transport": show.markdown(rows)}


def diffusion_tables() -> dict[str, str]:
    """The suite diffusion: what it is for, the orders, and every figure."""
    rows = record.read(RECORDS / "diffusion.jsonl")
    return {
        "diffusion-promises": diffusion_promises(rows),
        "diffusion-orders": show.markdown(diffusion_orders(rows)),
        "diffusion-tuned": diffusion_tuned(rows),
        "diffusion": show.markdown(rows),
    }


def tables() -> dict[str, str]:
    """Each marker of the page with its table."""
    found = {"promises": promises(), "phases": phases(), "probes": honesty()}
    for suite in ("foundation", "quick", "peers"):
        found[suite] = show.markdown(record.read(RECORDS / f"{suite}.jsonl"))
    if (RECORDS / "geometric.jsonl").exists():
        found["geometric"] = show.markdown(record.read(RECORDS / "geometric.jsonl"))
    if (RECORDS / "compile.jsonl").exists():
        found["compile"] = stages.markdown(record.read(RECORDS / "compile.jsonl"))
    if (RECORDS / "recycle.jsonl").exists():
        found |= recycling()
    if (RECORDS / "relax.jsonl").exists():
        found |= relaxation()
    if (RECORDS / "transport.jsonl").exists():
        found |= transport_tables()
    if (RECORDS / "diffusion.jsonl").exists():
        found |= diffusion_tables()
    return found


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
    for name, text in tables().items():
        page = page_of(name)
        page.write_text(fill(page.read_text(), name, text))
    for name, suite, problem, size, kind in PICTURES:
        if not (RECORDS / f"{suite}.jsonl").exists():
            continue
        rows = record.read(RECORDS / f"{suite}.jsonl")
        chosen = [r for r in rows if r["problem"].startswith(problem) and size in (None, r["size"])]
        if kind == "sequence":
            chosen = [r for r in chosen if r["rtol"] == min(r["rtol"] for r in chosen)]
        with tempfile.TemporaryDirectory() as folder:
            drawn = next(p for p in plots.plot(chosen, kind, Path(folder)) if p.suffix == ".png")
            shutil.copyfile(drawn, DOCS / "images" / f"{name}.png")


if __name__ == "__main__":
    main()
