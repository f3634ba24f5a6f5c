"""What several test files need and pytest does not give."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def real_matrices() -> list[Path]:
    """Matrix Market files of real systems, kept beside the repository; empty where they are not."""
    return sorted((ROOT.parent / "shared" / "data" / "matrices").glob("*.mtx"))
