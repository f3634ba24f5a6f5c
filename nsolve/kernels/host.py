"""Functions of the host that XLA calls on the CPU as it calls compiled kernels.

For work that a library does: its arrays are read and written in place, under Python's lock.  On other
platforms, and with `NSOLVE_KERNELS=off`, JAX's own callbacks carry the arrays to the host and back.
"""

import _thread
import ctypes
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from .. import _ffi
from ._layout import (
    ARGUMENTS,
    DATA,
    DIMENSIONS,
    DTYPE,
    DTYPES,
    EXTENSION,
    METADATA,
    REPORTED_VERSION,
    RESULTS,
    TRAITS,
    VERSION,
)

#: Takes arrays and gives arrays, each with one axis.
HostFunction = Callable[..., Sequence[np.ndarray]]
_DTYPES = dict(DTYPES.values())
_SOON_S = 0.05


def host_kernel(name: str, function: HostFunction, failed: int = 0) -> _ffi.Kernel:
    """A kernel that is a function of the host.

    Where that raises, what was raised is printed, and the results are NaN, integers `failed`; an interrupt
    from the keyboard is raised again once XLA has returned."""

    def portable(like: Any, *arguments: Array) -> Sequence[Array]:
        def run(*arguments: Array) -> Sequence[np.ndarray]:
            return tuple(function(*map(np.asarray, arguments)))

        return jax.pure_callback(run, like, *arguments, vmap_method="sequential")

    kernel = _ffi.Kernel(name, lambda dtype: _Handler(function, failed), portable)
    _functions[kernel] = function
    return kernel


_functions: dict[_ffi.Kernel, HostFunction] = {}


def call(kernel: _ffi.Kernel, *arguments: Any, like: Sequence[tuple[int, Any]]) -> Sequence[Array]:
    """Its results, of these sizes and dtypes; at once, with nothing compiled, where all arrays are there."""
    if not any(isinstance(argument, Tracer) for argument in arguments):
        return [jax.device_put(result) for result in _functions[kernel](*map(np.asarray, arguments))]
    shapes = tuple(jax.ShapeDtypeStruct((size,), dtype) for size, dtype in like)
    return _ffi.call(kernel, shapes, *map(jnp.asarray, arguments), like=shapes)


class _Handler:
    """What XLA calls; `ctypes` is the C function."""

    def __init__(self, function: HostFunction, failed: int):
        def run(frame: int) -> int:
            places = []
            try:
                extension = _word(frame, EXTENSION)
                if extension:  # XLA's first call asks for the version of the interface instead of work
                    metadata = _word(extension, METADATA)
                    _set_word(metadata, REPORTED_VERSION, VERSION)
                    _set_word(metadata, TRAITS, 0)
                    return 0
                places = _arrays(frame, RESULTS)
                for place, result in zip(places, function(*_arrays(frame, ARGUMENTS)), strict=True):
                    place[:] = result
            except BaseException as error:  # none can pass through XLA
                for place in places:
                    place[:] = np.nan if place.dtype.kind in "fc" else failed
                if isinstance(error, KeyboardInterrupt):  # once more, when XLA has returned
                    threading.Timer(_SOON_S, _thread.interrupt_main).start()
                else:
                    traceback.print_exc()
            return 0

        self.ctypes = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_ssize_t)(run)


def _word(address: int, place: int) -> int:
    return ctypes.c_ssize_t.from_address(address + 8 * place).value


def _set_word(address: int, place: int, value: int) -> None:
    ctypes.c_ssize_t.from_address(address + 8 * place).value = value


def _arrays(frame: int, place: int) -> list[np.ndarray]:
    """The frame's arguments or results; the length of their list stands two places before it."""
    buffers = _word(frame, place)
    return [_array(_word(buffers, k)) for k in range(_word(frame, place - 2))]


def _array(buffer: int) -> np.ndarray:
    dtype = _DTYPES[ctypes.c_int32.from_address(buffer + 8 * DTYPE).value]
    size = _word(_word(buffer, DIMENSIONS), 0)
    if size == 0:
        return np.empty(0, dtype)
    raw = (ctypes.c_char * (size * dtype.itemsize)).from_address(_word(buffer, DATA))
    return np.frombuffer(raw, dtype)
