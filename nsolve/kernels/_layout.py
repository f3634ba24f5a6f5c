"""The layout of XLA's call frame: where in its structs the kernels' handlers find what they read and write.

Places are counted in words of eight bytes.  They are compared, before the first handler is made, with the
header that jaxlib ships.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

#: The version of the interface that handlers report: major in the lower half of a word, minor in the upper.
VERSION = 0 | 1 << 32

EXTENSION = 1  # of every struct; a list of extensions, empty in calls that ask for work
ARGUMENTS, RESULTS = 9, 14  # of the call frame
DTYPE, DATA, DIMENSIONS = 2, 3, 5  # of a buffer
METADATA = 3  # of the metadata extension
REPORTED_VERSION, TRAITS = 3, 4  # of the metadata

_PLACES = {
    "XLA_FFI_CallFrame.extension_start": EXTENSION,
    "XLA_FFI_CallFrame.args.args": ARGUMENTS,
    "XLA_FFI_CallFrame.args.size": ARGUMENTS - 2,
    "XLA_FFI_CallFrame.rets.rets": RESULTS,
    "XLA_FFI_CallFrame.rets.size": RESULTS - 2,
    "XLA_FFI_Buffer.dtype": DTYPE,
    "XLA_FFI_Buffer.data": DATA,
    "XLA_FFI_Buffer.dims": DIMENSIONS,
    "XLA_FFI_Metadata_Extension.metadata": METADATA,
    "XLA_FFI_Metadata.api_version.major_version": REPORTED_VERSION,
    "XLA_FFI_Metadata.traits": TRAITS,
}
#: The numbers that stand for dtypes in a buffer.
DTYPES = {
    "S32": (4, np.dtype(np.int32)),
    "U32": (8, np.dtype(np.uint32)),
    "F32": (11, np.dtype(np.float32)),
    "F64": (12, np.dtype(np.float64)),
    "C64": (15, np.dtype(np.complex64)),
    "C128": (18, np.dtype(np.complex128)),
}
_SIZES = {"size_t": 8, "int64_t": 8, "int": 4, "int32_t": 4, "uint32_t": 4}


@functools.cache
def check_layout() -> None:
    """Raises unless the installed header says what this file says."""
    header = Path(jax.ffi.include_dir()) / "xla" / "ffi" / "api" / "c_api.h"
    compare(header.read_text())


def compare(header: str) -> None:
    """Raises a `ValueError` that names what differs in a header's text."""
    header = re.sub(r"//[^\n]*|/\*.*?\*/", "", header, flags=re.DOTALL)
    version = re.search(r"#define\s+XLA_FFI_API_MAJOR\s+(\d+)", header)
    if version is None or version[1] != "0":
        raise ValueError("XLA's foreign function interface is no longer of major version 0")
    for path, place in _PLACES.items():
        offset = _offset(header, *path.split("."))
        if offset != 8 * place:
            raise ValueError(
                f"XLA's header puts `{path}` at byte {offset}, and the kernels look at byte {8 * place}"
            )
    for name, (number, _) in DTYPES.items():
        if re.search(rf"\bXLA_FFI_DataType_{name}\s*=\s*{number}\s*,", header) is None:
            raise ValueError(f"XLA's header no longer says {number} for the dtype `{name}`")


def _fields(header: str, struct: str) -> Iterator[tuple[str, str]]:
    """The struct's fields in their order, with their types; a pointer's is `*`."""
    body = re.search(rf"struct {struct} \{{(.*?)\}}", header, re.DOTALL)
    if body is None:
        raise ValueError(f"XLA's header has no struct `{struct}`")
    for line in body[1].split(";")[:-1]:
        field = re.fullmatch(r"\s*(?:(?:const|struct)\s+)?(\w+(?:\s*\*+)?)\s*(\w+)\s*", line)
        if field is None:
            raise ValueError(f"XLA's header says of `{struct}` what cannot be read, {line.strip()!r}")
        yield field[2], "*" if field[1].endswith("*") else field[1]


def _offset(header: str, struct: str, name: str, *rest: str) -> int:
    """Where a field of a struct, or of a struct in it, begins, in bytes."""
    offset = 0
    for field, kind in _fields(header, struct):
        size, alignment = _size(header, kind)
        offset += -offset % alignment
        if field == name:
            return offset + (_offset(header, kind, *rest) if rest else 0)
        offset += size
    raise ValueError(f"XLA's header has no field `{name}` in `{struct}`")


def _size(header: str, kind: str) -> tuple[int, int]:
    """Size and alignment of a type."""
    if kind == "*":
        return 8, 8
    if kind in _SIZES:
        return _SIZES[kind], _SIZES[kind]
    if alias := re.search(rf"typedef (\w+) {kind};", header):
        return _size(header, alias[1])
    if re.search(rf"enum[^;]*?\}}\s*{kind};", header, re.DOTALL):
        return 4, 4
    offset, widest = 0, 1
    for _, member in _fields(header, kind):
        size, alignment = _size(header, member)
        offset, widest = offset + -offset % alignment + size, max(widest, alignment)
    return offset + -offset % widest, widest
