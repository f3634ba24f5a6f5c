"""The documentation's tables are those of the committed records."""

import functools
import importlib.util

import pytest

from bench.engine import suite

from .helpers import ROOT


@functools.cache
def draw():
    spec = importlib.util.spec_from_file_location("draw", ROOT / "docs" / "draw.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", draw().all_tables())
def test_tables_are_drawn_from_the_records(name):
    page = draw().page_of(name).read_text()
    assert draw().fill(page, name, draw().all_tables()[name]) == page


@pytest.mark.parametrize("name", draw().recorded())
def test_no_table_of_a_suite_is_left_out(name):
    pages = "".join(page.read_text() for page in (ROOT / "docs").glob("*.md"))
    chosen = suite.load(name)
    of_systems = () if name in draw().SHORT else chosen.work.tables
    for table in (*chosen.tables, *of_systems):
        for made in table.render(draw().rows(name)):
            assert made.title in pages, made.title
            for row in made.rows:
                assert row.cells[0][1] in pages


#: What no committed record has.
RARE = {"training", "break-even"}


def test_every_column_of_a_table_shows_something():
    """A declared field that no record has would be left out without a word."""
    shown, declared = set(), set()
    for name in draw().recorded():
        chosen = suite.load(name)
        for number, table in enumerate((*chosen.tables, *chosen.work.tables)):
            place = (chosen.work.name if table in chosen.work.tables else name, table.name or number)
            for value in getattr(table, "values", ()):
                if not value.stay or table.across is None:
                    declared.add((place[0], value.heading))
            shown |= (
                {
                    (place[0], heading.split(",")[0] if table.across else heading)
                    for made in table.render(draw().rows(name))
                    for i, heading in enumerate(made.headings)
                    if any(row.cells[i][1] not in ("", "–") for row in made.rows)
                }
                if hasattr(table, "values")
                else set()
            )
    missing = {(work, heading) for work, heading in declared - shown if heading and heading not in RARE}
    assert not missing, missing
