"""Sequences of systems as cells of the benchmark: `nsolve-bench run recycle`.

A column says after `@` how its sequence is solved: `carried` hands the recycled subspace on from system to
system, `sorted` solves neighbours one after the other, `warm` starts from the solution before.

Sequences along which a parameter is tuned are `bench.relaxation`'s.
"""

from .. import relaxation
from ..specs import Part, Spec, check_name, check_part, parse_part
from . import systems

KINDS = systems.KINDS | {name: problem.__doc__ or "" for name, problem in relaxation.PROBLEMS.items()}
MODES = ("carried", "sorted", "warm")


def parse(text: str) -> Part:
    """The name of a kind of sequence with its options, checked."""
    part = parse_part(text)
    check_part("sequence", part, {name: options(name) for name in KINDS})
    return part


def options(name: str) -> dict[str, object]:
    """The options of a kind of sequence with their defaults."""
    return relaxation.options(name) if name in relaxation.PROBLEMS else systems.options(name)


def check(spec: Spec, problem: Part) -> None:
    """ValueError where a column's modes are unknown, or ask for what its solver has not got."""
    if problem.name in relaxation.PROBLEMS:
        return relaxation.check(spec)
    for mode in spec.mode:
        check_name(f"mode of {spec}", mode, MODES)
    recycles = spec.solver.name in ("gcro_dr", "gcrot") or spec.solver.options.get("recycle")
    if "carried" in spec.mode and not recycles:
        raise ValueError(f"{spec} has nothing to carry: use gcro_dr, or cg[recycle=20]")
    if spec.peer == "solvax" and (spec.solver.name != "gcrot" or spec.preconditioner or "warm" in spec.mode):
        raise ValueError(f"{spec}: of solvax's solvers only gcrot without preconditioner takes sequences")
    if spec.peer not in ("nsolve", "solvax"):
        raise ValueError(f"{spec}: {spec.peer} solves no sequences; nsolve and solvax do")
