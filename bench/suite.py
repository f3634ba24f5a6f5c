"""Suites: TOML files that say which cells to measure and how.

    title = "..."
    [settings]                    # how: max_steps, repeats, history, memory, first_call
    history = true
    [defaults]                    # which, unless a group says otherwise
    rtol = [1e-8]
    [[group]]
    problem = ["poisson2d", "lognormal2d[contrast=1e4]"]
    size = [64, 128]
    solver = ["cg", "cg+ic", "scipy:cg"]

A group is the product of its lists: problem, size, solver, rtol, dtype, seed. One value may stand for a list.
"""

import dataclasses
import hashlib
import itertools
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import peers, problems, specs
from .cells import DTYPES, Cell, Settings

FOLDER = Path(__file__).parent / "suites"
DEFAULTS: dict[str, list[Any]] = {
    "size": [None],
    "rtol": [1e-8],
    "dtype": ["float64"],
    "seed": [0],
}
AXES = ("problem", "size", "solver", "rtol", "dtype", "seed")


@dataclass(frozen=True)
class Suite:
    """Cells with the settings that they share. `config` identifies both: records of two suites, or
    of two versions of one, are never mixed in a file."""

    name: str
    title: str
    cells: tuple[Cell, ...]
    settings: Settings
    config: str


def names() -> list[str]:
    """The suites that come with the benchmark."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name: str) -> Suite:
    """A suite by its name, or by the path of a `.toml` file.

    Raises ValueError naming the file and what is wrong in it."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml"):
        specs.check_name("suite", name, names())
    try:
        content = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"cannot read suite {path}: {error.strerror or error}") from None
    except ValueError as error:  # TOMLDecodeError names line and column
        raise ValueError(f"suite {path} is not valid TOML: {error}") from None
    try:
        return _from_content(path.stem, content)
    except ValueError as error:
        raise ValueError(f"suite {path}: {error}") from None


def ad_hoc(group: dict[str, list[Any]], settings: Settings) -> Suite:
    """The suite of one command line. Its records may share a file with others made with the same
    settings, whatever their cells."""
    cells = tuple(_cells(group, where="command line"))
    return Suite("ad hoc", "ad hoc", cells, settings, _digest(dataclasses.asdict(settings)))


def select(suite: Suite, filters: list[str], only_problems: list[str]) -> Suite:
    """The cells that some filter admits and that are of the given problems.

    ValueError for an unknown name, and for a filter or problem that admits nothing."""
    cells = suite.cells
    patterns = [specs.parse(text) for text in filters]
    for pattern in patterns:
        peers.check(pattern)
        if not any(specs.matches(pattern, cell.spec) for cell in cells):
            found = ", ".join(dict.fromkeys(str(cell.spec) for cell in cells))
            raise ValueError(f"filter {str(pattern)!r} admits no cell of {suite.name}: {found}")
    if patterns:
        cells = [c for c in cells if any(specs.matches(p, c.spec) for p in patterns)]
    parts = [problems.parse(text) for text in only_problems]
    if parts:
        cells = [
            c for c in cells if any(specs.part_matches(p, problems.parse(c.problem)) for p in parts)
        ]
    if not cells:
        raise ValueError(f"no cell of {suite.name} is of problem {', '.join(map(str, parts))}")
    return dataclasses.replace(suite, cells=tuple(cells))


def _from_content(name: str, content: dict[str, Any]) -> Suite:
    for key in content:
        specs.check_name("key", key, ("title", "settings", "defaults", "group"))
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    for key, value in content.get("settings", {}).items():
        specs.check_name("setting", key, fields)
        wanted = type(fields[key]) if fields[key] is not None else int
        if type(value) is not wanted:
            raise ValueError(f"setting {key!r} must be {wanted.__name__}, got {value!r}")
    settings = Settings(**content.get("settings", {}))
    groups = content.get("group", [])
    if not isinstance(groups, list) or not groups:
        raise ValueError("there is no [[group]] in it; a suite needs at least one")
    cells: list[Cell] = []
    for number, group in enumerate(groups, start=1):
        cells += _cells({**content.get("defaults", {}), **group}, where=f"group {number}")
    cells = list(dict.fromkeys(cells))
    title = content.get("title", name)
    return Suite(name, title, tuple(cells), settings, _digest(content))


def _cells(group: dict[str, Any], where: str) -> list[Cell]:
    for key in group:
        specs.check_name(f"key of {where}", key, AXES)
    axes = {}
    for axis in AXES:
        value = group.get(axis, DEFAULTS.get(axis))
        if value is None or value == []:
            raise ValueError(f"{where} has no {axis!r}")
        axes[axis] = value if isinstance(value, list) else [value]
    parts = [problems.parse(_text(p, "problem", where)) for p in axes["problem"]]
    columns = [specs.parse(_text(s, "solver", where)) for s in axes["solver"]]
    for column in columns:
        peers.check(column)
    for rtol in axes["rtol"]:
        if not isinstance(rtol, int | float) or not 0 < rtol < 1:
            raise ValueError(f"rtol of {where} must lie between 0 and 1, got {rtol!r}")
    for dtype in axes["dtype"]:
        specs.check_name("dtype", str(dtype), DTYPES)
    for axis in ("size", "seed"):
        for value in axes[axis]:
            if value is not None and type(value) is not int:
                raise ValueError(f"{axis} of {where} must be an integer, got {value!r}")
    cells = []
    for part in parts:
        sized = problems.is_sized(part.name)
        sizes = axes["size"] if sized else [None]
        if sized and None in sizes:
            raise ValueError(f"problem {part.name!r} of {where} needs a size")
        cells += [
            Cell(str(part), size, column, float(rtol), dtype, seed)
            for size, rtol, dtype, seed, column in itertools.product(
                sizes, axes["rtol"], axes["dtype"], axes["seed"], columns
            )
        ]
    return cells


def _text(value: Any, axis: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{axis} of {where} must be text, got {value!r}")
    return value


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
