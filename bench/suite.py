"""Suites: TOML files that say which cells to measure and how.

    title = "..."
    [defaults]                    # of all groups, unless one says otherwise
    rtol = [1e-8]
    history = true
    [[group]]
    problem = ["poisson2d", "lognormal2d[contrast=1e4]"]
    size = [64, 128]
    solver = ["cg", "cg+ic", "scipy:cg"]

A group is the product of its lists `problem, size, solver, rtol, dtype, seed` (one value may stand
for a list), measured as the fields of `bench.cells.Settings` say: `max_steps, repeats, history,
memory, first_call, stages, limit_s`.

A group with a `count` solves sequences of so many systems (`bench.sequences`):

    [[group]]
    problem = "darcy"
    count = 200
    sample = 8                    # columns that carry nothing solve 8 of the 200
    size = 80
    solver = ["gmres[restart=40]+ilu", "gcro_dr[restart=20,recycle=20]+ilu@carried,sorted"]

A group of transport problems (`bench.transport`) names columns of its own; there `rtol` is the error of the
marginals, and `limit_s` the seconds after which a column has failed:

    [[group]]
    problem = ["assignment[eta=1200]", "digits[cost=l1,eta=1200]"]
    size = 500
    limit_s = 30.0
    solver = ["sinkhorn_newton", "ott:sinkhorn", "pot:log"]

So does a group of diffusion problems (`bench.diffusion`), which have no tolerance; what its `size` counts
depends on what is measured:

    [[group]]
    problem = ["ring", "cloud[dimension=64]"]
    size = [5, 10, 20]            # network evaluations
    solver = ["ddim", "unipc[order=3]", "diffusers:unipc[order=3]"]
"""

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import peers, problems, sequences, specs, transport
from .cells import DTYPES, Cell, Settings, wing

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
    """Cells, each with how to measure it. `config` identifies both: records of two suites, or of
    two versions of one, are never mixed in a file."""

    name: str
    title: str
    cells: Mapping[Cell, Settings]
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


def ad_hoc(group: dict[str, Any]) -> Suite:
    """The suite of one command line. Its records may share a file with others made with the same
    settings, whatever their cells."""
    settings = {key: value for key, value in group.items() if key not in AXES}
    return Suite("ad hoc", "ad hoc", _cells(group, where="command line"), _digest(settings))


def select(suite: Suite, filters: list[str], only_problems: list[str]) -> Suite:
    """The cells that some filter admits and that are of the given problems.

    ValueError for an unknown name, and for a filter or problem that admits nothing."""
    cells = suite.cells
    patterns = [specs.parse(text) for text in filters]
    for pattern in patterns:
        wings = {wing(cell.problem) for cell in cells}
        ((wings.pop() if len(wings) == 1 else None) or peers).check(pattern)
        if not any(specs.matches(pattern, cell.spec) for cell in cells):
            found = ", ".join(dict.fromkeys(str(cell.spec) for cell in cells))
            raise ValueError(f"filter {str(pattern)!r} admits no cell of {suite.name}: {found}")
    parts = [_parse_problem(text, text.split("[")[0].strip() in sequences.KINDS) for text in only_problems]

    def admitted(cell: Cell) -> bool:
        problem = specs.parse_part(cell.problem)
        return (not patterns or any(specs.matches(p, cell.spec) for p in patterns)) and (
            not parts or any(specs.part_matches(p, problem) for p in parts)
        )

    cells = {cell: settings for cell, settings in cells.items() if admitted(cell)}
    if not cells:
        raise ValueError(f"no cell of {suite.name} is left with {filters} and {only_problems}")
    return dataclasses.replace(suite, cells=cells)


def repeat(suite: Suite, repeats: int | None) -> Suite:
    """The same cells with another number of timed solves; None changes nothing."""
    if repeats is None:
        return suite
    cells = {cell: dataclasses.replace(s, repeats=repeats) for cell, s in suite.cells.items()}
    return dataclasses.replace(suite, cells=cells)


def _from_content(name: str, content: dict[str, Any]) -> Suite:
    for key in content:
        specs.check_name("key", key, ("title", "defaults", "group"))
    groups = content.get("group", [])
    if not isinstance(groups, list) or not groups:
        raise ValueError("there is no [[group]] in it; a suite needs at least one")
    cells: dict[Cell, Settings] = {}
    for number, group in enumerate(groups, start=1):
        cells |= _cells({**content.get("defaults", {}), **group}, where=f"group {number}")
    return Suite(name, content.get("title", name), cells, _digest(content))


