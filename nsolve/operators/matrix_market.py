"""Matrix Market files: every character is checked here, then SciPy's fast reader converts the numbers.

By itself that reader takes of a number what it understands and passes over the rest: `2.5D+03` is 2.5.
The format: https://math.nist.gov/MatrixMarket/formats.html
"""

import functools
import gzip
import inspect
import io
import itertools
import os
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import lineax as lx
import numpy as np

from .base import hermitian_tag
from .numerals import ANY, PLAIN, USUAL, as_plain, fields, number, show

if TYPE_CHECKING:
    import scipy.sparse as sp

#: How many numbers an entry has, by the header's word.
_NUMBERS = {"real": 1, "double": 1, "integer": 1, "unsigned-integer": 1, "complex": 2, "pattern": 0}
_WHOLE = ("integer", "unsigned-integer")
_LARGEST_WHOLE = 2**53
_LONGEST = 2**16
_INDEX = rb"[0-9]{1,18}+"
_TAGS = {
    "general": frozenset(),
    "symmetric": frozenset({lx.symmetric_tag}),
    "skew-symmetric": frozenset(),
    "hermitian": frozenset({hermitian_tag}),
}
_NO_ENTRY = rb"[ \t]*+(?:%[^\n]*+)?\r?\n"


class Header(NamedTuple):
    """What stands above the entries: the format's words, shape, number of stored entries, and where they
    begin."""

    coordinate: bool
    field: str
    symmetry: str
    shape: tuple[int, int]
    count: int
    start: int


def read_matrix_market(path: Any) -> "tuple[sp.coo_array, frozenset[object]]":
    """Reads a matrix (`.mtx` or `.mtx.gz`; real, complex, integer or pattern; any symmetry).

    Returns the whole matrix (the stored triangle mirrored) in double precision, and the tags that its header
    promises.  Entries given twice are both there: compressing the matrix sums them.  Pattern files get ones.

    Fortran's exponents (`2.5D+03`, `1.234-100`) are understood, blank lines and comments passed over.  All
    else that is not the format is a `ValueError` with file, line and text, and so are: fewer or more entries
    than announced; indices out of range; NaN, infinity, and numbers that double precision turns into infinity
    or zero; integers beyond 2^53; entries of both triangles where the header promises symmetry, a
    skew-symmetric matrix with a diagonal, a Hermitian one with a diagonal that is not real.
    A missing file is a `FileNotFoundError`.
    """
    path = os.fspath(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"There is no file {path!r}.")
    try:
        with (gzip.open if path.endswith(".gz") else open)(path, "rb") as file:
            return parse_matrix_market(file)  # pyright: ignore[reportArgumentType]
    except (ValueError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"{path}: not a readable Matrix Market file: {error}") from None


def parse_matrix_market(
    file: BinaryIO, check: Callable[[Header], None] = lambda header: None
) -> "tuple[sp.coo_array, frozenset[object]]":
    """What an open file or pipe holds, see `read_matrix_market`.

    `check` is shown what the file announces before its entries are read, and may refuse it."""
    import scipy.sparse as sp  # slow to import

    head = _head(file)
    check(_header(head))
    text = head + file.read()
    text += b"" if text.endswith(b"\n") else b"\n"
    header = _header(text)
    rows, columns, values = _entries(text, header)
    if header.symmetry != "general":
        (off,) = np.nonzero(rows != columns)
        mirrored = values[off].conj() if header.symmetry == "hermitian" else values[off]
        mirrored = -mirrored if header.symmetry == "skew-symmetric" else mirrored
        values = np.concatenate([values, mirrored])
        rows, columns = np.concatenate([rows, columns[off]]), np.concatenate([columns, rows[off]])
    matrix = sp.coo_array((values, (rows, columns)), shape=header.shape)
    return matrix, _TAGS[header.symmetry]


def _head(file: BinaryIO) -> bytes:
    """The lines down to that of the sizes, each ended."""
    lines = [file.readline(_LONGEST)]  # of what is no text a line may be all of it
    while lines[-1].endswith(b"\n") and (len(lines) == 1 or re.fullmatch(_NO_ENTRY, lines[-1])):
        lines.append(file.readline())
    return b"".join(lines) + (b"" if lines[-1].endswith(b"\n") else b"\n")


