"""The picture of residuals against iterations that `solve` draws."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from .engine.record import write_whole
from .report import usual
from .report.frame import frame

SUFFIXES = (".png", ".svg", ".html")


def check_picture(path: Path) -> Path:
    """Where it goes, refused before any work."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"--history {path}: the suffix says the format; use .png, .svg or .html")
    if not path.parent.is_dir() or path.is_dir():
        raise ValueError(f"--history {path}: cannot be written; name a file in a folder that is there")
    return path


def draw(records: list[dict[str, Any]], name: str, path: Path) -> bool:
    """Draw the records' `residual_norms`; whether there were any."""
    rows = [record for record in records if record["residual_norms"]]
    chart = dataclasses.replace(
        usual.CONVERGENCE, title=f"{name}: convergence", group=(), derive=None, colour="line"
    )
    for drawn in chart.draw(frame(rows)) if rows else ():
        write_whole(path, _encoded(drawn.spec(), path.suffix))
        return True
    return False


def _encoded(spec: dict[str, Any], suffix: str) -> bytes:
    import vl_convert

    text = json.dumps(spec)
    if suffix == ".png":
        return vl_convert.vegalite_to_png(text, scale=2)
    if suffix == ".svg":
        return vl_convert.vegalite_to_svg(text).encode()
    return vl_convert.vegalite_to_html(text, bundle=True).encode()