def _cells(group: dict[str, Any], where: str) -> dict[Cell, Settings]:
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    for key, value in group.items():
        specs.check_name(f"key of {where}", key, (*AXES, "count", *fields))
        wanted = int if fields.get(key) is None else type(fields[key])
        admitted = (int, float) if wanted is float else (wanted,)
        if (key in fields or key == "count") and type(value) not in admitted:
            raise ValueError(f"{key} of {where} must be {wanted.__name__}, got {value!r}")
    settings = Settings(**{key: value for key, value in group.items() if key in fields})
    count = group.get("count")
    _check_count(count, settings, where)
    axes = {}
    for axis in AXES:
        value = group.get(axis, DEFAULTS.get(axis))
        if value is None or value == []:
            raise ValueError(f"{where} has no {axis!r}")
        axes[axis] = value if isinstance(value, list) else [value]
    parts = [_parse_problem(_text(p, "problem", where), count is not None) for p in axes["problem"]]
    columns = [specs.parse(_text(s, "solver", where)) for s in axes["solver"]]
    wings = {wing(part) for part in parts}
    if len(wings) > 1:
        raise ValueError(f"{where} mixes {' and '.join(sorted(map(_kind, wings)))}; make groups of them")
    own = wings.pop()
    if own is not None:
        _check_own(settings, count, where, _kind(own))
    if settings.limit_s and own is not transport:
        raise ValueError(f"limit_s of {where} belongs to transport problems")
    for column in columns:
        if own is not None:
            own.check(column)
            continue
        peers.check(column)
        if settings.stages and column.peer not in (specs.OWN, "lineax"):
            raise ValueError(f"stages of {where} are of our programs and of lineax's, not of {column}")
        if count is not None:
            for part in parts:
                sequences.check(column, part)
        elif column.mode:
            raise ValueError(f"{column} of {where} is for sequences: give the number of systems as `count`")
    for rtol in axes["rtol"]:
        if not isinstance(rtol, int | float) or not 0 < rtol < 1:
            raise ValueError(f"rtol of {where} must lie between 0 and 1, got {rtol!r}")
    for dtype in axes["dtype"]:
        free = DTYPES if own is None else own.DTYPES
        specs.check_name("dtype", str(dtype), free if count is None else ("float64",))
    for axis in ("size", "seed"):
        for value in axes[axis]:
            if value is not None and type(value) is not int:
                raise ValueError(f"{axis} of {where} must be an integer, got {value!r}")
    cells = []
    for part in parts:
        sized = count is not None or (own or problems).is_sized(part.name)
        sizes = axes["size"] if sized else [None]
        if sized and None in sizes:
            raise ValueError(f"problem {part.name!r} of {where} needs a size")
        cells += [
            Cell(str(part), size, column, float(rtol), dtype, seed, count)
            for size in sizes
            for rtol in axes["rtol"]
            for dtype in axes["dtype"]
            for seed in axes["seed"]
            for column in columns
        ]
    return dict.fromkeys(cells, settings)


def _parse_problem(text: str, sequence: bool) -> specs.Part:
    own = wing(text)
    if own is not None:
        return own.parse(text)
    return sequences.parse(text) if sequence else problems.parse(text)


def _kind(own: Any) -> str:
    """What the problems of a wing are called."""
    return "linear systems" if own is None else f"{own.__name__.rsplit('.', 1)[-1]} problems"


def _check_own(settings: Settings, count: int | None, where: str, kind: str) -> None:
    """That nothing is asked for that only linear systems have got."""
    for name, value in (
        ("count", count),
        ("history", settings.history),
        ("first_call", settings.first_call),
        ("stages", settings.stages),
    ):
        if value:
            raise ValueError(f"{name} of {where} belongs to linear systems; leave it out of {kind}")


def _check_count(count: int | None, settings: Settings, where: str) -> None:
    """Of a sequence's group, that there are systems and that nothing is asked for that needs one system."""
    if count is None:
        if settings.sample:
            raise ValueError(f"sample of {where} belongs to sequences: give the number of systems as `count`")
        return
    if count < 1 or settings.sample < 0:
        raise ValueError(f"{where} needs a count of at least 1 and a sample of at least 0 systems")
    for name in ("history", "memory", "first_call", "stages"):
        if getattr(settings, name):
            raise ValueError(f"{name} of {where} is for single systems, but `count` makes it a sequence")


def _text(value: Any, axis: str, where: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{axis} of {where} must be text, got {value!r}")
    return value


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