def _header(text: bytes) -> Header:
    end = text.index(b"\n") + 1
    words = [word.decode(errors="replace").lower() for word in fields(text[:end])]
    if len(words) != 5 or words[:2] != ["%%matrixmarket", "matrix"]:
        raise ValueError(
            "Not a Matrix Market file: line 1 must be `%%MatrixMarket matrix FORMAT FIELD SYMMETRY`, but is "
            f"{show(text[:end])}"
        )
    form, field, symmetry = words[2:]
    for word, known in ((form, ("coordinate", "array")), (field, _NUMBERS), (symmetry, _TAGS)):
        if word not in known:
            raise ValueError(f"Line 1: {word!r} must be one of {', '.join(known)}")
    coordinate = form == "coordinate"
    if (symmetry == "hermitian" and field != "complex") or (
        field == "pattern" and (not coordinate or symmetry == "skew-symmetric")
    ):
        raise ValueError(f"Line 1: there are no {symmetry} {field} matrices of the format {form}")
    start = _end_of_match(b"(?:" + _NO_ENTRY + b")*+", text, end)
    end = text.find(b"\n", start) + 1
    names = "rows columns entries" if coordinate else "rows columns"
    sizes, where = fields(text[start:end]), f"Line {_line_number(text, start)}"
    if len(sizes) != len(names.split()) or not all(re.fullmatch(_INDEX, size) for size in sizes):
        raise ValueError(f"{where}: {show(text[start:end])} must be the sizes `{names}`")
    m, n, *count = map(int, sizes)
    if symmetry != "general" and m != n:
        raise ValueError(f"{where}: a {symmetry} matrix must be square, but is {m} x {n}")
    triangle = n * (n - 1) // 2 if symmetry == "skew-symmetric" else n * (n + 1) // 2
    stored = count[0] if coordinate else m * n if symmetry == "general" else triangle
    return Header(coordinate, field, symmetry, (m, n), stored, end)


