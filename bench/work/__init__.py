"""The kinds of problems that come with the benchmark."""

from ..engine.work import Modules

NAMES = ("linear", "kernel", "sequence", "tuned", "transport", "diffusion", "probes")
WORKS = Modules(__name__, NAMES, "WORK")
