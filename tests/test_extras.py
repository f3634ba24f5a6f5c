"""What the library needs by itself, and what is said where an extra is missing."""

import contextlib
import functools
import importlib
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from types import ModuleType

import pytest

import bench
import nsolve as ns
from bench.engine.process import measured
from bench.engine.work import Cell, Settings
from tests.helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def needed(requirements, seen):
    """Names of distributions, with what they need in turn; extras and markers for them are left out."""
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement).group().lower().replace("_", "-")
        if name not in seen and "extra ==" not in requirement:
            seen.add(name)
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # for another platform
                needed(importlib.metadata.requires(name) or (), seen)
    return seen


@functools.cache
def extra_modules() -> list[str]:
    """What neither this package nor anything that it needs brings."""
    allowed = needed(PROJECT["dependencies"], {"nsolve"})
    hidden = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if not {owner.lower().replace("_", "-") for owner in owners} & allowed
    ]
    assert {"typer", "rich", "optax", "matplotlib", "h5py", "pytest"} <= set(hidden)
    return hidden


def without_extras(program):
    """Runs a program where nothing but this package and what it needs can be imported."""
    hide = f"import sys\nfor name in {extra_modules()!r}: sys.modules[name] = None\n"
    return subprocess.run([sys.executable, "-c", hide + program], cwd=ROOT, capture_output=True, text=True)


SOLVE = """
import jax, numpy as np, lineax as lx, nsolve as ns, scipy.sparse as sp
jax.config.update("jax_enable_x64", True)
matrix = sp.diags_array([-1.0, 2.1, -1.0], offsets=[-1, 0, 1], shape=(50, 50)).tocsr()
A = ns.SparseLinearOperator.from_scipy(matrix, lx.positive_semidefinite_tag)
solver = ns.CG(rtol=1e-8, preconditioner=ns.preconditioners.IncompleteCholesky())
x = lx.linear_solve(A, np.ones(50), solver).value
assert np.linalg.norm(matrix @ x - 1) <= 1e-7
loaded = {name.partition(".")[0] for name in sys.modules if sys.modules[name] is not None}
print(loaded & {"optax", "rich", "typer", "matplotlib", "h5py", "orbax", "pyamg", "skfem"})
"""


def test_the_library_works_without_extras():
    done = without_extras(SOLVE)
    assert (done.returncode, done.stdout) == (0, "set()\n"), done.stderr


@pytest.mark.parametrize("command, extra", [("bench", "bench"), ("train", "learned")])
def test_a_command_says_which_extra_it_needs(command, extra):
    done = without_extras(f"from nsolve._commands import {command}\n{command}()")
    assert done.returncode == 2
    assert f"pip install 'nsolve[{extra}]'" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "call, what",
    [
        ("from nsolve._progress import progress_bar\nprogress_bar(True)", "`progress=True` needs rich"),
        ("from nsolve._extras import needed\nneeded('optax', 'learned', '`tune`')", "`tune` needs optax"),
    ],
)
def test_a_function_says_which_extra_it_needs(call, what):
    done = without_extras(call)
    assert done.returncode == 1 and what in done.stderr and "pip install" in done.stderr


def test_what_is_imported_with_the_library():
    """No extra, nothing that is slow to import, and no wing that was not asked for."""
    program = """
import jax, equinox, lineax, sys
before = set(sys.modules)
import nsolve as ns
print({"optax", "rich", "typer", "numba", "scipy"} & (set(sys.modules) - before))
wings = "nsolve.diffusion", "nsolve.transport", "nsolve.gallery"
print({name for name in sys.modules if name.startswith(wings)})
assert {"diffusion", "gallery", "transport"} <= set(dir(ns))
ns.diffusion.DDIM, ns.gallery.poisson, ns.transport.solve
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "set()\nset()\n", done.stderr


def test_a_wing_shows_what_most_programs_need():
    """At most 25 names each, modules apart; the rest is one level down, and found from above as well."""
    for wing in (
        ns.linear,
        ns.operators,
        ns.preconditioners,
        ns.sequence,
        ns.transport,
        ns.gallery,
        ns.diffusion,
    ):
        shown = [name for name in dir(wing) if not name.startswith("_")]
        assert 5 < len([name for name in shown if not isinstance(getattr(wing, name), ModuleType)]) <= 25
    for module, names in ns.diffusion._BELOW.items():
        for name in names:
            below = getattr(importlib.import_module(f"nsolve.diffusion.{module}"), name)
            assert getattr(ns.diffusion, name) is below and name not in dir(ns.diffusion)
    with pytest.raises(AttributeError, match="nsolve.diffusion.*no attribute 'DPMSolver4'"):
        _ = ns.diffusion.DPMSolver4


def test_children_do_not_import_what_lies_in_the_folder(tmp_path, monkeypatch):
    """The folder has a `bench` of its own."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    monkeypatch.chdir(tmp_path)
    cell = Cell("poisson2d", 8, "cg[form=stencil]", 1e-8, "float64", 0)
    row = measured(cell, Settings(repeats=1, first_call=1), bench.linear, "", None)
    assert row["result"] == "successful" and row["first_call_s"] > 0
