"""What training leaves on the disk: checkpoints of a run, and files of finished models."""

import hashlib
import io
import json
import os
import shutil
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

try:
    import fcntl
except ImportError:  # Windows, where trainings do not see each other
    fcntl = None

Tree = TypeVar("Tree")

_held = threading.local()


@contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """Hold a folder for one training: ValueError, naming the process, where another has it.

    The lock is the kernel's, on the file `lock` in the folder, and ends with the process, killed or not."""
    path = Path(folder).absolute()
    mine = _held.__dict__.setdefault("folders", set())
    if fcntl is None or path in mine:  # the command holds it for the whole of its run
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = (path / "lock").open("a+")
    except OSError as error:
        raise ValueError(
            f"cannot keep checkpoints in {folder}: {error.strerror or error}; choose another folder"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise ValueError(
                f"another training, process {holder}, is at work in {folder}; wait for its end, or choose "
                "another folder"
            ) from None
        except OSError:  # a file system without locks
            pass
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        mine.add(path)
        try:
            yield
        finally:
            mine.discard(path)


class Checkpoints:
    """The checkpoints of one run in a folder, the last two of them.

    A checkpoint holds the arrays of a pytree; all else in it (functions, sizes, names) is the program's to
    give again.  It is there whole or not at all: a run that is killed while it writes leaves the one before.
    One that was damaged later is put aside, with a warning, and the one before it serves.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder).absolute()
        # Waits for the disk: what `save` has returned from cannot be lost.
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise ValueError(
                f"cannot keep checkpoints in {folder}: {error.strerror or error}; choose another folder"
            ) from None

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: Any) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the last checkpoint; None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, tree: PyTree) -> None:
        """Keep the arrays of `tree` as the checkpoint of `step`."""
        arrays = jax.tree.leaves(eqx.filter(tree, eqx.is_array))
        content = {"arrays": arrays, "digest": _digest(arrays)}
        self._manager.save(step, args=ocp.args.StandardSave(content))

    def restore(self, tree: Tree) -> tuple[int, Tree]:
        """The step of the last checkpoint that is whole, and `tree` with its arrays.

        Raises ValueError where none is, or where they do not fit, array by array, in number, shape, dtype."""
        arrays, rest = eqx.partition(tree, eqx.is_array)
        paths, structure = jax.tree.flatten_with_path(arrays)
        step, kept = self._last_whole()
        hint = f"the checkpoint in {self.folder} belongs to another run; choose another folder"
        if len(kept) != len(paths):
            raise ValueError(f"{len(kept)} arrays where {len(paths)} are needed: {hint}")
        for (path, array), value in zip(paths, kept, strict=True):
            if (array.shape, array.dtype) != (value.shape, value.dtype):
                name = jax.tree_util.keystr(path)
                raise ValueError(
                    f"{name} has shape {value.shape} and dtype {value.dtype}, not {array.shape} and "
                    f"{array.dtype}: {hint}"
                )
        return step, eqx.combine(structure.unflatten(kept), rest)

    def _last_whole(self) -> tuple[int, list[Any]]:
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                kept = self._read(step)
            except Exception as error:  # of the libraries that read it: damage has no type of its own
                damaged[step] = _first_line(error)
                continue
            for bad in damaged:
                self._put_aside(bad)
            if damaged:
                self._manager.reload()
                reasons = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
                warnings.warn(
                    f"damaged checkpoints in {self.folder} ({reasons}) were moved to {self._aside}; going on "
                    f"from the one before, of step {step}",
                    stacklevel=2,
                )
            return step, kept
        reasons = "; ".join(f"step {bad}: {reason}" for bad, reason in damaged.items())
        raise ValueError(
            f"no checkpoint in {self.folder} is whole ({reasons}); restore the folder from a copy, or start "
            "over in another"
        )

    def _read(self, step: int) -> list[Any]:
        content = self._manager.restore(step, args=ocp.args.StandardRestore())
        kept = content["arrays"]
        # Checkpoints of earlier versions have no digest.
        if "digest" in content and not np.array_equal(content["digest"], _digest(kept)):
            raise ValueError("the numbers are not those that were written")
        return kept

    @property
    def _aside(self) -> Path:
        return self.folder.with_name(self.folder.name + "-damaged")

    def _put_aside(self, step: int) -> None:
        target = self._aside / str(step)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(exist_ok=True)
        (self.folder / str(step)).rename(target)


def _digest(arrays: list[Any]) -> np.ndarray:
    """A hash of all bytes, as 32 numbers."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return np.frombuffer(total.digest(), np.uint8)


def _first_line(error: Exception) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text[:120]}" if text else type(error).__name__


def claim(folder: Path, settings: dict[str, Any], fresh: bool = False) -> None:
    """Write a run's settings into its folder, or see that the run in it has the same; if `fresh`, remove that
    run first.  To be called once all else about the request is known to be right.

    Raises ValueError for a folder of another run, one that cannot be written to, and, if `fresh`, one where
    another process is at work."""
    file = folder / "settings.json"
    if fresh:
        with alone_in(folder):
            _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text(json.dumps(settings, indent=1) + "\n")
        there = json.loads(file.read_text())
    except OSError as error:
        raise ValueError(
            f"cannot write to {folder}: {error.strerror or error}; choose another --out"
        ) from None
    except ValueError:
        raise ValueError(f"{file} is not the settings of a run; choose another --out, or --fresh") from None
    for name in sorted(settings.keys() | there.keys()):
        if settings.get(name) != there.get(name):
            raise ValueError(
                f"{folder} holds a run with {name} {there.get(name)!r}, not {settings.get(name)!r}; "
                "choose another --out, or --fresh to start over"
            )


def _clear(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else."""
    for name in ("checkpoints", "checkpoints-damaged"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("settings.json", "log.jsonl", "model.eqx", "metrics.json", "picture.png"):
        if (folder / name).is_file():
            (folder / name).unlink()


def save(path: str | os.PathLike, model: eqx.Module, **arguments: Any) -> None:
    """Write a model's arrays into a file, after a line of JSON with the `arguments` that make such a model.

    The file appears whole or not at all, and ends with a hash of its content.  Raises TypeError for
    arguments that JSON has no word for."""
    path = Path(path)
    content = io.BytesIO()
    content.write(json.dumps(arguments).encode() + b"\n")
    eqx.tree_serialise_leaves(content, model)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content.getvalue() + _seal(content.getvalue()))
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: str | os.PathLike, make: Callable[..., Tree]) -> Tree:
    """Read a model that `save` wrote.  `make(**arguments)` builds one of the same structure, whatever its
    numbers, from the arguments that were saved with it.

    Raises ValueError naming the file where it is no such file, no such model, or damaged."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None
    what = getattr(make, "__name__", repr(make))
    file = io.BytesIO(content)
    try:
        arguments = json.loads(file.readline())
        model = eqx.tree_deserialise_leaves(file, make(**arguments))
    except Exception as error:  # whatever a foreign file does to those who read it
        raise ValueError(f"{path} holds no model of {what}: {_first_line(error)}") from None
    end = file.tell()
    # Files of earlier versions have no seal.
    if content[end:] not in (b"", _seal(content[:end])):
        raise ValueError(
            f"{path} holds no model of {what}, or a damaged one: what follows its arrays is not their hash"
        )
    return model


def _seal(content: bytes) -> bytes:
    return b"sha256 " + hashlib.sha256(content).hexdigest().encode() + b"\n"


def finite(tree: PyTree) -> bool:
    """Whether all floating-point numbers in the arrays of `tree` are finite."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)
