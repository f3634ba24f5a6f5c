"""PETSc through petsc4py, in the Python that has it (Debian packages it for the system's Python).

Stopping rule: `||r|| <= rtol ||b||` with the unpreconditioned norm wherever the method offers it
(`cg`, right preconditioned `gmres`, `fgmres`, `bcgs`), on the recurrence. `minres` knows the
preconditioned norm only. The system goes to the other process as a file; its clock is read there,
so nothing of the transfer is timed. A run repeats set-up and solve three times and gives the
medians.

`mg` is geometric multigrid, PETSc's PCMG on the hierarchy of a DMDA, for systems on grids; `gamg` and
`hypre` are algebraic.

The lower half of this file is a script of its own: it imports nothing of this package.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

REPEATS = 3


def find_petsc() -> str | None:
    """The folder to put into PETSC_DIR: that variable, or what dpkg knows."""
    if "PETSC_DIR" in os.environ:
        return os.environ["PETSC_DIR"]
    for package in _dpkg("dpkg-query", "-W", "-f", "${Package}\n", "python3-petsc4py-real*"):
        for file in _dpkg("dpkg", "-L", package):
            if file.endswith("dist-packages/petsc4py/__init__.py"):
                return file.split("/lib/python3/")[0] if Path(file).exists() else None
    return None


def _dpkg(*command: str) -> list[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.split()
    except OSError:
        return []


def system_python() -> str:
    """The Python that petsc4py is packaged for."""
    return os.environ.get("PETSC_PYTHON", "/usr/bin/python3")


def _ask(arguments: list[str]) -> dict:
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    environment["PETSC_DIR"] = find_petsc() or ""
    done = subprocess.run(
        [system_python(), __file__, *arguments], capture_output=True, text=True, env=environment
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"PETSc's process ended with {done.returncode}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def find_version() -> str | None:
    """PETSc's version, or None when it is not there or does not start."""
    if find_petsc() is None or not Path(system_python()).exists():
        return None
    try:
        return _ask(["--version"])["version"]
    except (RuntimeError, OSError, ValueError):
        return None


def _library():
    """The column (built in a function: the script below must not import this package)."""
    import functools

    from ..engine.options import Option
    from ..engine.work import Answer, Library, Offer, Run, Timings

    restart, levels = Option(least=1), Option(least=0)
    solvers = {
        "cg": {}, "minres": {}, "gmres": {"restart": restart}, "fgmres": {"restart": restart}, "bicgstab": {},
    }  # fmt: skip
    # Our names beside PETSc's own; all parameters pass through as options of the preconditioner.
    preconditioners = {
        "jacobi": {}, "ssor": {"omega": Option(least=0.0, most=2.0, strict=True)}, "icc": {"levels": levels},
        "ilu": {"levels": levels}, "mg": {"smoother": Option(choices=("sor", "jacobi"))}, "gamg": {},
        "hypre": {}, "lu": {}, "cholesky": {},
    }  # fmt: skip

    class PETScRun(Run):
        """One KSP with one PC in another process, which does its own timing."""

        def solve(self, program):
            task, solver, part = self.task, self.spec.solver, self.spec.preconditioner
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "system.npz"
                np.savez(
                    file,
                    data=task.problem.matrix.data,
                    indices=task.problem.matrix.indices.astype(np.int32),
                    indptr=task.problem.matrix.indptr.astype(np.int32),
                    rhs=task.problem.rhs,
                )
                request = {
                    "solver": solver.name,
                    "solver_options": solver.options,
                    "preconditioner": part.name if part else "none",
                    "options": part.options if part else {},
                    "grid": task.problem.grid,
                    "rtol": task.rtol,
                    "max_steps": task.max_steps,
                    "spd": "spd" in task.problem.tags,
                    "symmetric": "symmetric" in task.problem.tags,
                    "repeats": REPEATS,
                    "solution": str(Path(folder) / "x.npy"),
                }
                found = _ask([str(file), json.dumps(request)])
                found["x"] = np.load(request["solution"])
            return found

        def answer(self, raw):
            norms = np.asarray(raw["norms"]) / (float(np.linalg.norm(self.task.problem.rhs)) or 1.0)
            return Answer(
                raw["result"],
                raw["x"],
                {"num_steps": raw["iterations"]},
                residual_norms=list(map(float, norms)) if self.task.history else None,
            )

        def timings(self, raw):
            return Timings(float(np.median(raw["setup_s"])), 0.0, raw["solve_s"])

    def prepare(task):
        spec = task.spec
        if np.iscomplexobj(task.problem.matrix.data):
            raise ValueError("the PETSc found here is built for real numbers")
        if task.problem.matrix.dtype != np.float64:
            raise ValueError(f"PETSc works in float64, not in {task.problem.matrix.dtype}")
        grid = task.problem.grid
        if spec.preconditioner is not None and spec.preconditioner.name == "mg":
            if grid is None:
                raise ValueError("geometric multigrid needs a grid: take `gamg` or `hypre`")
            if not all(points % 2 for points in grid):
                raise ValueError(f"a DMDA halves an odd number of points, not {grid}: take a size as 511")
        return PETScRun(task)

    return Library(
        "petsc",
        "petsc4py",
        {"linear": Offer(prepare, solvers, preconditioners)},
        install="Debian: python3-petsc4py; or set PETSC_DIR",
        find_version=functools.cache(find_version),
    )


