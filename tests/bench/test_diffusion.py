"""Diffusion samplers as cells: each question's answer against what is known, tables, pictures, refusals."""

import base64
import importlib.util

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest

from bench.columns import diffusers
from bench.columns.nsolve import diffusion as own
from bench.engine import measure, record, spec, suite
from bench.engine.suite import Group
from bench.engine.work import Answer, Cell, Settings, Task
from bench.report import diffusion as report
from bench.report import tables
from bench.report.frame import frame
from bench.suites import diffusion as suites
from bench.work import diffusion as work
from bench.work.diffusion import WORK, Samples
from nsolve import diffusion
from nsolve.gallery import mixtures
from tests.helpers import ROOT

# The digits come with scikit-learn, a peer.
HAS_DIGITS = importlib.util.find_spec("sklearn") is not None
needs_digits = pytest.mark.skipif(not HAS_DIGITS, reason="scikit-learn is not installed")


def cell(problem, solver, size, dtype="float64"):
    return Cell(problem, size, str(spec.parse(solver)), 1e-8, dtype, 0)


def run(*args):
    return measure.measure(cell(*args), Settings(repeats=1), WORK, "test")


def ok(row):
    return frame([row])["ok"][0]


def forget():
    """What was computed with another number of samples."""
    for remembered in (work.exact, work.path, work.reference_digits):
        remembered.cache_clear()


@pytest.fixture(scope="module")
def records():
    """A small record of every question that the suite asks."""
    images = "images[batch=2,network=convolutions,side=8]"
    with pytest.MonkeyPatch.context() as patch:
        small = {"SAMPLES": 8, "ORDER_SAMPLES": 4, "DOUBLINGS": 2, "DIGITS": 12, "REFERENCE_STEPS": 9}
        for name, value in small.items():
            patch.setattr(work, name, value)
        forget()
        rows = [
            run("mixture1d", "unipc[order=2]@order", 24),
            run("mixture1d", "ipndm[legacy=true,order=2]@order", 24),
            run("gaussian[dimension=3]", "ddpm@order", 40),
            *([run("trained_digits", "ddim", 8, "float32")] if HAS_DIGITS else []),
            run("images[batch=2,side=8]", "dpm_solver_pp[order=2]", 6, "float32"),
        ]
        for size in (4, 8):
            for solver in ("ddim", "dpm_solver_pp[mode=single,order=2]"):
                rows.append(run("mixture1d", solver, size))
            rows += [run("gaussian[dimension=3]", solver, size) for solver in ("ddim", "ddpm")]
            for kept in ("none", "step"):
                rows.append(run(images, f"ddim[checkpoints={kept}]@gradient", 8 * size, "float32"))
        yield rows
        forget()


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(work, "SAMPLES", 8)
    forget()
    yield
    forget()


def of_kind(records, kind):
    return [row for row in records if row["kind"] == kind]


def by_column(rows):
    return {
        part["column"][0]: part.sort("size")
        for part in frame(rows).partition_by("column", maintain_order=True)
    }


def test_every_question_has_its_answer(records):
    kinds = {"order", "error", "overhead", "gradient"} | ({"digits"} if HAS_DIGITS else set())
    assert {row["kind"] for row in records} == kinds
    for row in records:
        assert row["result"] == "successful" and ok(row) and row["rtol"] is None, row
    rows = report.prepared(frame(records))
    assert rows["asks"].to_list() == [row["kind"] for row in records]  # also told without the record's word


# --- orders ---


def test_orders_are_found(records):
    found = {row["solver"]: row for row in of_kind(records, "order")}
    for name, stated in (("unipc[order=2]@order", 3), ("ddpm@order", 1)):
        assert found[name]["stated_order"] == stated
        assert found[name]["order"] == pytest.approx(stated, abs=0.15)
        assert len(found[name]["errors"]) == len(found[name]["steps"]) == 3


def test_a_sampler_below_its_order_is_a_failure(monkeypatch):
    monkeypatch.setattr(work, "DOUBLINGS", 2)
    monkeypatch.setattr(own, "stated_order", lambda made: 2)
    row = run("gaussian[dimension=2]", "ddim@order", 40)
    assert row["result"] == "order_missed" and "below its order" in frame([row])["reason"][0]