def _entries(text: bytes, header: Header) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows, columns and values of the stored entries."""
    from scipy.io import mmread  # which is slow to import

    body, (m, n) = _checked(text, header), header.shape
    rows = columns = np.zeros(0, np.int32)
    values = np.zeros(0, complex if header.field == "complex" else float)
    if header.count:  # SciPy's reader divides by the size of an array
        field = header.field if _NUMBERS[header.field] != 1 else "real"
        top = f"array {field} general\n{header.count} 1\n"
        if header.coordinate:
            top = f"coordinate {field} general\n{m} {n} {header.count}\n"
        try:
            read = mmread(io.BytesIO(f"%%MatrixMarket matrix {top}".encode() + body), **_options())
        except (ValueError, OverflowError):  # an index out of range
            _refuse(text, header, body, range(header.count))
            raise
        values = read.data if header.coordinate else np.asarray(read).reshape(-1)  # pyright: ignore
        if header.coordinate:
            rows, columns = read.coords  # pyright: ignore
    if not header.coordinate:
        columns, rows = np.divmod(np.arange(m * n), max(m, 1))
        if header.symmetry != "general":
            stored = rows > columns if header.symmetry == "skew-symmetric" else rows >= columns
            rows, columns = rows[stored], columns[stored]
    # A zero may have been a number that is too small.
    suspect = ~np.isfinite(values) | (np.real(values) == 0)
    if header.field == "complex":
        suspect |= np.imag(values) == 0
    if header.field in _WHOLE:
        suspect |= abs(values) >= _LARGEST_WHOLE
    side = 0
    if header.symmetry != "general":
        sides = np.sign(rows - columns)
        side = int(sides[np.argmax(sides != 0)]) if sides.any() else 0
        suspect |= (sides == -side) & (sides != 0)
        if header.symmetry == "skew-symmetric":
            suspect |= (sides == 0) & (values != 0)
        elif header.symmetry == "hermitian":
            suspect |= (sides == 0) & (np.imag(values) != 0)
    if suspect.any():
        _refuse(text, header, body, np.flatnonzero(suspect), side, (rows, columns))
    return rows, columns, values


def _checked(text: bytes, header: Header) -> bytes:
    """The entries as SciPy reads them, one a line; an error unless each line is an entry as a whole."""
    end = _end_of_match(_lines(header, USUAL, b" ", b"\n"), text, header.start)
    end = _end_of_match(_lines(header, PLAIN, rb"[ \t]++", rb"[ \t]*+\n"), text, end)
    plain = end == len(text)
    if not plain:
        ending = rb"[ \t]*+\r?\n|" + _NO_ENTRY
        end = _end_of_match(_lines(header, ANY, rb"[ \t]++", ending), text, end)
    if end < len(text):
        line = text[end : text.index(b"\n", end)]
        fault = _fault(line, header) or f"{show(line)} is not an entry"
        raise ValueError(f"Line {_line_number(text, end)}: {fault}")
    body = text[header.start :]
    if not plain:
        body = as_plain(re.sub(b"(?m)^" + _NO_ENTRY, b"", body).replace(b"\r", b""))
    found = body.count(b"\n")
    if found != header.count:
        kind = "Truncated file" if found < header.count else "Too many lines"
        raise ValueError(f"{kind}: {header.count} entries are announced, but there are {found}")
    return body


def _lines(header: Header, number: bytes, blanks: bytes, ending: bytes) -> bytes:
    """A pattern for any number of lines of one entry each."""
    if header.field in _WHOLE:
        number = rb"[-+]?[0-9]++" if number is ANY else rb"-?[0-9]++"
    parts = [_INDEX] * 2 * header.coordinate + [number] * _NUMBERS[header.field]
    leading = b"" if number is USUAL else rb"[ \t]*+"
    return rb"(?:" + leading + blanks.join(parts) + ending + rb")*+"


def _refuse(
    text: bytes, header: Header, body: bytes, entries: Any, side: int = 0, places: Any = None
) -> None:
    """Raises for the first of the entries with whose line something is wrong."""
    (ends,) = np.nonzero(np.frombuffer(body, np.uint8) == ord("\n"))
    for k in entries:
        place = () if places is None else (int(places[0][k]) + 1, int(places[1][k]) + 1)
        fault = _fault(body[ends[k - 1] + 1 if k else 0 : ends[k]], header, side, place)
        if fault is None:
            continue
        lines = enumerate(text[header.start :].split(b"\n"), _line_number(text, header.start))
        of_entries = (pair for pair in lines if not re.fullmatch(_NO_ENTRY, pair[1] + b"\n"))
        where, line = next(itertools.islice(of_entries, int(k), None))
        raise ValueError(f"Line {where}: {_fault(line, header, side, place)}")


def _fault(line: bytes, header: Header, side: int = 0, place: tuple[int, ...] = ()) -> str | None:
    """What is wrong with the line of an entry, if anything.

    `side`: the sign of row - column among the entries before it; `place`: row and column where the line does
    not say them."""
    names = ["row", "column"] * header.coordinate
    names += {0: [], 1: ["value"], 2: ["real part", "imaginary part"]}[_NUMBERS[header.field]]
    tokens = fields(line)
    if len(tokens) != len(names):
        what = f"a {header.field} file has {len(names)} in a line: {', '.join(names)}"
        return f"{show(line)} has {len(tokens)} fields, but {what}"
    position = []
    for name, token, size in zip(names, tokens, header.shape * header.coordinate, strict=False):
        if not re.fullmatch(_INDEX, token) or not 1 <= int(token) <= size:
            return f"{name} {show(token)} in {show(line)} must be an integer from 1 to {size}"
        position.append(int(token))
    numbers = tokens[len(position) :]
    position = tuple(position) or place
    entry = f"entry {position}" if position else "an entry"
    values = []
    for token in numbers:
        if token.lower().lstrip(b"+-") in (b"nan", b"inf", b"infinity"):
            return f"{entry} is {token.decode()}; numbers must be finite"
        try:
            values.append(number(token))
        except ValueError as error:
            return f"{entry}: {error}"
        if header.field in _WHOLE and not re.fullmatch(rb"[-+]?[0-9]+", token):
            return f"{entry}: {show(token)} is not an integer, as the header promises"
        if header.field in _WHOLE and abs(int(token)) > _LARGEST_WHOLE:
            return f"{entry}: {show(token)} is too large: double precision has all integers up to 2^53 only"
    if header.symmetry == "general" or not position:
        return None
    row, column = position
    if (row > column) - (row < column) == -side != 0:
        return f"{entry} lies in the other triangle than those before it; {header.symmetry} files store one"
    if row == column and header.symmetry == "skew-symmetric" and any(values):
        return f"{entry} is on the diagonal, which is zero in a skew-symmetric matrix"
    if row == column and header.symmetry == "hermitian" and values[1]:
        return f"{entry} is on the diagonal, which is real in a Hermitian matrix"
    return None


def _end_of_match(pattern: bytes, text: bytes, start: int) -> int:
    match = re.compile(pattern).match(text, start)
    return start if match is None else match.end()


def _line_number(text: bytes, position: int) -> int:
    return text.count(b"\n", 0, position) + 1


@functools.cache
def _options() -> dict[str, Any]:
    """Newer SciPy has a word for sparse arrays, and warns without it."""
    from scipy.io import mmread

    known = "spmatrix" in inspect.signature(mmread).parameters
    return {"spmatrix": False} if known else {}


def write_matrix_market(path: Any, operator: Any, comment: str = "") -> None:
    """Writes an operator with `as_scipy()`, a SciPy matrix or a dense array; gzipped where the name ends so.

    Symmetric (Hermitian, skew) matrices are stored as one triangle, 17 digits, so that reading gives back the
    same numbers.
    """
    import scipy.sparse as sp  # slow to import
    from scipy.io import mmwrite

    matrix = operator.as_scipy() if hasattr(operator, "as_scipy") else operator
    if not sp.issparse(matrix):
        matrix = np.asarray(matrix)
    options = {"comment": comment, "precision": 17, "symmetry": _symmetry(matrix)}
    path = os.fspath(path)
    if path.endswith(".gz"):
        with gzip.open(path, "wb") as file:
            mmwrite(file, matrix, **options)
    else:
        mmwrite(path, matrix, **options)


def _symmetry(matrix: Any) -> str:
    """Matrix Market's word for the symmetry that the entries have."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        return "general"

    def vanishes(difference) -> bool:
        import scipy.sparse as sp  # slow to import

        return difference.count_nonzero() == 0 if sp.issparse(difference) else not difference.any()

    if vanishes(matrix - matrix.T):
        return "symmetric"
    if vanishes(matrix - matrix.conj().T):
        return "hermitian"
    return "skew-symmetric" if vanishes(matrix + matrix.T) else "general"
