"""Records as the report's tests need them."""

import json


def record(solver="cg", size=32, steps=10, rtol=1e-8, **changes):
    """A record that succeeded, with a history that ends in padding, as those of compiled solvers do."""
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
        "unknowns": size**2,
        "num_steps": steps,
        "result": "successful",
        "true_residual": rtol * 0.9,
        "residual_norms": [*history, None, None],
        "setup_s": 0.01,
        "compile_s": 0.5,
        "solve_s": timed(0.1 * steps, 0.0),
    } | changes


def timed(median, iqr=0.1):
    return {"min": median, "median": median, "iqr": iqr, "n": 5}


def write(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


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
