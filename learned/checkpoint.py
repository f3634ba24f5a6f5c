"""What training leaves on the disk: checkpoints of a run, and files of finished models."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

Tree = TypeVar("Tree")


class Checkpoints:
    """The checkpoints of one run in a folder, the last two of them.

    A checkpoint holds the arrays of a pytree; all else in it (functions, sizes, names) is the program's to
    give again.  It is there whole or not at all: a run that is killed while it writes leaves the one before.
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
        self._manager.save(step, args=ocp.args.StandardSave({"arrays": arrays}))

    def restore(self, tree: Tree) -> Tree:
        """`tree` with the arrays of the last checkpoint.

        Raises ValueError where they do not fit, array by array, in number, shape and dtype."""
        arrays, rest = eqx.partition(tree, eqx.is_array)
        paths, structure = jax.tree.flatten_with_path(arrays)
        kept = self._manager.restore(self.latest, args=ocp.args.StandardRestore())["arrays"]
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
        return eqx.combine(structure.unflatten(kept), rest)


def claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write a run's settings into its folder, or see that the run in it has the same.

    Raises ValueError for a folder of another run, or one that cannot be written to."""
    file = folder / "settings.json"
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


def save(path: str | os.PathLike, model: eqx.Module, **arguments: Any) -> None:
    """Write a model's arrays into a file, after a line of JSON with the `arguments` that make such a model.

    The file appears whole or not at all.  Raises TypeError for arguments that JSON has no word for."""
    path = Path(path)
    header = json.dumps(arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(header.encode() + b"\n")
        eqx.tree_serialise_leaves(file, model)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load(path: str | os.PathLike, make: Callable[..., Tree]) -> Tree:
    """Read a model that `save` wrote.  `make(**arguments)` builds one of the same structure, whatever its
    numbers, from the arguments that were saved with it.

    Raises ValueError naming the file where it is no such file, or no such model."""
    try:
        with Path(path).open("rb") as file:
            try:
                arguments = json.loads(file.readline())
                return eqx.tree_deserialise_leaves(file, make(**arguments))
            except (RuntimeError, TypeError, ValueError, EOFError) as error:
                what = getattr(make, "__name__", repr(make))
                raise ValueError(f"{path} holds no model of {what}: {error}") from None
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None


def finite(tree: PyTree) -> bool:
    """Whether all floating-point numbers in the arrays of `tree` are finite."""
    leaves = jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)
