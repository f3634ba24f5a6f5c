"""`nsolve-bench`: list | run | show | page | plot | compare | regress | solve | generate.

Tables and data go to stdout, progress and messages to stderr. Exit codes: 0 done; 1 a regression (`compare`,
`regress`), a system not solved (`solve`, `generate`), or no cell that succeeded (`run`); 2 a mistake in what
was asked; 130 interrupted.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    help="Solvers side by side: systems solved by nsolve and by the libraries beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")]
Records = Annotated[Path, typer.Argument(help="A file of records.")]


def _version(asked: bool) -> None:
    if asked:
        from .engine.environment import version

        print(f"nsolve-bench {version('nsolve')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    """Solvers side by side: systems solved by nsolve and by the libraries beside it."""


@app.command("list")
def list_names(
    what: Annotated[
        str | None, typer.Argument(help="Only this: suites, problems, columns, or a name of one of them.")
    ] = None,
) -> None:
    """List suites, problems and columns with their options."""
    from .report.names import show_names

    show_names(_stdout(), what)


@app.command()
def run(
    suite: Annotated[
        str | None, typer.Argument(help="A suite's name, or a .py file that defines SUITE.")
    ] = None,
    filter: Annotated[
        list[str] | None, typer.Option(help="Only columns like this, e.g. cg+ssor[omega=1.5].")
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option(help="Also this column: my_package.my_solver:MySolver(depth=3).")
    ] = None,
    problem: Annotated[
        list[str] | None, typer.Option(help="Only this problem; without SUITE: solve it.")
    ] = None,
    size: Annotated[list[int] | None, typer.Option(help="Size, without SUITE.")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="Column, without SUITE.")] = None,
    rtol: Annotated[list[float] | None, typer.Option(help="Tolerance, without SUITE.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Precision, without SUITE.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Seed, without SUITE.")] = None,
    count: Annotated[
        int | None, typer.Option(help="Solve a sequence of so many systems, without SUITE.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most iterations, without SUITE.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Timed solves a cell.")] = None,
    isolate: Annotated[bool, typer.Option("--isolate", help="Each cell in a process of its own.")] = False,
    limit: Annotated[float | None, typer.Option(help="Kill a cell's process after so many seconds.")] = None,
    out: Annotated[Path | None, typer.Option(help="Records, one JSON object a line.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    fresh: Fresh = False,
    keep_old: Annotated[
        bool, typer.Option("--keep-old", help="Keep records that other code, versions or settings made.")
    ] = False,
) -> None:
    """Measure a suite, or the cells named by --problem, --size and --solver.

    An interrupted run goes on where it stopped when it is started again with the same --out; what other code,
    versions or settings have measured is measured again."""
    from .engine import suite as suites
    from .engine.run import Interrupted, execute

    given = {
        "size": size, "solver": solver, "rtol": rtol, "dtype": dtype, "seed": seed, "count": count,
        "max_steps": max_steps,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value not in (None, [])}
    if suite is not None:
        for name in given:
            raise ValueError(
                f"--{name.replace('_', '-')} belongs to a run without a suite; use --filter here"
            )
        chosen = suites.load(suite)
        if columns:
            chosen = suites.with_columns(chosen, columns)
        chosen = suites.select(chosen, filter or [], problem or [])
        out = out or Path("records") / f"{chosen.name}.jsonl"
    else:
        chosen = _ad_hoc(problem, [*(solver or []), *(columns or [])], filter, given)
    chosen = suites.replace_settings(
        chosen, repeats=repeats, isolate=isolate or limit is not None or None, kill_s=limit
    )
    _check_outputs(out, html)
    stderr = Console(stderr=True)
    try:
        records = execute(chosen, out, stderr, fresh, keep_old)
    except Interrupted as interrupted:
        _show(interrupted.records, chosen)
        word = "nothing was kept (no --out)"
        if out is not None:
            word = f"the same command (without --fresh) goes on from {out}"
        _say(stderr, f"interrupted after {len(interrupted.records)} of {len(chosen.cells)} cells; {word}")
        raise typer.Exit(130) from None
    _show(records, chosen)
    if out is not None:
        _say(stderr, f"records: {out}")
    if html is not None:
        from .report.page import write_page

        _say(stderr, f"page: {write_page(records, html, chosen)}")
    if not any(row["result"] == "successful" for row in records):
        _say(stderr, "no cell succeeded")
        raise typer.Exit(1)


def _ad_hoc(
    problem: list[str] | None, solver: list[str], filter: list[str] | None, given: dict[str, Any]
) -> Any:
    from .engine.suite import Group, ad_hoc

    if not problem or not solver:
        raise ValueError("name a suite (nsolve-bench list shows them), or --problem and --solver both")
    if filter:
        raise ValueError("--filter belongs to a suite; use --solver here")
    return ad_hoc(Group(problem, solver, **{k: v for k, v in given.items() if k != "solver"}))


def _check_outputs(out: Path | None, html: Path | None) -> None:
    """Refuse outputs that cannot be written before any work is done."""
    from .engine.record import is_stream

    if out is not None and (is_stream(out) or out.is_dir()):
        raise ValueError(f"--out {out} is no file that records can be appended to and read again; name one")
    if html is not None and not is_stream(html):
        folder = next(parent for parent in html.resolve().parents if parent.exists())
        if html.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise ValueError(f"cannot write {html}: choose another place for the page")


@app.command()
def show(
    records: Records,
    html: Annotated[Path | None, typer.Option(help="Write a page as well.")] = None,
) -> None:
    """Show records as tables, or as a page."""
    rows, suite = _read(records)
    _show(rows, suite)
    if html is not None:
        from .report.page import write_page

        print(f"page: {write_page(rows, html, suite)}", file=sys.stderr)


@app.command()
def compare(
    base: Annotated[str, typer.Argument(help="Records before: a file, or COMMIT:path.")],
    new: Annotated[str, typer.Argument(help="Records after.")],
    threshold: Annotated[float, typer.Option(help="Slower by this factor regresses.")] = 1.25,
) -> None:
    """Compare two files of records; exit code 1 on a regression."""
    from .report.compare import compare as compare_records

    raise typer.Exit(compare_records(base, new, threshold, _stdout()))


@app.command()
def regress(
    base: Annotated[Path, typer.Argument(help="Records to compare with, e.g. docs/benchmarks/quick.jsonl.")],
    suite: Annotated[str, typer.Option(help="The suite that made them.")] = "quick",
    repeats: Annotated[int | None, typer.Option(min=1, help="Timed solves a cell.")] = None,
    threshold: Annotated[float, typer.Option(help="Slower by this factor regresses.")] = 1.25,
) -> None:
    """Run a suite and compare its ratios to a peer with those of earlier records, of whatever machine."""
    from .report.regress import regress as run_and_compare

    raise typer.Exit(run_and_compare(suite, base, _stdout(), repeats, threshold))


@app.command()
def plot(
    records: Records,
    kind: Annotated[list[str] | None, typer.Option(help="Only charts of this name.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("records/plots"),
) -> None:
    """Draw records as PNG and SVG; without --kind, every chart that they allow."""
    from .engine.spec import check_name
    from .report import frame

    rows, suite = _read(records)
    charts = {chart.name: chart for chart in (*suite.charts, *suite.work.charts)}
    for name in kind or ():
        check_name("kind", name, charts)
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out is the file {out}: give a folder for the pictures")
    found = frame.frame(rows)
    drawn = [d for name in kind or charts for d in charts[name].draw(found)]
    if not drawn:
        needs = "; ".join(f"{name} needs {charts[name].needs}" for name in kind or charts)
        raise ValueError(f"no record of {records} can be drawn: {needs}")
    for one in drawn:
        for path in one.save(out):
            print(path)


@app.command()
def solve(
    file: Annotated[Path, typer.Argument(help="A Matrix Market file, - for stdin.")],
    rhs: Annotated[str | None, typer.Option(help=".npy, .npz, .mtx, .csv or text; ones by default.")] = None,
    solver: Annotated[str | None, typer.Option(help="A column, e.g. gmres[restart=50]+ilu.")] = None,
    rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-8,
    max_steps: Annotated[int | None, typer.Option(help="Most iterations.")] = None,
    out: Annotated[Path | None, typer.Option(help=".mtx or .npy for the solution, - for stdout.")] = None,
    history: Annotated[Path | None, typer.Option(help="Draw the residuals: .png, .svg or .html.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> None:
    """Solve the system of a Matrix Market file; exit code 0 only when it is solved to --rtol."""
    from .solve import solve_file

    raise typer.Exit(
        solve_file(
            file,
            rhs=rhs,
            solver=solver,
            rtol=rtol,
            max_steps=max_steps,
            out=out,
            history=history,
            force=force,
        )
    )


@app.command()
def generate(
    family: Annotated[str, typer.Argument(help="darcy, thermal, poisson, helmholtz or heat.")],
    out: Annotated[Path, typer.Option(help="The file, HDF5.")],
    count: Annotated[int, typer.Option(help="Samples in the file.")],
    size: Annotated[int, typer.Option(help="Cells along an axis.")] = 64,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 0,
    rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-8,
    solver: Annotated[
        str | None, typer.Option(help="A column, e.g. gcro_dr[restart=40,recycle=20]+ilu.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most iterations of a solve.")] = None,
    chunk: Annotated[int, typer.Option(help="Samples solved and saved at once.")] = 64,
    order: Annotated[str, typer.Option(help="How a chunk is sorted: greedy, grouped or none.")] = "greedy",
    refresh: Annotated[
        bool, typer.Option("--refresh", help="A preconditioner for each system, not one for all.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="Also draw the first samples.")] = False,
    fresh: Fresh = False,
) -> None:
    """Make a data set for neural operators: random systems of a family, solved.

    A killed run goes on where it stopped when it is started again; a larger --count extends the file.
    Exit code 0 only when every sample is solved to --rtol."""
    from .generate import Request
    from .generate import generate as make

    request = Request(family, size, count, out, seed, rtol, solver, max_steps, chunk, order, refresh, preview)
    stderr = Console(stderr=True)
    try:
        code = make(request, fresh, _stdout(), stderr)
    except KeyboardInterrupt:
        _say(stderr, f"interrupted; the same command (without --fresh) goes on from {out}")
        raise typer.Exit(130) from None
    raise typer.Exit(code)


def main() -> None:
    """The entry point: mistakes in what was asked end in one line on stderr and exit code 2."""
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        app()
    except ValueError as error:
        print(f"nsolve-bench: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("nsolve-bench: interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _read(path: Path) -> tuple[list[Any], Any]:
    """The records of a file and the suite that shows them."""
    from .engine.record import latest, read
    from .engine.suite import suite_of

    rows = latest(read(path))
    if not rows:
        raise ValueError(f"{path}: holds no records")
    return rows, suite_of(rows)


def _show(records: Sequence[Any], suite: Any) -> None:
    from .report import frame, tables

    if records:
        found = frame.frame(records)
        tables.show(
            [t for table in (*suite.tables, *suite.work.tables) for t in table.render(found)], _stdout()
        )


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def _stdout() -> Console:
    # Into a file or a pipe go all columns, unwrapped.
    return Console() if sys.stdout.isatty() else Console(width=160)


if __name__ == "__main__":
    main()
