"""The commands, whose packages need more than the library does."""

import importlib
import sys


def bench() -> None:
    """`nsolve-bench`."""
    _run("bench")


def train() -> None:
    """`nsolve-train`."""
    _run("learned")


def _run(package: str) -> None:
    try:
        cli = importlib.import_module(f"{package}.cli")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == package:
            raise
        print(f"This command needs {error.name}: pip install 'nsolve[{package}]'", file=sys.stderr)
        sys.exit(2)
    cli.main()