def test_the_slope_is_that_of_a_power():
    counts = [10, 20, 40, 80, 160]
    assert work.slope(counts, [3.0 * n**-2.5 for n in counts]) == pytest.approx(2.5)
    assert np.isnan(work.slope(counts, [1e-3, 1e-15, 1e-15, 0.0, 0.0]))  # rounding


def test_an_order_that_cannot_be_told_is_none(monkeypatch):
    monkeypatch.setattr(work, "DOUBLINGS", 1)
    problem = work.made("gaussian[dimension=2]")
    plans = [diffusion.DDIM().plan(diffusion.log_snr_grid(n), work.ORDER_SCHEDULE) for n in (4, 8)]
    asked = Task(problem, cell("gaussian[dimension=2]", "ddim@order", 4))
    found = WORK.judge(problem, Answer("successful", plans, metrics={"stated_order": 1}), asked)
    assert found["result"] == "order_missed" and np.isnan(found["order"])


@pytest.mark.parametrize(
    "made", [diffusion.DPMSolverPP(3), diffusion.UniPC(2)], ids=lambda s: type(s).__name__
)
def test_exact_starts_are_the_first_points(made):
    problem = mixtures.mixture1d()
    times = np.linspace(0.9, 0.1, 9)
    known = made.plan(times, work.ORDER_SCHEDULE).num_registers - 1
    path = np.random.default_rng(0).standard_normal((known + 1, 4, 1))
    plan = own.with_exact_start(made, times, path)
    network = mixtures.denoiser(problem, work.ORDER_SCHEDULE)
    found = diffusion.sample(network, plan, jnp.zeros((4, 1)), trajectory=True)
    x, way = found.value, found.trajectory
    assert np.allclose(way.x[: known + 1], path, rtol=0, atol=1e-15)
    # From there on it is the method itself, which is given the outputs at the first points.
    again = own.with_exact_start(made, times, np.asarray(way.x[: known + 1]))
    assert np.array_equal(diffusion.sample(network, again, jnp.ones((4, 1))).value, x)


# --- errors ---


def test_evaluations_are_counted_not_steps(records, small):
    found = by_column([row for row in of_kind(records, "error") if row["problem"] == "mixture1d"])
    assert found["dpm_solver_pp[mode=single,order=2]"]["num_evaluations"].to_list() == [4, 8]
    first, last = found["ddim"]["true_residual"]
    assert first > last > 1e-3
    assert run("mixture1d", "dpm_solver_pp[mode=single,order=2]", 5)["num_evaluations"] == 4


def test_errors_are_distances_from_the_flow(small):
    problem, exact = work.made("mixture1d"), work.exact("mixture1d")
    asked = Task(problem, cell("mixture1d", "ddim", 5))
    row = WORK.judge(problem, Answer("successful", Samples(exact + 0.25)), asked)
    assert row.pop("true_residual") == pytest.approx(0.25, rel=1e-14)
    assert row == {"kind": "error", "rtol": None, "error_kind": "rms"}


def test_noise_is_measured_where_its_distribution_is_known():
    for mode in ("", "@order"):
        assert "measure it on gaussian" in run("mixture1d", f"ddpm{mode}", 16)["result"]


def test_columns_that_learn(small):
    row = run("mixture1d", "tuned[num_steps=30,order=1]", 3)
    plain = run("mixture1d", "unipc[order=1]", 3)
    assert row["true_residual"] < 0.7 * plain["true_residual"] and row["setup_s"] > 0
    assert plain["setup_s"] is None


def test_what_is_learned_once_is_charged_to_all(small):
    own.statistics.cache_clear()
    rows = [run("mixture1d", "dpm_solver_v3[order=2]", size) for size in (4, 5)]
    assert rows[0]["setup_s"] == rows[1]["setup_s"] > 1e-3
    assert own.statistics.cache_info().misses == 1


# --- seconds, memory, digits ---


