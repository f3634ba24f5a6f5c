"""The probes: the rules of judgement, and some questions asked for real."""

import numpy as np
import pytest

from bench.columns._plain import Asked, Reply
from bench.engine.suite import Group, ad_hoc, load
from bench.work import probes
from bench.work.linear import true_residual
from bench.work.probes import NOT_OFFERED, REFUSES, RIGHT, WORK, WRONG, verdict_of

from .helpers import record, shown

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
    assert verdict_of(rule, Reply(x, claim), A, B, 1e-8)[0] == verdict


def test_a_finite_answer_to_a_nan_is_wrong_where_nothing_is_said():
    b = np.array([np.nan, 1.0])
    assert verdict_of("must refuse", Reply(BAD, None), A, b, 1e-8)[0] == WRONG
    assert verdict_of("must refuse", Reply(NAN, None), A, b, 1e-8)[0] == REFUSES


def probe(name):
    return probes.PROBES[name]


def asked(solve, **keywords):
    return Asked("any", solve, **keywords)


def test_a_tolerance_that_is_ignored_is_wrong():
    def exact(matrix, b, rtol):
        return np.linalg.solve(matrix.toarray(), b), True

    verdict, detail = probe("tolerances").ask(asked(exact))
    assert verdict == WRONG and "ignores rtol" in detail


def test_a_stale_answer_is_wrong():
    cache = {}

    def remembers(matvec, b, rtol):
        if matvec not in cache:
            columns = [matvec(e) for e in np.eye(len(b))]
            cache[matvec] = np.linalg.solve(np.array(columns).T, b)
        return cache[matvec], True

    assert probe("same_function").ask(asked(remembers))[0] == WRONG
    assert probe("new_function").ask(asked(remembers))[0] == RIGHT


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
    singular, b = probes.consistent()
    values, vectors = np.linalg.eigh(singular.toarray())
    assert abs(values[0]) < 1e-12 < values[1]
    assert abs(vectors[:, 0] @ b) < 1e-12 * np.linalg.norm(b)
    ill, b = probes.ill_conditioned()
    assert np.linalg.cond(ill.toarray()) > 1e9
    x = np.linalg.solve(ill.toarray(), b)
    assert true_residual(ill, x, b) > 1e-8  # out of reach even of dense algebra
    assert np.linalg.eigvalsh(probes.shifted()[0].toarray()).min() < 0


def test_scipy_for_real():
    rows = [
        record("probes", name, f"scipy:{solver}")
        for name in ("nan", "zero", "gradient")
        for solver in ("cg", "gmres")
    ]
    assert [r["verdict"] for r in rows] == [REFUSES, REFUSES, RIGHT, RIGHT, NOT_OFFERED, NOT_OFFERED]
    assert [r["result"] for r in rows] == ["successful"] * 4 + ["not_offered"] * 2
    text = shown(WORK, rows, "probes")
    assert "| NaN in b | ✓ refuses rightly |" in text and "| gradient | – not offered |" in text


def test_a_wrong_answer_is_named_in_the_table():
    row = record("probes", "inconsistent", "scipy:minres")
    assert row["result"] == row["verdict"] == WRONG
    text = shown(WORK, [row], "probes")
    assert "✗ wrong: minres" in text and "* singular, inconsistent: scipy:minres: says success" in text


def test_unknown_library():
    with pytest.raises(ValueError, match="numpi"):
        ad_hoc(Group("nan", "numpi:cg"))
    asked = {cell.solver for cell in load("probes").cells if cell.problem == "indefinite"}
    assert "cg" in asked and "gmres" not in asked  # CG's question is put to CG


# One question each that a careless stopping rule gets wrong; the rest of the table takes minutes.
@pytest.mark.parametrize("name", ["unit_vector", "nan", "inconsistent", "zero"])
def test_our_cg_answers_rightly(name):
    assert record("probes", name, "cg")["verdict"] in (RIGHT, REFUSES)
