"""The laws of `tests/contract.py` can fail: each refuses what breaks it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from . import contract
from .contract import Bad, Subject


def _refuse(number):
    raise ValueError(f"`number` must be positive, got {number}.")


SOUND = Subject(
    "sound",
    lambda x: jnp.sin(x),
    (np.array([0.3, 0.5]),),
    np.sin,
    {"negative": Bad(lambda: _refuse(-1), "-1")},
)


def _with_slope(slope):
    @jax.custom_jvp
    def sine(x):
        return jnp.sin(x)

    sine.defjvp(lambda x, dx: (jnp.sin(x[0]), dx[0] * slope(x[0])))
    return sine


@jax.custom_batching.custom_vmap
def _wrong_batch(x):
    return jnp.sin(x)


@_wrong_batch.def_vmap
def _(size, batched, x):
    return jnp.sin(x[:1]) + 0 * x, True


_counted = []


def _traced_twice(x):
    _counted.append(1)
    return jnp.sin(x)


def _wide(x):
    return jnp.sin(x).astype(jnp.float64)


BROKEN = [
    (contract.law_value, {"reference": np.cos}),
    (contract.law_value, {"reference": lambda x: np.sin(x)[:1]}),
    (contract.law_value, {"call": lambda x: jnp.sin(x).astype(jnp.float32), "rtol": 1e-3}),
    (contract.law_one_trace, {"call": _traced_twice, "traces": _counted}),
    (contract.law_vmap, {"call": _wrong_batch}),
    (contract.law_derivatives, {"call": _with_slope(lambda x: 0.9999 * jnp.cos(x))}),
    (contract.law_derivatives, {"call": _with_slope(lambda x: jax.lax.stop_gradient(jnp.cos(x)))}),
    (contract.law_single_precision, {"call": _wide}),
    (contract.law_single_precision, {"call": lambda x: (1 + 1e-4) * jnp.sin(x)}),
    (contract.law_bad_inputs, {"bad_inputs": {"accepted": Bad(lambda: None, "-1")}}),
    (contract.law_bad_inputs, {"bad_inputs": {"another type": Bad(lambda: _refuse(-1), "-1", TypeError)}}),
    (contract.law_bad_inputs, {"bad_inputs": {"another message": Bad(lambda: _refuse(-1), "-2")}}),
]


@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_what_is_sound_passes(law):
    law(SOUND)


@pytest.mark.parametrize("law, change", BROKEN)
def test_what_breaks_a_law_is_refused(law, change):
    with pytest.raises((AssertionError, ValueError, pytest.fail.Exception)):
        law(dataclasses.replace(SOUND, **{"traces": [], **change}))
