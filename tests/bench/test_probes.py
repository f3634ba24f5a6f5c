"""The probes: the rules of judgement, and some questions asked for real."""

import json

import numpy as np
import pytest

from bench import probe_systems, probes
from bench.libraries import Asked, Reply
from bench.probes import NOT_OFFERED, REFUSES, RIGHT, WRONG, judge, run_probes

A, B = np.diag([2.0, 4.0]), np.array([2.0, 4.0])
GOOD, BAD, NAN = np.ones(2), np.zeros(2), np.full(2, np.nan)


@pytest.mark.parametrize(
    ("rule", "x", "claim", "verdict"),
    [
        ("must solve", GOOD, True, RIGHT),
        ("must solve", GOOD, None, RIGHT),
        ("must solve", GOOD, False, WRONG),  # a false alarm
        ("must solve", BAD, True, WRONG),
        ("must solve", BAD, None, WRONG),
        ("must solve", BAD, False, WRONG),  # gives up on a solvable system
        ("must solve", NAN, True, WRONG),
        ("must solve", None, False, WRONG),
        ("may refuse", GOOD, True, RIGHT),
        ("may refuse", GOOD, False, WRONG),
        ("may refuse", BAD, False, REFUSES),
        ("may refuse", NAN, None, REFUSES),
        ("may refuse", BAD, None, WRONG),
        ("may refuse", BAD, True, WRONG),
        ("must refuse", BAD, False, REFUSES),
        ("must refuse", None, False, REFUSES),
        ("must refuse", NAN, None, REFUSES),
        ("must refuse", NAN, True, WRONG),
        ("must refuse", BAD, None, WRONG),
        ("must refuse", BAD, True, WRONG),
    ],
)
def test_rules(rule, x, claim, verdict):
    assert judge(rule, Reply(x, claim), A, B, 1e-8)[0] == verdict


def test_a_finite_answer_to_a_nan_is_wrong_where_nothing_is_said():
    b = np.array([np.nan, 1.0])
    assert judge("must refuse", Reply(BAD, None), A, b, 1e-8)[0] == WRONG
    assert judge("must refuse", Reply(NAN, None), A, b, 1e-8)[0] == REFUSES


def probe(name):
    return next(p for p in probes.PROBES if p.name == name)


def asked(solve, **keywords):
    return Asked("made up", "solver", "any", solve, **keywords)


def test_a_tolerance_that_is_ignored_is_wrong():
    def exact(matrix, b, rtol):
        return np.linalg.solve(matrix.toarray(), b), True

    verdict, detail = probe("rtol from 1e-2 to 1e-13").ask(asked(exact))
    assert verdict == WRONG and "ignores rtol" in detail


def test_a_stale_answer_is_wrong():
    cache = {}

    def remembers(matvec, b, rtol):
        if matvec not in cache:
            columns = [matvec(e) for e in np.eye(len(b))]
            cache[matvec] = np.linalg.solve(np.array(columns).T, b)
        return cache[matvec], True

    assert probe("rebound global, same function").ask(asked(remembers))[0] == WRONG
    assert probe("rebound global, new function").ask(asked(remembers))[0] == RIGHT


def test_a_wrong_derivative_is_wrong_and_a_missing_one_is_not_offered():
    import jax
    import jax.numpy as jnp

    def stops(matvec, b, rtol):
        dense = jax.lax.stop_gradient(jax.jacfwd(matvec)(b))
        return jnp.linalg.solve(dense, b)

    def raises(matvec, b, rtol):
        raise TypeError("no reverse mode")

    nothing = lambda *_: (None, False)  # noqa: E731
    gradient = probe("gradient")
    assert gradient.ask(asked(nothing, differentiable=stops))[0] == WRONG
    assert gradient.ask(asked(nothing, differentiable=raises))[0] == NOT_OFFERED
    assert gradient.ask(asked(nothing))[0] == NOT_OFFERED


def test_the_systems_are_what_they_are_called():
    singular, b = probe_systems.consistent()
    values, vectors = np.linalg.eigh(singular.toarray())
    assert abs(values[0]) < 1e-12 < values[1]
    assert abs(vectors[:, 0] @ b) < 1e-12 * np.linalg.norm(b)
    ill, b = probe_systems.ill_conditioned()
    assert np.linalg.cond(ill.toarray()) > 1e9
    x = np.linalg.solve(ill.toarray(), b)
    assert probes.true_residual(ill, x, b) > 1e-8  # out of reach even of dense algebra
    assert np.linalg.eigvalsh(probe_systems.shifted()[0].toarray()).min() < 0


def test_scipy_for_real(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        probes, "PROBES", [p for p in probes.PROBES if p.name in ("NaN in b", "b = 0", "gradient")]
    )
    out = tmp_path / "deep" / "probes.jsonl"
    records = run_probes(out, ["scipy"])
    assert [json.loads(line)["result"] for line in out.read_text().splitlines()] == [
        r["result"] for r in records
    ]
    table = capsys.readouterr().out
    assert "| NaN in b" in table and "refuses rightly" in table and "not offered" in table


def test_unknown_library_and_unwritable_file(tmp_path):
    with pytest.raises(ValueError, match="numpi"):
        run_probes(None, ["numpi"])
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        run_probes(tmp_path / "file" / "x.jsonl", ["scipy"])


# One question each that a careless stopping rule gets wrong; the rest of the table takes minutes.
@pytest.mark.parametrize("name", ["b = e_1, atol = 0", "NaN in b", "singular, inconsistent", "b = 0"])
def test_our_cg_answers_rightly(name):
    from bench.libraries import columns

    cg = next(solver for solver in columns(["nsolve"])[0] if solver.name == "cg")
    assert probe(name).ask(cg)[0] in (RIGHT, REFUSES)
