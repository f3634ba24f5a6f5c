"""Honesty probes: questions that tempt a solver into a wrong answer that it calls right.

A verdict is computed from the answer and dense algebra by one of three rules, never typed in:

* `must solve`: right is an answer that meets the tolerance and is not called a failure.
* `may refuse`: the same, or a refusal; wrong is only an answer that is off and not called so.
* `must refuse`: there is no answer, so right is to say so (an error raised, a failure reported, or
  from a library that reports nothing an answer with NaN in it).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl
import scipy.sparse as sp

from ..columns._plain import Asked, Reply
from ..engine.work import SLACK, Answer, Task, Work
from ..report.format import scientific
from ..report.tables import Table, Value
from .linear import true_residual

RIGHT, REFUSES, WRONG, NOT_OFFERED = "right", "refuses rightly", "wrong", "not offered"

Verdict = tuple[str, str]


@dataclass(frozen=True)
class Probe:
    """A question: how the reply is judged (verdict and detail), and what is asked, in words."""

    what: str
    ask: Callable[[Asked], Verdict]


def laplacian(n: int) -> sp.csr_array:
    """1-D Poisson with Dirichlet ends."""
    return sp.diags_array([-1.0, 2.0, -1.0], offsets=[-1, 0, 1], shape=(n, n), format="csr")


def laplacian_2d(n: int) -> sp.csr_array:
    one, identity = laplacian(n), sp.eye_array(n)
    return sp.csr_array(sp.kron(one, identity) + sp.kron(identity, one))


def singular(n: int) -> sp.csr_array:
    """1-D Poisson with Neumann ends: constants are in its null space."""
    matrix = laplacian(n).tolil()
    matrix[0, 0] = matrix[n - 1, n - 1] = 1.0
    return sp.csr_array(matrix)


def random(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(n)


def e1(n: int) -> np.ndarray:
    return np.eye(n)[0]


def with_nan(n: int) -> np.ndarray:
    b = random(n)
    b[n // 2] = np.nan
    return b


def ill_conditioned() -> tuple[sp.csr_array, np.ndarray]:
    """Eigenvalues from 1 down to 1e-10, `b` rich in the small ones.

    Then `|A| |x|` is so far above `|b|` that no vector of doubles has a residual of 1e-8: a
    recurrence may go on shrinking, the true residual cannot.
    """
    n = 60
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.logspace(0, -10, n)
    matrix = (basis * values) @ basis.T
    matrix = (matrix + matrix.T) / 2
    b = basis[:, -20:] @ rng.standard_normal(20)
    return sp.csr_array(matrix), b


def consistent() -> tuple[sp.csr_array, np.ndarray]:
    matrix = singular(32)
    return matrix, matrix @ random(32)


def shifted() -> tuple[sp.csr_array, np.ndarray]:
    return sp.csr_array(laplacian(32) - 0.5 * sp.eye_array(32)), random(32)


def plus_and_minus() -> tuple[sp.csr_array, np.ndarray]:
    return sp.csr_array(np.diag([1.0, -1.0])), np.ones(2)


def verdict_of(rule: str, reply: Reply, matrix: Any, b: np.ndarray, rtol: float) -> Verdict:
    """One of the three rules in the module's docstring, applied to one reply."""
    residual = np.nan if reply.x is None else true_residual(matrix, reply.x, b)
    meets = residual <= rtol * (1 + SLACK)
    # Of the answer, not of the residual, which a NaN in b makes NaN whatever the answer.
    has_nan = reply.x is None or not np.all(np.isfinite(reply.x))
    refuses = reply.claim is False or (reply.claim is None and has_nan)
    says = {True: "says success", False: "says failure", None: "says nothing"}[reply.claim]
    detail = reply.error or f"{says}, true residual {scientific(residual)}"
    if rule == "must refuse":
        return (REFUSES if refuses else WRONG), detail
    if meets and reply.claim is not False:
        return RIGHT, detail
    if rule == "may refuse" and refuses and not meets:
        return REFUSES, detail
    return WRONG, detail


