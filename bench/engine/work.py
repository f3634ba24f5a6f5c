"""The contract between suites and columns: what a problem is asked of, who answers, what an answer is worth.

A *work* is a kind of problem: its problems by name, and a judge that turns an answer into numbers.  A
*library* offers columns for some works.  A column on one problem is a *run* of four phases, of which three
are timed apart.  Nothing here knows what is solved.
"""

import abc
import functools
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .environment import version
from .options import Option, Options, options_of
from .spec import OWN, Part, Spec, check_name, check_part, parse, parse_part

DTYPES = ("float32", "float64", "complex64", "complex128")
#: Rounding in an error itself: an error meets its tolerance up to this share of it.
SLACK = 1e-6


class Missing(Exception):
    """A library that a cell needs is not installed here; the message says what to install."""


@dataclass(frozen=True)
class Cell:
    """What to measure; equal cells are the same measurement."""

    problem: str
    size: int | None
    solver: str  # a spec, as `str` prints it
    rtol: float
    dtype: str
    seed: int
    count: int | None = None  # of a sequence: how many systems

    @property
    def spec(self) -> Spec:
        return parse(self.solver)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    * `max_steps`: most iterations; `repeats`: timed solves, None for as many as a second holds.
    * `history`: keep residual norms.
    * `memory`, `first_call`, `stages`: also measure the memory of a process, the first call in so many of
      them, and so often how long tracing, lowering and compiling take (`bench.engine.process`).
    * `sample`: of a sequence, columns that carry nothing from system to system solve only so many of the
      systems, spread evenly; 0 for all.
    * `limit_s`: seconds after which a solve has failed, for columns that know how to stop; tighter tolerances
      are then not tried; 0 for no limit.
    * `isolate`: measure in a process of its own, which is killed after `kill_s` seconds.
    """

    max_steps: int = 20000
    repeats: int | None = None
    history: bool = False
    memory: bool = False
    first_call: int = 0
    stages: int = 0
    sample: int = 0
    limit_s: float = 0.0
    isolate: bool = False
    kill_s: float = 3600.0


@dataclass(frozen=True)
class Task:
    """One problem and what is asked of the column.

    Every column is given its own rule nearest to the work's tolerance `rtol`; its module says which."""

    problem: Any
    cell: Cell
    settings: Settings = Settings()

    @property
    def spec(self) -> Spec:
        return self.cell.spec

    @property
    def rtol(self) -> float:
        return self.cell.rtol

    @property
    def max_steps(self) -> int:
        return self.settings.max_steps

    @property
    def history(self) -> bool:
        return self.settings.history


@dataclass(frozen=True)
class Answer:
    """What a column claims: `result` is `successful` or the reason why not, `value` what the judge looks at.

    `counts` holds iterations by name (`num_steps`, ...), `metrics` whatever else goes into the record."""

    result: str
    value: Any = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    residual_norms: Sequence[float] | None = None


@dataclass(frozen=True)
class Timings:
    """Seconds of set-up and of compilation, and of each solve."""

    setup_s: float
    compile_s: float
    solve_s: list[float]


class Run(abc.ABC):
    """One column on one task.  The phases are timed apart; `answer` is not timed.

    * `compiles`: whether there is a program to compile, so that the first set-up and the first solve count as
      compilation, as far as they take longer than those that follow; with `ahead` the compile phase leaves
      nothing of that to them.
    * `timed`: whether seconds are asked for at all; if not, the solve runs once.
    * `seconds`: of `setup_s` and `compile_s`, where the run knows better than the engine's clock, e.g. since
      its program was compiled for an earlier cell.
    """

    compiles: ClassVar[bool] = False
    ahead: ClassVar[bool] = False
    timed: ClassVar[bool] = True

    def __init__(self, task: Task):
        self.task = task
        self.spec = task.spec
        self.seconds: dict[str, float] = {}

    def setup(self) -> Any:
        """Everything that depends on the problem alone: factorisation, hierarchy, analysis."""
        return None

    def compile(self, state: Any) -> Any:
        """Compile the solve for this state (nothing to do for libraries compiled in advance)."""
        return state

    @abc.abstractmethod
    def solve(self, program: Any) -> Any:
        """Solve, and return only when the result is there."""

    @abc.abstractmethod
    def answer(self, raw: Any) -> Answer:
        """Read the result of `solve`."""

    def timings(self, raw: Any) -> Timings | None:
        """Of a run that keeps its own clock, e.g. in another process; None for the engine's."""
        return None


