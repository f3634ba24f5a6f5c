"""The columns: our solvers and the libraries beside them, by name."""

import functools
import importlib

from ..specs import OWN, Spec, check_name, check_part
from .base import Peer

# A column's prefix and the module that runs it. Modules are loaded when first asked for.
MODULES = {
    OWN: "own",
    "scipy": "scipy",
    "pyamg": "pyamg",
    "amgcl": "amgcl",
    "lineax": "lineax",
    "jax.scipy": "jax_scipy",
    "solvax": "solvax",
    "petsc": "petsc",
}


@functools.cache
def find(name: str) -> Peer:
    """The peer of that name; ValueError with the nearest names when there is none."""
    check_name("peer", name, MODULES)
    return importlib.import_module(f"{__name__}.{MODULES[name]}").PEER


def check(spec: Spec) -> None:
    """Raise ValueError when a spec names what its peer does not have."""
    peer = find(spec.peer)
    owner = "" if spec.peer == OWN else f"{spec.peer} "
    check_part(f"{owner}solver", spec.solver, peer.solvers)
    if spec.preconditioner is not None:
        check_part(f"{owner}preconditioner", spec.preconditioner, peer.preconditioners)
