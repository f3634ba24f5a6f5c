"""The grammar of names: ``[library:]solver[param=value,...][+preconditioner[param=value,...]][@mode,...]``.

Problems use the same ``name[param=value,...]`` part.  Round brackets are read as square ones, and somebody
else's module or file stands where a library does, so that ``my_package.my_solver:MySolver(rtol=1e-8)`` is a
column too, and ``cg+my_package:MyPreconditioner()``.  A spec is a value: parsing what `str` printed gives an
equal spec, so the text is fit to be a key in a record.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .options import Options

Value = int | float | bool | str
OWN = "nsolve"

# A preconditioner's name may say its module: `package.module:Name`, `file.py:Name`.
_PART = re.compile(r"\s*((?:[\w./-]+:)?[A-Za-z_][\w.]*)\s*(?:\[([^\]]*)\]|\(([^()]*)\))?\s*")


@dataclass(frozen=True)
class Part:
    """A name with parameters, e.g. ``gmres[restart=40]``; parameters are kept sorted."""

    name: str
    params: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        if not self.params:
            return self.name
        return f"{self.name}[{','.join(f'{k}={_show(v)}' for k, v in self.params)}]"

    @property
    def options(self) -> dict[str, Value]:
        return dict(self.params)


@dataclass(frozen=True)
class Spec:
    """One column of the benchmark: whose solver, which solver, which preconditioner; of a sequence, how
    it goes from system to system (kept sorted)."""

    peer: str
    solver: Part
    preconditioner: Part | None = None
    mode: tuple[str, ...] = ()

    def __str__(self) -> str:
        head = "" if self.peer == OWN else f"{self.peer}:"
        tail = "" if self.preconditioner is None else f"+{self.preconditioner}"
        mode = f"@{','.join(self.mode)}" if self.mode else ""
        return f"{head}{self.solver}{tail}{mode}"

    @property
    def params(self) -> dict[str, Value]:
        """All parameters in one flat dictionary; the preconditioner's carry its name in front."""
        merged = self.solver.options
        if self.preconditioner is not None:
            name = self.preconditioner.name
            merged |= {f"{name}.{k}": v for k, v in self.preconditioner.params}
        return merged


def parse(text: str) -> Spec:
    """Parse a column such as ``scipy:cg+jacobi`` or ``gmres[restart=40]+ilu``.

    Raises ValueError naming the text and the grammar. Names are not checked here: see
    `bench.engine.suite`.
    """
    head, after = _split_outside_brackets(text, "@")
    mode = () if after is None else tuple(sorted({word.strip() for word in after.split(",")}))
    head, tail = _split_outside_brackets(head, "+")
    peer, solver = _split_outside_brackets(head, ":")
    if solver is None:
        peer, solver = OWN, head
    preconditioner = None if tail is None else parse_part(tail, whole=text)
    return Spec(peer.strip(), parse_part(solver, whole=text), preconditioner, mode)


def parse_part(text: str, whole: str | None = None) -> Part:
    """Parse ``name[param=value,...]``, the form of a problem, a solver or a preconditioner."""
    match = _PART.fullmatch(text)
    if match is None:
        raise ValueError(
            f"cannot read {text.strip()!r} in {whole or text!r}: write name or "
            "name[param=value,...], as in `cg`, `gmres[restart=40]+ilu` or `scipy:cg+jacobi`"
        )
    name, inside = match[1], match[2] or match[3]
    params = {}
    for item in (inside or "").split(","):
        if not item.strip():
            continue
        key, equals, value = item.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(
                f"cannot read parameter {item.strip()!r} in {whole or text!r}: write param=value"
            )
        if key.strip() in params:
            raise ValueError(f"parameter {key.strip()!r} is given twice in {whole or text!r}")
        params[key.strip()] = _value(value.strip())
    return Part(name, tuple(sorted(params.items())))


def matches(pattern: Spec, spec: Spec) -> bool:
    """Whether a filter admits a spec: a part without parameters admits every set of them, a part
    with parameters asks for those (others are free), no preconditioner asks for none, and a mode
    asks for that mode."""
    if not set(pattern.mode) <= set(spec.mode):
        return False
    if pattern.peer != spec.peer or not part_matches(pattern.solver, spec.solver):
        return False
    if pattern.preconditioner is None or spec.preconditioner is None:
        return pattern.preconditioner is spec.preconditioner
    return part_matches(pattern.preconditioner, spec.preconditioner)


def part_matches(pattern: Part, part: Part) -> bool:
    """`matches` for one part, e.g. a problem."""
    return pattern.name == part.name and pattern.options.items() <= part.options.items()


def check_name(what: str, name: str, valid: Iterable[str]) -> None:
    """Raise ValueError for an unknown name, naming the nearest valid ones."""
    valid = sorted(valid)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(valid)}"
        raise ValueError(f"unknown {what} {name!r}: {hint if valid else 'there are none'}")


def check_part(what: str, part: Part, valid: Mapping[str, Options]) -> None:
    """Raise ValueError when the name or one of the parameters is not in the table, or a value is not admitted
    there."""
    check_name(what, part.name, valid)
    options = valid[part.name]
    for key, value in part.params:
        check_name(f"parameter of {what} {part.name!r}", key, options)
        if isinstance(options, Mapping):
            options[key].check(f"{key} of {part.name}", value)


def _split_outside_brackets(text: str, mark: str) -> tuple[str, str | None]:
    depth = 0
    for i, char in enumerate(text):
        depth += (char in "[(") - (char in "])")
        if char == mark and depth == 0:
            return text[:i], text[i + 1 :]
    return text, None


def _value(text: str) -> Value:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _show(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
