"""Suites: Python files that say which cells to measure and how, and how their records are shown.

    from functools import partial
    from bench import Group, Suite, linear

    group = partial(Group, rtol=1e-8, history=True)
    SUITE = Suite(
        title="...",
        work=linear,
        groups=[
            group(["poisson2d", "lognormal2d[contrast=1e4]"], ["cg", "cg+ic", "scipy:cg"], size=[64, 128]),
        ],
    )

A group is the product of its lists `problem, size, solver, rtol, dtype, seed` (one value may stand for a
list), measured as the fields of `bench.engine.work.Settings` say.  One with a `count` solves sequences of so
many systems.
"""

import copy
import dataclasses
import difflib
import importlib.metadata
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import outside
from . import spec as specs
from .work import Cell, Settings, Work, work_of

ENTRY_POINTS = "nsolve.bench.suites"
AD_HOC = "ad hoc"
FOLDER = Path(__file__).parents[1] / "suites"
_SETTINGS = {f.name: f for f in dataclasses.fields(Settings)}
# Which make sense for every work.
_ALWAYS = ("repeats", "isolate", "kill_s", "first_call", "memory")


class Group:
    """A product of lists, and how its cells are measured.

    * `problem`, `solver`: names with options, such as `lognormal2d[contrast=1e4]` and `cg+ic`.
    * `size`: unknowns along an axis, or what a problem calls so; not for problems of one size.
    * `rtol`: what is asked for, between 0 and 1.  `dtype`: float64 by default.  `seed`: of the problem.
    * `count`: systems of a sequence, for works whose problems are sequences.
    * `settings`: fields of `bench.engine.work.Settings`, such as `history=True`."""

    def __init__(
        self,
        problem: str | Sequence[str],
        solver: str | Sequence[str],
        *,
        size: int | Sequence[int] | None = None,
        rtol: float | Sequence[float] = 1e-8,
        dtype: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        count: int | None = None,
        **settings: Any,
    ):
        self.axes = {
            "problem": _listed(problem),
            "solver": _listed(solver),
            "size": _listed(size),
            "rtol": _listed(rtol),
            "dtype": _listed(dtype),
            "seed": _listed(seed),
        }
        self.count = count
        self.settings = settings

    def replaced(self, *, solver: Sequence[str] | None = None, **settings: Any) -> "Group":
        """The same with other columns, or with other settings."""
        group = copy.copy(self)
        group.axes = self.axes if solver is None else {**self.axes, "solver": [*solver]}
        group.settings = {**self.settings, **settings}
        return group


@dataclass(frozen=True)
class Suite:
    """Groups of one work, with tables and charts of its records beside the work's own.

    `cells` and `name` follow from the groups and the file; `source` is the file of a suite that does not come
    with the benchmark."""

    title: str
    work: Work
    groups: Sequence[Group]
    tables: Sequence[Any] = ()
    charts: Sequence[Any] = ()
    name: str = ""
    source: str | None = None
    cells: Mapping[Cell, Settings] = field(default_factory=dict)


