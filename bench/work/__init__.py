"""The kinds of problems that come with the benchmark."""

import importlib
from collections.abc import Iterator, Mapping

from ..engine.work import Work

NAMES = ("linear", "sequence", "tuned", "transport", "diffusion", "probes")


class _Works(Mapping[str, Work]):
    """By name; a module is loaded when it is first asked for."""

    def __getitem__(self, name: str) -> Work:
        if name not in NAMES:
            raise KeyError(name)
        return importlib.import_module(f"{__name__}.{name}").WORK

    def __iter__(self) -> Iterator[str]:
        return iter(NAMES)

    def __len__(self) -> int:
        return len(NAMES)


WORKS = _Works()
