"""Honesty probes: questions that tempt a solver into a wrong answer that it calls right.

A verdict is computed from the answer and dense algebra by one of three rules, never typed in:

* `must solve`: right is an answer that meets the tolerance and is not called a failure.
* `may refuse`: the same, or a refusal; wrong is only an answer that is off and not called so.
* `must refuse`: there is no answer, so right is to say so (an error raised, a failure reported, or
  from a library that reports nothing an answer with NaN in it).
"""

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bench import libraries, record
from bench import probe_systems as systems
from bench.environment import environment
from bench.libraries import Asked, Reply
from bench.peers._jax import promoting
from bench.specs import OWN
from bench.table import RESIDUAL_SLACK, scientific

RIGHT, REFUSES, WRONG, NOT_OFFERED = "right", "refuses rightly", "wrong", "not offered"

Verdict = tuple[str, str]


@dataclass(frozen=True)
class Probe:
    """A question: who is asked it, and how the reply is judged (verdict and detail)."""

    name: str
    asked_of: Callable[[Asked], bool]
    ask: Callable[[Asked], Verdict]


def run_probes(out: Path | None = None, columns: list[str] | None = None) -> list[dict]:
    """Ask every library every question, print the table (Markdown), and return the records.

    `out` receives one JSON object a line; `columns` names the libraries (all by default).
    """
    solvers, absent = libraries.columns(columns)
    jax.config.update("jax_enable_x64", True)
    if out is not None:
        record.open_for_resume(Path(out), config="", fresh=True)
    cells = [(probe, asked) for probe in PROBES for asked in solvers if probe.asked_of(asked)]
    records = []
    for probe, asked in track(cells, "probing", console=Console(stderr=True), transient=True):
        with nullcontext() if asked.library == OWN else promoting():
            verdict, detail = probe.ask(asked)
        entry = {
            "schema": record.SCHEMA,
            "probe": probe.name,
            "library": asked.library,
            "solver": asked.name,
            "result": verdict,
            "detail": detail,
            "env": environment(),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        }
        records.append(entry)
        if out is not None:
            record.append(Path(out), entry)
    console = Console(width=180, highlight=False)
    console.print(table(records))
    print_details(console, records)
    for name in absent:
        console.print(f"{name} is not installed here: pip install 'nsolve[peers]'")
    return records


# --- rules -------------------------------------------------------------------------------------


def judge(rule: str, reply: Reply, matrix: Any, b: np.ndarray, rtol: float) -> Verdict:
    """One of the three rules in the module's docstring, applied to one reply."""
    residual = true_residual(matrix, reply.x, b)
    meets = residual <= rtol * (1 + RESIDUAL_SLACK)
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


def true_residual(matrix: Any, x: np.ndarray | None, b: np.ndarray) -> float:
    """`|b - A x| / |b|` (`|A x|` for a zero right-hand side); NaN where there is no answer."""
    if x is None:
        return np.nan
    with np.errstate(all="ignore"):
        return float(np.linalg.norm(b - matrix @ x) / (np.linalg.norm(b) or 1.0))


def _system(rule: str, make: Callable[[], tuple[Any, np.ndarray]], rtol: float = 1e-8) -> Any:
    """A probe that is one system; a direct solver may always refuse a singular matrix."""

    def ask(asked: Asked) -> Verdict:
        matrix, b = make()
        own = "may refuse" if asked.direct and rule == "must solve" else rule
        return judge(own, asked.reply(matrix, b, rtol), matrix, b, rtol)

    return ask


# --- probes of other shapes ----------------------------------------------------------------------


def _tolerances(asked: Asked) -> Verdict:
    matrix, b = systems.laplacian_2d(16), systems.random(256)
    residuals = {}
    for rtol in (1e-2, 1e-6, 1e-10, 1e-13):
        reply = asked.reply(matrix, b, rtol)
        verdict, detail = judge("must solve", reply, matrix, b, rtol)
        if verdict == WRONG:
            return WRONG, f"rtol {scientific(rtol)}: {detail}"
        residuals[rtol] = true_residual(matrix, reply.x, b)
    reached = ", ".join(f"{scientific(k)}: {scientific(v)}" for k, v in residuals.items())
    ignores = residuals[1e-2] < 10 * residuals[1e-13]
    return (WRONG if ignores else RIGHT), ("ignores rtol: " if ignores else "") + reached


