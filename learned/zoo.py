"""Trained models that come with the package; `weights/README.md` says how each was made."""

from pathlib import Path
from typing import Any

from .checkpoint import load

_WEIGHTS = Path(__file__).parent / "weights"


def pretrained() -> list[str]:
    """The names of the models that come with the package: what it does, and on what."""
    return sorted(_makers())


def load_pretrained(name: str) -> Any:
    """The trained model of that name, in float32.

    * `"diffusion-digits"`: an `ns.diffusion.Denoiser` of handwritten digits, states (B, 8, 8, 1) or (B, 64)
      from -1 (black) to 1.  Its `model(x, t)` makes any digit, `model(x, t, label)` with labels (B,) or ()
      from 0 to 9 the one that is wanted (-1: any), so that `ns.diffusion.ClassifierFree` can guide it.

    Raises ValueError for a name that there is not."""
    makers = _makers()
    if name not in makers:
        raise ValueError(f"`name` must be one of {', '.join(sorted(makers))}, not {name!r}.")
    return load(_WEIGHTS / f"{name}.eqx", makers[name])


def _makers() -> dict[str, Any]:
    """What builds each model without its numbers."""
    from .diffusion import blank_denoiser  # not wanted by those who only train

    return {"diffusion-digits": blank_denoiser}
