"""Charts: every kind draws, what failed stays visible, the same records give the same picture."""

import itertools
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import altair as alt
import polars as pl
import pytest
from polars import DataFrame

from bench.engine.record import latest, read
from bench.report import style
from bench.report.charts import Axis, Chart, Panel
from bench.report.frame import frame
from bench.report.panel import MOST_POINTS
from bench.report.usual import CHARTS, CONVERGENCE, SIZES, TIME, WORK_PRECISION
from tests.bench.records import RECORDS, record

ROWS = frame(RECORDS)
COMMITTED = Path(__file__).parents[2] / "docs" / "benchmarks"


def data(drawn, name):
    return drawn.spec()["datasets"][name]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_draws_png_and_svg(tmp_path, chart):
    drawn = list(chart.draw(ROWS))
    paths = [path for one in drawn for path in one.save(tmp_path / "deep" / "out")]
    assert {path.suffix for path in paths} == {".png", ".svg"}
    for path in paths:
        assert path.stat().st_size > 2000
        if path.suffix == ".svg":
            assert "cg" in "".join(ElementTree.parse(path).getroot().itertext())
    assert len({path.name for path in paths}) == len(paths)


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_failures_are_named(tmp_path, chart):
    svg = "".join(drawn.save(tmp_path)[1].read_text() for drawn in chart.draw(ROWS))
    assert "out of steps" in svg
    # Of tolerances there are several at size 64 alone.
    assert "solvax:cg (not installed)" in svg or chart is WORK_PRECISION


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.name)
def test_same_records_same_picture(tmp_path, chart):
    first, second = ([d.save(tmp_path / name) for d in chart.draw(ROWS)] for name in "ab")
    for before, after in zip(first, second, strict=True):
        assert [path.read_bytes() for path in before] == [path.read_bytes() for path in after]


@pytest.mark.parametrize("name", ["quick", "peers", "geometric", "foundation"])
def test_charts_of_committed_records_are_valid(name):
    """What Vega-Lite's own schema says; `spec` does not ask it, which would take seconds."""
    rows = frame(latest(read(COMMITTED / f"{name}.jsonl")))
    drawn = [list(chart.draw(rows)) for chart in CHARTS]
    for first, *_ in filter(None, drawn):
        spec = first.spec()
        few = {name: values[:2] for name, values in spec["datasets"].items()}
        alt.Chart.from_dict(spec | {"datasets": few})
    names = [one.name for one in itertools.chain(*drawn)]
    assert len(set(names)) == len(names) > 5


def test_nothing_is_drawn_of_too_little():
    assert list(CONVERGENCE.draw(frame([RECORDS[-1]]))) == []
    assert list(WORK_PRECISION.draw(frame(RECORDS[:2]))) == []
    assert list(TIME.draw(frame([RECORDS[-1]]))) == []


def test_a_group_that_derivations_reorder_keeps_its_place():
    slow, fast = record(size=64, steps=90), record(size=32, steps=1)
    assert [drawn.frame["size"][0] for drawn in TIME.draw(frame([slow, fast]))] == [64, 32]


def test_history_stops_where_it_is_no_number():
    norms = [1.0, 0.1, None, 0.01, 0.001]
    (drawn,) = CONVERGENCE.draw(frame([record(residual_norms=norms)]))
    assert [point["residual_norms"] for point in data(drawn, "panel0")] == [1.0, 0.1]
    assert list(CONVERGENCE.draw(frame([record(residual_norms=[1.0, 0.0])]))) == []


def test_of_one_solver_the_tightest_tolerance_of_each_system_is_drawn():
    rows = frame([record(), record(rtol=1e-4), record(size=64, rtol=1e-4)])
    drawn = list(CONVERGENCE.draw(rows))
    assert [d.frame["rtol"].to_list() for d in drawn] == [[1e-8], [1e-4]]


def test_a_long_history_is_thinned_and_keeps_its_ends_and_peaks():
    norms = [10 ** (-k / 1000) for k in range(5000)]
    norms[1234] = 77.0
    (drawn,) = CONVERGENCE.draw(frame([record(residual_norms=norms), record("scipy:cg")]))
    points = [p for p in data(drawn, "panel0") if p["solver"] == "cg"]
    assert 100 < len(points) <= MOST_POINTS
    assert points[0]["place"] == 0 and points[-1]["place"] == 4999
    assert max(p["residual_norms"] for p in points) == 77.0
    assert len([p for p in data(drawn, "panel0") if p["solver"] == "scipy:cg"]) == 11


def test_bars_leave_room_for_their_text():
    long = record("scipy:cg", steps=40, result="max_steps_reached", true_residual=0.1)
    drawn = next(TIME.draw(frame([record(), long])))
    spec = drawn.spec()
    panel = spec["hconcat"][0]
    end = panel["layer"][0]["encoding"]["x"]["scale"]["domain"][1]
    for bar in data(drawn, "panel0"):
        pixels = bar["seconds"] / end * panel["width"] + style.CHARACTER * len(bar["told"])
        assert pixels <= panel["width"]


