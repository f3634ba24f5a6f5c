"""The page: self-contained, honest about failures, safe against what names may hold."""

import re
from html.parser import HTMLParser

import pytest

from bench.page import write_page
from bench.verdict import verdict
from tests.bench.test_plots import RECORDS, record

ENV = {"cpu": "a processor", "threads": {"cpus": 2}, "versions": {"scipy": "1.17"}}
ALL = [r | {"env": ENV, "time": "2026-11-20T12:00:00"} for r in RECORDS]


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order."""

    void = {"meta", "br", "img"}

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def page(tmp_path, records=ALL, title="Side by side"):
    return write_page(records, tmp_path / "deep" / "page.html", title).read_text()


def test_well_formed_and_self_contained(tmp_path):
    text = page(tmp_path)
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    assert not re.search(r"""(src|href)=|https?://|@import|url\(""", text)


def test_every_run_and_every_failure_is_shown(tmp_path):
    text = page(tmp_path)
    assert text.count("<tr class=") == len(ALL)
    assert "out of steps" in text
    assert "not installed: solvax:cg" in text
    assert "a processor" in text


def test_a_success_that_the_residual_denies_is_a_failure(tmp_path):
    text = page(tmp_path, [*ALL, record("lineax:cg", true_residual=0.5, false_success=True)])
    assert "says success, true residual 0.5" in text


def test_names_are_escaped(tmp_path):
    text = page(tmp_path, [record("scipy:<script>alert(1)</script>")], title="<b>&")
    assert "<script>alert" not in text
    assert "&lt;b&gt;&amp;" in text


def test_verdict_counts_wins_and_lies():
    slow = {"median": 4.0, "iqr": 0.0}
    fast = {"median": 1.0, "iqr": 0.0}
    records = [
        record("cg", solve_s=fast),
        record("scipy:cg", solve_s=slow),
        record("cg", size=64, solve_s=slow),
        record("scipy:cg", size=64, solve_s=fast),
        record("cg", size=128, solve_s=fast),
        record("scipy:cg", size=128, solve_s=slow),
        # Fast but wrong: wins nothing.
        record("pyamg:cg", solve_s={"median": 0.1, "iqr": 0.0}, true_residual=0.1),
    ]
    text = " ".join(verdict(records))
    assert text.startswith("Of 3 systems, nsolve solves 2 fastest, scipy on 1")
    assert "largest lead is 4×" in text  # set-up is 0.01 s beside 1 and 4 s
    assert "largest lag is 4×" in text
    assert "1 of 7 runs failed, 1 of them while claiming success." in text


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="records is empty"):
        write_page([], tmp_path / "page.html", "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        write_page(ALL, tmp_path / "file" / "page.html", "unwritable")
