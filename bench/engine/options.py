"""What an option of a problem or a column may be: said once, where it is declared; checked when a suite is
read, and shown by `nsolve-bench list`."""

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

#: The parameters of a name: what each admits, or their names alone.
Options: TypeAlias = "Mapping[str, Option] | Sequence[str]"
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a word"}


@dataclass(frozen=True)
class Option:
    """One of `choices`; or a number from `least` to `most`, an integer where `least` is one, greater than
    `least` where `strict`; or, with neither, what is of the type of the `default`, of any where `free`.

    Without a `default` the first choice is it."""

    default: Any = None
    choices: Sequence[Any] = ()
    least: float | None = None
    most: float = math.inf
    strict: bool = False
    free: bool = False

    def check(self, what: str, value: Any) -> None:
        """Raise ValueError where the option does not admit a value: names both, and what it does admit."""
        if self._admits(value):
            return
        default = f" (default {self.default!r})" if self._is_plain else ""
        raise ValueError(f"{what} must be {self._words}, got {value!r}{default}")

    def shown(self, key: str) -> str:
        """The option in a line: `form=sparse|stencil`, `restart=30 (at least 1)`."""
        if self.choices:
            first = self.choices[0] if self.default is None else self.default
            return f"{key}={'|'.join(map(str, sorted(self.choices, key=lambda c: c != first)))}"
        text = f"{key}={self.default}" if type(self.default) in _KINDS else key
        return text if self.least is None else f"{text} ({self._range})"

    @property
    def _is_plain(self) -> bool:
        return self.least is None and not self.choices

    def _admits(self, value: Any) -> bool:
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        if self.free:
            return True
        kind = type(self.default) if self.least is None else type(self.least)
        if type(value) is not kind and (kind is not float or type(value) is not int):
            return kind not in _KINDS
        if self.least is None:
            return True
        return self.least <= value <= self.most and not (self.strict and value in (self.least, self.most))

    @property
    def _words(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        if self.least is None:
            return _KINDS[type(self.default)]
        return f"{_KINDS[type(self.least)]} {'' if self._range[0] in 'bfg' else 'of '}{self._range}"

    @property
    def _range(self) -> str:
        low, high = f"{self.least:g}", f"{self.most:g}"
        if self.most < math.inf:
            return f"between {low} and {high}" if self.strict else f"from {low} to {high}"
        return f"greater than {low}" if self.strict else f"at least {low}"


def option_of(hint: Any, default: Any) -> Option:
    """The option that a parameter declares by its annotation, `Literal[...]` or `Annotated[..., Option()]`,
    and by its default."""
    default = None if default in (inspect.Parameter.empty, dataclasses.MISSING) else default
    for found in getattr(hint, "__metadata__", ()):
        if isinstance(found, Option):
            return dataclasses.replace(found, default=default)
    choices = _choices(hint)
    return Option(default, choices, free=_is_union(hint) and not choices)


def options_of(function: Callable[..., Any], without: Sequence[str] = ()) -> dict[str, Option]:
    """The options of a function, or of a class, by its parameters."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # somebody's annotations that name nothing
        hints = {}
    return {
        name: option_of(hints.get(name, parameter.annotation), parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without
    }


def _choices(hint: Any) -> tuple[Any, ...]:
    """The values of a `Literal`, also of one that may be left out."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    if _is_union(hint):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return _choices(parts[0]) if len(parts) == 1 else ()
    return ()


def _is_union(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
