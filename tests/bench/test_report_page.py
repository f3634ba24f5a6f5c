"""The page: whole without network or scripts, honest about failures, safe against what names may hold, and
alive in a browser."""

import base64
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from types import SimpleNamespace
from urllib.parse import unquote

import pytest

from bench.engine.suite import Suite
from bench.report.frame import frame
from bench.report.page import write_page
from bench.report.tables import Promise, Promises
from bench.report.verdict import verdict
from bench.work import linear
from tests.bench.records import RECORDS, record, timed

ENV = {
    "cpu": "a processor",
    "threads": {"cpus": 2},
    "versions": {"scipy": "1.17", "torch": "2"},
    "load": [0.5],
}
ALL = [r | {"env": ENV, "time": "2026-11-20T12:00:00", "version": "1"} for r in RECORDS]
SUITE = Suite("Side by side", linear.WORK, [])
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Balance(HTMLParser):
    """Fails on a tag that is closed out of order; keeps the text that is no script's."""

    void = {"meta", "br", "img", "input"}

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.links, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)


def page(tmp_path, records=ALL, suite=SUITE):
    return write_page(records, tmp_path / "deep" / "page.html", suite).read_text()


def without_scripts(text):
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_well_formed_and_self_contained(tmp_path):
    text = page(tmp_path)
    found = Balance(text)
    assert found.links and set(found.links) <= {f"#{name}" for name in found.ids}
    assert not re.search(r"https?://|@import|url\(", without_scripts(text))


def test_every_run_and_every_failure_is_shown_without_scripts(tmp_path):
    text = without_scripts(page(tmp_path))
    every = text[text.rindex("Every run") :]
    assert every.count("<tr") == len(ALL) + 1  # with the headings
    assert every.count("<tr class=failed>") == 3
    words = " ".join(Balance(text).text)
    for expected in ("out of steps", "not installed", "a processor", "0.5 to 0.5", "2026-11-20", "scipy 1"):
        assert expected in words
    assert "torch" not in words  # took no part
    assert (
        text.count("<noscript>") == text.count('class="chart"') == len(re.findall("<figcaption>", text)) > 4
    )


def test_charts_and_tables_of_a_system_share_a_section_in_the_order_of_the_records(tmp_path):
    text = without_scripts(page(tmp_path))
    headings = re.findall(r"<h2>(.*?)</h2>", text)
    assert headings == [
        "poisson2d 32, 1,024 unknowns", "poisson2d 64, 4,096 unknowns", "poisson2d: all of its systems",
        "Every run", "Measured on",
    ]  # fmt: skip
    assert re.findall(r'<li><a href="#\w+">(.*?)</a>', text) == headings
    parts = text.split("<section")[1:]
    assert [(part.count("<figure>"), part.count("<table>")) for part in parts] == [
        (2, 1),
        (4, 1),
        (1, 0),
        (0, 1),
        (0, 0),
    ]


def test_a_suites_own_tables_come_first(tmp_path):
    promise = Promise("two `sizes`", {"solver": "cg", "size": 32}, {"size 64": {"size": 64}})
    text = page(tmp_path, suite=Suite("Promised", linear.WORK, [], tables=[Promises([promise])]))
    assert re.findall(r"<h2>(.*?)</h2>", text)[0] == "In short"
    assert "two <code>sizes</code>" in text and "size 64: 1.20 s" in text


def test_a_few_sections_need_no_contents(tmp_path):
    assert "<nav" not in page(tmp_path, [record()])


def test_a_success_that_the_residual_denies_is_a_failure(tmp_path):
    text = page(tmp_path, [*ALL, record("lineax:cg", true_residual=0.5, false_success=True)])
    assert "says success, true residual 0.5" in text


def test_names_are_escaped(tmp_path):
    evil = "cg[x=</script><script>alert(1)</script>]"
    records = [
        record(),
        record(f"scipy:{evil}"),
        record(problem=evil, work="linear"),
        record("lineax:cg", result="error: <i>"),
    ]
    text = page(tmp_path, records, Suite("<b>&", linear.WORK, []))
    assert "<script>alert" not in text and "<i>" not in text
    assert "&lt;b&gt;&amp;" in text
    specs = re.findall(r'<script type="application/json" class="spec">(.*?)</script>', text, re.DOTALL)
    assert specs and any(
        f"scipy:{evil}" in json.dumps(json.loads(spec), ensure_ascii=False) for spec in specs
    )


def test_records_of_two_machines_are_told_apart(tmp_path):
    other = record("scipy:cg", env=ENV | {"cpu": "another"}, time="2026-11-21T12:00:00")
    words = " ".join(Balance(page(tmp_path, [*ALL, other])).text)
    assert "7 of 8" in words and "1 of 8" in words and "another" in words


