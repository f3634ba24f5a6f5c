"""Matrices and vectors of a user: read from files and pipes, and written whole.

What a file holds is seen by how it begins, not by its name, since pipes have none: Matrix Market, NumPy's
`.npy` and `.npz`, and text, each also gzipped.  `-` is standard input and output.
"""

import contextlib
import gzip
import io
import os
import re
import stat
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.io
import scipy.sparse as sp

from learned.data.arrays import read_numpy, split_array
from nsolve.direct.memory import physical_memory
from nsolve.operators import numerals
from nsolve.operators.matrix_market import Header, parse_matrix_market
from nsolve.operators.values import fit

from .engine.record import write_whole

SUFFIXES = (".npy", ".mtx", ".txt", ".csv")
#: By which a file that this module wrote is known again: words in text.  A file of NumPy has no place for
#: words, but its header may be padded at will: NumPy pads it to 128 bytes or some more, this module to these.
MARK = "written by nsolve-bench"
NPY_HEADER = 1024


class TooLarge(ValueError):
    """What needs more memory than there is."""


def free_memory() -> int:
    """Bytes that can be had without swapping; where the system does not say, all that the machine has."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return int(physical_memory())


def check_memory(needed: int, what: str) -> None:
    """`TooLarge` where that many bytes are not free."""
    free = free_memory()
    if needed > free:
        raise TooLarge(f"{what}, which need {_bytes(needed)} of memory at least; {_bytes(free)} are free")


def _bytes(number: int) -> str:
    for power, unit in ((5, "PiB"), (4, "TiB"), (3, "GiB"), (2, "MiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:,.1f} {unit}"
    return f"{number / 1024:,.1f} KiB"


def is_same_pipe(name: str, other: str) -> bool:
    """Whether both are one pipe or terminal, which can be read only once."""

    if name == other == "-":
        return True

    def status(name: str) -> os.stat_result:
        return os.fstat(sys.stdin.fileno()) if name == "-" else os.stat(name)

    try:
        one, two = status(name), status(other)
    except (OSError, ValueError):  # missing, or no real standard input
        return False
    return os.path.samestat(one, two) and not stat.S_ISREG(one.st_mode)


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    """A file, a pipe or standard input, unpacked where it is gzipped; it is opened once and never sought."""
    if name != "-" and Path(name).is_dir():
        raise ValueError(f"{name} is a folder; name a file")
    try:
        with contextlib.ExitStack() as stack:
            file = sys.stdin.buffer if name == "-" else stack.enter_context(open(name, "rb"))
            file = file if hasattr(file, "peek") else io.BufferedReader(file)  # pyright: ignore
            if file.peek(2)[:2] == b"\x1f\x8b":  # pyright: ignore
                file = stack.enter_context(gzip.open(file))
            yield file  # pyright: ignore
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"{name}: cannot be read ({reason})") from None


def read_matrix(name: str) -> sp.coo_array:
    """A Matrix Market file.  ValueError says what is wrong in it, or that it announces more than fits."""

    def check(header: Header) -> None:
        rows, columns = header.shape
        stored = header.count * (1 if header.symmetry == "general" else 2)
        entry = (16 if header.field == "complex" else 8) + 2 * 4
        # The entries as they are read and as rows; where the rows begin, and four vectors.
        needed = 2 * entry * stored + 4 * rows + 4 * 8 * max(rows, columns)
        check_memory(needed, f"{name} announces {rows:,} x {columns:,} with {header.count:,} entries")

    with _opened(name) as file:
        try:
            return parse_matrix_market(file, check)[0]
        except MemoryError:
            raise ValueError(f"{name}: is too large for this machine's memory") from None
        except TooLarge:
            raise
        except ValueError as error:
            raise ValueError(f"{name}: not a readable Matrix Market file: {error}") from None


def read_vectors(name: str, length: int) -> np.ndarray:
    """Vectors of `length` numbers, in double precision: one, or a column each.

    `name` may say which array of a `.npz`: `file.npz:array`.  In text, numbers stand in rows, apart by blanks
    or commas; what follows a `#` or `%` is a comment.  ValueError says what is wrong."""
    where, array = split_array(name)
    with _opened(where) as file:
        content = _all(file, where)
    try:
        vectors = _decoded(content, where, array)
    except MemoryError:
        raise ValueError(f"{name}: is too large for this machine's memory") from None
    except ValueError as error:
        text = " ".join(str(error).split())
        raise ValueError(text if text.startswith(where) else f"{where}: {text}") from None
    shape = vectors.shape
    columns = len(shape) == 2 and shape[0] == length and shape[1] > 0
    if not columns and shape not in ((length,), (1, length)) and (shape, length) != ((), 1):
        needed = f"the matrix needs vectors of {length} numbers, as many as its rows, one a column"
        turned = "; transpose it" if len(shape) == 2 and shape[1] == length else ""
        raise ValueError(f"{name} has shape {shape}; {needed}{turned}")
    if not np.issubdtype(vectors.dtype, np.number):
        raise ValueError(f"{name} holds {vectors.dtype}; numbers are needed")
    bad = np.argwhere(~np.isfinite(vectors))
    if bad.size:
        entry = ", ".join(str(i + 1) for i in bad[0]) or "1"
        entry = f"({entry})" if "," in entry else entry
        raise ValueError(f"{name}: entry {entry} is {vectors[tuple(bad[0])]}; finite numbers are needed")
    return fit(vectors, complex if np.iscomplexobj(vectors) else float, name)


def _all(file: BinaryIO, name: str) -> bytes:
    """Everything, as long as it leaves half of the memory free."""
    parts, size, most = [], 0, free_memory() // 2
    while part := file.read(2**24):
        parts.append(part)
        size += len(part)
        if size > most:
            raise ValueError(f"{name}: holds more than {_bytes(most)}, half of the memory that is free")
    return b"".join(parts)


def _decoded(content: bytes, name: str, array: str) -> np.ndarray:
    def dense(header: Header) -> None:
        rows, columns = header.shape
        check_memory(8 * rows * columns, f"{name} announces {rows:,} x {columns:,} numbers")

    if content[:4] == b"PK\x03\x04":
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.filename in (f"{array}.npy", array) or not array:
                    check_memory(member.file_size, f"{name} announces numbers")
        return read_numpy(io.BytesIO(content), name, array)
    if content[:6] == b"\x93NUMPY":
        return read_numpy(io.BytesIO(content), name, array)
    if array:
        raise ValueError(f"no file of several arrays, of which one could be called {array!r}")
    if content[:14].lower() == b"%%matrixmarket":
        return parse_matrix_market(io.BytesIO(content), dense)[0].toarray()
    return _numbers(content.removeprefix(b"\xef\xbb\xbf"))


def _numbers(text: bytes) -> np.ndarray:
    rows = []
    for number, line in enumerate(text.split(b"\n"), start=1):
        line = re.split(rb"[#%]", line)[0].strip()
        tokens = [token.strip() for token in line.split(b",")] if b"," in line else numerals.fields(line)
        try:
            rows.append([numerals.number(token) for token in tokens])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    rows = [row for row in rows if row]
    if len(lengths := sorted({len(row) for row in rows})) > 1:
        raise ValueError(f"the lines hold {', '.join(map(str, lengths))} numbers each")
    numbers = np.array(rows, float)
    return numbers.ravel() if 1 in numbers.shape else numbers


class Target:
    """Where a solution goes: `-` or another way to say standard output, a pipe, or a file whose suffix says
    the format; refused with a ValueError before any work where it cannot be written, or is somebody else's.

    Streams get text."""

    def __init__(self, name: str, force: bool = False):
        self.name, self.is_stdout = name, name == "-" or _is_stdout(name)
        path = Path(name)
        if path.is_dir():
            raise ValueError(f"--out {name}: is a folder; name a file")
        known = re.match(r"/dev/(fd/|std)|/proc/", name) is not None
        self.is_stream = self.is_stdout or known or (path.exists() and not path.is_file())
        if self.is_stream:
            return
        if path.suffix not in SUFFIXES:
            raise ValueError(f"--out {name}: the suffix says the format; use .npy, .mtx, .txt or .csv")
        if not os.access(path.parent, os.W_OK | os.X_OK):
            reason = "no permission" if path.parent.is_dir() else "no such folder"
            where = f"{path.parent} ({reason})"
            raise ValueError(f"--out {name}: cannot write into {where}; choose another folder")
        if path.exists() and not force and not _is_own(path):
            already = "is there already, and was not written by this command"
            raise ValueError(f"--out {name}: {already}; choose another, or --force")

    def write(self, x: np.ndarray) -> None:
        """Write it, whole or not at all; a reader of a stream who has left is no failure."""
        content = encoded(x, "" if self.is_stream else Path(self.name).suffix)
        if not self.is_stream:
            write_whole(Path(self.name), content)
        elif self.is_stdout:
            with heard_or_not(sys.stdout):
                sys.stdout.buffer.write(content)
                sys.stdout.flush()
        else:
            with contextlib.suppress(BrokenPipeError), open(self.name, "wb") as file:
                file.write(content)


@contextlib.contextmanager
def heard_or_not(stream: Any) -> Iterator[None]:
    """To write to a stream whose reader may have left, as `head` does: what is still to come goes nowhere."""
    try:
        yield
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def encoded(x: np.ndarray, suffix: str) -> bytes:
    """Numbers as the content of a file; of no suffix as lines of plain text."""
    if suffix == ".npy":
        return _npy(x)
    table = x.reshape(len(x), -1) if x.ndim else x.reshape(1, 1)
    if suffix == ".mtx":
        file = io.BytesIO()
        scipy.io.mmwrite(file, table, comment=MARK, precision=17, symmetry="general")
        return file.getvalue()
    comma = "," if suffix == ".csv" else " "
    lines = [comma.join(repr(number).strip("()") for number in row) for row in table.tolist()]
    return "\n".join([*([f"# {MARK}"] if suffix else []), *lines, ""]).encode()


def _npy(x: np.ndarray) -> bytes:
    header = repr(np.lib.format.header_data_from_array_1_0(x.copy("C")))
    start = np.lib.format.magic(1, 0) + struct.pack("<H", NPY_HEADER - 10)
    return start + header.ljust(NPY_HEADER - 11).encode() + b"\n" + x.tobytes("C")


def _is_own(path: Path) -> bool:
    """Whether this module wrote a file."""
    with open(path, "rb") as file:
        head = file.read(200)
    if head.startswith(np.lib.format.magic(1, 0)):
        return head[8:10] == struct.pack("<H", NPY_HEADER - 10)
    return any(line[1:].strip() == MARK.encode() for line in head.split(b"\n")[:2])


def _is_stdout(name: str) -> bool:
    """Whether a name, such as `/dev/stdout`, leads to standard output."""
    try:
        return os.path.samestat(os.stat(name), os.fstat(sys.stdout.fileno()))
    except (OSError, ValueError, AttributeError):
        return False
