"""Runs the code of the pages, and shows under each block what it prints.

    python docs/run.py [PAGE ...]

The ```python blocks of a page run in order in one namespace, in an empty folder; one with a `title="name.py"`
is saved there under its title instead. What a block prints is written into the ```text block right below it,
unless `<!-- not shown: reason -->` stands above it. The tests run the pages by the same functions and
compare.
"""

import contextlib
import io
import re
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(
    r"^(?:<!-- not (?P<what>run|shown): (?P<reason>[^\n]+?) -->\n+)?"
    r"```(?P<language>\w+)(?: title=\"(?P<title>[^\"\n]+)\")?[^\n]*\n(?P<text>.*?)^```$"
    r"(?:\n+```text\n(?P<shown>.*?)^```$)?",
    re.DOTALL | re.MULTILINE,
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)(?!\w)")


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    title: str | None  # the file that it is
    text: str
    reason: str | None  # why it is not run
    hidden: bool  # whether its output is not shown
    shown: str  # the output under it
    end: int  # where its closing fence ends
    shown_end: int


def blocks(page: Path) -> list[Block]:
    source = page.read_text()
    found = []
    for m in _FENCE.finditer(source):
        end = m.end("text") + len("```")
        line = source[: m.start("text")].count("\n")
        reason, hidden = (m["reason"], False) if m["what"] != "shown" else (None, True)
        shown = m["shown"] or ""
        found.append(
            Block(page, line, m["language"], m["title"], m["text"], reason, hidden, shown, end, m.end())
        )
    return found


def run(page: Path, folder: Path) -> Iterable[tuple[Block, str]]:
    """Runs the page's Python in that folder, and gives each block with what it printed."""
    namespace = {"__name__": "__main__"}
    for block in blocks(page):
        if block.language != "python" or block.reason is not None:
            continue
        if block.title is not None:
            (folder / block.title).write_text(block.text)
            continue
        # Empty lines in front make tracebacks show the page's own line numbers.
        code = compile("\n" * block.line + block.text, str(page), "exec")
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, namespace)
        yield block, "" if block.hidden else printed.getvalue()


def agree(shown: str, printed: str) -> bool:
    """Whether two outputs are the same, but for spaces and for what moves numbers between machines."""
    texts = [" ".join(_NUMBER.sub("#", text).split()) for text in (shown, printed)]
    numbers = [[float(number) for number in _NUMBER.findall(text)] for text in (shown, printed)]
    return texts[0] == texts[1] and all(_close(a, b) for a, b in zip(*numbers, strict=True))


def _close(a: float, b: float) -> bool:
    """Within a tenth; residuals within a factor of ten; what is rounding is as good as zero."""
    small, large = sorted((abs(a), abs(b)))
    near = abs(a - b) <= 0.1 * large or (large < 1e-4 and large <= 10 * small) or large < 1e-11
    return near or a == b or (a != a and b != b)


def write(page: Path) -> None:
    """Brings the outputs up to date, where they do not agree."""
    source = page.read_text()
    with tempfile.TemporaryDirectory() as folder:
        outputs = list(run(page, Path(folder)))
    for block, printed in reversed(outputs):
        if agree(block.shown, printed):
            continue
        below = f"\n\n```text\n{printed.rstrip()}\n```" if printed.strip() else ""
        source = source[: block.end] + below + source[max(block.shown_end, block.end) :]
    page.write_text(source)


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("Agg")
    for name in map(Path, sys.argv[1:]) if sys.argv[1:] else PAGES:
        print(name)
        write(name.resolve())
