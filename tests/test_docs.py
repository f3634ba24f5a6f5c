"""What the README and the site show is run: no example may rot.

The ```python blocks of a page run in order in one namespace, in an empty folder. The commands of
```console blocks are parsed by the command line's own parser, or looked up in the Makefile. A block
below `<!-- not run: reason -->` is skipped, and shows as a skipped test with its reason.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import pytest

from tests.helpers import ROOT

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n+)?```(?P<language>\w+)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    reason: str | None  # why it is not run


def blocks(page: Path) -> list[Block]:
    source = page.read_text()
    return [
        Block(page, source[: m.start("text")].count("\n"), m["language"], m["text"], m["reason"])
        for m in FENCE.finditer(source)
    ]


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
RUN = [b for b in BLOCKS if b.reason is None]
CODE = sorted({b.page for b in RUN if b.language == "python"})
COMMANDS = [
    (b, command.removeprefix("$ "))
    for b in RUN
    if b.language == "console"
    for command in b.text.replace("\\\n", " ").splitlines()
    if command.startswith("$ ")
]


def where(block: Block) -> str:
    return f"{block.page.relative_to(ROOT)}:{block.line}"


@pytest.mark.parametrize("page", CODE, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("Agg")
    namespace = {"__name__": "__main__"}
    for block in RUN:
        if block.page == page and block.language == "python":
            # Empty lines in front make tracebacks show the page's own line numbers.
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespace)


@pytest.mark.parametrize("command", [c for _, c in COMMANDS], ids=[f"{where(b)} {c}" for b, c in COMMANDS])
def test_console_commands_parse(command, tmp_path, monkeypatch):
    program, *args = shlex.split(command, comments=True)
    if program == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
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
