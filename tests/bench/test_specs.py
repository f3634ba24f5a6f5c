"""The grammar of columns, problems and filters."""

from typing import Annotated, Literal

import pytest

from bench.engine import spec as specs
from bench.engine.options import Option, options_of
from bench.engine.spec import Part
from bench.work.linear import WORK


@pytest.mark.parametrize(
    ("text", "peer", "solver", "preconditioner"),
    [
        ("cg", "nsolve", "cg", None),
        ("cg+ic", "nsolve", "cg", "ic"),
        ("gmres[restart=40]+ilu", "nsolve", "gmres[restart=40]", "ilu"),
        ("scipy:cg+jacobi", "scipy", "cg", "jacobi"),
        ("jax.scipy:cg", "jax.scipy", "cg", None),
        ("pyamg:ruge_stuben+cg", "pyamg", "ruge_stuben", "cg"),
        ("cg + ssor[omega=1.5]", "nsolve", "cg", "ssor[omega=1.5]"),
        ("my_package.solvers:Mine(rtol=1e-8)", "my_package.solvers", "Mine[rtol=1e-08]", None),
        ("cg+my_package:Mine(depth=3)", "nsolve", "cg", "my_package:Mine[depth=3]"),
        ("lib/mine.py:Mine()", "lib/mine.py", "Mine", None),
    ],
)
def test_parses(text, peer, solver, preconditioner):
    spec = specs.parse(text)
    assert (spec.peer, str(spec.solver)) == (peer, solver)
    assert (None if spec.preconditioner is None else str(spec.preconditioner)) == preconditioner


@pytest.mark.parametrize("text", ["cg", "gmres[restart=40,x=1e-08]+ilu[a=true,b=word]", "a.b:c+d"])
def test_text_is_a_key(text):
    assert str(specs.parse(text)) == text
    assert specs.parse(str(specs.parse(text))) == specs.parse(text)


def test_values_have_types_and_order_is_free():
    spec = specs.parse("x[b=2,a=1.5,d=False,c=word]")
    assert spec.params == {"a": 1.5, "b": 2, "c": "word", "d": False}
    assert specs.parse("x[a=1.5,b=2,c=word,d=false]") == spec
    assert specs.parse("cg+ssor[omega=1.5]").params == {"ssor.omega": 1.5}


@pytest.mark.parametrize("text", ["", "cg+", "+ic", "cg[", "cg[a]", "cg[a=1", "cg[=1]", "c g"])
def test_malformed_is_refused(text):
    with pytest.raises(ValueError, match="cannot read"):
        specs.parse(text)


def test_parameter_twice_is_refused():
    with pytest.raises(ValueError, match="'a' is given twice"):
        specs.parse("cg[a=1,a=2]")


@pytest.mark.parametrize(
    ("pattern", "spec", "admitted"),
    [
        ("gmres+ilu", "gmres[restart=40]+ilu", True),
        ("gmres[restart=40]+ilu", "gmres[restart=40]+ilu", True),
        ("gmres[restart=20]+ilu", "gmres[restart=40]+ilu", False),
        ("gmres[restart=40]+ilu", "gmres+ilu", False),
        ("cg", "cg+ic", False),
        ("cg", "scipy:cg", False),
        ("cg+ssor", "cg+ssor[omega=1.5]", True),
    ],
)
def test_filters(pattern, spec, admitted):
    assert specs.matches(specs.parse(pattern), specs.parse(spec)) is admitted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cgg", "unknown solver 'cgg': did you mean cg"),
        ("cg+jacobbi", "unknown preconditioner 'jacobbi': did you mean jacobi"),
        ("scpy:cg", "unknown library 'scpy': did you mean scipy"),
        (
            "scipy:gmres[restrt=3]",
            "solver 'gmres' 'restrt': did you mean restart",
        ),
        ("scipy:cg[restart=3]", "there are none"),
    ],
)
def test_unknown_names_come_with_the_nearest(text, message):
    with pytest.raises(ValueError, match=message):
        WORK.check_column(specs.parse(text), Part("poisson2d"))


def test_problem_names():
    assert WORK.parse("lognormal2d[contrast=100]") == Part("lognormal2d", (("contrast", 100),))
    assert specs.parse_part("matrix_market[path=a/b.mtx]") == Part("matrix_market", (("path", "a/b.mtx"),))
    with pytest.raises(ValueError, match="did you mean poisson2d"):
        WORK.parse("poison2d")
    with pytest.raises(ValueError, match="'contrst': did you mean contrast"):
        WORK.parse("lognormal2d[contrst=2]")


def _declared(
    kind: Literal["near", "far"] | None,
    rate: Annotated[float, Option(least=0.0, strict=True)],
    free: "int | str" = 3,
    depth: int = 2,
    share: Annotated[float, Option(least=0.0, most=1.0)] = 0.5,
) -> None:
    """Options said by annotations and defaults."""


@pytest.mark.parametrize(
    ("name", "shown", "admitted", "refused"),
    [
        ("kind", "kind=near|far", ["near"], {"nearer": "one of near, far", 1: "one of near, far"}),
        (
            "rate",
            "rate (greater than 0)",
            [1, 0.5],
            {0: "a number greater than 0", "x": "a number", True: "a number"},
        ),
        ("free", "free=3", [1, "x"], {}),
        ("depth", "depth=2", [-1], {0.5: "an integer, got 0.5 \\(default 2\\)", True: "an integer"}),
        (
            "share",
            "share=0.5 (from 0 to 1)",
            [0, 1.0],
            {1.5: "a number from 0 to 1", -1: "a number from 0 to 1"},
        ),
    ],
)
def test_an_option_is_what_its_declaration_says(name, shown, admitted, refused):
    option = options_of(_declared)[name]
    assert option.shown(name) == shown
    for value in admitted:
        option.check(name, value)
    for value, words in refused.items():
        with pytest.raises(ValueError, match=f"{name} must be {words}"):
            option.check(name, value)