scale = 2.0  # the global that the matvecs of these probes read
_STIFFNESS = systems.laplacian(16).toarray()


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
        b = systems.random(16)
        for scale in (2.0, 5.0):
            reply = asked.reply(make(), b, 1e-8)
            if "needs a matrix" in reply.error:
                return NOT_OFFERED, reply.error
            verdict, detail = judge("must solve", reply, scale * _STIFFNESS, b, 1e-8)
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


def _everybody(asked: Asked) -> bool:
    return True


def _iterative(asked: Asked) -> bool:
    return not asked.direct


def _cg(asked: Asked) -> bool:
    return asked.admits == "spd"


PROBES = (
    Probe(
        "b = e_1, atol = 0",
        _everybody,
        _system("must solve", lambda: (systems.laplacian(32), systems.e1(32))),
    ),
    Probe(
        "NaN in b",
        _everybody,
        _system("must refuse", lambda: (systems.laplacian(32), systems.with_nan(32))),
    ),
    Probe("b = 0", _everybody, _system("must solve", lambda: (systems.laplacian(32), np.zeros(32)))),
    Probe("indefinite matrix to CG", _cg, _system("may refuse", systems.shifted)),
    Probe("zero curvature in CG", _cg, _system("may refuse", systems.plus_and_minus)),
    Probe("singular, consistent", _everybody, _system("must solve", systems.consistent)),
    Probe(
        "singular, inconsistent",
        _everybody,
        _system("must refuse", lambda: (systems.singular(32), 1 + systems.random(32))),
    ),
    Probe(
        "recurrence against true residual",
        _iterative,
        _system("may refuse", systems.ill_conditioned),
    ),
    Probe("rebound global, same function", _everybody, _rebound_global(lambda: _scaled)),
    Probe("rebound global, new function", _everybody, _rebound_global(_new_scaled)),
    Probe("rtol from 1e-2 to 1e-13", _iterative, _tolerances),
    *(Probe(kind, _iterative, _derivative(kind)) for kind in ("gradient", "jvp", "hvp")),
    Probe("vmap of 8 systems", _iterative, _derivative("vmap")),
)


# --- the table -----------------------------------------------------------------------------------


def table(records: Iterable[dict]) -> Table:
    """Rows are probes, columns libraries; a cell is as bad as the library's worst solver."""
    records = list(records)
    names = list(dict.fromkeys(r["library"] for r in records))
    grid = Table(box=box.MARKDOWN, header_style="bold", show_edge=True)
    grid.add_column("probe", no_wrap=True)
    for name in names:
        grid.add_column(name)
    for probe in dict.fromkeys(r["probe"] for r in records):
        cells = []
        for name in names:
            cells.append(_cell([r for r in records if r["probe"] == probe and r["library"] == name]))
        grid.add_row(escape(probe), *cells)
    return grid


def _cell(records: list[dict]) -> str:
    if not records:
        return ""
    by_verdict: dict[str, list[str]] = {}
    for entry in records:
        by_verdict.setdefault(entry["result"], []).append(entry["solver"])
    if WRONG in by_verdict:
        return f"[red]✗ wrong: {escape(', '.join(by_verdict[WRONG]))}[/]"
    offered = {verdict for verdict in by_verdict if verdict != NOT_OFFERED}
    if not offered:
        return "[dim]– not offered[/]"
    some = f" (not {escape(', '.join(by_verdict[NOT_OFFERED]))})" if NOT_OFFERED in by_verdict else ""
    return f"[green]✓ {REFUSES if offered == {REFUSES} else RIGHT}[/]{some}"


def print_details(console: Console, records: Iterable[dict]) -> None:
    """Under the table: what exactly each wrong answer was."""
    wrong = [r for r in records if r["result"] == WRONG]
    if wrong:
        console.print()
    for entry in wrong:
        line = f"* {entry['probe']}: {entry['library']} {entry['solver']}: {entry['detail']}"
        console.print(escape(line), soft_wrap=True)
