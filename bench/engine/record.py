"""Records: one JSON object per line, written whole or not at all.

A line is appended and fsynced as its cell ends, so a killed run loses at most the cell it was in.  A file
that is being written is locked.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

SCHEMA = 1
Record = dict[str, Any]


def key(cell: Any, device: str) -> str:
    """What makes two cells the same measurement, as a short hash.

    The solver's and the problem's parameters are inside their specs; `count` is a sequence's length."""
    parts = [cell.problem, cell.size, cell.solver, float(cell.rtol), cell.dtype, cell.seed, device]
    text = json.dumps(parts if cell.count is None else [*parts, cell.count])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def changed(settings: Any) -> dict[str, Any]:
    """The settings that are not their defaults."""
    fields = dataclasses.fields(settings)
    return {f.name: value for f in fields if (value := getattr(settings, f.name)) != f.default}


def error(raised: BaseException, where: str = "") -> str:
    """An exception as a `result`: its kind and first line."""
    first_line = (str(raised).strip().splitlines() or [""])[0]
    return f"error: {where}{type(raised).__name__}: {first_line}"[:300]


def read(path: Path) -> list[Record]:
    """All complete records of a file.

    A last line cut short by a kill is dropped; anything else that is not a record raises
    ValueError naming the file and the line."""
    try:
        content = Path(path).read_bytes()
    except OSError as failed:
        raise ValueError(f"cannot read {path}: {failed.strerror or failed}") from None
    return parse(path, content)


def parse(path: Path, content: bytes) -> list[Record]:
    """As `read`, of what a file held; `path` is for the messages."""
    records = []
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as failed:  # of what is no text as well
            raise ValueError(f"{path}, line {number}: not JSON ({str(failed).splitlines()[0]})") from None
        if not isinstance(record, dict) or "result" not in record:
            raise ValueError(f"{path}, line {number}: not a benchmark record (no `result`)")
        if record.get("schema") != SCHEMA:
            raise ValueError(
                f"{path}, line {number}: schema {record.get('schema')!r}, but this version reads "
                f"schema {SCHEMA}; measure again with --fresh"
            )
        missing = [name for name in ("problem", "solver") if name not in record]
        if missing:
            raise ValueError(f"{path}, line {number}: lacks {' and '.join(missing)}")
        records.append(record)
    return records


class RecordFile:
    """A file of records, locked and open to append to; a context manager."""

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("a+b")
        except OSError as failed:
            raise ValueError(
                f"cannot write records to {path}: {failed.strerror or failed}; choose another --out"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ValueError(
                f"{path} is being written by another process; wait for it, end it, or choose another --out"
            ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> list[Record]:
        """The complete records; what a kill left of a last line is cut off, so that the next one starts on a
        line of its own."""
        self._file.seek(0)
        content = self._file.read()
        records = parse(self.path, content)
        self._file.truncate(content.rfind(b"\n") + 1)
        return records

    def append(self, record: Record) -> None:
        """Append one record and wait until it is on the disk; where it does not go there whole, nothing of it
        stays.  ValueError says why."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as failed:
            os.ftruncate(self._file.fileno(), end)
            raise ValueError(
                f"cannot write {self.path}: {failed.strerror or failed}; what was measured before is kept: "
                "make room and start the same command again"
            ) from None

    def replace(self, records: Iterable[Record]) -> None:
        """Make these records the file's only ones, in one step."""
        write_whole(self.path, b"".join(map(_line, records)))
        self._file.close()
        self.__init__(self.path)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file whole or not at all: beside it first, then in its place.

    What is no regular file (a pipe, `/dev/stdout`) is written as it is; of a link, what it points to is
    replaced. ValueError says why not."""
    path = Path(path)
    try:
        if is_stream(path):
            with path.open("wb") as stream:
                stream.write(content)
            return
        path = path.resolve()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, path.stat().st_mode if path.exists() else 0o666 & ~_umask())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as failed:
        raise ValueError(f"cannot write {path}: {failed.strerror or failed}; choose another place") from None


def is_stream(path: Path) -> bool:
    """Whether it is a pipe or a device, not a file that could be replaced; or a name of one of those, as
    `/dev/stdout`, whatever it leads to."""
    named = path.is_absolute() and path.parts[1:2] in (("dev",), ("proc",))
    return named or (path.exists() and not path.is_file() and not path.is_dir())


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _line(record: Record) -> bytes:
    return (json.dumps(finite(record), allow_nan=False) + "\n").encode()


def plain(value: Any) -> Any:
    """The value with Python's own numbers and lists for those of NumPy and JAX."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return plain(value.tolist()) if hasattr(value, "tolist") else value


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
    """One record per key, the last one written, in the order of the first."""
    return list({record.get("key", id(record)): record for record in records}.values())