def _system(rule: str, make: Callable[[], tuple[Any, np.ndarray]], rtol: float = 1e-8) -> Any:
    """A probe that is one system; a direct solver may always refuse a singular matrix."""

    def ask(asked: Asked) -> Verdict:
        matrix, b = make()
        own = "may refuse" if asked.direct and rule == "must solve" else rule
        return verdict_of(own, asked.reply(matrix, b, rtol), matrix, b, rtol)

    return ask


def _tolerances(asked: Asked) -> Verdict:
    matrix, b = laplacian_2d(16), random(256)
    residuals = {}
    for rtol in (1e-2, 1e-6, 1e-10, 1e-13):
        reply = asked.reply(matrix, b, rtol)
        verdict, detail = verdict_of("must solve", reply, matrix, b, rtol)
        if verdict == WRONG:
            return WRONG, f"rtol {scientific(rtol)}: {detail}"
        residuals[rtol] = true_residual(matrix, np.asarray(reply.x), b)
    reached = ", ".join(f"{scientific(k)}: {scientific(v)}" for k, v in residuals.items())
    ignores = residuals[1e-2] < 10 * residuals[1e-13]
    return (WRONG if ignores else RIGHT), ("ignores rtol: " if ignores else "") + reached


scale = 2.0  # the global that the matvecs of these probes read
_STIFFNESS = laplacian(16).toarray()


def _scaled(x: Any) -> Any:
    return scale * (_STIFFNESS @ x)


def _new_scaled() -> Callable[[Any], Any]:
    def matvec(x):
        return scale * (_STIFFNESS @ x)

    return matvec


def _rebound_global(make: Callable[[], Callable[[Any], Any]]) -> Callable[[Asked], Verdict]:
    """Solve, bind the global that the matvec reads to another value, solve again.

    A library that keeps compiled solves and recognises a matvec by its identity, or by its code,
    answers the second question with the first's answer.
    """

    def ask(asked: Asked) -> Verdict:
        global scale
        b = random(16)
        for scale in (2.0, 5.0):
            reply = asked.reply(make(), b, 1e-8)
            if "needs a matrix" in reply.error:
                return NOT_OFFERED, reply.error
            verdict, detail = verdict_of("must solve", reply, scale * _STIFFNESS, b, 1e-8)
            if verdict != RIGHT:
                return verdict, f"global = {scale:g}: {detail}"
        return RIGHT, "sees the new value"

    return ask


def _tridiagonal(kappa: Any) -> Callable[[Any], Any]:
    """The product with -(kappa u')' in 1-D: n unknowns out of n + 1 coefficients."""

    def matvec(x):
        steps = jnp.diff(jnp.concatenate([jnp.zeros(1), x, jnp.zeros(1)]))
        return -jnp.diff(kappa * steps)

    return matvec


def _derivative(kind: str) -> Callable[[Asked], Verdict]:
    """Derivatives of `b . A(kappa)^-1 b` in kappa, or 8 systems at once, against dense algebra."""

    def ask(asked: Asked) -> Verdict:
        if asked.differentiable is None:
            return NOT_OFFERED, "no JAX"
        solve = asked.differentiable
        n, rng = 64, np.random.default_rng(0)
        kappa = jnp.asarray(1 + rng.random((8, n + 1)))
        b = jnp.asarray(rng.standard_normal((8, n)))
        tangent = jnp.asarray(rng.standard_normal(n + 1))

        def iterative(k, b):
            return solve(_tridiagonal(k), b, 1e-12)

        def dense(k, b):
            return jnp.linalg.solve(jax.jacfwd(_tridiagonal(k))(b), b)

        def outcome(solution):
            def energy(k):
                return b[0] @ solution(k, b[0])

            if kind == "vmap":
                return jax.vmap(solution)(kappa, b)
            if kind == "gradient":
                return jax.grad(energy)(kappa[0])
            if kind == "jvp":
                return jax.jvp(energy, (kappa[0],), (tangent,))[1]
            return jax.jvp(jax.grad(energy), (kappa[0],), (tangent,))[1]

        want = np.asarray(outcome(dense))
        try:
            got = np.asarray(outcome(iterative))
        except Exception as error:
            return NOT_OFFERED, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        error = float(np.linalg.norm(got - want) / np.linalg.norm(want))
        return (RIGHT if error <= 1e-6 else WRONG), f"relative error {scientific(error)}"

    return ask