def test_verdict_counts_wins_and_lies():
    slow, fast = timed(4.0), timed(1.0)
    records = [
        record("cg", solve_s=fast),
        record("scipy:cg", solve_s=slow),
        record("cg", size=64, solve_s=slow),
        record("scipy:cg", size=64, solve_s=fast),
        record("cg", size=128, solve_s=fast),
        record("scipy:cg", size=128, solve_s=slow),
        # Fast but wrong: wins nothing.
        record("pyamg:cg", solve_s=timed(0.1), true_residual=0.1),
        # No rival, and at a tolerance that few share.
        record("product", solve_s=timed(1e-3), true_residual=0.0),
        record("scipy:minres", rtol=1e-2, solve_s=timed(1e-3)),
    ]
    text = " ".join(verdict(frame(records), linear.WORK))
    assert text.startswith(
        "Of 3 systems, nsolve solves 2 fastest, scipy on 1, to a true relative residual of 1e-8"
    )
    assert "largest lead is 4×" in text  # set-up is 0.01 s beside 1 and 4 s
    assert "largest lag is 4×" in text
    assert "1 of 9 runs failed, 1 of them while claiming success." in text


def test_a_work_may_say_something_else():
    work = SimpleNamespace(remarks=lambda rows: [f"{len(rows)} records."], error="error")
    assert verdict(frame(RECORDS), work) == ["7 records.", "2 of 6 runs failed."]


def test_training_pays_after_some_solves_or_never():
    records = [
        record("cg", solve_s=timed(1.0)),
        record("scipy:cg", solve_s=timed(0.5)),
        record("pyamg:cg", solve_s=timed(0.01), true_residual=0.1),  # beats nobody
        record("cg+ic", solve_s=timed(0.3), train_s=10.0),
        record("cg+ssor", solve_s=timed(0.6), train_s=10.0),
        record("cg+jacobi", solve_s=timed(0.1), train_s=10.0, true_residual=0.1),
        record("cg+ic", size=64, train_s=1.0),
    ]
    rows = frame(records)
    assert rows["break_even"].to_list()[:3] == [None] * 3
    assert rows["break_even"][3] == pytest.approx(50.0)
    assert rows["break_even"].to_list()[4:] == [float("inf"), None, None]
    assert "soonest after 50 solves of poisson2d 32 (cg+ic)" in " ".join(verdict(rows, linear.WORK))
    table = next(linear.WORK.tables[0].render(rows))
    assert [row.cells[table.headings.index("break-even")][1] for row in table.rows[3:]] == [
        "50 solves",
        "never",
        "–",
    ]


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match="records is empty"):
        write_page([], tmp_path / "page.html", SUITE)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write"):
        write_page(ALL, tmp_path / "file" / "page.html", SUITE)


# ---- in a browser --------------------------------------------------------------------------------
LISTEN = """<script>
const errors = [];
addEventListener("error", (event) => errors.push(event.message));
addEventListener("unhandledrejection", (event) => errors.push(String(event.reason)));
console.error = console.warn = (...words) => errors.push(words.join(" "));
</script>"""
ASK = """<script>
(async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  for (let k = 0; k < 200 && !document.documentElement.dataset.drawn; k++) await pause(50);
  const all = (what, where = document) => [...where.querySelectorAll(what)];
  const answer = await (async () => { %s })().catch((error) => "failed: " + error);
  parent.postMessage(JSON.stringify({ answer, errors, drawn: document.documentElement.dataset.drawn }), "*");
})();
</script>"""
FRAME = """<!doctype html><body style="margin: 0"><iframe src="page.html" width="%d" height="900"></iframe>
<script>addEventListener("message", (event) => {
  const found = document.createElement("pre");
  found.textContent = "ANSWER" + btoa(encodeURIComponent(event.data)) + "END";
  document.body.append(found);
});</script>"""


def ask(folder, script, width=1280, dark=False, records=ALL):
    """What a script gives in the page, in a frame so wide, and what was complained of."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: the page is tested without a browser only")
    text = write_page(records, folder / "page.html", SUITE).read_text()
    text = text.replace("<head>", "<head>" + LISTEN, 1)
    end = text.rindex("</body>")
    (folder / "page.html").write_text(text[:end] + ASK % script + text[end:])
    (folder / "frame.html").write_text(FRAME % width)
    flags = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update",
        "--virtual-time-budget=30000", "--dump-dom",
    ]  # fmt: skip
    flags += [f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000"]
    flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
    done = subprocess.run(
        [CHROMIUM, *flags, (folder / "frame.html").as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search("<pre>ANSWER(.*?)END", done.stdout)
    assert found, f"the page gave no answer: {done.stdout[-300:]} {done.stderr[-600:]}"
    answer = json.loads(unquote(base64.b64decode(found[1]).decode()))
    assert answer["errors"] == []
    assert answer["drawn"] == ("dark" if dark else "light")
    return answer["answer"]


LOOKS = """
  return {
    marks: all(".chart").map((chart) => all("g.role-mark path, g.role-mark text", chart).length),
    sideways: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: innerWidth,
    least: Math.min(...all("svg text, p, td, th button, li, dd, dt, label, figcaption, small")
      .filter((part) => part.textContent.trim()).map((part) => parseFloat(getComputedStyle(part).fontSize))),
    lines: all(".chart").map((chart) => chart.scrollWidth - chart.clientWidth),
    bars: all(".chart").map((chart) => all(".mark-rect.role-mark", chart).length > 0),
    paper: getComputedStyle(document.body).backgroundColor,
    label: all(".role-axis-label text").map((part) => part.getAttribute("fill"))[0],
  };
