"""Samples of a family: that their residuals are true, that each can be made again, that files stay whole."""

import subprocess
import sys
import time

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import nsolve as ns
from learned.data import chains, sample_file
from learned.data.chains import REASONS, Chains
from nsolve.gallery.families import Darcy
from tests import gallery_reference as reference
from tests.helpers import ROOT

CG = ns.CG(rtol=1e-8)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def first(samples, count):
    return jax.tree.map(lambda array: array[:count], samples)


def test_residuals_are_true():
    samples = Chains(Darcy(8), CG).draw_and_solve(0, 0, 5)
    assert set(samples.results) == {0} and np.all(samples.true_residuals <= 1e-8 * (1 + 1e-6))
    for k in range(5):
        matrix = reference.diffusion(samples.inputs[k, 0], 1 / 8)
        residual = np.linalg.norm(1 - matrix @ samples.solutions[k].ravel()) / 8
        assert samples.true_residuals[k] == pytest.approx(residual, rel=1e-3)


def test_a_sample_depends_on_seed_and_number_only():
    five = Chains(Darcy(8), CG).draw_and_solve(0, 0, 5)
    assert_same(five, first(Chains(Darcy(8), CG, order="grouped").draw_and_solve(0, 0, 8), 5))
    assert_same(first(five, 2), Chains(Darcy(8), CG, order="none").draw_and_solve(0, 0, 2))
    assert_same(five.inputs[3], Chains(Darcy(8), CG).draw_and_solve(0, 3, 1).inputs[0])
    assert not np.any(Chains(Darcy(8), CG).draw_and_solve(1, 0, 5).inputs == five.inputs)


def test_both_forms_and_a_preconditioner_of_each_system():
    solver = ns.CG(rtol=1e-8, preconditioner=ns.preconditioners.IncompleteCholesky())
    plain, one, each = (
        Chains(Darcy(8), *given).draw_and_solve(0, 0, 5)
        for given in ((CG, "stencil"), (solver, "sparse"), (solver, "sparse", "greedy", False, True))
    )
    np.testing.assert_allclose(one.solutions, each.solutions, rtol=1e-6)
    np.testing.assert_allclose(one.solutions, plain.solutions, rtol=1e-6)
    assert each.num_steps.sum() < one.num_steps.sum() < plain.num_steps.sum()
    # An operator is taken as it is.
    made = solver.preconditioner(Darcy(8).as_sparse(Darcy(8).reference()))
    given = Chains(Darcy(8), ns.CG(rtol=1e-8, preconditioner=made), "sparse").draw_and_solve(0, 0, 5)
    np.testing.assert_array_equal(given.num_steps, one.num_steps)


@pytest.mark.parametrize(
    "cold, solver",
    [
        (CG, ns.CG(rtol=1e-8, recycle=4)),
        (ns.GMRES(rtol=1e-8, restart=16), ns.GCRODR(1e-8, restart=10, recycle=6)),
    ],
    ids=["cg", "gcro_dr"],
)
def test_recycling_along_the_chains(cold, solver):
    cold = Chains(Darcy(16), cold).draw_and_solve(0, 0, 12)
    carried = Chains(Darcy(16), solver, recycle=True).draw_and_solve(0, 0, 12)
    assert set(carried.results) == {0} and carried.num_steps.sum() < 0.9 * cold.num_steps.sum()
    np.testing.assert_allclose(carried.solutions, cold.solutions, rtol=1e-6)


class Broken(Darcy):
    def sample(self, key):
        field = Darcy.sample(self, key)["permeability"]
        return {"permeability": jnp.where(jax.random.key_data(key)[0] % 5 == 0, jnp.nan, field)}


def test_one_broken_sample_leaves_the_others():
    samples = Chains(Broken(8), CG).draw_and_solve(0, 0, 12)
    broken = np.isnan(samples.inputs).any((1, 2, 3))
    assert 0 < broken.sum() < 12
    np.testing.assert_array_equal(samples.results != 0, broken)
    assert np.all(np.isinf(samples.true_residuals[broken]))


def test_a_solver_that_lies_is_found_out(monkeypatch):
    honest = chains.solve_sequence

    def lie(*arguments, **options):
        sequence = honest(*arguments, **options)
        return eqx.tree_at(lambda sequence: sequence.value, sequence, sequence.value / 2)

    monkeypatch.setattr(chains, "solve_sequence", lie)
    samples = Chains(Darcy(8), CG).draw_and_solve(0, 0, 5)
    assert {REASONS[result] for result in samples.results} == {"residual_too_large"}
    np.testing.assert_allclose(samples.true_residuals, 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "greedily"}, "`order` must be one of greedy, grouped, none, not 'greedily'"),
        ({"form": "bcoo"}, "`form` must be one of sparse, stencil, not 'bcoo'"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        Chains(Darcy(8), CG, **options)


def test_writer_killed_at_any_moment_leaves_whole_samples(tmp_path):
    script = (
        "import sys, pathlib, numpy as np\n"
        "from learned.data.sample_file import SampleFile\n"
        "path, settings = pathlib.Path(sys.argv[1]), {'seed': 1}\n"
        "with SampleFile.open(path, settings, {}, {'x': ((50, 40), 'f8')}, 10**5) as file:\n"
        "    print('open', flush=True)\n"
        "    for k in range(file.num_complete, 10**5, 3):\n"
        "        file.write(k, {'x': np.broadcast_to(np.arange(k, k + 3)[:, None, None], (3, 50, 40))})\n"
    )
    path, done, rng = tmp_path / "d.h5", [0], np.random.default_rng(0)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE
        )
        process.stdout.readline()
        time.sleep(rng.uniform(0.05, 0.3))
        process.kill()
        process.communicate()
        done.append(sample_file.check(path, {"seed": 1}))
        with h5py.File(path) as file:
            x = file["x"][: done[-1]]
        np.testing.assert_array_equal(x[:, 0, 0], np.arange(done[-1]))
        assert np.all(x == x[:, :1, :1])
    assert done == sorted(set(done))  # each of them got on
