"""Vectors that lie on several devices stay there: no solver gathers them."""

import json
import os
import subprocess
import sys

from tests.helpers import ROOT

SCRIPT = """
import json

import jax, jax.numpy as jnp, lineax as lx, numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import nsolve as ns

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((4,), ("i",), axis_types=(AxisType.Auto,))
across = NamedSharding(mesh, PartitionSpec("i"))


def on_all(tree):
    return jax.tree.map(lambda leaf: jax.device_put(leaf, across), tree)


def operator(d):
    # Neighbours are coupled, and so are the leaves.
    def product(x):
        means = {"a": jnp.mean(x["b"]), "b": jnp.mean(x["a"]) * len(d["a"]) / d["b"].size}
        return jax.tree.map(
            lambda d, x, mean: d * x - 0.3 * jnp.roll(x, 1, 0) - 0.3 * jnp.roll(x, -1, 0) + 0.1 * mean,
            d, x, means,
        )

    structure = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), d)
    return lx.FunctionLinearOperator(product, structure, lx.positive_semidefinite_tag)


rng = np.random.default_rng(0)
d = on_all({"a": jnp.asarray(rng.uniform(1, 9, 16)), "b": jnp.asarray(rng.uniform(1, 9, (8, 3)))})
b = on_all(jax.tree.map(lambda leaf: jnp.asarray(rng.standard_normal(leaf.shape)), d))
flat, unravel = ravel_pytree(b)
matrix = jax.vmap(lambda e: ravel_pytree(operator(d).mv(unravel(e)))[0])(jnp.eye(flat.size)).T
expected = np.linalg.solve(matrix, flat)

found = {}
for name, solver in {
    "CG": ns.CG(rtol=1e-10),
    "CG recycling": ns.CG(rtol=1e-10, recycle=2),
    "FlexibleCG": ns.FlexibleCG(rtol=1e-10),
    "MINRES": ns.MINRES(rtol=1e-10),
    "BiCGStab": ns.BiCGStab(rtol=1e-10),
    "GMRES": ns.GMRES(rtol=1e-10, restart=15),
    "FGMRES": ns.FGMRES(rtol=1e-10, restart=15),
    "GCRODR": ns.GCRODR(rtol=1e-10, restart=10, recycle=2),
}.items():
    solve = jax.jit(lambda d, b: lx.linear_solve(operator(d), b, solver, throw=False).value)
    program = solve.lower(d, b).compile()
    x = program(d, b)
    error = np.linalg.norm(ravel_pytree(x)[0] - expected) / np.linalg.norm(expected)
    stays = all(leaf.sharding.is_equivalent_to(across, leaf.ndim) for leaf in x.values())
    text = program.as_text()
    found[name] = [error, stays, [word for word in ("all-gather", "all-to-all") if word in text]]
print(json.dumps(found))
"""


def test_sharded_leaves_are_not_gathered():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.returncode == 0, done.stderr
    for name, (error, stays, gathers) in json.loads(done.stdout).items():
        assert error < 1e-8 and stays and not gathers, (name, error, stays, gathers)
