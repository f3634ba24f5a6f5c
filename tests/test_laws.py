"""Every row of the tables in `tests/subjects/` under every law."""

import pytest

from . import contract, linear_laws
from .subjects import diffusion, gallery, linear, operators, preconditioners, sequence, transport

WINGS = [gallery, operators, preconditioners, sequence, transport, diffusion]


def row(subject, law, name, *marks):
    return pytest.param(subject, law, marks=marks, id=f"{name}-{law.__name__}")


def linear_rows():
    for case in linear.CASES:
        for law in linear_laws.LAWS:
            rest = law in linear_laws.DERIVATIVE_LAWS and case.id not in linear.DERIVED
            yield row(case, law, case.id, *[pytest.mark.full] * rest)
    for case in linear.PRODUCT:
        for law in linear_laws.DERIVATIVE_LAWS:
            wrong = law is linear_laws.law_unroll and case.id in linear.WRONG_UNROLLED
            marks = [pytest.mark.xfail(reason="estimated bounds")] * wrong
            yield row(case, law, case.id, pytest.mark.full, *marks)


SUBJECTS = [subject for wing in WINGS for subject in wing.SUBJECTS]


@pytest.mark.parametrize("subject, law", [row(s, law, s.name) for s in SUBJECTS for law in contract.LAWS])
def test_contract(subject, law):
    law(subject)


@pytest.mark.parametrize("case, law", list(linear_rows()))
def test_linear(case, law):
    law(case)


def test_names_are_of_one_row_each():
    names = [subject.name for subject in SUBJECTS] + [case.id for case in linear.CASES + linear.PRODUCT]
    assert len(set(names)) == len(names)
    assert {case.id for case in linear.CASES} >= linear.DERIVED