SYSTEMS = {
    "unit_vector": ("b = e_1, atol = 0", "must solve", lambda: (laplacian(32), e1(32))),
    "nan": ("NaN in b", "must refuse", lambda: (laplacian(32), with_nan(32))),
    "zero": ("b = 0", "must solve", lambda: (laplacian(32), np.zeros(32))),
    "indefinite": ("indefinite matrix to CG", "may refuse", shifted),
    "zero_curvature": ("zero curvature in CG", "may refuse", plus_and_minus),
    "consistent": ("singular, consistent", "must solve", consistent),
    "inconsistent": ("singular, inconsistent", "must refuse", lambda: (singular(32), 1 + random(32))),
    "recurrence": ("recurrence against true residual", "may refuse", ill_conditioned),
}
PROBES = {name: Probe(what, _system(rule, make)) for name, (what, rule, make) in SYSTEMS.items()} | {
    "same_function": Probe("rebound global, same function", _rebound_global(lambda: _scaled)),
    "new_function": Probe("rebound global, new function", _rebound_global(_new_scaled)),
    "tolerances": Probe("rtol from 1e-2 to 1e-13", _tolerances),
    **{kind: Probe(kind, _derivative(kind)) for kind in ("gradient", "jvp", "hvp")},
    "vmap": Probe("vmap of 8 systems", _derivative("vmap")),
}


def _maker(name: str) -> Callable[[], Probe]:
    return lambda: PROBES[name]


def judge(probe: Probe, answer: Answer, task: Task) -> dict[str, Any]:
    """The verdict, which is also the `result` where it is no praise."""
    verdict, detail = answer.value
    result = "successful" if verdict in (RIGHT, REFUSES) else verdict.replace(" ", "_")
    return {"rtol": None, "result": result, "verdict": verdict, "detail": detail, "what": probe.what}


def _worst(verdicts: list[str], solvers: list[str]) -> str:
    """A cell is as bad as the library's worst solver."""
    by_verdict: dict[str, list[str]] = {}
    for verdict, solver in zip(verdicts, solvers, strict=True):
        by_verdict.setdefault(verdict or "missing", []).append(solver.split(":")[-1])
    if WRONG in by_verdict:
        return f"✗ wrong: {', '.join(by_verdict[WRONG])}"
    offered = {verdict for verdict in by_verdict if verdict not in (NOT_OFFERED, "missing")}
    if not offered:
        return "– not offered"
    some = f" (not {', '.join(by_verdict[NOT_OFFERED])})" if NOT_OFFERED in by_verdict else ""
    return f"✓ {REFUSES if offered == {REFUSES} else RIGHT}{some}"


def _details(rows: pl.DataFrame) -> str:
    """What exactly each wrong answer was."""
    wrong = rows.filter(pl.col("verdict") == WRONG)
    return "\n".join(f"* {r['what']}: {r['solver']}: {r['detail']}" for r in wrong.to_dicts())


WORK = Work(
    "probes",
    {name: _maker(name) for name in PROBES},
    judge,
    columns=("nsolve", "solvax", "lineax", "jax.scipy", "scipy", "pyamg"),
    settings=(),
    error="verdict",
    tables=(
        Table(
            name="probes",
            title="",
            group=(),
            rows=("what",),
            headings={"what": "probe"},
            across="library",
            values=(Value("", _worst, pl.col("verdict").implode(), pl.col("solver").implode()),),
            verdict=False,
            note=_details,
        ),
    ),
)
