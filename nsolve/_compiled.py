"""Sequential sparse kernels for the CPU, compiled by numba and called by XLA itself.

Triangular solves and incomplete factorisations are chains of dependent operations: XLA has no fast
form for them.  Each kernel is a numba function on NumPy arrays; a thin C-callable handler around it
reads the buffers out of XLA's call frame (the "typed" foreign function interface), so that a call
costs no copy, no Python and no lock. numba keeps the machine code on disk: compilation is paid once
per machine.

This module imports numba; import it where it is needed, not at the top of a file.

The layout of the call frame is that of `xla/ffi/api/c_api.h`, shipped with jaxlib.  XLA keeps it
compatible, and checks the version that a handler reports before it accepts the handler.
"""

import threading
from collections.abc import Sequence
from typing import Any

import jax
import numba
import numpy as np
from jaxtyping import Array
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

# Unsigned, since numba would test signed indices for counting from the end.
_INDEX = np.uint32
# Contraction to fused multiply-adds shortens the chain of dependent operations; nothing else is
# reordered.  Loops and methods of numbers instead of slices and NumPy's functions: numba compiles
# them sooner, which the first use of a process without its cache waits for.
_compile = numba.njit(fastmath={"contract"}, error_model="numpy", cache=True, nogil=True)


@_compile
def solve_lower(indptr, indices, values, b, x):
    """`(I + N) x = b` for strictly lower `N`, rows compressed, columns ascending."""
    previous = x.dtype.type(0)
    for i in range(b.size):
        start, stop = indptr[i], indptr[i + 1]
        total = b[i]
        # The row before is often the last one read: held in a register, it spares a trip through
        # memory.
        if stop > start and indices[stop - 1] == i - 1:
            stop -= 1
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
            total -= values[stop] * previous
        else:
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
        x[i] = total
        previous = total


@_compile
def solve_upper(indptr, indices, values, b, x):
    """`(I + N) x = b` for strictly upper `N`, rows compressed, columns ascending; `x` may be `b`."""
    previous = x.dtype.type(0)
    one = np.uint64(1)
    i = np.uint64(b.size)
    for _ in range(b.size):
        i -= one
        start, stop = indptr[i], indptr[i + one]
        total = b[i]
        if stop > start and indices[start] == i + 1:
            for k in range(start + 1, stop):
                total -= values[k] * x[indices[k]]
            total -= values[start] * previous
        else:
            for k in range(start, stop):
                total -= values[k] * x[indices[k]]
        x[i] = total
        previous = total


@_compile
def solve_both(indptr, indices, values, scale, upper_indptr, upper_indices, upper_values, b, x):
    """`(I + L) diag(1 / scale) (I + U) x = b`, one solve after the other in the same buffer."""
    solve_lower(indptr, indices, values, b, x)
    for i in range(b.size):
        x[i] *= scale[i]
    solve_upper(upper_indptr, upper_indices, upper_values, x, x)


@_compile
def incomplete_cholesky(indptr, indices, lower, diagonal, factor, inverse_pivots):
    """IC(0): `A ~ (I + L) diag(1 / inverse_pivots) (I + L)^H` with `L` on the strictly lower
    pattern of `A`.

    From the first pivot that is not positive (or not a number) on, everything is NaN.
    """
    n = diagonal.size
    for i in range(n):
        start, stop = indptr[i], indptr[i + 1]
        pivot = diagonal[i].real
        for k in range(start, stop):  # factor[k] is first the entry times its column's pivot
            j = indices[k]
            total = lower[k]
            p, q, last = start, indptr[j], indptr[j + 1]
            while p < k and q < last:
                if indices[p] < indices[q]:
                    p += 1
                elif indices[p] > indices[q]:
                    q += 1
                else:
                    total -= factor[p] * factor[q].conjugate()
                    p += 1
                    q += 1
            factor[k] = total
        for k in range(start, stop):
            scaled = factor[k] * inverse_pivots[indices[k]]
            pivot -= (factor[k] * scaled.conjugate()).real
            factor[k] = scaled
        if not pivot > 0 or pivot - pivot != 0:
            for k in range(start, factor.size):
                factor[k] = np.nan
            for k in range(i, n):
                inverse_pivots[k] = np.nan
            return
        inverse_pivots[i] = 1 / pivot


