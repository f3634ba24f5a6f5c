"""How a compiled kernel is chosen, made known to XLA, and called.

Triangular solves and incomplete factorisations are chains of dependent operations, for which XLA has no fast
form on a CPU.  There they run as functions compiled by numba, which XLA calls itself through its foreign
function interface: no copy, no Python, no lock.  Each kernel has a fallback in pure JAX with the same results
to rounding.  It runs on the CPU where the environment says `NSOLVE_KERNELS=off`, or where numba is missing or
does not work; a warning then says so, once.  Other platforms run it as well, or a form of their own, with
fewer steps that wait for each other.

Which of them it is, is decided when a computation is lowered for its platform: only the one that is needed
is traced, and its schedule made.  The kernels' files import numba: import them where they are needed, not at
the top of a file.
"""

import functools
import os
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array

_SWITCH = "NSOLVE_KERNELS"


def _read_switch() -> bool:
    value = os.environ.get(_SWITCH, "on")
    if value not in ("on", "off"):
        raise ValueError(
            f"The environment variable `{_SWITCH}` must be `on` (the default: compiled kernels on CPUs) or "
            f"`off` (pure JAX everywhere), but is {value!r}."
        )
    return value == "on"


_usable = _read_switch()
_lock = threading.RLock()
_said: set[str] = set()


def usable() -> bool:
    """Whether kernels are wanted, and none has failed so far."""
    return _usable


def give_up(what: str, error: Exception) -> None:
    """Leaves all kernels alone from now on, and says why."""
    global _usable
    _usable = False
    warn_once(
        "kernels",
        f"{what} ({type(error).__name__}: {error}). Triangular solves, incomplete factorisations and "
        "colourings run without compiled kernels: the results are the same, but on a CPU they take several "
        f"times as long. `{_SWITCH}=off` chooses this without a warning.",
    )


def warn_once(kind: str, message: str) -> None:
    """A warning that a process sees once."""
    if kind not in _said:
        _said.add(kind)
        warnings.warn(f"nsolve: {message}", RuntimeWarning, stacklevel=2)


class Kernel(NamedTuple):
    """A kernel that XLA may call.

    * `handler(dtype)`: compiles it for vectors of a dtype into a C function that takes XLA's call frame; None
      where pure JAX does as well.
    * `portable(static, *arguments)`: the same results in pure JAX.
    * `elsewhere(static, *arguments)`: what runs in its stead on platforms other than the CPU.
    """

    name: str
    handler: Callable[[Any], Any] | None
    portable: Callable[..., Sequence[Array]]
    elsewhere: Callable[..., Sequence[Array]] | None = None


def call(kernel: Kernel, static: Any, *arguments: Any, like: Sequence[Any]) -> Sequence[Array]:
    """A kernel's results on arrays with one axis each.

    `static`: what its portable form knows while it is traced, hashable (sparsity patterns).  `like`: arrays
    with the shapes and dtypes of the results.  Under `vmap` a compiled kernel runs once for each element.
    """
    if not _usable and kernel.elsewhere is None:
        return kernel.portable(static, *arguments)
    results = tuple(jax.ShapeDtypeStruct(array.shape, array.dtype) for array in like)
    return _call.bind(*arguments, kernel=kernel, static=static, results=results, axes=(), sizes=())


def on_host(compiled: Callable, portable: Callable, *arguments: Any) -> Any:
    """The same choice for work on concrete arrays of the host."""
    if _usable:
        try:
            return compiled(*arguments)
        except MemoryError:
            raise
        except Exception as error:
            give_up("numba cannot compile a kernel", error)
    return portable(*arguments)


_call = Primitive("nsolve_kernel")
_call.multiple_results = True


@_call.def_impl
def _run(*arguments: Any, **parameters: Any) -> Any:
    with jax.disable_jit(False):
        return _jitted(*arguments, **parameters)


@functools.partial(jax.jit, static_argnames=("kernel", "static", "results", "axes", "sizes"))
def _jitted(*arguments: Any, **parameters: Any) -> Any:
    return _call.bind(*arguments, **parameters)


@_call.def_abstract_eval
def _shapes(*arguments: Any, results: Any, sizes: Any, **_: Any) -> Any:
    # The axis of the innermost vmap stands last among those in front.
    return [ShapedArray((*reversed(sizes), *like.shape), like.dtype) for like in results]


def _batch(arguments: Any, dims: Any, *, axes: Any, sizes: Any, **parameters: Any) -> Any:
    size = next(x.shape[dim] for x, dim in zip(arguments, dims, strict=True) if dim is not None)
    batched = _call.bind(*arguments, axes=(*axes, tuple(dims)), sizes=(*sizes, size), **parameters)
    return batched, [0] * len(batched)


batching.primitive_batchers[_call] = _batch


def _batched(function: Callable, axes: Any) -> Callable:
    for in_axes in axes:
        function = jax.vmap(function, in_axes)
    return function


def _portable(*arguments: Any, kernel: Kernel, static: Any, axes: Any, **_: Any) -> Any:
    return _batched(functools.partial(kernel.portable, static), axes)(*arguments)


def _elsewhere(*arguments: Any, kernel: Kernel, static: Any, axes: Any, **_: Any) -> Any:
    return _batched(functools.partial(kernel.elsewhere or kernel.portable, static), axes)(*arguments)


def _compiled(*arguments: Any, kernel: Kernel, results: Any, axes: Any, **_: Any) -> Any:
    target = _target(kernel, results[0].dtype)
    return _batched(jax.ffi.ffi_call(target, results, vmap_method="sequential"), axes)(*arguments)


def _lower_on_cpu(context: Any, *arguments: Any, kernel: Kernel, results: Any, **parameters: Any) -> Any:
    chosen = _compiled if _registered(kernel, results[0].dtype) else _portable
    return mlir.lower_fun(chosen)(context, *arguments, kernel=kernel, results=results, **parameters)


mlir.register_lowering(_call, mlir.lower_fun(_elsewhere))
mlir.register_lowering(_call, _lower_on_cpu, platform="cpu")

_handlers: dict[str, Any] = {}  # their machine code must outlive every executable that calls them


def _target(kernel: Kernel, dtype: Any) -> str:
    return f"nsolve_{kernel.name}_{np.dtype(dtype)}"


def _registered(kernel: Kernel, dtype: Any) -> bool:
    """Compiles a kernel's handler, or loads it from the disk, and makes it known to XLA, if need be; whether
    that went well."""
    name = _target(kernel, dtype)
    with _lock:
        if name in _handlers or not _usable or kernel.handler is None:
            return name in _handlers
        try:
            from .kernels._layout import check_layout

            check_layout()
            handler = kernel.handler(np.dtype(dtype).type)
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler.ctypes), platform="cpu")
        except Exception as error:
            give_up(f"The kernel `{kernel.name}` cannot be compiled or handed to XLA", error)
            return False
        _handlers[name] = handler
        return True
