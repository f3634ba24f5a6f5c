"""Functions of the host that XLA calls on the CPU as it calls compiled kernels.

For work that a library does: its arrays are read and written in place, under Python's lock.  On other
platforms, and with `NSOLVE_KERNELS=off`, JAX's own callbacks carry the arrays to the host and back.
"""

import _thread
import ctypes
import threading
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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

#: Takes arrays and gives arrays, each with one axis; the last arguments it may take as one, a function that
#: gives them.
HostFunction = Callable[..., Sequence[np.ndarray]]
_DTYPES = dict(DTYPES.values())
_SOON_S = 0.05


class _Work(NamedTuple):
    """A function of the host, how many of its arguments are `deferred`, and what its integers are where it
    `failed`."""

    function: HostFunction
    deferred: int
    failed: int

    def __call__(self, size: int, argument: Callable[[int], np.ndarray]) -> Sequence[np.ndarray]:
        """Its results, by `argument(k)` for `k < size`."""
        first = size - self.deferred
        given: list[Any] = [argument(k) for k in range(first)]
        if self.deferred:
            given.append(lambda: [argument(k) for k in range(first, size)])
        return self.function(*given)


def host_kernel(name: str, function: HostFunction, deferred: int = 0, failed: int = 0) -> _ffi.Kernel:
    """A kernel that is a function of the host.

    * `deferred`: so many of the last arguments, which it rarely needs, it takes as one function that gives
      them.

    Where it raises, what was raised is printed, and the results are NaN, integers `failed`; an interrupt from
    the keyboard is raised again once XLA has returned."""
    work = _Work(function, deferred, failed)

    def portable(like: Any, *arguments: Array) -> Sequence[Array]:
        def run(*arguments: Array) -> Sequence[np.ndarray]:
            return tuple(work(len(arguments), lambda k: np.asarray(arguments[k])))

        return jax.pure_callback(run, like, *arguments, vmap_method="sequential")

    kernel = _ffi.Kernel(name, lambda dtype: _Handler(work), portable)
    _works[kernel] = work
    return kernel


_works: dict[_ffi.Kernel, _Work] = {}


def call(kernel: _ffi.Kernel, *arguments: Any, like: Sequence[tuple[int, Any]]) -> Sequence[Array]:
    """Its results, of these sizes and dtypes; at once, with nothing compiled, where all arrays are there."""
    if not any(isinstance(argument, Tracer) for argument in arguments):
        results = _works[kernel](len(arguments), lambda k: np.asarray(arguments[k]))
        return [jax.device_put(result) for result in results]
    shapes = tuple(jax.ShapeDtypeStruct((size,), dtype) for size, dtype in like)
    return _ffi.call(kernel, shapes, *map(jnp.asarray, arguments), like=shapes)


class _Handler:
    """What XLA calls; `ctypes` is the C function."""

    def __init__(self, work: _Work):
        def run(frame: int) -> int:
            places = []
            try:
                extension = _word(frame, EXTENSION)
                if extension:  # XLA's first call asks for the version of the interface instead of work
                    metadata = _word(extension, METADATA)
                    _set_word(metadata, REPORTED_VERSION, VERSION)
                    _set_word(metadata, TRAITS, 0)
                    return 0
                places = [_array(address) for address in _buffers(frame, RESULTS)]
                arguments = _buffers(frame, ARGUMENTS)
                results = work(len(arguments), lambda k: _array(arguments[k]))
                for place, result in zip(places, results, strict=True):
                    place[:] = result
            except BaseException as error:  # none can pass through XLA
                for place in places:
                    place[:] = np.nan if place.dtype.kind in "fc" else work.failed
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


def _buffers(frame: int, place: int) -> Sequence[int]:
    """Addresses of the frame's arguments or results; the length of their list stands two places before it."""
    return (ctypes.c_ssize_t * _word(frame, place - 2)).from_address(_word(frame, place))[:]


#: Of a buffer what is read below.
_Buffer = ctypes.c_ssize_t * (DIMENSIONS + 1)


def _array(address: int) -> np.ndarray:
    buffer = _Buffer.from_address(address)
    dtype = _DTYPES[buffer[DTYPE] & 0xFFFFFFFF]  # in the lower half of its word
    size = _word(buffer[DIMENSIONS], 0)
    if size == 0:
        return np.empty(0, dtype)
    return np.frombuffer((ctypes.c_char * (size * dtype.itemsize)).from_address(buffer[DATA]), dtype)