@_compile
def incomplete_lu(indptr, indices, on_diagonal, values, factor, inverse_pivots):
    """ILU(0) on the pattern of `A`: unit lower factor and upper factor share `factor`, in CSR
    order.

    From the first pivot that is zero (or not a number) on, everything is NaN.
    """
    n = inverse_pivots.size
    for k in range(factor.size):
        factor[k] = values[k]
    for i in range(n):
        start, stop = indptr[i], indptr[i + 1]
        for k in range(start, on_diagonal[i]):
            j = indices[k]
            multiplier = factor[k] * inverse_pivots[j]
            factor[k] = multiplier
            p = k + 1
            for q in range(on_diagonal[j] + 1, indptr[j + 1]):
                while p < stop and indices[p] < indices[q]:
                    p += 1
                if p < stop and indices[p] == indices[q]:
                    factor[p] -= multiplier * factor[q]
        pivot = factor[on_diagonal[i]]
        if pivot == 0 or pivot - pivot != 0:
            for k in range(start, factor.size):
                factor[k] = np.nan
            for k in range(i, n):
                inverse_pivots[k] = np.nan
            return
        inverse_pivots[i] = 1 / pivot


@_compile
def greedy_colouring(indptr, indices, colours):
    """Gives each row, in turn, the first colour that no neighbour has; the pattern is symmetric."""
    n = colours.size
    last_seen = np.full(n + 1, -1, np.int64)  # the last row that had a neighbour of this colour
    colours[:] = -1
    for i in range(n):
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            if j != i and colours[j] >= 0:
                last_seen[colours[j]] = i
        colour = 0
        while last_seen[colour] == i:
            colour += 1
        colours[i] = colour


# What follows carries the kernels into XLA.  Places in the structs are counted in words of eight
# bytes.
_EXTENSION = 1  # of every struct; a list of extensions, empty in calls that ask for work
_ARGUMENTS, _RESULTS = 9, 14  # of the call frame
_DATA, _DIMENSIONS = 3, 5  # of a buffer
_METADATA = 3  # of the metadata extension
_VERSION, _TRAITS = 3, 4  # of the metadata


@intrinsic
def _pointer(typing_context, address):
    """An address as a pointer to anything."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


@intrinsic
def _word(typing_context, address, place):
    """The word at a place of a struct, or of a list of words."""

    def generate(context, builder, signature, arguments):
        return builder.load(_place(builder, *arguments))

    return types.intp(types.intp, types.intp), generate


@intrinsic
def _set_word(typing_context, address, place, value):
    """Writes one."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], _place(builder, *arguments[:2]))
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), generate


def _place(builder, address, place):
    return builder.gep(builder.inttoptr(address, ir.IntType(64).as_pointer()), [place])


@numba.njit(cache=True)
def _answers_metadata(frame):
    """XLA's first call asks for the version of the interface instead of work."""
    extension = _word(frame, _EXTENSION)  # pyright: ignore
    if extension == 0:
        return False
    metadata = _word(extension, _METADATA)
    _set_word(metadata, _VERSION, 1 << 32)  # 0.1: major in the lower half, minor in the upper
    _set_word(metadata, _TRAITS, 0)
    return True


@numba.njit(cache=True)
def _array(buffer, dtype):
    """An argument or result, which has one axis."""
    data, size = _word(buffer, _DATA), _word(_word(buffer, _DIMENSIONS), 0)  # pyright: ignore
    return numba.carray(_pointer(data), size, dtype)  # pyright: ignore


_handler = numba.cfunc(types.intp(types.intp), cache=True)


# One factory for each kernel: a kernel held in a closure would defeat numba's cache on disk.
def _solve_lower(dtype):
    @_handler
    def handler(frame):
        if not _answers_metadata(frame):
            arguments, results = _word(frame, _ARGUMENTS), _word(frame, _RESULTS)  # pyright: ignore
            solve_lower(
                _array(_word(arguments, 0), _INDEX),
                _array(_word(arguments, 1), _INDEX),
                _array(_word(arguments, 2), dtype),
                _array(_word(arguments, 3), dtype),
                _array(_word(results, 0), dtype),
            )
        return 0

    return handler


