"""What our solvers do not pass of the upstream suites, and why: `(test, which of its rows, reason)`."""

EXPECTED = {
    "lineax": [
        (
            "test_iterative_solver_max_steps_only",
            lambda row: True,
            "with rtol = atol = 0 lineax calls a fixed number of steps successful; ours ends with "
            "`max_steps_reached`, and `CG` wants `-A` for a negative definite `A`",
        ),
    ],
    "optimistix": [],
    "diffrax": [],
}
