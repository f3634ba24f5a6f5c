"""Constructors on the API pages: Equinox modules have none in their source, so fields stand in for it.

A griffe extension (see mkdocs.yml), which reads the source and imports nothing of it.
"""

from typing import Any

import griffe

#: Fields of abstract classes, which say what a subclass must have.
_ABSTRACT = ("AbstractVar", "AbstractClassVar")


class Signatures(griffe.Extension):
    """Gives each class without an `__init__` the one that its fields make."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        _visit(pkg)


def _visit(parent: griffe.Module | griffe.Class) -> None:
    for member in list(parent.members.values()):
        if member.is_alias:
            continue
        if isinstance(member, griffe.Class) and "__init__" not in member.members:
            _give_init(member)
        if isinstance(member, griffe.Module | griffe.Class):
            _visit(member)


def _give_init(cls: griffe.Class) -> None:
    if cls.name.startswith("Abstract"):
        return
    kind = griffe.ParameterKind.positional_or_keyword
    parameters = griffe.Parameters(griffe.Parameter("self", kind=kind))
    for field in cls.members.values():
        if not isinstance(field, griffe.Attribute) or field.annotation is None:
            continue
        if "property" in field.labels or str(field.annotation).split("[")[0].endswith(_ABSTRACT):
            continue
        if "class-attribute" in field.labels and "instance-attribute" not in field.labels:
            continue  # a ClassVar
        given = _arguments(field.value)
        if given.get("init") == "False":
            continue
        default = given.get("default") if given is not _NONE else field.value
        parameters.add(griffe.Parameter(field.name, annotation=field.annotation, kind=kind, default=default))
    cls.set_member("__init__", griffe.Function("__init__", parameters=parameters, parent=cls))


_NONE: dict[str, Any] = {}


def _arguments(value: Any) -> dict[str, Any]:
    """What is handed to `eqx.field`; `_NONE` where the value is the default itself."""
    if isinstance(value, griffe.ExprCall) and str(value.function).endswith("field"):
        return {
            a.name: a.value if a.name == "default" else str(a.value)
            for a in value.arguments
            if isinstance(a, griffe.ExprKeyword)
        }
    return _NONE