def names() -> list[str]:
    """The suites that come with the benchmark, and those that installed packages add."""
    own = {path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__"}
    return sorted(own | {point.name for point in importlib.metadata.entry_points(group=ENTRY_POINTS)})


def load(name: str) -> Suite:
    """A suite by its name, or by the path of a `.py` file.

    Raises ValueError naming the file, and line where it raised, and what is wrong in it."""
    if name.endswith(".py"):
        source: str | None = str(Path(name).resolve())
        found = getattr(outside.module(name), "SUITE", None)
    else:
        specs.check_name("suite", name, names())
        if (FOLDER / f"{name}.py").exists():
            source = None
            found = importlib.import_module(f"bench.suites.{name}").SUITE
        else:
            (point,) = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
            found = point.load()
            source = sys.modules[point.module].__file__
            found = found if isinstance(found, Suite) else getattr(found, "SUITE", None)
    if not isinstance(found, Suite):
        raise ValueError(f"suite {name} defines no SUITE: write SUITE = bench.Suite(...) in it")
    title = Path(name).stem if name.endswith(".py") else name
    try:
        return dataclasses.replace(found, name=title, source=source, cells=_cells_of(found))
    except ValueError as error:
        raise ValueError(f"suite {name}: {error}") from None


def _cells_of(suite: Suite) -> dict[Cell, Settings]:
    if not suite.groups:
        raise ValueError("it has no groups; a suite needs at least one")
    cells: dict[Cell, Settings] = {}
    for number, group in enumerate(suite.groups, start=1):
        cells |= expand(group, suite.work, f"group {number}")
    return cells


def ad_hoc(group: Group) -> Suite:
    """The suite of one command line; it keeps what charts of residuals need, where its work has them."""
    texts = group.axes["problem"]
    works = {}
    for text in texts:
        found = work_of(_path_as_problem(text), group.count)
        if found is None:
            other = work_of(_path_as_problem(text), None if group.count is not None else 1)
            if other is not None:
                hint = "give the number of systems with --count" if other.counted else "leave out --count"
                raise ValueError(
                    f"problem {text!r} is {'a sequence' if other.counted else 'one system'}: {hint}"
                )
            specs.check_name("problem", text.split("[")[0].strip(), _all_problems(group.count))
        assert found is not None
        works[found.name] = found
    if len(works) > 1:
        raise ValueError(
            f"these problems are of different kinds: {' and '.join(sorted(works))}; run them apart"
        )
    (work,) = works.values()
    if "history" in work.settings:
        group = group.replaced(history=True)
    return Suite(AD_HOC, work, [group], name=AD_HOC, cells=expand(group, work, "command line"))


def _all_problems(count: int | None) -> list[str]:
    from .work import known_works

    return [name for w in known_works().values() if w.counted == (count is not None) for name in w.problems]


def suite_of(records: Sequence[Mapping[str, Any]]) -> Suite:
    """What shows these records: their suite where it is one of ours, or else their kind of work."""
    from .work import known_works

    name, first = records[0].get("suite"), records[0]
    if name in names():
        return load(str(name))
    if "source" in first and Path(first["source"]).is_file():
        return load(first["source"])
    works = known_works()
    found = works.get(first["work"]) if "work" in first else work_of(first["problem"], first.get("length"))
    if found is None:
        raise ValueError(
            f"these records are of {first.get('work', first['problem'])!r}, which is not known here, nor is "
            f"their suite's file {first.get('source', '')}; `nsolve-bench run` with that file shows them"
        )
    return Suite(str(name or AD_HOC), found, (), name=str(name or AD_HOC))


def select(suite: Suite, filters: Sequence[str], only_problems: Sequence[str]) -> Suite:
    """The cells that some filter admits and that are of the given problems.

    ValueError for an unknown name, and for a filter or problem that admits nothing."""
    cells, work = suite.cells, suite.work
    patterns = [specs.parse(text) for text in filters]
    for pattern in patterns:
        work.check_column(pattern, specs.parse_part(next(iter(cells)).problem))
        if not any(specs.matches(pattern, cell.spec) for cell in cells):
            found = ", ".join(dict.fromkeys(cell.solver for cell in cells))
            raise ValueError(f"filter {str(pattern)!r} admits no cell of {suite.name}: {found}")
    parts = [work.parse(_path_as_problem(text)) for text in only_problems]

    def admitted(cell: Cell) -> bool:
        problem = specs.parse_part(cell.problem)
        return (not patterns or any(specs.matches(p, cell.spec) for p in patterns)) and (
            not parts or any(specs.part_matches(p, problem) for p in parts)
        )

    cells = {cell: settings for cell, settings in cells.items() if admitted(cell)}
    if not cells:
        raise ValueError(f"no cell of {suite.name} is left with {[*filters]} and {[*only_problems]}")
    return dataclasses.replace(suite, cells=cells)


def with_columns(suite: Suite, columns: Sequence[str]) -> Suite:
    """The suite with more columns in each of its groups."""
    cells = dict(suite.cells)
    for number, group in enumerate(suite.groups, start=1):
        more = expand(group.replaced(solver=columns), suite.work, f"group {number}")
        cells |= {cell: settings for cell, settings in more.items() if cell not in cells}
    # A column stands beside those that it is compared with.
    order = {(c.problem, c.size, c.rtol, c.dtype, c.seed): i for i, c in reversed([*enumerate(cells)])}
    place = sorted(cells, key=lambda c: order[c.problem, c.size, c.rtol, c.dtype, c.seed])
    return dataclasses.replace(suite, cells={cell: cells[cell] for cell in place})


def replace_settings(suite: Suite, **settings: Any) -> Suite:
    """The same cells measured otherwise; None changes nothing."""
    given = {name: value for name, value in settings.items() if value is not None}
    cells = {cell: dataclasses.replace(s, **given) for cell, s in suite.cells.items()}
    return dataclasses.replace(suite, cells=cells)


def expand(group: Group, work: Work, where: str) -> dict[Cell, Settings]:
    """The cells of a group, every name and number of it checked."""
    settings = _settings(group, work, where)
    axes = group.axes
    for axis in ("problem", "solver"):
        if not axes[axis] or axes[axis] == [None]:
            raise ValueError(f"{where} has no {axis}")
        for value in axes[axis]:
            if not isinstance(value, str):
                raise ValueError(f"{axis} of {where} must be text, got {value!r}")
    _check_count(group.count, work, where)
    parts = [work.parse(_path_as_problem(text)) for text in axes["problem"]]
    columns = [specs.parse(text) for text in axes["solver"]]
    for column in columns:
        for part in parts:
            work.check_column(column, part)
        if settings.stages and not work.offer(column).traced:
            raise ValueError(f"stages of {where} are of our programs and of lineax's, not of {column}")
    for rtol in axes["rtol"]:
        if not isinstance(rtol, int | float) or not 0 < rtol < 1:
            raise ValueError(f"rtol of {where} must lie between 0 and 1, got {rtol!r}")
    dtypes = ["float64"] if axes["dtype"] == [None] else axes["dtype"]
    for dtype in dtypes:
        specs.check_name("dtype", str(dtype), work.dtypes)
    for axis, least in (("size", work.least_size), ("seed", 0)):
        for value in axes[axis]:
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"{axis} of {where} must be an integer of at least {least}, got {value!r}")
    cells = []
    for part in parts:
        sized = work.is_sized(part.name)
        if sized and None in axes["size"]:
            raise ValueError(f"problem {part.name!r} of {where} needs a size")
        cells += [
            Cell(str(part), size, str(column), float(rtol), dtype, seed, group.count)
            for dtype in dtypes
            for seed in axes["seed"]
            for rtol in axes["rtol"]
            for size in (axes["size"] if sized else [None])
            for column in columns
        ]
    return dict.fromkeys(cells, settings)


