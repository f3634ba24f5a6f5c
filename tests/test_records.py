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
    for table in (*chosen.tables, *chosen.work.tables):
        for made in table.render(draw().rows(name)):
            assert made.title in pages, made.title
            for row in made.rows:
                assert row.cells[0][1] in pages
