"""Runs the test suites of lineax, optimistix and diffrax on our solvers and operators.

    python tests/upstream/run.py FOLDER [suite ...]

`FOLDER` holds a checkout of each, of the installed version: `lineax/`, `optimistix/`, `diffrax/`.  Their
source distributions carry no tests.  Fails where a test fails that `exceptions.py` does not list, or passes
that it does.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).resolve().parent
#: Where solvers and operators are put to use; the rest says nothing of ours.
FILES = {
    "lineax": [
        *("tests/test_adjoint.py", "tests/test_solve.py", "tests/test_invert.py", "tests/test_singular.py"),
        *("tests/test_well_posed.py", "tests/test_transpose.py", "tests/test_operator.py"),
        *("tests/test_jvp.py", "tests/test_jvp_jvp1.py", "tests/test_vmap.py", "tests/test_vmap_jvp.py"),
    ],
    "optimistix": ["tests/test_root_find.py", "tests/test_least_squares.py", "tests/test_solve.py"],
    "diffrax": ["test/test_very_chord.py", "test/test_solver.py"],
}


def main(folder: str = "", *suites: str) -> int:
    failed = []
    for suite in suites or FILES:
        checkout = Path(folder).resolve() / suite
        if not folder or not checkout.is_dir():
            print(
                f"No folder {checkout}. Clone it and name the folder that holds it:\n"
                f"  git clone --depth 1 --branch v{version(suite)} "
                f"https://github.com/patrick-kidger/{suite} UPSTREAM/{suite}\n"
                "  make test-upstream UPSTREAM=UPSTREAM"
            )
            return 2
        path = os.pathsep.join([str(HERE), str(HERE.parent.parent)])
        command = [sys.executable, "-m", "pytest", "-p", "plugin", "-p", "no:cacheprovider", "-q", "-rfE"]
        # A process for each file: one that has compiled some ten thousand programs runs out of memory maps.
        for file in FILES[suite]:
            print(f"{suite}/{file}", flush=True)
            done = subprocess.run(
                [*command, "--tb=line", "-o", "addopts=", file],
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": path, "UPSTREAM_SUITE": suite},
            )
            if done.returncode not in (0, 5):  # 5: all of a file's tests are about other solvers
                failed.append(f"{suite}/{file}")
    print("Unexpected failures: " + ", ".join(failed) if failed else "All as expected.")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