def test_a_name_in_the_legend_hides_its_lines_in_every_panel():
    (drawn,) = SIZES.draw(frame([record(), record(size=64), record("scipy:cg"), record("scipy:cg", size=64)]))
    spec = drawn.spec()
    (parameter,) = spec["params"]
    assert parameter["bind"] == "legend" and parameter["select"]["fields"] == ["solver"]
    assert [entry["solver"] for entry in parameter["value"]] == ["cg", "scipy:cg"]
    assert json.dumps(spec).count(f'"param": "{parameter["name"]}"') == 4  # lines and points, of two panels


@pytest.mark.parametrize("own, others", [(1, 0), (3, 0), (20, 0), (7, 3), (8, 3), (3, 7), (1, 9)])
def test_no_two_columns_look_alike(own, others):
    known = ("scipy", "solvax", "unheard_of", "amgcl", "mine", "ott", "pot", "yours", "theirs")
    names = [f"cg[x={k}]" for k in range(own)]
    names += [f"{known[k % 9]}:cg[x={k}]" for k in range(others)]
    for order in (names, names[::-1]):
        colours, dashes, wide = style.styles(order)
        assert len({(colours[name], *dashes[name]) for name in names}) == len(names)
        assert not others or own > 7 or all(wide[name] == (":" not in name) for name in names)


@pytest.mark.parametrize(
    "low, high",
    [(1, 763), (1.7e-14, 1), (5, 7), (7, 7), (0.9, 1.1), (2.1e5, 1.7e7), (1e-3, 1e-2), (3e-9, 4e-9)],
)
def test_logarithmic_axes_hold_their_numbers_between_two_ticks_or_more(low, high):
    (start, end), ticks, labels = style.logarithmic(low, high)
    assert start <= low and high <= end
    assert 2 <= len(ticks) == len(labels) <= 9 and len(set(labels)) == len(labels)
    assert all(start <= tick <= end for tick in ticks)
    assert all(math.isclose(tick, float(f"{tick:.0e}")) for tick in ticks)


def test_ticks_read_as_numbers_or_powers():
    assert style.logarithmic(1, 763)[2] == ["1", "10", "100"]
    assert style.logarithmic(1e-8, 1)[2][0] == "10⁻⁸"
    assert style.logarithmic(4e5, 8e6)[2] == ["5·10⁵", "10⁶", "2·10⁶", "5·10⁶"]


def test_a_chart_of_several_records_together():
    def mean(rows: DataFrame) -> DataFrame:
        return rows.group_by("solver", "size", maintain_order=True).agg(pl.col("steps").mean())

    chart = Chart("mean", "mean", needs="", group=(), derive=mean,
                  panels=(Panel("line", Axis("size", "size"), Axis("steps", "steps")),))  # fmt: skip
    (drawn,) = chart.draw(frame([record(steps=10), record(steps=20, seed=1), record(size=64)]))
    assert [point["steps"] for point in data(drawn, "panel0")] == [15, 10]
    assert drawn.notes == []


def test_bars_beside_lines_name_their_rows_and_share_the_colours():
    bars = Panel("bar", Axis("steps", "steps"), Axis("solver", "", nominal=True))
    lines = Panel("points", Axis("size", "size"), Axis("steps", "steps"), order="rtol")
    (drawn,) = Chart("both", "both", needs="", group=(), panels=(lines, bars)).draw(ROWS)
    left, right = (panel["layer"] for panel in drawn.spec()["hconcat"])
    assert right[0]["encoding"]["y"]["axis"] is not None
    assert right[0]["encoding"]["color"] == left[0]["encoding"]["color"]
    assert left[0]["encoding"]["order"]["field"] == "rtol"


def test_lists_may_be_derived_of_once_they_are_taken_apart():
    panel = Panel(
        "line", Axis("at", "at"), Axis("residual_norms", "norm"), explode=("residual_norms",),
        after=lambda rows: rows.with_columns((pl.col("place") * 10).alias("at")),
    )  # fmt: skip
    (drawn,) = Chart("after", "", needs="", panels=(panel,)).draw(frame([record(residual_norms=[1.0, 0.5])]))
    assert [point["at"] for point in data(drawn, "panel0")] == [0, 10]


def test_names_that_are_no_columns_have_a_colour_each():
    names = [f"checkpoints={k}" for k in range(12)]
    assert list(style.styles(names)[0].values()) == list(style.PALETTE[:12])


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="'pie': choose from line"):
        Panel("pie", Axis("x", ""), Axis("y", ""))
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        next(TIME.draw(ROWS)).save(tmp_path / "file")
