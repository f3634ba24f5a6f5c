"""`compare`: what is a regression, and what is only noise."""

import json

import pytest

from bench.compare import compare


def record(**changes):
    base = {
        "schema": 1,
        "problem": "poisson2d",
        "size": 64,
        "solver": "cg",
        "params": {},
        "rtol": 1e-8,
        "dtype": "float64",
        "device": "cpu",
        "seed": 0,
        "num_steps": 100,
        "result": "successful",
        "true_residual": 9e-9,
        "solve_s": {"min": 0.9, "median": 1.0, "iqr": 0.1, "n": 5},
    }
    return base | changes


def timed(median, iqr=0.1):
    return {"min": median, "median": median, "iqr": iqr, "n": 5}


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({}, 0),
        ({"result": "breakdown", "true_residual": 0.5}, 1),
        ({"result": "error: no memory", "true_residual": None}, 1),
        ({"true_residual": 1.1e-8}, 1),
        ({"true_residual": None}, 1),
        ({"false_success": True}, 1),
        ({"num_steps": 102}, 0),  # not over 2
        ({"num_steps": 105}, 0),  # not over 5 %
        ({"num_steps": 106}, 1),
        ({"num_steps": 50, "solve_s": timed(0.5)}, 0),
        ({"solve_s": timed(1.24)}, 0),  # below the threshold
        ({"solve_s": timed(1.4)}, 1),
        ({"solve_s": timed(1.4, iqr=0.5)}, 0),  # drowns in the spread
    ],
)
def test_verdict(tmp_path, change, code):
    base = write(tmp_path / "base.jsonl", record())
    new = write(tmp_path / "new.jsonl", record(**change))
    assert compare(base, new) == code


def test_a_failure_that_stays_one_is_no_regression(tmp_path):
    failed = record(result="max_steps_reached", true_residual=0.1)
    slower = failed | {"solve_s": timed(9.0), "num_steps": 900}
    base, new = write(tmp_path / "a", failed), write(tmp_path / "b", slower)
    assert compare(base, new) == 0


def test_threshold_is_obeyed(tmp_path):
    base, new = write(tmp_path / "a", record()), write(tmp_path / "b", record(solve_s=timed(1.4)))
    assert compare(base, new, threshold=1.5) == 0
    with pytest.raises(ValueError, match="threshold is 0.5"):
        compare(base, new, threshold=0.5)


def test_cells_on_one_side_are_listed(tmp_path, capsys):
    base = write(tmp_path / "a", record(), record(solver="gmres[restart=30]"))
    new = write(tmp_path / "b", record(), record(solver="minres"))
    assert compare(base, new) == 0
    out = capsys.readouterr().out
    assert "gmres[restart=30]" in out and "minres" in out


def test_nothing_in_common_is_no_pass(tmp_path):
    base, new = write(tmp_path / "a", record()), write(tmp_path / "b", record(rtol=1e-6))
    assert compare(base, new) == 2


def test_a_cell_measured_again_replaces_the_older_one(tmp_path):
    base = write(tmp_path / "a", record())
    new = write(tmp_path / "b", record(num_steps=300), record())
    assert compare(base, new) == 0


def test_bad_line_is_named(tmp_path):
    good = write(tmp_path / "good.jsonl", record())
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(record()) + "\nnonsense\n")
    with pytest.raises(ValueError, match=r"bad.jsonl, line 2"):
        compare(good, bad)
    with pytest.raises(ValueError, match="none.jsonl"):
        compare(good, tmp_path / "none.jsonl")
