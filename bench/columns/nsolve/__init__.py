"""This project's own columns, a file a work.  Their modules are loaded when first asked for."""

import importlib
from collections.abc import Iterator, Mapping

from ...engine.work import Library, Offer

_WORKS = ("linear", "sequence", "tuned", "transport", "diffusion", "probes")


class _Offers(Mapping[str, Offer]):
    def __getitem__(self, work: str) -> Offer:
        if work not in _WORKS:
            raise KeyError(work)
        return importlib.import_module(f"{__name__}.{work}").OFFER

    def __iter__(self) -> Iterator[str]:
        return iter(_WORKS)

    def __len__(self) -> int:
        return len(_WORKS)


LIBRARY = Library("nsolve", "nsolve", _Offers())
