"""`plot`: every kind draws, and what failed stays visible."""

import xml.etree.ElementTree as ElementTree

import pytest

from bench.plots import plot, residual_history, unknowns


def record(solver="cg", size=32, steps=10, rtol=1e-8, **changes):
    history = [10 ** (-8 * k / steps) for k in range(steps + 1)]
    return {
        "schema": 1,
        "problem": "poisson2d",
        "size": size,
        "solver": solver,
        "rtol": rtol,
        "dtype": "float64",
        "device": "cpu",
        "seed": 0,
        "num_steps": steps,
        "result": "successful",
        "true_residual": rtol * 0.9,
        "residual_norms": [*history, None, None],
        "setup_s": 0.01,
        "compile_s": 0.5,
        "solve_s": {"min": 0.1, "median": 0.1 * steps, "iqr": 0.0, "n": 3},
    } | changes


RECORDS = [
    record(),
    record(size=64, steps=20),
    record(size=64, steps=12, rtol=1e-4),
    record("scipy:cg", steps=11),
    record("scipy:minres", size=64, steps=30, result="max_steps_reached", true_residual=0.1),
    record("scipy:gmres", steps=40, result="max_steps_reached", true_residual=0.1),
    record(
        "solvax:cg",
        num_steps=None,
        residual_norms=None,
        true_residual=None,
        solve_s=None,
        result="missing",
    ),
]


@pytest.mark.parametrize("kind", ["convergence", "size", "work-precision", "time"])
def test_draws_png_and_svg(tmp_path, kind):
    paths = plot(RECORDS, kind, tmp_path / "deep" / "out")
    assert {path.suffix for path in paths} == {".png", ".svg"}
    for path in paths:
        assert path.stat().st_size > 2000
        if path.suffix == ".svg":
            ElementTree.parse(path)
    assert len({path.name for path in paths}) == len(paths)


@pytest.mark.parametrize("kind", ["convergence", "size", "work-precision", "time"])
def test_failures_are_named(tmp_path, kind):
    # Matplotlib keeps every drawn text as a comment in the SVG.
    svg = "".join(p.read_text() for p in plot(RECORDS, kind, tmp_path) if p.suffix == ".svg")
    assert "out of steps" in svg
    assert "not installed" in svg or kind == "work-precision"


def test_history_stops_at_the_padding():
    assert len(residual_history(record(steps=10))) == 11
    assert len(residual_history({"residual_norms": [1.0, 0.0]})) == 1
    assert len(residual_history({})) == 0


def test_unknowns():
    assert unknowns({"problem": "poisson3d", "size": 8}) == 512
    assert unknowns({"problem": "file", "size": 8}) == 8
    assert unknowns({"problem": "poisson2d", "size": 8, "num_unknowns": 49}) == 49
    assert unknowns({"problem": "file", "size": None}) is None


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="pie"):
        plot(RECORDS, "pie", tmp_path)
    with pytest.raises(ValueError, match="residual_norms"):
        plot([RECORDS[-1]], "convergence", tmp_path)
    with pytest.raises(ValueError, match="two tolerances"):
        plot(RECORDS[:2], "work-precision", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="folder"):
        plot(RECORDS, "time", tmp_path / "file")


def test_same_records_same_picture(tmp_path):
    first, second = (plot(RECORDS, "size", tmp_path / name)[1] for name in "ab")
    assert first.read_bytes() == second.read_bytes()
