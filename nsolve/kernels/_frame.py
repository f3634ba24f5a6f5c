"""What carries a kernel into XLA: functions that numba compiles to read XLA's call frame.

This file imports numba.  The kernels' files take these names from `_numba.py`, which does without.
"""

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .._ffi import warn_once
from ._layout import DATA, DIMENSIONS, EXTENSION, METADATA, REPORTED_VERSION, TRAITS, VERSION


def _kept_on_disk(decorator: Callable[..., Any]) -> Callable[[Any], Any]:
    """numba's decorator, keeping machine code on the disk where there is a folder for it."""

    def decorate(function: Any) -> Any:
        try:
            return decorator(cache=True)(function)
        except RuntimeError as error:
            warn_once(
                "cache",
                f"numba finds no folder for its cache ({error}), so that every process compiles the kernels "
                "anew, which takes some seconds. The environment variable `NUMBA_CACHE_DIR` names a folder.",
            )
            return decorator(cache=False)(function)

    return decorate


# Contraction to fused multiply-adds shortens the chain of dependent operations; nothing else is reordered.
compiled = _kept_on_disk(
    lambda cache: numba.njit(fastmath={"contract"}, error_model="numpy", nogil=True, cache=cache)
)
#: The C function that XLA calls.
handler = _kept_on_disk(lambda cache: numba.cfunc(types.intp(types.intp), cache=cache))
_helper = _kept_on_disk(lambda cache: numba.njit(cache=cache))


@intrinsic
def _pointer(typing_context, address):
    """An address as a pointer to anything."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate


@intrinsic
def word(typing_context, address, place):
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


@_helper
def answers_metadata(frame):
    """XLA's first call asks for the version of the interface instead of work."""
    extension = word(frame, EXTENSION)  # pyright: ignore
    if extension == 0:
        return False
    metadata = word(extension, METADATA)
    _set_word(metadata, REPORTED_VERSION, VERSION)
    _set_word(metadata, TRAITS, 0)
    return True


@_helper
def array(buffer, dtype):
    """An argument or result, which has one axis."""
    data, size = word(buffer, DATA), word(word(buffer, DIMENSIONS), 0)  # pyright: ignore
    return numba.carray(_pointer(data), size, dtype)  # pyright: ignore
