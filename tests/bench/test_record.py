"""Records: whole lines, resuming, refusing what does not belong together."""

import json
import math

import pytest

from bench import record


def row(key, config="c", **more):
    return {"schema": 1, "key": key, "config": config, "result": "successful", **more}


def test_round_trip_with_nan_as_null(tmp_path):
    file = tmp_path / "r.jsonl"
    record.append(file, row("a", true_residual=math.nan, residual_norms=[1.0, math.inf]))
    (back,) = record.read(file)
    assert back["true_residual"] is None and back["residual_norms"] == [1.0, None]


def test_a_line_cut_by_a_kill_is_dropped_and_overwritten(tmp_path):
    file = tmp_path / "r.jsonl"
    record.append(file, row("a"))
    record.append(file, row("b"))
    file.write_bytes(file.read_bytes()[:-20])
    assert [r["key"] for r in record.read(file)] == ["a"]
    assert [r["key"] for r in record.open_for_resume(file, "c", fresh=False)] == ["a"]
    record.append(file, row("b2"))
    assert [r["key"] for r in record.read(file)] == ["a", "b2"]


def test_bad_line_is_named(tmp_path):
    file = tmp_path / "r.jsonl"
    record.append(file, row("a"))
    with file.open("a") as stream:
        stream.write("not json\n")
    with pytest.raises(ValueError, match=r"r\.jsonl, line 2: not JSON"):
        record.read(file)
    file.write_text(json.dumps({"x": 1}) + "\n")
    with pytest.raises(ValueError, match="line 1: not a benchmark record"):
        record.read(file)
    file.write_text(json.dumps({"schema": 99, "result": "successful"}) + "\n")
    with pytest.raises(ValueError, match="line 1: schema 99"):
        record.read(file)


def test_another_suite_is_refused_and_fresh_starts_over(tmp_path):
    file = tmp_path / "r.jsonl"
    record.append(file, row("a", suite="quick"))
    with pytest.raises(ValueError, match="suite 'quick' with other settings.*--fresh"):
        record.open_for_resume(file, "other", fresh=False)
    assert record.read(file)  # the refusal must not touch the file
    assert record.open_for_resume(file, "other", fresh=True) == []
    assert file.read_bytes() == b""


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write records to .*choose another --out"):
        record.open_for_resume(tmp_path / "file" / "r.jsonl", "c", fresh=False)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*nowhere"):
        record.read(tmp_path / "nowhere.jsonl")


def test_latest_keeps_the_last_of_each_key():
    rows = [row("a", n=1), row("b", n=2), row("a", n=3)]
    assert [r["n"] for r in record.latest(rows)] == [3, 2]


def test_key_depends_on_every_field():
    base = {
        "problem": "p", "size": 8, "solver": "cg", "rtol": 1e-8, "dtype": "float64", "seed": 0,
        "device": "cpu",
    }  # fmt: skip
    changed = {
        "problem": "q", "size": 9, "solver": "cg+ic", "rtol": 1e-9, "dtype": "float32", "seed": 1,
        "device": "gpu",
    }  # fmt: skip
    keys = {record.key(**base)} | {record.key(**{**base, k: v}) for k, v in changed.items()}
    assert len(keys) == 1 + len(changed)
