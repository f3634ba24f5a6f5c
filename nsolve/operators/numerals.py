"""Numbers in text, read strictly: what is not wholly a number is refused.

Decimal numbers as C, Python and Fortran print them.  Fortran writes double precision with `D` (quadruple with
`Q`) for `E`, and leaves the letter out where the exponent needs three digits: `1.234-100`.
"""

import math
import re

_MANTISSA = rb"(?:[0-9]++\.?[0-9]*+|\.[0-9]++)"
#: Patterns: of the usual numbers, which are matched fastest; of C's; of all that are understood.
USUAL = rb"-?[0-9]++\.?[0-9]*+(?:[eE][-+]?[0-9]++)?"
PLAIN = b"-?" + _MANTISSA + rb"(?:[eE][-+]?[0-9]++)?"
ANY = (
    rb"[-+]?(?:(?:[0-9]++\.[0-9]*+|\.[0-9]++)[-+][0-9]{3}(?![0-9])|"
    + _MANTISSA
    + rb"(?:[eEdDqQ][-+]?[0-9]++)?)"
)

_NUMBER, _FIELD = re.compile(ANY), re.compile(rb"[^ \t\r\n]+")
_EXPONENT_LETTERS = bytes.maketrans(b"dDqQ", b"EEEE")
_NO_LETTER, _PLUS = re.compile(rb"(?<=[0-9.])(?=[-+])"), re.compile(rb"(?<![eE])\+")


def as_plain(text: bytes) -> bytes:
    """Text whose numbers match `ANY`, with the same numbers as `PLAIN` has them."""
    return _PLUS.sub(b"", _NO_LETTER.sub(b"E", text.translate(_EXPONENT_LETTERS)))


def number(token: bytes) -> float:
    """The number that the whole token is; a ValueError says why it is none in double precision."""
    if not _NUMBER.fullmatch(token):
        raise ValueError(f"{show(token)} is not a number")
    value = float(as_plain(token))
    if math.isinf(value):
        raise ValueError(f"{show(token)} is too large for double precision")
    if value == 0 and re.match(rb"[-+0.]*[1-9]", token):
        raise ValueError(f"{show(token)} is too small for double precision and would become zero")
    return value


def fields(line: bytes) -> list[bytes]:
    """What stands between the blanks of a line."""
    return _FIELD.findall(line)


def show(text: bytes) -> str:
    """Text for an error message, shortened."""
    shown = repr(text.strip().decode(errors="replace"))
    return shown if len(shown) <= 80 else f"{shown[:76]}...'"
