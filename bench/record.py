"""Records: one JSON object per line, written whole or not at all.

A line is appended and fsynced as its cell ends, so a killed run loses at most the cell it was in.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SCHEMA = 1
Record = dict[str, Any]


def key(
    *,
    problem: str,
    size: int | None,
    solver: str,
    rtol: float,
    dtype: str,
    seed: int,
    device: str,
    count: int | None = None,
) -> str:
    """What makes two cells the same measurement, as a short hash.

    The solver's and the problem's parameters are inside their specs; `count` is a sequence's length."""
    parts = [problem, size, solver, float(rtol), dtype, seed, device]
    text = json.dumps(parts if count is None else [*parts, count])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read(path: Path) -> list[Record]:
    """All complete records of a file.

    A last line cut short by a kill is dropped; anything else that is not a record raises
    ValueError naming the file and the line."""
    records = []
    lines = _complete_lines(path)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, line {number}: not JSON ({error.msg})") from None
        if not isinstance(record, dict) or "result" not in record:
            raise ValueError(f"{path}, line {number}: not a benchmark record (no `result`)")
        if record.get("schema") != SCHEMA:
            raise ValueError(
                f"{path}, line {number}: schema {record.get('schema')!r}, but this version reads "
                f"schema {SCHEMA}; measure again with --fresh"
            )
        records.append(record)
    return records


def open_for_resume(path: Path, config: str, fresh: bool) -> list[Record]:
    """Make the file ready to append to and return the records it already holds.

    Raises ValueError when the file belongs to another suite or cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab"):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write records to {path}: {error.strerror or error}; choose another --out"
        ) from None
    if fresh:
        path.write_bytes(b"")
        return []
    records = read(path)
    for record in records:
        if record.get("config") != config:
            raise ValueError(
                f"{path} holds records of suite {record.get('suite')!r} with other settings "
                f"(written {record.get('time')}); choose another --out, or --fresh to start over"
            )
    # Cut what a kill left of the last line, so that the next record starts on a line of its own.
    whole = sum(len(line) + 1 for line in _complete_lines(path))
    with path.open("r+b") as file:
        file.truncate(whole)
    return records


def append(path: Path, record: Record) -> None:
    """Append one record and wait until it is on the disk."""
    line = json.dumps(finite(record), allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, since JSON has no word for them."""
    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def latest(records: Iterable[Record]) -> list[Record]:
    """One record per key, the last one written."""
    return list({record.get("key", id(record)): record for record in records}.values())


def _complete_lines(path: Path) -> list[bytes]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    return content.split(b"\n")[:-1]