# KSPConvergedReason
REASONS = {
    -2: "error: null",
    -3: "max_steps_reached",
    -4: "divergence",
    -5: "breakdown",
    -6: "breakdown",
    -7: "error: nonsymmetric",
    -8: "breakdown: preconditioner is indefinite",
    -9: "nonfinite",
    -10: "breakdown: matrix is indefinite",
    -11: "error: the preconditioner's set-up failed",
}


def _geometric(PETSc, pc, grid: list[int]) -> None:
    """Makes `pc` a V-cycle on the hierarchy of a DMDA: linear interpolation, Galerkin coarse operators;
    Chebyshev smoothing of `smoother` (`sor`, PETSc's own choice, or `jacobi`), LU on the coarsest.

    The DMDA counts the boundary, where values are known; interpolation is cut to the points inside.
    """
    points = [n + 2 for n in reversed(grid)]  # PETSc's first axis is the fastest
    finest = PETSc.DMDA().create(dim=len(grid), sizes=points, dof=1, stencil_width=1, setup=True)
    levels = [finest]
    while all(n % 2 and n > 5 for n in points):
        points = [n // 2 + 1 for n in points]
        levels.insert(0, levels[0].coarsen())
    inside = [_inside(PETSc, da) for da in levels]
    pc.setType("mg")
    pc.setMGLevels(len(levels))
    for level in range(1, len(levels)):
        full, _ = levels[level - 1].createInterpolation(levels[level])
        pc.setMGInterpolation(level, full.createSubMatrix(inside[level], inside[level - 1]))


def _inside(PETSc, da):
    """The numbers of a grid's points that are not on its boundary."""
    sizes = tuple(reversed(da.getSizes()))
    numbers = np.arange(np.prod(sizes), dtype=PETSc.IntType).reshape(sizes)
    return PETSc.IS().createGeneral(numbers[(slice(1, -1),) * len(sizes)].ravel())


def _script(arguments: list[str]) -> dict:
    """Runs in the system's Python: one system, one solver, as JSON."""
    import time

    sys.path.append(os.path.join(os.environ["PETSC_DIR"], "lib/python3/dist-packages"))
    import petsc4py  # pyright: ignore[reportMissingImports]

    petsc4py.init([])
    from petsc4py import PETSc  # pyright: ignore[reportMissingImports]

    if arguments == ["--version"]:
        return {"version": ".".join(map(str, PETSc.Sys.getVersion()))}
    system, request = np.load(arguments[0]), json.loads(arguments[1])
    n = len(system["rhs"])
    csr = (system["indptr"], system["indices"], system["data"])
    matrix = PETSc.Mat().createAIJ(size=(n, n), csr=csr)
    matrix.setOption(PETSc.Mat.Option.SYMMETRIC, request["symmetric"])
    matrix.setOption(PETSc.Mat.Option.SPD, request["spd"])
    x, b = matrix.createVecs()
    b.setArray(system["rhs"])
    names = {"ssor": "sor", "bicgstab": "bcgs"}
    setup_s, solve_s = [], []
    for _ in range(request["repeats"]):
        ksp = PETSc.KSP().create()
        ksp.setOperators(matrix)
        ksp.setType(names.get(request["solver"], request["solver"]))
        pc = ksp.getPC()
        options = PETSc.Options()
        start = time.perf_counter()
        if request["preconditioner"] == "mg":
            _geometric(PETSc, pc, request["grid"])
            options["pc_mg_galerkin"] = "both"
            options["mg_levels_pc_type"] = request["options"].get("smoother", "sor")
        else:
            pc.setType(names.get(request["preconditioner"], request["preconditioner"]))
        hierarchy_s = time.perf_counter() - start
        if request["preconditioner"] == "ssor":
            options["pc_sor_symmetric"] = None
            options["pc_sor_omega"] = request["options"].get("omega", 1.0)
        elif "levels" in request["options"]:
            options["pc_factor_levels"] = request["options"]["levels"]
        if "restart" in request["solver_options"]:
            options["ksp_gmres_restart"] = request["solver_options"]["restart"]
        if request["solver"] != "minres":
            if request["solver"] in ("gmres", "bicgstab"):
                ksp.setPCSide(PETSc.PC.Side.RIGHT)
            ksp.setNormType(PETSc.KSP.NormType.UNPRECONDITIONED)
        ksp.setTolerances(rtol=request["rtol"], atol=0.0, max_it=request["max_steps"])
        ksp.setFromOptions()
        ksp.setConvergenceHistory(request["max_steps"] + 2)
        start = time.perf_counter()
        ksp.setUp()
        pc.setUp()
        setup_s.append(hierarchy_s + time.perf_counter() - start)
        x.set(0)
        start = time.perf_counter()
        ksp.solve(b, x)
        solve_s.append(time.perf_counter() - start)
    np.save(request["solution"], x.getArray())
    reason = int(ksp.getConvergedReason())
    return {
        "setup_s": setup_s,
        "solve_s": solve_s,
        "iterations": int(ksp.getIterationNumber()),
        "norms": [float(norm) for norm in ksp.getConvergenceHistory()],
        "result": "successful" if reason > 0 else REASONS.get(reason, f"error: reason {reason}"),
    }


if __name__ == "__main__":
    print(json.dumps(_script(sys.argv[1:])))
else:
    LIBRARY = _library()
