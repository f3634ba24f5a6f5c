"""Diffusion samplers as cells of the benchmark: `nsolve-bench run diffusion`.

What is measured follows from the problem and from what stands after `@` in the column; a cell's size is

- data whose flow is known (`mixture1d`, `ring`, ...): network evaluations, and the error that they leave;
- the same `@order`: steps, and the power of the step with which the error falls as they are doubled;
- `images`: steps, and the seconds that a sampler takes beside a network that takes none;
- the same `@gradient`: steps, and the memory and seconds of reverse mode through all of them;
- `trained_digits`: evaluations of a network trained on scikit-learn's digits, and the pictures that they
give.
"""

from ..specs import Part
from .columns import MODULES as MODULES
from .columns import check as check
from .columns import find as find
from .problems import PROBLEMS as PROBLEMS
from .problems import options as options
from .problems import parse as parse

DTYPES = ("float32", "float64")


def is_diffusion(problem: str | Part) -> bool:
    """Whether a problem, by its name or its text, is one of these."""
    name = problem.name if isinstance(problem, Part) else problem.split("[")[0].strip()
    return name in PROBLEMS


def is_sized(name: str) -> bool:
    """All of them are."""
    del name
    return True