def test_samplers_of_an_order_share_programs(records):
    (row,) = of_kind(records, "overhead")
    assert {"dpm_solver[order=2]", "deis[order=2]"} <= set(row["of_order"]) - set(row["compiled"])
    assert "unipc[order=2]" in row["compiled"]  # its corrector keeps one output more
    assert row["solve_s"]["median"] > 0 and row["compile_s"] > 0
    assert row["seconds_per_step"] == row["solve_s"]["median"] / 6


def test_memory_of_reverse_mode_grows_with_what_is_kept(records):
    found = by_column(of_kind(records, "gradient"))
    none, step = (found[f"ddim[checkpoints={kept}]"]["temporary_bytes"] for kept in ("none", "step"))
    state = 2 * 8 * 8 * 3 * 4
    assert none[1] - none[0] > 32 * 5 * state  # a step keeps the features of the network
    assert 32 * state <= step[1] - step[0] < 32 * 2 * state  # the state alone


@needs_digits
def test_digits_of_a_record_can_be_seen(records):
    (row,) = of_kind(records, "digits")
    pictures = np.frombuffer(base64.b64decode(row["pictures"]), np.uint8).reshape(-1, 8, 8)
    assert pictures.shape == (work.SHOWN, 8, 8) and pictures.min() == 0 and pictures.max() == 255
    images = np.linspace(-1, 1, 64).reshape(1, 8, 8, 1)
    levels = np.frombuffer(base64.b64decode(work.encode(images)), np.uint8)
    assert np.abs(levels / 127.5 - 1 - images.ravel()).max() <= 1 / 255
    assert row["energy_distance"] == pytest.approx(row["reference_energy"], abs=0.1)


def test_pictures_are_what_was_encoded():
    import io

    from matplotlib.image import imread

    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8))
    text = base64.b64encode(images.astype(np.uint8).tobytes()).decode()
    head, _, data = report.picture(text).partition(",")
    assert head == "data:image/png;base64"
    strip = np.round(255 * imread(io.BytesIO(base64.b64decode(data)), format="png"))
    assert strip.shape == (2 * 10, 2 * (9 * 3 + 1))
    for i in range(3):
        assert np.array_equal(strip[2:18:2, 2 + 18 * i : 18 + 18 * i : 2], images[i])


@needs_digits
def test_a_missing_network_says_how_to_make_it():
    row = run("trained_digits[model=nowhere/model.eqx]", "ddim", 5, "float32")
    assert (
        row["result"] == "missing" and "nsolve-train diffusion --data digits --out nowhere" in row["message"]
    )


# --- others, the suite, what is refused ---


