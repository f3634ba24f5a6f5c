"""Everything that has a name, for the terminal: suites, problems and columns with their options."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..engine import suite as suites
from ..engine.options import Options
from ..engine.spec import check_name
from ..engine.work import Work, known_works

KINDS = ("suites", "problems", "columns")


def show_names(console: Console, what: str | None = None) -> None:
    """All names, or those of one kind, or what is known of one name; ValueError where there is no such."""
    wanted = KINDS if what is None else (what,)
    shown = False
    if "suites" in wanted or what in suites.names():
        rows = [name for name in suites.names() if what in (None, "suites", name)]
        loaded = [(name, suites.load(name)) for name in rows]
        _print(
            console, "suites", ("name", "cells", "what"), [(n, str(len(s.cells)), s.title) for n, s in loaded]
        )
        shown = True
    for work in known_works().values() if what not in ("suites", *suites.names()) else ():
        tail = " (with --count)" if work.counted else ""
        problems = [name for name in work.problems if what in (None, "problems", name)]
        if problems:
            rows = [(name, _options(work.options(name)), _said(work.problems[name])) for name in problems]
            _print(console, f"{work.name} problems{tail}", ("name", "options", "what"), rows)
            shown = True
        columns = [row for name in work.library_names() for row in _columns(work, name, what)]
        if columns:
            heads = ("library", "version", "solvers", "preconditioners", "modes")
            _print(console, f"columns of {work.name} problems", heads, columns)
            shown = True
    if not shown:
        names = [
            *KINDS,
            *suites.names(),
            *(name for w in known_works().values() for name in (*w.problems, *w.columns)),
        ]
        check_name("name", what or "", names)


def _columns(work: Work, name: str, what: str | None) -> list[tuple[str, ...]]:
    if what not in (None, "columns", name):
        return []
    library = work.library(name)
    offer = library.offers[work.name]
    version = library.version()
    modes = ", ".join(f"@{mode}" for mode in offer.modes)
    return [
        (
            name,
            version or f"missing: {library.install}",
            _names(offer.solvers),
            _names(offer.preconditioners),
            modes,
        )
    ]


def _print(console: Console, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    kept = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    view = Table(title=title, title_justify="left")
    for i in kept:
        view.add_column(heads[i], overflow="fold")
    for row in rows:
        view.add_row(*(Text(row[i]) for i in kept))
    console.print(view)


def _options(options: Options) -> str:
    if not isinstance(options, Mapping):
        return ", ".join(options)
    return ", ".join(option.shown(key) for key, option in options.items())


def _said(function: Any) -> str:
    """The first paragraph of a docstring, whole, in one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split()).rstrip(".")


def _names(named: Mapping[str, Options]) -> str:
    return ", ".join(f"{name}[{_options(keys)}]" if keys else name for name, keys in named.items())