"""


@pytest.mark.parametrize("width, dark", [(1280, False), (390, False), (1280, True)])
def test_looks(tmp_path, width, dark):
    found = ask(tmp_path, LOOKS, width, dark)
    assert found["width"] == width
    assert len(found["marks"]) == 7 and all(count > 1 for count in found["marks"])
    assert found["sideways"] <= 0
    assert found["least"] >= 13
    # Lines fit, bars may scroll inside their own box.
    assert all(over <= 0 for over, bars in zip(found["lines"], found["bars"], strict=True) if not bars)
    light = [int(part) > 128 for part in re.findall(r"\d+", found["paper"])[:3]]
    assert light == [not dark] * 3
    assert found["label"] == ("#c9ccd1" if dark else "#333333")


def test_a_click_on_a_heading_sorts_numbers_by_value(tmp_path):
    steps = """
      const table = all("table").at(-1);
      const head = all("th", table).find((head) => head.textContent === "solve");
      const shown = () => all("tbody tr", table).map((row) => row.cells[head.cellIndex].textContent);
      const before = shown();
      head.querySelector("button").click();
      const up = shown(), arrow = getComputedStyle(head.querySelector("button"), "::after").content;
      head.querySelector("button").click();
      return { before, up, down: shown(), arrow, sort: head.ariaSort };
    """
    records = [record(solve_s=timed(t), seed=k) for k, t in enumerate([9e-3, 2.0, 2e-5, 0.1, 2.0])]
    found = ask(tmp_path, steps, records=[*records, RECORDS[-1]])
    assert found["before"] == ["9.00 ms", "2.00 s", "20.0 µs", "100 ms", "2.00 s", "–"]
    assert found["up"] == ["20.0 µs", "9.00 ms", "100 ms", "2.00 s", "2.00 s", "–"]
    assert found["down"] == ["2.00 s", "2.00 s", "100 ms", "9.00 ms", "20.0 µs", "–"]
    assert "▲" in found["arrow"] and found["sort"] == "descending"


def test_the_filter_hides_rows(tmp_path):
    steps = """
      const box = document.querySelector("#filter");
      const shown = () => all("tbody tr").filter((row) => !row.hidden);
      const type = (text) => { box.value = text; box.dispatchEvent(new Event("input", { bubbles: true })); };
      const counts = [shown().length];
      const count = (text) => { type(text); counts.push(shown().length); };
      ["SCIPY", "scipy minres", "steps", "nothing"].forEach(count);
      document.querySelector("#names").checked = true;
      ["steps", "scipy:"].forEach(count);
      const told = document.querySelector("output").textContent;
      type("");
      return { counts: [...counts, shown().length], told };
    """
    found = ask(tmp_path, steps)
    # Each run stands in its system's table and among all.
    assert found["counts"] == [14, 6, 2, 4, 0, 0, 6, 14]
    assert found["told"] == "6 of 14 rows"


def test_a_click_in_the_legend_hides_a_line_and_shows_it_again(tmp_path):
    steps = """
      const chart = all(".chart").at(-1);
      const lines = () => all("g.mark-line path", chart);
      const seen = () => lines().filter((path) => path.getAttribute("opacity") !== "0").length;
      const click = async () => {
        const label = all(".role-legend-label text", chart).find((label) => label.textContent === "scipy:cg");
        label.dispatchEvent(new MouseEvent("click", { bubbles: true, view: window }));
        await pause(300);
      };
      const counts = [seen()];
      await click(); counts.push(seen());
      await click(); counts.push(seen());
      return counts;
    """
    records = [record(name, size=size) for name in ("cg", "scipy:cg") for size in (32, 64)]
    every, hidden, again = ask(tmp_path, steps, records=records)
    assert every == again == hidden + 2  # one line in each of two panels


def test_marks_say_their_numbers(tmp_path):
    steps = """
      const bar = document.querySelector(".mark-rect.role-mark path");
      const { x, y, width, height } = bar.getBoundingClientRect();
      const at = { bubbles: true, view: window, clientX: x + width / 2, clientY: y + height / 2 };
      for (const kind of ["pointerover", "mouseover", "pointermove", "mousemove"])
        bar.dispatchEvent(new (kind.startsWith("p") ? PointerEvent : MouseEvent)(kind, at));
      await pause(300);
      return document.querySelector("#vg-tooltip-element")?.textContent ?? "no tooltip";
    """
    found = ask(tmp_path, steps)
    assert "cg" in found and "seconds" in found and "steps" in found
