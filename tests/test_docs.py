"""What the README and the site show is run: no example may rot.

The ```python blocks of a page run in order in one namespace, in an empty folder, and print what the page
shows below them (`python docs/run.py` writes that; below `<!-- not shown: reason -->` a block's output is
not looked at). The commands of
```console blocks are parsed by the command line's own parser, or looked up in the Makefile. A block
below `<!-- not run: reason -->` is skipped, and shows as a skipped test with its reason.
"""

import functools
import importlib.util
import re
import shlex
import sys
from pathlib import Path

import jax
import matplotlib
import pytest

from tests.helpers import ROOT


def pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["pages"] = module  # a dataclass looks its module up
    spec.loader.exec_module(module)
    return module


PAGES = pages()
BLOCKS = [block for page in PAGES.PAGES for block in PAGES.blocks(page)]
RUN = [b for b in BLOCKS if b.reason is None]
CODE = sorted({b.page for b in RUN if b.language == "python"})
COMMANDS = [
    (b, command.removeprefix("$ "))
    for b in RUN
    if b.language == "console"
    for command in b.text.replace("\\\n", " ").splitlines()
    if command.startswith("$ ")
]


def name(page) -> str:
    return str(page.relative_to(ROOT))


def where(block) -> str:
    return f"{name(block.page)}:{block.line}"


@pytest.mark.compiles("a page is compiled as a reader compiles it")
@pytest.mark.parametrize("page", CODE, ids=name)
def test_python_blocks_run(page, tmp_path):
    matplotlib.use("Agg")
    # As a reader runs them: other libraries on the pages (optax) rely on JAX's default promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block, printed in PAGES.run(page, tmp_path):
            assert PAGES.agree(block.shown, printed), (
                f"{where(block)} prints\n{printed}\nand shows\n{block.shown}\n"
                f"`python docs/run.py {page.relative_to(ROOT)}` writes the new output"
            )


@pytest.mark.parametrize(
    "shown, printed, agree",
    [
        ("23 steps", "24 steps", True),
        ("23 steps", "27 steps", False),
        ("residual 3.1e-9\n", "residual  1.2e-09", True),
        ("residual 3.1e-9", "residual 3.1e-6", False),
        ("[1. 2.]", "[1. 2. 3.]", False),
        ("float32", "float64", False),
        ("-0.5", "0.5", False),
        ("nan", "1.0", False),
        ("", "forgotten", False),
        ("no longer printed", "", False),
    ],
)
def test_outputs_agree_up_to_rounding(shown, printed, agree):
    assert PAGES.agree(shown, printed) == agree


@pytest.mark.parametrize("page", PAGES.PAGES, ids=name)
def test_names_exist(page):
    import nsolve

    for name in set(re.findall(r"\bns((?:\.[A-Za-z_]\w*)+)", page.read_text())):
        functools.reduce(getattr, name[1:].split("."), nsolve)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS], ids=[f"{where(b)} {c}" for b, c in COMMANDS])
def test_console_commands_parse(command, tmp_path, monkeypatch):
    program, *args = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(args) - {a for a in args if "=" in a} <= set(targets)
    elif program == "bash":
        assert (ROOT / args[0]).is_file()
    else:
        assert program == "nsolve-bench", f"no check for {program!r}: mark the block `not run`"
        parse(args, tmp_path, monkeypatch)


def parse(args: list[str], folder: Path, monkeypatch) -> None:
    """Parse with the real parser; nothing is invoked. Files that are named exist, and are empty."""
    import typer

    from bench.cli import app

    monkeypatch.chdir(folder)
    for name in (a for a in args if re.search(r"\.(mtx|npy|jsonl|toml)$", a)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    group = typer.main.get_command(app)
    with group.make_context("nsolve-bench", list(args)) as context:
        name, command, rest = group.resolve_command(context, args)  # pyright: ignore
        command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.reason], ids=where)
def test_block_that_is_not_run(block):
    assert block.language != "python", "every Python block runs; only installation is exempt"
    pytest.skip(block.reason)


def test_every_reason_of_a_failed_solve_is_explained():
    from nsolve._reasons import NAMES

    page = (ROOT / "docs" / "failures.md").read_text()
    missing = [name for name in NAMES if f"`{name}`" not in page]
    assert not missing


@pytest.mark.parametrize("script", sorted((ROOT / "docs").glob("draw*.py")), ids=name)
def test_drawing_scripts_find_what_they_import(script, monkeypatch):
    """They are run by hand, and would rot unseen."""
    monkeypatch.syspath_prepend(script.parent)
    spec = importlib.util.spec_from_file_location(f"drawing_{script.stem}", script)
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
