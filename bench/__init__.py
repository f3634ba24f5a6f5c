"""The benchmark: problems, solvers and peers as cells, one JSON record each."""
