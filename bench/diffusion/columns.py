"""The columns of the suite by name.

`dpm_solver_pp[order=3]` is a sampler of nsolve with its fields as parameters; `grid` chooses its grid,
where it is not the one it is commonly run on.  A column of another library carries its name:
`diffusers:unipc[order=3]`. After `@` stands what to measure where a problem allows several things.
"""

import functools
import importlib
from typing import Any

from ..specs import OWN, Spec, check_name, check_part

MODULES = {OWN: "own", "diffusers": "beside"}
MODES = ("order", "gradient")


@functools.cache
def find(name: str) -> Any:
    """The module of that library: `SOLVERS` and `version()`."""
    check_name("peer of diffusion problems", name, MODULES)
    return importlib.import_module(f"{__package__}.{MODULES[name]}")


def check(spec: Spec) -> None:
    """ValueError where a column names what its library has not got."""
    owner = "" if spec.peer == OWN else f"{spec.peer} "
    check_part(f"{owner}sampler", spec.solver, find(spec.peer).SOLVERS)
    if spec.preconditioner is not None:
        raise ValueError(f"{spec}: samplers take no preconditioner")
    for mode in spec.mode:
        check_name(f"mode of {spec}", mode, MODES)
    if spec.mode and spec.peer != OWN:
        raise ValueError(f"{spec}: only nsolve's samplers are measured @{','.join(spec.mode)}")
