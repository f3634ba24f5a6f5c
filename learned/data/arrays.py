"""One array of a file of NumPy's, `.npy` or `.npz`."""

import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np


def split_array(name: str) -> tuple[str, str]:
    """`file.npz:array` as file and array; what names no array as it is, with an empty one."""
    file, colon, array = name.rpartition(":")
    # In HDF5 an array's name may have slashes, and so may a folder's whose name has a colon.
    if colon and array and not Path(name).exists() and (Path(file).is_file() or "/" not in array):
        return file, array
    return name, ""


def read_numpy(file: Path | BinaryIO, name: str, array: str = "") -> np.ndarray:
    """The array in a file; of a `.npz` with several the one that is called `array`.

    ValueError that begins with `name` for what cannot be read, holds Python objects, or leaves a choice."""
    try:
        content = np.load(file, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"cannot read {name}: {error.strerror or error}") from None
    except (ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise ValueError(f"{name} is no file of NumPy that can be read: {error}") from None
    if isinstance(content, np.ndarray):
        if array:
            raise ValueError(f"{name} holds one array, which has no name: leave out :{array}")
        return content
    with content:
        names = content.files
        if array and array not in names:
            raise ValueError(f"{name} has no array {array!r}; it has {', '.join(names) or 'none'}")
        if not array and len(names) != 1:
            raise ValueError(f"{name} has the arrays {', '.join(names) or 'none'}: name one as {name}:ARRAY")
        try:
            return content[array or names[0]]
        except (ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"{name}: {error}") from None