@dataclass(frozen=True, eq=False)
class Offer:
    """What a library offers for one work: names with their parameters, which say what they admit where they
    are an `Option` each, and how to run them.

    `modes` are what may stand after `@`; `traced`: whether its runs have an `energy()`, for
    `Settings.stages`. `check(spec, part)` raises ValueError for what names alone do not tell; `part` is the
    problem's."""

    prepare: Callable[[Task], Run]
    solvers: Mapping[str, Options]
    preconditioners: Mapping[str, Options] = field(default_factory=dict)
    modes: Sequence[str] = ()
    check: Callable[[Spec, Part], None] = lambda spec, part: None
    traced: bool = False


@dataclass(frozen=True, eq=False)
class Library:
    """Who answers: offers by the name of the work, and where its version is found."""

    name: str
    distribution: str
    offers: Mapping[str, Offer]
    install: str = "pip install 'nsolve[peers]'"
    find_version: Callable[[], str | None] | None = None

    def version(self) -> str | None:
        """The installed version, or None where it is missing."""
        return version(self.distribution) if self.find_version is None else self.find_version()

    def require(self) -> None:
        """Raise `Missing` where it is not installed."""
        if self.version() is None:
            raise Missing(f"{self.distribution} is not installed ({self.install})")


class Modules(Mapping[str, Any]):
    """By name, an attribute of each of a package's modules, which is loaded when it is first asked for."""

    def __init__(self, package: str, names: Sequence[str], attribute: str):
        self.package, self.names, self.attribute = package, names, attribute

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return getattr(importlib.import_module(f"{self.package}.{name}"), self.attribute)

    def __contains__(self, name: object) -> bool:  # without loading it
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


class FunctionRun(Run):
    """A column that is a plain function `(problem, **parameters) -> answer`."""

    def __init__(self, task: Task, function: Callable[..., Any]):
        super().__init__(task)
        self.function = function

    def solve(self, program: Any) -> Any:
        return self.function(self.task.problem, **self.spec.solver.options)

    def answer(self, raw: Any) -> Answer:
        return raw if isinstance(raw, Answer) else Answer("successful", raw)


Column = Callable[..., Any] | type[Run]


def offer_of(columns: Mapping[str, Column]) -> Offer:
    """Columns by name, each a subclass of `Run` or a function of the problem and its parameters."""

    def parameters(column: Column) -> list[str]:
        if isinstance(column, type):
            return list(getattr(column, "parameters", ()))
        return list(options_of(column))[1:]

    def prepare(task: Task) -> Run:
        column = columns[task.spec.solver.name]
        is_run = isinstance(column, type) and issubclass(column, Run)
        return column(task) if is_run else FunctionRun(task, column)

    return Offer(prepare, {name: parameters(column) for name, column in columns.items()})


def libraries_of(columns: Mapping[str, Column], work: str) -> dict[str, Library]:
    """Libraries of columns that are named `library:solver`, or plainly `solver`."""
    named: dict[str, dict[str, Column]] = {}
    for name, column in columns.items():
        spec = parse(name)
        named.setdefault(spec.peer, {})[spec.solver.name] = column
    return {
        peer: Library(peer, peer, {work: offer_of(found)}, find_version=lambda: "")
        for peer, found in named.items()
    }


