"""Sequences of systems as cells of the benchmark: `nsolve-bench run recycle`.

A column says after `@` how its sequence is solved: `carried` hands the recycled subspace on from system to
system, `sorted` solves neighbours one after the other, `warm` starts from the solution before.
"""

from ..specs import Part, Spec, check_name, check_part, parse_part
from .systems import KINDS as KINDS
from .systems import options

MODES = ("carried", "sorted", "warm")


def parse(text: str) -> Part:
    """The name of a kind of sequence with its options, checked."""
    part = parse_part(text)
    check_part("sequence", part, {name: options(name) for name in KINDS})
    return part


def check(spec: Spec) -> None:
    """ValueError where a column's modes are unknown, or ask for what its solver has not got."""
    for mode in spec.mode:
        check_name(f"mode of {spec}", mode, MODES)
    recycles = spec.solver.name in ("gcro_dr", "gcrot") or spec.solver.options.get("recycle")
    if "carried" in spec.mode and not recycles:
        raise ValueError(f"{spec} has nothing to carry: use gcro_dr, or cg[recycle=20]")
    if spec.peer == "solvax" and (spec.solver.name != "gcrot" or spec.preconditioner or "warm" in spec.mode):
        raise ValueError(f"{spec}: of solvax's solvers only gcrot without preconditioner takes sequences")
    if spec.peer not in ("nsolve", "solvax"):
        raise ValueError(f"{spec}: {spec.peer} solves no sequences; nsolve and solvax do")
