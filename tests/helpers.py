"""What several test files need and pytest does not give."""

import warnings
from pathlib import Path
from typing import Any

import scipy.io
import scipy.sparse as sp

ROOT = Path(__file__).resolve().parent.parent


def real_matrices() -> list[Path]:
    """Matrix Market files of real systems, kept beside the repository; empty where they are not."""
    return sorted((ROOT.parent / "shared" / "data" / "matrices").glob("*.mtx"))


def read_by_scipy(path: Path) -> Any:
    """A Matrix Market file in SciPy's own reading: a `csr_array`, or a dense array."""
    with warnings.catch_warnings():  # from 1.18 on, about the class of its result
        warnings.simplefilter("ignore", DeprecationWarning)
        matrix = scipy.io.mmread(path)
    return sp.csr_array(matrix) if sp.issparse(matrix) else matrix
