"""What our solvers do not pass of the upstream suites, and why: `(test, which of its rows, reason)`."""

EXPECTED = {"lineax": [], "optimistix": [], "diffrax": []}
