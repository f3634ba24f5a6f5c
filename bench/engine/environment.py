"""What the numbers were measured on: goes into every record."""

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGES = (
    "nsolve", "jax", "jaxlib", "lineax", "equinox", "numpy", "scipy", "numba",
    "pyamg", "solvax", "scikit-fem", "klujax", "sparsax", "splineax", "ott-jax", "POT", "torch", "diffusers",
)  # fmt: skip
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """The machine, the versions and the load at this moment."""
    return {
        **_static(),
        "load": [round(load, 2) for load in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def device() -> str:
    """JAX's platform, e.g. `cpu`."""
    import jax

    return jax.default_backend()


def version(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache
def _static() -> dict[str, Any]:
    return {
        "commit": _git("rev-parse", "HEAD"),
        "dirty": None if (status := _git("status", "--porcelain")) is None else bool(status),
        "code": _code(),
        "versions": {name: found for name in PACKAGES if (found := version(name))},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": cpu_model(),
        "threads": {
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
            **{name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        },
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "cache": _cache_state(),
    }


def _code() -> str:
    """A digest of what decides on a record: the packages' sources, but for what suites are made of and how
    records are shown."""
    digest, top = hashlib.sha256(), Path(__file__).resolve().parents[2]
    for package in ("nsolve", "learned", "bench"):
        for file in sorted((top / package).rglob("*.py")):
            name = file.relative_to(top)
            if name.parts[:2] not in (("bench", "suites"), ("bench", "report")):
                digest.update(str(name).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def cpu_model() -> str:
    """The processor's name as Linux tells it, or what Python knows."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cache_state() -> str:
    """Whether JAX may have found compiled programs on disk: it changes what `compile_s` means."""
    import jax

    # Flags are attributes that type checkers cannot see.
    folder = getattr(jax.config, "jax_compilation_cache_dir", None)
    if not folder or not getattr(jax.config, "jax_enable_compilation_cache", True):
        return "off"
    return "warm" if Path(folder).is_dir() and any(Path(folder).iterdir()) else "cold"


def _git(*arguments: str) -> str | None:
    """git's answer about the tree that this package was imported from; None outside of one."""
    here = Path(__file__).resolve().parent
    try:
        # An installed copy inside somebody else's repository must not report that one's commit.
        subprocess.run(
            ["git", "-C", here, "ls-files", "--error-unmatch", __file__],
            capture_output=True, check=True, timeout=10,
        )  # fmt: skip
        done = subprocess.run(
            ["git", "-C", here, *arguments],
            capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
