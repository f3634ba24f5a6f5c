"""Data sets for neural operators: samples of a family, solved chunk by chunk into one file.

A killed run loses the chunk it was in and nothing else; the same command goes on from there.  A larger count
extends a finished file.
"""

import dataclasses
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from learned.data import sample_file
from learned.data.chains import ORDERS, REASONS, Chains
from learned.data.preview import draw
from nsolve.gallery.families import FAMILIES, AbstractFamily

from .columns.nsolve import solvers
from .engine.environment import version
from .engine.run import progress_of
from .engine.spec import OWN, Spec, check_name, check_part, parse, parse_part
from .report.format import scientific

#: What solves a family fastest.
SOLVERS = {
    "darcy": "cg+multigrid",
    "thermal": "cg+multigrid",
    "poisson": "cg+multigrid",
    "helmholtz": "minres+multigrid",
    "heat": "cg",
}


@dataclass(frozen=True)
class Request:
    """What is asked for; all but `count`, `out` and `preview` are the file's settings."""

    family: str
    size: int
    count: int
    out: Path
    seed: int = 0
    rtol: float = 1e-8
    solver: str | None = None  # None: the family's own choice
    max_steps: int | None = None  # None: the solver's default
    chunk: int = 64
    order: str = "greedy"
    refresh: bool = False
    preview: bool = False

    def __post_init__(self):
        for name, least in (("size", 2), ("count", 1), ("chunk", 1), ("max_steps", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name.replace('_', '-')} is {value}: give at least {least}")
        if not (0 < self.rtol < 1):
            raise ValueError(f"--rtol is {self.rtol}: give a number between 0 and 1, such as 1e-8")


def generate(
    request: Request,
    fresh: bool = False,
    stdout: Console | None = None,
    stderr: Console | None = None,
) -> int:
    """Makes the file, or goes on with it unless `fresh`; progress and messages go to `stderr`.

    Returns 0 when all of its samples are solved to the tolerance, else 1.  ValueError for what cannot be
    made, and for a file that is damaged or holds other samples; the file is then left as it is."""
    stdout, stderr = stdout or Console(), stderr or Console(stderr=True)
    family = make_family(request.family, request.size)
    spec = parse(request.solver or SOLVERS[family.name])
    chains = _chains(request, family, spec)
    settings = _settings(request, family, spec)
    done = 0 if fresh else sample_file.check(request.out, settings)
    if done < request.count:
        chains.check()  # before a file is touched
    with sample_file.SampleFile.open(
        request.out, settings, _versions(), _layout(family), request.count, fresh
    ) as file:
        if done:
            stderr.print(f"resuming: {done} samples are in {request.out}", markup=False, soft_wrap=True)
        if file.versions != _versions():
            stderr.print(f"note: the file was begun with {file.versions}", markup=False, soft_wrap=True)
        seconds = _fill(file, request, chains, stderr)
        _report(file, request, str(spec), file.num_complete - done, seconds, stdout)
        results = file.read("result")
        if request.preview:
            picture = draw(file, family, request.out.with_suffix(".png"))
            stderr.print(f"picture: {picture}", markup=False, soft_wrap=True)
    stderr.print(f"samples: {request.out}", markup=False, soft_wrap=True)
    failed = np.flatnonzero(results != REASONS[0])
    if len(failed):
        some = ", ".join(map(str, failed[:10])) + (", ..." if len(failed) > 10 else "")
        stderr.print(
            f"FAILED: {len(failed)} of {len(results)} samples miss rtol={request.rtol:g} (numbers {some}); "
            "`result` marks them",
            markup=False,
            soft_wrap=True,
        )
    return 1 if len(failed) else 0


def make_family(text: str, size: int) -> AbstractFamily:
    """A family on `size` x `size` cells, by its name with options: `helmholtz[waves=3]`.

    ValueError names what is unknown, with the nearest names, or the option that is out of bounds."""
    part = parse_part(text)
    options = {
        name: [f.name for f in dataclasses.fields(family) if f.init and f.name != "size"]
        for name, family in FAMILIES.items()
    }
    check_part("family", part, options)
    if size < 2:
        raise ValueError(f"family {part.name!r} needs a size of at least 2 cells along an axis, got {size}")
    return FAMILIES[part.name](size=size, **part.options)  # pyright: ignore


def _chains(request: Request, family: AbstractFamily, spec: Spec) -> Chains:
    """What the request asks for, made of the spec's names; ValueError for what is unknown."""
    if spec.peer != OWN:
        raise ValueError(f"--solver {spec}: samples are solved by {OWN}'s solvers only")
    if spec.mode:
        raise ValueError(f"--solver {spec}: samples are solved one by one; leave out @{','.join(spec.mode)}")
    check_part("solver", spec.solver, solvers.SOLVERS)
    part, made = spec.preconditioner, None
    if part is not None:
        if ":" not in part.name:  # else somebody else's, from a module
            check_part("preconditioner", part, solvers.PRECONDITIONERS)
        made = solvers.make_preconditioner(part)
    solvers.check(spec)
    check_name("order", request.order, ORDERS)
    usual = "stencil" if part is None or part.name == "multigrid" else "sparse"
    return Chains(
        family,
        solvers.make_solver(spec, rtol=request.rtol, max_steps=request.max_steps, preconditioner=made),
        form=str(spec.solver.options.get("form", usual)),
        order=request.order,
        recycle="recycle" in spec.solver.options,
        refresh=request.refresh,
    )


def _fill(file: sample_file.SampleFile, request: Request, chains: Chains, stderr: Console) -> float:
    """Solves what is missing, chunk by chunk; returns the seconds that it took."""
    start, names = time.perf_counter(), np.array(REASONS)
    with progress_of(stderr) as progress:
        done = file.num_complete
        bar = progress.add_task(request.family, total=max(request.count, done), completed=done)
        while done < request.count:
            # The last chunk is as long as the others: compiling takes longer than some samples too many.
            samples = chains.draw_and_solve(request.seed, done, min(request.chunk, request.count))
            columns = {
                "input": samples.inputs,
                "solution": samples.solutions,
                **{f"parameters/{name}": values for name, values in samples.parameters.items()},
                "true_residual": samples.true_residuals,
                "num_steps": samples.num_steps,
                "result": names[samples.results].astype("S"),
                "sample_seed": samples.keys,
            }
            left = request.count - done
            file.write(done, {name: values[:left] for name, values in columns.items()})
            done = file.num_complete
            progress.update(bar, completed=done)
    return time.perf_counter() - start


def _layout(family: AbstractFamily) -> sample_file.Layout:
    parameter = jax.eval_shape(family.sample, jax.random.key(0))
    return {
        "input": ((len(family.channels), *family.grid), np.float64),
        "solution": (family.grid, np.float64),
        **{f"parameters/{name}": (leaf.shape, leaf.dtype) for name, leaf in parameter.items()},
        "true_residual": ((), np.float64),
        "num_steps": ((), np.int32),
        "result": ((), h5py.string_dtype("ascii", 24)),
        "sample_seed": ((2,), np.uint32),
    }


def _settings(request: Request, family: AbstractFamily, spec: Spec) -> dict[str, Any]:
    """What makes two files of samples the same; the channels are said for readers."""
    return {
        "family": str(parse_part(request.family)),
        "channels": ", ".join(family.channels),
        "size": request.size,
        "seed": request.seed,
        "rtol": request.rtol,
        "solver": str(spec),
        "max_steps": "default" if request.max_steps is None else request.max_steps,
        "chunk": request.chunk,
        "order": request.order,
        "refresh": request.refresh,
    }


def _versions() -> dict[str, str]:
    names = ("nsolve", "jax", "jaxlib", "lineax", "numpy", "scipy", "h5py")
    return {name: found for name in names if (found := version(name))}


def _report(
    file: sample_file.SampleFile, request: Request, solver: str, new: int, seconds: float, stdout: Console
) -> None:
    steps, residuals = file.read("num_steps"), file.read("true_residual")
    failures = Counter(str(result) for result in file.read("result"))
    solved = failures.pop(REASONS[0], 0)
    columns = {
        "solver": solver,
        "samples": str(len(steps)),
        "new": str(new),
        "seconds, compiling included": f"{seconds:.1f}" if new else "–",
        "samples/s": f"{new / seconds:.3g}" if new else "–",
        "iterations, mean": f"{np.mean(steps):.1f}",
        "most": str(np.max(steps)),
        "largest residual": scientific(float(np.max(residuals))),
        "solved": str(solved),
        "failed": ", ".join(f"{count} {name}" for name, count in failures.items()) or "0",
    }
    table = Table(title=Text(f"{request.family} {request.size}", style="italic"), title_justify="left")
    for heading in columns:
        table.add_column(heading, overflow="fold", justify="left" if heading == "solver" else "right")
    table.add_row(*map(Text, columns.values()))
    stdout.print(table)
