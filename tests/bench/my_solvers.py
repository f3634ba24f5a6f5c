"""Somebody else's solvers, as a package of theirs would have them; the tests of the command use them."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx

import nsolve as ns
from bench import Answer, Run


class Steepest(eqx.Module):
    """A function of operator and vector, compiled by JAX."""

    rtol: float
    num_steps: int = 2000

    def __call__(self, operator, b):
        def step(_, x):
            r = b - operator.mv(x)
            return x + r * (r @ r) / (r @ operator.mv(r))

        return jax.lax.fori_loop(0, self.num_steps, step, jnp.zeros_like(b))


class Diagonal(eqx.Module):
    """A preconditioner's constructor, which was trained for a while."""

    power: float = 1.0
    train_s: ClassVar[float] = 12.5

    def __call__(self, operator):
        scale = jnp.abs(lx.diagonal(operator)) ** self.power
        return lx.TaggedLinearOperator(lx.DiagonalLinearOperator(1 / scale), lx.positive_semidefinite_tag)


def gmres(rtol, max_steps):
    """Makes nothing: a plain function is a column itself."""
    raise NotImplementedError


class MyGMRES(ns.GMRES):
    """A lineax solver."""


def direct(system):
    """A function of the problem."""
    from scipy.sparse.linalg import spsolve

    return spsolve(system.matrix.tocsc(), system.rhs)


class Wrong(Run):
    """A run that lies."""

    parameters = ("how",)

    def solve(self, program):
        return 0 * self.task.problem.rhs

    def answer(self, raw):
        return Answer("successful", raw, {"num_steps": 7})