def _solve_upper(dtype):
    @_handler
    def handler(frame):
        if not _answers_metadata(frame):
            arguments, results = _word(frame, _ARGUMENTS), _word(frame, _RESULTS)  # pyright: ignore
            solve_upper(
                _array(_word(arguments, 0), _INDEX),
                _array(_word(arguments, 1), _INDEX),
                _array(_word(arguments, 2), dtype),
                _array(_word(arguments, 3), dtype),
                _array(_word(results, 0), dtype),
            )
        return 0

    return handler


def _solve_both(dtype):
    @_handler
    def handler(frame):
        if not _answers_metadata(frame):
            arguments, results = _word(frame, _ARGUMENTS), _word(frame, _RESULTS)  # pyright: ignore
            solve_both(
                _array(_word(arguments, 0), _INDEX),
                _array(_word(arguments, 1), _INDEX),
                _array(_word(arguments, 2), dtype),
                _array(_word(arguments, 3), dtype),
                _array(_word(arguments, 4), _INDEX),
                _array(_word(arguments, 5), _INDEX),
                _array(_word(arguments, 6), dtype),
                _array(_word(arguments, 7), dtype),
                _array(_word(results, 0), dtype),
            )
        return 0

    return handler


def _incomplete_cholesky(dtype):
    @_handler
    def handler(frame):
        if not _answers_metadata(frame):
            arguments, results = _word(frame, _ARGUMENTS), _word(frame, _RESULTS)  # pyright: ignore
            incomplete_cholesky(
                _array(_word(arguments, 0), _INDEX),
                _array(_word(arguments, 1), _INDEX),
                _array(_word(arguments, 2), dtype),
                _array(_word(arguments, 3), dtype),
                _array(_word(results, 0), dtype),
                _array(_word(results, 1), dtype),
            )
        return 0

    return handler


def _incomplete_lu(dtype):
    @_handler
    def handler(frame):
        if not _answers_metadata(frame):
            arguments, results = _word(frame, _ARGUMENTS), _word(frame, _RESULTS)  # pyright: ignore
            incomplete_lu(
                _array(_word(arguments, 0), _INDEX),
                _array(_word(arguments, 1), _INDEX),
                _array(_word(arguments, 2), _INDEX),
                _array(_word(arguments, 3), dtype),
                _array(_word(results, 0), dtype),
                _array(_word(results, 1), dtype),
            )
        return 0

    return handler


_KERNELS = {
    "solve_lower": (solve_lower, _solve_lower),
    "solve_upper": (solve_upper, _solve_upper),
    "solve_both": (solve_both, _solve_both),
    "incomplete_cholesky": (incomplete_cholesky, _incomplete_cholesky),
    "incomplete_lu": (incomplete_lu, _incomplete_lu),
}
_lock = threading.Lock()
_handlers: dict[str, Any] = {}  # their machine code must outlive every executable that calls them


def _register(kernel: str, dtype: np.dtype) -> str:
    """Compiles a handler, or loads it from the disk, and makes it known to XLA."""
    name = f"nsolve_{kernel}_{dtype}"
    with _lock:
        if name not in _handlers:
            handler = _KERNELS[kernel][1](dtype.type)
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler.ctypes), platform="cpu")
            _handlers[name] = handler
    return name


def call(kernel: str, *arguments: Array, like: Sequence[Array]) -> Sequence[Array]:
    """Runs a kernel inside a computation for the CPU.

    `like`: arrays with the shapes and types of the results.  Under `vmap` the kernel runs once for
    each element.
    """
    results = _structures(like)
    target = _register(kernel, np.dtype(results[0].dtype))
    return jax.ffi.ffi_call(target, results, vmap_method="sequential")(*arguments)


def call_on_host(kernel: str, *arguments: Array, like: Sequence[Array]) -> Sequence[Array]:
    """The same from a computation on any platform: arguments and results travel to the host and
    back."""
    results = _structures(like)

    def run(*arguments):
        outputs = [np.empty(result.shape, result.dtype) for result in results]
        run_on_host(kernel, *arguments, *outputs)
        return outputs

    return jax.pure_callback(run, results, *arguments, vmap_method="sequential")


def run_on_host(kernel: str, *arrays: np.ndarray) -> None:
    """Runs a kernel on concrete arrays, results last, which it overwrites."""
    arrays = tuple(np.ascontiguousarray(array) for array in arrays)
    _KERNELS[kernel][0](*(a.view(_INDEX) if a.dtype == np.int32 else a for a in arrays))


def _structures(arrays: Sequence[Any]) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays]
