"""Records: whole lines, one writer, nothing lost, refusing what does not belong together."""

import dataclasses
import errno
import math
import os
import subprocess
import sys

import pytest

from bench.engine import record
from bench.engine.record import RecordFile, read, write_whole
from bench.engine.work import Cell


def row(key, **more):
    return {"schema": 1, "key": key, "problem": "p", "solver": "s", "result": "successful", **more}


def keys(rows):
    return [r["key"] for r in rows]


def test_round_trip_with_nan_as_null(tmp_path):
    with RecordFile(tmp_path / "deep" / "r.jsonl") as file:
        file.append(row("a", true_residual=math.nan, residual_norms=[1.0, math.inf]))
    (back,) = read(tmp_path / "deep" / "r.jsonl")
    assert back["true_residual"] is None and back["residual_norms"] == [1.0, None]


def test_a_line_cut_by_a_kill_is_dropped_and_overwritten(tmp_path):
    path = tmp_path / "r.jsonl"
    with RecordFile(path) as file:
        file.append(row("a"))
        file.append(row("b"))
    path.write_bytes(path.read_bytes()[:-20])
    assert keys(read(path)) == ["a"]
    with RecordFile(path) as file:
        assert keys(file.read()) == ["a"]
        file.append(row("b2"))
    assert keys(read(path)) == ["a", "b2"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json\n", "line 1: not JSON"),
        (b"\x00\xff\x80\n", "line 1: not JSON"),
        (b"[1]\n", "line 1: not a benchmark record"),
        (b'{"x": 1}\n', "line 1: not a benchmark record"),
        (b'{"schema": 99, "result": "successful"}\n', "line 1: schema 99"),
        (b'{"schema": 1, "result": "successful"}\n', "line 1: lacks problem and solver"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = tmp_path / "r.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"r\.jsonl, {message}"):
        read(path)
    with RecordFile(path) as file, pytest.raises(ValueError, match=message):
        file.read()
    assert path.read_bytes() == content  # the refusal must not touch the file


def test_two_writers_are_refused(tmp_path):
    with RecordFile(tmp_path / "r.jsonl") as file:
        with pytest.raises(ValueError, match="is being written by another process"):
            RecordFile(tmp_path / "r.jsonl")
        file.replace([row("a")])  # another file of that name: locked as well
        with pytest.raises(ValueError, match="is being written by another process"):
            RecordFile(tmp_path / "r.jsonl")
    with RecordFile(tmp_path / "r.jsonl") as file:
        assert keys(file.read()) == ["a"]


def test_a_full_disk_is_told_and_keeps_what_is_there(tmp_path, monkeypatch):
    path = tmp_path / "r.jsonl"
    with RecordFile(path) as file:
        file.append(row("a"))
        before = path.read_bytes()

        def full(_):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(record.os, "fsync", full)
        with pytest.raises(ValueError, match=r"cannot write .*No space left.*kept"):
            file.append(row("b"))
        assert path.read_bytes() == before
        with pytest.raises(ValueError, match="No space left"):
            file.replace([])
        monkeypatch.undo()
        assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]
        file.append(row("b"))
    assert keys(read(path)) == ["a", "b"]


def test_unwritable_and_missing_places_are_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write records to .*choose another --out"):
        RecordFile(tmp_path / "file" / "r.jsonl")
    with pytest.raises(ValueError, match="cannot write .*choose another place"):
        write_whole(tmp_path / "file" / "x", b"")
    with pytest.raises(ValueError, match="cannot read .*nowhere"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(ValueError, match="cannot read"):
        read(tmp_path)


def test_what_is_written_whole_has_the_usual_rights(tmp_path):
    (tmp_path / "usual").write_text("")
    write_whole(tmp_path / "x", b"1")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "usual").stat().st_mode
    (tmp_path / "x").chmod(0o600)
    write_whole(tmp_path / "x", b"2")
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600 and (tmp_path / "x").read_bytes() == b"2"


def test_links_and_streams_stay_what_they_are(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_whole(tmp_path / "link", b"1")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_bytes() == b"1"
    # The command's stdout is a file here.
    program = "from bench.engine.record import write_whole; write_whole('/dev/stdout', b'2')"
    with (tmp_path / "out").open("wb") as out:
        subprocess.run([sys.executable, "-c", program], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"2" and os.path.islink("/dev/stdout")


def test_latest_keeps_the_last_of_each_key():
    rows = [row("a", n=1), row("b", n=2), row("a", n=3)]
    assert [r["n"] for r in record.latest(rows)] == [3, 2]


def test_key_depends_on_every_field():
    base = Cell("p", 8, "cg", 1e-8, "float64", 0)
    changes = {
        "problem": "q", "size": 9, "solver": "cg+ic", "rtol": 1e-9, "dtype": "float32", "seed": 1, "count": 3,
    }  # fmt: skip
    cells = [base, *(dataclasses.replace(base, **{k: v}) for k, v in changes.items())]
    found = {record.key(cell, device) for cell in cells for device in ("cpu", "gpu")}
    assert len(found) == 2 * len(cells)
    # That of records that were made before is still theirs.
    assert record.key(base, "cpu") == "befbe87523e346cd"
