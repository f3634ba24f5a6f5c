"""The command line: exit codes, messages, files."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bench import cli

ADHOC = ["run", "--problem", "poisson2d", "--size", "6", "--solver", "scipy:cg", "--repeats", "1"]


def run(capsys, monkeypatch, *arguments):
    """Exit code, stdout and stderr of a command."""
    monkeypatch.setattr(sys, "argv", ["nsolve-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    return end.value.code or 0, captured.out, captured.err


def test_list_names_everything(capsys, monkeypatch):
    code, out, _ = run(capsys, monkeypatch, "list")
    assert code == 0
    for name in ("poisson2d", "scipy", "jacobi", "quick", "ruge_stuben", "contrast=10000.0"):
        assert name in out
    for options in (
        "law=low|high",
        "form=sparse|stencil",
        "drop_tol (from 0 to 1)",
        "eta=100.0 (greater than 0)",
    ):
        assert options in " ".join(out.replace("│", " ").split()), options
    assert "Gaussians of unlike weights" in out.replace(
        "\n", " "
    )  # each says what it is, not how it was made


def test_ad_hoc_run_shows_and_keeps(capsys, monkeypatch, tmp_path):
    file = tmp_path / "new folder" / "r.jsonl"
    code, out, err = run(capsys, monkeypatch, *ADHOC, "--out", file)
    assert code == 0 and "poisson2d 6" in out and "scipy:cg" in out and "records:" in err
    assert len(file.read_text().splitlines()) == 1
    code, out, err = run(capsys, monkeypatch, *ADHOC, "--solver", "scipy:splu", "--out", file)
    assert code == 0 and "resuming: 1 of 2" in err
    assert len(file.read_text().splitlines()) == 2
    code, out, _ = run(capsys, monkeypatch, "show", file)
    assert code == 0 and "scipy:splu" in out


def test_failures_are_shown_as_rows(capsys, monkeypatch):
    code, out, _ = run(
        capsys, monkeypatch, *ADHOC, "--solver", "lineax:cg", "--max-steps", "2",
        "--problem", "helmholtz2d",
    )  # fmt: skip
    assert code == 1  # for nothing succeeded
    assert "out of steps" in out and "may only be used" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik"], "unknown suite 'quik': did you mean quick"),
        (["run", "none.py"], "cannot read none.py"),
        (["list", "quik"], "did you mean quick"),
        ([*ADHOC, "--rtol", "10"], "rtol of command line must lie between 0 and 1"),
        ([*ADHOC, "--solver", "cg@carried"], "have no mode @carried"),
        ([*ADHOC, "--out", "/dev/stdout"], "is no file that records can be appended to"),
        ([*ADHOC, "--columns", "no_such_module.solvers:Mine()"], "cannot import no_such_module"),
        (["plot", "none.jsonl"], "cannot read none.jsonl"),
        (["run", "quick", "--filter", "cgg"], "unknown solver 'cgg': did you mean cg"),
        (["run", "quick", "--size", "3"], "--size belongs to a run without a suite"),
        (["run"], "name a suite"),
        (["run", "--problem", "poisson2d", "--solver", "scipy:cg"], "needs a size"),
        ([*ADHOC, "--solver", "scipy:cgg"], "unknown scipy solver 'cgg'"),
        ([*ADHOC, "--out", "/proc/nowhere/r.jsonl"], "is no file that records can be appended to"),
        ([*ADHOC, "--html", "/etc/passwd/page.html"], "cannot write /etc/passwd/page.html"),
        (["show", "none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_mistakes_end_in_one_line_and_code_2(capsys, monkeypatch, arguments, message):
    code, _, err = run(capsys, monkeypatch, *arguments)
    assert code == 2
    assert message in err and "Traceback" not in err and len(err.strip().splitlines()) == 1


def test_nothing_that_succeeds_is_no_success(capsys, monkeypatch):
    code, out, err = run(capsys, monkeypatch, *ADHOC, "--max-steps", "1")
    assert code == 1 and "no cell succeeded" in err and "out of steps" in out


def test_help_and_version(capsys, monkeypatch):
    for asked in ("-h", "--help"):
        code, out, _ = run(capsys, monkeypatch, asked)
        assert code == 0 and "compare" in out and "regress" in out
    code, out, _ = run(capsys, monkeypatch, "--version")
    assert code == 0 and out.startswith("nsolve-bench ")


def test_a_reader_that_has_seen_enough(tmp_path):
    program = "from bench.cli import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", program, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    child.stdout.readline()
    child.stdout.close()
    assert "Traceback" not in child.stderr.read()
    child.stderr.close()
    child.wait()


def test_page_compare_and_plot_are_wired(capsys, monkeypatch, tmp_path):
    file, page = tmp_path / "r.jsonl", tmp_path / "page.html"
    code, _, err = run(capsys, monkeypatch, *ADHOC, "--out", file, "--html", page)
    assert code == 0 and "page:" in err and "poisson2d" in page.read_text()
    code, _, _ = run(capsys, monkeypatch, "compare", file, file)
    assert code == 0
    code, out, _ = run(capsys, monkeypatch, "plot", file, "--kind", "time", "--out", tmp_path / "plots")
    assert code == 0 and any(line.endswith(".png") for line in out.splitlines())


def test_ctrl_c_ends_with_130_and_a_word_on_resuming(tmp_path):
    suite = tmp_path / "slow.py"  # minutes of work
    suite.write_text(
        "from bench import Group, Suite, linear\n"
        'GROUP = Group("poisson2d", ["scipy:cg", "scipy:minres"], size=range(200, 300))\n'
        'SUITE = Suite("slow", linear, [GROUP])\n'
    )
    file = tmp_path / "r.jsonl"
    # Whoever runs the tests in the background ignores Ctrl-C, and so would this process.
    attentive = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    program = f"{attentive}; from bench.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(suite), "--out", str(file)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    deadline = time.monotonic() + 60
    while not (file.exists() and file.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted after" in err and "goes on from" in err and "Traceback" not in err
    assert all(json.loads(line) for line in file.read_text().splitlines())


def test_options_in_brackets_are_shown(capsys, monkeypatch):
    command = [
        "run",
        "--problem",
        "heat2d[dt=0.5]",
        "--size",
        "4",
        "--solver",
        "scipy:gmres[restart=3]",
    ]
    code, out, _ = run(capsys, monkeypatch, *command)
    assert code == 0 and "heat2d[dt=0.5]" in out and "scipy:gmres[restart=3]" in out