@dataclass(frozen=True, eq=False)
class Work:
    """A kind of problem.

    * `problems`: by name, functions of `size` and `seed` where they have such a parameter, and of options.
    * `judge(problem, answer, task)`: the metrics of an answer; `true_residual` is held against the tolerance,
      and `false_success` says that an answer claims what is not so.
    * `columns`: libraries by name, or the names of this package's own.
    * `settings`: names of `Settings` that make sense here, beside `repeats` and the process's.
    * `counted`: whether a problem is a sequence of `count` systems.
    * `sized`: whether every cell has a size, also where the problem's function takes none: of a sampler, the
      network evaluations.
    * `build(cell)`: overrides how a problem is made of its function.
    * `error`: what `true_residual` is, in words.
    * `tables`, `charts`: how records are shown.  `remarks(frame)`: sentences about all of them; by default,
      who is fastest.
    """

    name: str
    problems: Mapping[str, Callable[..., Any]]
    judge: Callable[[Any, Answer, Task], dict[str, Any]]
    columns: Mapping[str, Library] | Sequence[str] = ()
    settings: Sequence[str] = ("max_steps",)
    dtypes: Sequence[str] = ("float64",)
    counted: bool = False
    sized: bool = False
    least_size: int = 1
    build: Callable[["Work", Cell], Any] | None = None
    check: Callable[[Part], None] = lambda part: None
    error: str = "error"
    tables: Sequence[Any] = ()
    charts: Sequence[Any] = ()
    remarks: Callable[[Any], list[str]] | None = None

    def make(self, cell: Cell) -> Any:
        """The cell's problem."""
        if self.build is not None:
            return self.build(self, cell)
        return self.call(cell.problem, size=cell.size, seed=cell.seed)

    def call(self, text: str, **given: Any) -> Any:
        """A problem's function with its options and what it takes of `given`."""
        part = self.parse(text)
        taken = options_of(self.problems[part.name])
        return self.problems[part.name](**{k: v for k, v in given.items() if k in taken}, **part.options)

    def options(self, name: str) -> dict[str, Option]:
        """The options of a problem."""
        return options_of(
            self.problems[name], ("size", "seed", "count") if self.counted else ("size", "seed")
        )

    def is_sized(self, name: str) -> bool:
        """Whether the problem comes in sizes (a file does not)."""
        return self.sized or "size" in options_of(self.problems[name])

    def parse(self, text: str) -> Part:
        """A problem's name with options, checked; ValueError names what is unknown, with the nearest names,
        or not what the option admits."""
        part = parse_part(text)
        check_part("problem", part, {name: self.options(name) for name in self.problems})
        self.check(part)
        return part

    def library(self, name: str) -> Library:
        """The library of that name; ValueError with the nearest names when there is none."""
        if isinstance(self.columns, Mapping) and name in self.columns:
            return self.columns[name]
        from .. import columns

        return columns.find(name, self)

    def library_names(self) -> list[str]:
        """The libraries that have columns here, installed packages' among them."""
        from .. import columns

        return [name for name in columns.names(self) if self.name in self.library(name).offers]

    def offer(self, spec: Spec) -> Offer:
        """Who runs a column; ValueError where its library has nothing for this work."""
        library = self.library(spec.peer)
        if self.name not in library.offers:
            others = ", ".join(self.library_names())
            raise ValueError(f"{spec}: {spec.peer} offers nothing for {self.name} problems; {others} do")
        return library.offers[self.name]

    def check_column(self, spec: Spec, part: Part) -> None:
        """Raise ValueError when a column names what its library has not got."""
        offer = self.offer(spec)
        owner = "" if spec.peer == OWN else f"{spec.peer} "
        check_part(f"{owner}solver", spec.solver, offer.solvers)
        if spec.preconditioner is not None and ":" not in spec.preconditioner.name:
            if not offer.preconditioners:
                raise ValueError(f"{spec}: {owner}solvers of {self.name} problems take no preconditioner")
            check_part(f"{owner}preconditioner", spec.preconditioner, offer.preconditioners)
        for mode in spec.mode:
            if not offer.modes:
                raise ValueError(f"{spec}: columns of {self.name} problems have no mode @{mode}")
            check_name(f"mode of {spec}", parse_part(mode).name, offer.modes)
        offer.check(spec, part)


@functools.cache
def known_works() -> Mapping[str, Work]:
    """The works that come with the benchmark, by name; loaded when first asked for."""
    from .. import work

    return work.WORKS


def work_of(problem: str, count: int | None = None) -> Work | None:
    """The work that has a problem of that name, None where there is none."""
    name = problem.split("[")[0].strip()
    for found in known_works().values():
        if name in found.problems and found.counted == (count is not None):
            return found
    return None
