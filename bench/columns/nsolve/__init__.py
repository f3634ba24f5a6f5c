"""This project's own columns, a file a work."""

from ...engine.work import Library, Modules
from ...work import NAMES

LIBRARY = Library("nsolve", "nsolve", Modules(__name__, NAMES, "OFFER"))