def _settings(group: Group, work: Work, where: str) -> Settings:
    free = (*work.settings, *_ALWAYS)
    for name, value in group.settings.items():
        if name not in _SETTINGS:
            near = difflib.get_close_matches(name, (*group.axes, "count", *_SETTINGS), n=1)
            hint = (
                f"did you mean {near[0]}?"
                if near
                else f"there are {', '.join((*group.axes, 'count', *_SETTINGS))}"
            )
            raise ValueError(f"unknown key of {where} {name!r}: {hint}")
        default = _SETTINGS[name].default
        wanted = int if default is None else type(default)
        admitted = (int, float) if wanted is float else (wanted,)
        if type(value) not in admitted or (wanted is not bool and value < 0):
            raise ValueError(f"{name} of {where} must be {wanted.__name__} and not negative, got {value!r}")
        if name not in free and value != default:
            raise ValueError(
                f"{name} of {where} has no meaning for {work.name} problems; there are {', '.join(free)}"
            )
    settings = Settings(**group.settings)
    if settings.max_steps < 1:
        raise ValueError(f"max_steps of {where} must be at least 1, got {settings.max_steps}")
    return settings


def _check_count(count: int | None, work: Work, where: str) -> None:
    if not work.counted:
        if count is not None:
            raise ValueError(f"{where}: {work.name} problems are single ones; leave out count")
        return
    if type(count) is not int or count < 1:
        raise ValueError(f"{where} needs a count of at least 1 system, got {count!r}")


def _path_as_problem(text: str) -> str:
    """A path ending in `.mtx` or `.mtx.gz` is a problem too."""
    if text.strip().endswith((".mtx", ".mtx.gz")) and "[" not in text:
        return f"matrix_market[path={text.strip()}]"
    return text


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | range) else [value]