def test_other_libraries_may_be_missing(monkeypatch):
    monkeypatch.setattr("bench.engine.work.version", lambda name: None)
    row = run("mixture1d", "diffusers:ddim", 5)
    assert row["result"] == "missing" and "peers-torch" in row["message"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # theirs
def test_diffusers_ends_where_the_flow_does(small):
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    few, many = (run("mixture1d", "diffusers:unipc[order=2]", size) for size in (5, 60))
    assert ok(few) and ok(many), (few["result"], many["result"])
    assert many["true_residual"] < 0.2 * few["true_residual"] and many["num_evaluations"] == 60
    seconds = run("images[batch=1,side=8]", "diffusers:ddim", 4, "float32")
    assert seconds["seconds_per_step"] == seconds["solve_s"]["median"] / 4 > 0


def committed():
    """The committed records, as newer ones say what they are of."""
    return [{**row, "work": "diffusion"} for row in record.read(ROOT / "docs/benchmarks/diffusion.jsonl")]


def test_committed_records_are_those_of_the_suite():
    rows, cells = committed(), suite.load("diffusion").cells
    assert {row["key"] for row in rows} == {record.key(cell, "cpu") for cell in cells}


def test_committed_records_are_shown():
    rows = frame(committed())
    shown = "".join(tables.markdown([*table.render(rows)]) for table in (*WORK.tables, suites.TUNED))
    # Published forms state no order.
    assert "35 of 35 samplers show" in shown and "8 of 8 samplers show" in shown
    assert "| dpm_solver_pp[legacy=true,order=3] | – | 2.00 |" in shown
    assert "| ring | 0.331 → 0.0273 | 0.321 → 0.0192 | 0.153 → 0.0135 | 0.0663 → 8.3e-3 |" in shown
    lines = [[shown for _, shown in row.cells] for row in suites.promises(rows)]
    assert lines[0][1] == "43 of 43" and len(lines) > 50


def test_a_sampler_that_fails_is_counted(records):
    broken = {
        **of_kind(records, "order")[0],
        "result": "error: ValueError: no",
        "stated_order": None,
        "order": None,
    }
    rows = report.prepared(frame([*of_kind(records, "order")[:2], broken]))
    assert report.keep_their_word(rows) == "1 of 2 samplers show the order that they state."


@pytest.mark.parametrize(
    ("problem", "solver", "words"),
    [
        ("rings", "ddim", "did you mean ring"),
        ("ring[mode=3]", "ddim", "did you mean modes"),
        (
            "images[network=dense]",
            "ddim",
            "network of images must be one of trivial, convolutions, got 'dense'",
        ),
        ("ring", "cg", "unknown solver 'cg'"),
        ("ring", "scipy:cg", "offers nothing for diffusion"),
        (
            "ring",
            "ddim[grid=cosine]",
            "grid of ddim must be one of log_snr, uniform, quadratic, karras, got 'cosine'",
        ),
        ("ring", "dpm_solver_pp[order=9]", r"dpm_solver_pp\[order=9\]: `order`"),
        ("ring", "rho_rk[tableau=euler5]", "euler5"),
        ("ring", "dpm_solver_v3[pseudo=maybe]", "pseudo"),
        ("ring", "tuned[num_steps=0]", "num_steps of tuned must be an integer of at least 1, got 0"),
        ("ring", "ddpm", "measure it on gaussian"),
        ("ring", "ddim@gradient", "of ring can be asked @order"),
        ("images", "ddim@order", "of images can be asked @gradient"),
        ("images", "ddim[checkpoints=some]@gradient", "checkpoints"),
        ("images", "tuned", "data whose flow is known"),
        ("trained_digits", "ddim@order", "nothing else"),
        ("ring", "diffusers:ddim[order=2]", "order"),
        ("ring", "diffusers:unipc[order=0]", "order of unipc must be one of 1, 2, 3, got 0"),
        ("ring", "diffusers:ddim@order", "only nsolve"),
        ("trained_digits", "diffusers:ddim", "nsolve's samplers alone"),
    ],
)
def test_what_cannot_be_asked_is_refused(problem, solver, words):
    with pytest.raises(ValueError, match=words):
        suite.expand(Group(problem, solver, size=5), WORK, "group 1")


def test_every_cell_has_a_size():
    with pytest.raises(ValueError, match="needs a size"):
        suite.expand(Group("ring", "ddim"), WORK, "group 1")


def test_schedulers_are_those_of_the_library():
    assert set(diffusers.SOLVERS) == set(diffusers.SCHEDULERS)
    assert all(
        ("order" in names) == (name not in diffusers.WITHOUT_ORDER)
        for name, names in diffusers.SOLVERS.items()
    )


# --- tables and pictures ---


def test_tables(records):
    shown = "".join(tables.markdown([*table.render(frame(records))]) for table in WORK.tables)
    assert "**mixture1d: order**" in shown and "| unipc[order=2] | 3 | " in shown
    assert "1 of 1 samplers show the order that they state" in shown
    assert "Smallest: " in shown and "2-Wasserstein" in shown
    assert not HAS_DIGITS or "energy, 8" in shown


@pytest.mark.filterwarnings("ignore:Automatically deduplicated")
def test_pictures(records):
    rows = frame(records)
    drawn = {chart.name: [*chart.draw(rows)] for chart in WORK.charts}
    assert len(drawn["evaluations"]) == 2 and len(drawn["order"]) == 2 and len(drawn["reverse"]) == 1
    assert not [*report.EVALUATIONS.draw(rows.filter(pl.col("size") == 4))]
    if HAS_DIGITS:
        (strips,) = drawn["digits"]
        assert strips.frame["column"].to_list() == ["200 steps", "ddim"]
        assert str(strips.spec()).count("data:image/png") == 2
