"""`nsolve-bench`: list | run | show | compare | plot | solve | generate | probes.

Tables and data go to stdout, progress and messages to stderr. Exit codes: 0 done, 1 a regression
(`compare`) or a system not solved (`solve`, `generate`), 2 a mistake in what was asked, 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Sparse systems solved by nsolve and by the libraries beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
Fresh = Annotated[bool, typer.Option("--fresh", help="Start over instead of resuming.")]


@app.command("list")
def list_names() -> None:
    """List problems, solvers, preconditioners, peers and suites."""
    from .show import show_names

    show_names(_stdout())


@app.command()
def run(
    suite: Annotated[str | None, typer.Argument(help="A suite's name or a .toml file.")] = None,
    filter: Annotated[
        list[str] | None, typer.Option(help="Only columns like this, e.g. cg+ssor[omega=1.5].")
    ] = None,
    problem: Annotated[
        list[str] | None, typer.Option(help="Only this problem; without SUITE: solve it.")
    ] = None,
    size: Annotated[list[int] | None, typer.Option(help="Size, without SUITE.")] = None,
    solver: Annotated[list[str] | None, typer.Option(help="Column, without SUITE.")] = None,
    rtol: Annotated[list[float] | None, typer.Option(help="Tolerance, without SUITE.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="Precision, without SUITE.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed, without SUITE.")] = None,
    count: Annotated[
        int | None, typer.Option(help="Solve a sequence of so many systems, without SUITE.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(help="Most iterations, without SUITE.")] = None,
    repeats: Annotated[int | None, typer.Option(min=1, help="Timed solves a cell.")] = None,
    out: Annotated[Path | None, typer.Option(help="Records, one JSON object a line.")] = None,
    html: Annotated[Path | None, typer.Option(help="Also write a page.")] = None,
    fresh: Fresh = False,
) -> None:
    """Measure a suite, or the cells named by --problem, --size and --solver.

    An interrupted run goes on where it stopped when it is started again with the same --out."""
    from . import suite as suites
    from .cells import wing
    from .execute import Interrupted, execute
    from .show import show as show_records

    only_ad_hoc = {
        "size": size, "solver": solver, "rtol": rtol, "dtype": dtype, "seed": seed,
        "count": count, "max-steps": max_steps,
    }  # fmt: skip
    if suite is not None:
        for name, value in only_ad_hoc.items():
            if value is not None:
                raise ValueError(f"--{name} belongs to a run without a suite; use --filter here")
        chosen = suites.select(suites.load(suite), filter or [], problem or [])
        out = out or Path("records") / f"{chosen.name}.jsonl"
    else:
        if not problem or not solver:
            raise ValueError("name a suite (nsolve-bench list shows them), or --problem and --solver both")
        if filter:
            raise ValueError("--filter belongs to a suite; use --solver here")
        group = {
            "problem": problem, "size": size, "solver": solver, "rtol": rtol, "dtype": dtype,
            "seed": seed, "count": count, "max_steps": max_steps,
        }  # fmt: skip
        group = {key: value for key, value in group.items() if value not in (None, [])}
        # Residual histories are of single linear systems.
        history = count is None and all(wing(name) is None for name in problem)
        chosen = suites.ad_hoc({"history": history, **group})
    chosen = suites.repeat(chosen, repeats)
    if html is not None:
        _check_writable(html)
    stderr = Console(stderr=True)
    try:
        records = execute(chosen, out, fresh, stderr)
    except Interrupted as interrupted:
        show_records(interrupted.records, _stdout())
        word = "nothing was kept (no --out)"
        if out is not None:
            word = f"the same command (without --fresh) goes on from {out}"
        stderr.print(
            f"interrupted after {len(interrupted.records)} of {len(chosen.cells)} cells; {word}",
            markup=False,
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
    show_records(records, _stdout())
    if out is not None:
        stderr.print(f"records: {out}", markup=False, soft_wrap=True)
    if html is not None:
        from .page import write_page

        page = write_page(records, html, chosen.title)
        stderr.print(f"page: {page}", markup=False, soft_wrap=True)


@app.command()
def show(records: Annotated[Path, typer.Argument(help="A file of records.")]) -> None:
    """Show records as tables."""
    from .record import latest, read
    from .show import show as show_records

    show_records(latest(read(records)), _stdout())


@app.command()
def compare(
    base: Annotated[Path, typer.Argument(help="Records before.")],
    new: Annotated[Path, typer.Argument(help="Records after.")],
    threshold: Annotated[float, typer.Option(help="Slower by this factor regresses.")] = 1.25,
) -> None:
    """Compare two files of records; exit code 1 on a regression."""
    from .compare import compare as compare_records

    raise typer.Exit(compare_records(base, new, threshold))


@app.command()
def plot(
    records: Annotated[Path, typer.Argument(help="A file of records.")],
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="convergence, size, work-precision, time, sequence, regret, tuning, transport, epsilon, "
            "evaluations, order, reverse or digits."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("records/plots"),
) -> None:
    """Draw records as PNG and SVG; without --kind, every kind that they allow."""
    from .plots import KINDS
    from .plots import plot as draw
    from .record import latest, read

    rows, paths = latest(read(records)), []
    for one in kind or KINDS:
        try:
            paths += draw(rows, one, out)
        except ValueError:
            if kind or one == KINDS[-1] and not paths:
                raise
    for path in paths:
        print(path)


@app.command()
def solve(
    file: Annotated[Path, typer.Argument(help="A Matrix Market file.")],
    rhs: Annotated[Path | None, typer.Option(help=".mtx, .npy or text; ones by default.")] = None,
    solver: Annotated[str | None, typer.Option(help="A column, e.g. gmres[restart=50]+ilu.")] = None,
    rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-8,
    max_steps: Annotated[int | None, typer.Option(help="Most iterations.")] = None,
    out: Annotated[Path | None, typer.Option(help=".mtx or .npy for the solution.")] = None,
) -> None:
    """Solve the system of a Matrix Market file; exit code 0 only when it is solved to --rtol."""
    from .solve import solve_file

    raise typer.Exit(solve_file(file, rhs=rhs, solver=solver, rtol=rtol, max_steps=max_steps, out=out))


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
        stderr.print(f"interrupted; the same command (without --fresh) goes on from {out}", soft_wrap=True)
        raise typer.Exit(130) from None
    raise typer.Exit(code)


@app.command()
def probes(
    column: Annotated[list[str] | None, typer.Option(help="Only this library.")] = None,
    out: Annotated[Path | None, typer.Option(help="Records, one JSON object a line.")] = None,
) -> None:
    """Ask every library the questions that tempt one into a wrong answer."""
    from .probes import run_probes

    run_probes(out, column or None)


def main() -> None:
    """The entry point: mistakes in what was asked end in one line on stderr and exit code 2."""
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        app()
    except ValueError as error:
        print(f"nsolve-bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("nsolve-bench: interrupted", file=sys.stderr)
        sys.exit(130)


def _stdout() -> Console:
    # Into a file or a pipe go all columns, unwrapped.
    return Console() if sys.stdout.isatty() else Console(width=160)


def _check_writable(file: Path) -> None:
    """Refuse an output that cannot be written before any work is done."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror or error}; choose another place") from None


if __name__ == "__main__":
    main()
