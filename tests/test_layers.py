"""The architecture, read from the source: who may import whom, and how long a file may be."""

import ast
import tomllib
from pathlib import Path

import pytest

from tests.helpers import ROOT

PACKAGES = ("nsolve", "learned", "bench")
UPSTREAM = ("equinox", "lineax", "optimistix", "diffrax")
GATE = Path("nsolve/_upstream.py")
MAX_LINES = 400
FILES = sorted(p.relative_to(ROOT) for name in PACKAGES for p in (ROOT / name).rglob("*.py"))


def modules(source: str) -> set[str]:
    """Every dotted name that `source` imports, and every dotted attribute that it reads from one.

    `from lineax import internal` gives `lineax.internal`; `import lineax as lx; lx._solve` gives
    `lineax._solve`, at any depth of the tree (imports inside functions count).
    """
    found: set[str] = set()
    aliases: dict[str, str] = {}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                found.add(name.name)
                first = name.name.split(".")[0]
                aliases[name.asname or first] = name.name if name.asname else first
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            for name in node.names:
                found.add(f"{node.module}.{name.name}")
                aliases[name.asname or name.name] = f"{node.module}.{name.name}"
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.insert(0, node.attr)
            node = node.value
        if parts and isinstance(node, ast.Name) and node.id in aliases:
            found.add(".".join([aliases[node.id], *parts]))
    return found


def breaks_layers(package: str, source: str) -> list[str]:
    above = PACKAGES[PACKAGES.index(package) + 1 :]
    return sorted(m for m in modules(source) if m.split(".")[0] in above)


def breaks_gate(source: str) -> list[str]:
    """Names of upstream that are nobody's promise: `*.internal` and everything with a leading _."""

    def private(module: str) -> bool:
        first, *rest = module.split(".")
        dunder = [p for p in rest if p.startswith("__") and p.endswith("__")]
        return first in UPSTREAM and any(
            p == "internal" or (p.startswith("_") and p not in dunder) for p in rest
        )

    return sorted(m for m in modules(source) if private(m))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_go_one_way(path):
    assert not breaks_layers(path.parts[0], (ROOT / path).read_text())


@pytest.mark.parametrize("path", [p for p in FILES if p != GATE], ids=str)
def test_only_the_gate_touches_upstream_internals(path):
    assert not breaks_gate((ROOT / path).read_text())


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] == "nsolve"], ids=str)
def test_a_file_is_one_idea(path):
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= MAX_LINES, f"{path} has {lines} lines: find the second idea in it"


def test_every_package_is_here():
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found == set(PACKAGES), "the rules of this file hold for packages that it knows"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == found
    assert (ROOT / "nsolve" / "py.typed").is_file()


@pytest.mark.parametrize(
    "source",
    [
        "import bench",
        "def f():\n    from learned.models import Conv",
        "import learned.models as m",
    ],
)
def test_the_layer_check_can_fail(source):
    assert breaks_layers("nsolve", source)


@pytest.mark.parametrize(
    "source",
    [
        "import equinox.internal as eqxi",
        "from equinox import internal",
        "import lineax as lx\nlx._solve.linear_solve_p",
        "from lineax._solver import cg",
        "import optimistix\noptimistix.internal.implicit_jvp",
    ],
)
def test_the_gate_check_can_fail(source):
    assert breaks_gate(source)


def test_public_names_pass_the_gate():
    assert not breaks_gate("import lineax as lx\nlx.RESULTS.successful\nlx.__version__")
