"""This project's solvers, asked plainly."""

import nsolve as ns

from .._plain import offer, through_lineax

OFFER = offer(
    {
        "cg": through_lineax("spd", ns.CG, ns.function_operator),
        "flexible_cg": through_lineax("spd", ns.FlexibleCG, ns.function_operator),
        "minres": through_lineax("symmetric", ns.MINRES, ns.function_operator),
        "bicgstab": through_lineax("any", ns.BiCGStab, ns.function_operator),
        "gmres": through_lineax("any", ns.GMRES, ns.function_operator),
        "fgmres": through_lineax("any", ns.FGMRES, ns.function_operator),
    }
)
