"""A file of samples, HDF5, that a killed writer leaves whole.

HDF5 keeps no journal: whoever dies while the file's structure changes leaves a file that nobody can read.  So
the structure is made in a file beside, which then takes the file's place in one step; afterwards only numbers
are written, into space that is there already.  A sample counts once its `complete` is true, which is
written after everything else of it has reached the disk.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

FORMAT = 1
#: Told apart from settings: what the samples were made with, not what they are.
NOTES = ("format", "versions")
Layout = Mapping[str, tuple[tuple[int, ...], Any]]


def check(path: Path, settings: Mapping[str, Any]) -> int:
    """How many samples of these settings the file holds, 0 where there is no file.

    ValueError when it is no file of samples, is damaged, or has other settings: then it names them."""
    if not path.exists():
        return 0
    with _open(path, "r") as file:
        try:
            _check_settings(path, file, settings)
            return _num_complete(file)
        except (OSError, RuntimeError, KeyError) as error:  # as HDF5 says that bytes make no sense
            raise ValueError(
                f"{path} is damaged ({_one_line(error)}); choose another --out, or --fresh to start over"
            ) from None


class SampleFile:
    """A file of samples, open for writing; a context manager."""

    def __init__(self, path: Path, file: h5py.File):
        self.path = path
        self._file = file

    @staticmethod
    def open(
        path: Path,
        settings: Mapping[str, Any],
        versions: Mapping[str, str],
        layout: Layout,
        count: int,
        fresh: bool = False,
    ) -> "SampleFile":
        """Opens the file to hold `count` samples, or as many as it holds already where that is more.

        `layout` gives shape and dtype of each data set's samples."""
        if fresh or not path.exists():
            _replace(path, lambda new: _create(new, settings, versions, layout, count))
        done = check(path, settings)
        with _open(path, "r") as file:
            size = len(file["complete"])
        if size != max(count, done):
            _replace(path, lambda new: _resize(path, new, max(count, done)))
        return SampleFile(path, _open(path, "r+"))

    @property
    def num_complete(self) -> int:
        """The number of finished samples; these are the first ones."""
        return _num_complete(self._file)

    def write(self, start: int, samples: Mapping[str, np.ndarray]) -> None:
        """Writes samples from number `start` on and waits until they are on the disk."""
        (count,) = {len(values) for values in samples.values()}
        try:
            for name, values in samples.items():
                self._file[name][start : start + count] = values
            self._sync()
            self._file["complete"][start : start + count] = True
            self._sync()
        except OSError as error:
            raise ValueError(
                f"cannot write {self.path} ({_one_line(error)}); make room: what is finished is kept"
            ) from None

    def read(self, name: str) -> np.ndarray:
        """A data set of the finished samples; texts as strings."""
        data = self._file[name]
        if h5py.check_string_dtype(data.dtype):
            data = data.asstr()
        return data[: self.num_complete]

    @property
    def versions(self) -> dict[str, str]:
        """What the file was begun with."""
        return json.loads(self._file.attrs["versions"])

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.id.get_vfd_handle())


def _create(
    path: Path, settings: Mapping[str, Any], versions: Mapping[str, str], layout: Layout, count: int
) -> None:
    with h5py.File(path, "w", libver=("v108", "v108")) as file:
        file.attrs["format"] = FORMAT
        file.attrs["versions"] = json.dumps(versions)
        for name, value in settings.items():
            file.attrs[name] = value
        for name, (shape, dtype) in {**layout, "complete": ((), np.bool_)}.items():
            # Space is set apart at once, as holes that take no room on the disk until they are filled.
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(
                name,
                (count, *shape),
                dtype,
                maxshape=(None, *shape),
                chunks=(max(1, 2**16 // (np.dtype(dtype).itemsize * math.prod(shape))), *shape),
                dcpl=plan,
                fill_time="alloc" if name == "complete" else "never",
            )


def _resize(path: Path, new: Path, count: int) -> None:
    shutil.copyfile(path, new)
    with h5py.File(new, "r+") as file:
        file.visititems(lambda _, data: data.resize(count, 0) if isinstance(data, h5py.Dataset) else None)


def _replace(path: Path, make: Any) -> None:
    """Lets `make` write a file beside `path`, which then takes its place."""
    new = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make(new)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror or error}; choose another --out") from None
    finally:
        new.unlink(missing_ok=True)


def _open(path: Path, mode: str) -> h5py.File:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file")
    try:
        file = h5py.File(path, mode)
    except BlockingIOError:
        raise ValueError(f"{path} is being written by another process; wait for it or end it") from None
    except OSError as error:
        kind = "is no HDF5 file, or one cut short" if not isinstance(error, PermissionError) else "is closed"
        raise ValueError(
            f"{path} {kind} ({_one_line(error)}); choose another --out, or --fresh to start over"
        ) from None
    return file


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_settings(path: Path, file: h5py.File, settings: Mapping[str, Any]) -> None:
    otherwise = "choose another --out, or --fresh to start over"
    if "format" not in file.attrs or "complete" not in file:
        raise ValueError(f"{path} was not written by this command; {otherwise}")
    if file.attrs["format"] != FORMAT:
        raise ValueError(
            f"{path} has format {file.attrs['format']}, but this version writes {FORMAT}; {otherwise}"
        )
    found = {name: file.attrs[name] for name in file.attrs if name not in NOTES}
    differences = [
        f"{name}={found.get(name, 'not set')} (now {settings.get(name, 'not set')})"
        for name in sorted({*found, *settings})
        if found.get(name) != settings.get(name)
    ]
    if differences:
        raise ValueError(f"{path} holds samples with {', '.join(differences)}; {otherwise}")


def _num_complete(file: h5py.File) -> int:
    complete = file["complete"][:]
    return len(complete) if complete.all() else int(np.argmin(complete))
