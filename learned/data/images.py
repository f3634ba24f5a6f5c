"""A user's own images: a folder of PNG and JPEG files, or an array of NumPy or HDF5."""

from pathlib import Path

import h5py
import numpy as np

from .arrays import read_numpy, split_array

PICTURES = (".png", ".jpg", ".jpeg")
HDF5 = (".h5", ".hdf5")
KINDS = "a folder of PNG or JPEG files, or a .npy, .npz or .h5 file"
#: A model and its measures take no fewer.
LEAST = 4


def read_images(name: str) -> tuple[np.ndarray, str]:
    """Images `(n, height, width, channels)` in float32 from -1 (black) to 1, and what they were, in words.

    `name` is a folder of PNG and JPEG files of one size, a `.npy`, `.npz` or `.h5` file, or one array of
    several: `file.npz:array`, `file.h5:dataset`.  Arrays have the shape `(n, height, width)` or
    `(n, height, width, channels)`; integers are 0 to 255, floats 0 to 1 or -1 to 1.

    Raises ValueError that says what is wrong, of a folder with the name of the file."""
    file, array = split_array(name)
    path = Path(file)
    if path.is_dir():
        images = _folder(path)
    elif path.suffix in HDF5:
        images = _hdf5(path, array)
    elif path.suffix in (".npy", ".npz"):
        images = read_numpy(path, file, array)
    else:
        what = f"{name} holds no images that can be read" if path.exists() else f"there is no {name}"
        raise ValueError(f"{what}: give {KINDS}")
    scaled, words = _scaled(_shaped(images, name), name)
    number, height, width, channels = scaled.shape
    many = "" if channels == 1 else f" with {channels} channels"
    return scaled, f"{number} images of {height} by {width} pixels{many}, {words}"


def _folder(folder: Path) -> np.ndarray:
    from PIL import Image, ImageOps  # of matplotlib

    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"{folder} has no PNG or JPEG files")
    images, colours = [], False
    for path in files:
        try:
            with Image.open(path) as opened:
                image = ImageOps.exif_transpose(opened)
                mode = image.mode
                grey = mode in ("1", "L")
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"cannot read {path}: {error}") from None
        if mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr") or "transparency" in image.info:
            what = "is transparent" if "A" in mode or "transparency" in image.info else "has more than 8 bits"
            raise ValueError(f"{path} {what} (mode {mode}): save it as grey or RGB of 8 bits")
        if images and pixels.shape[:2] != images[0].shape[:2]:
            sizes = [" by ".join(map(str, shape[:2])) for shape in (pixels.shape, images[0].shape)]
            raise ValueError(
                f"{path} has {sizes[0]} pixels (height by width), {files[0].name} has {sizes[1]}: "
                "bring all images to one size"
            )
        images.append(pixels)
        colours |= not grey
    if colours:  # a grey one among them as well
        images = [np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image for image in images]
    return np.stack(images)


def _hdf5(path: Path, array: str) -> np.ndarray:
    try:
        with h5py.File(path, "r") as file:
            names = []
            file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
            if array and array.strip("/") not in names:
                raise ValueError(f"{path} has no data set {array!r}; it has {', '.join(names) or 'none'}")
            if not array and len(names) != 1:
                found = ", ".join(names) or "none"
                raise ValueError(f"{path} has the data sets {found}: name one as {path}:DATASET")
            return file[array or names[0]][()]  # pyright: ignore
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}") from None


def _shaped(images: np.ndarray, name: str) -> np.ndarray:
    if np.ndim(images) not in (3, 4) or 0 in np.shape(images):
        raise ValueError(
            f"{name} has shape {np.shape(images)}, not (n, height, width) or (n, height, width, channels)"
        )
    images = images[..., None] if images.ndim == 3 else images
    if images.shape[-1] > 4:
        raise ValueError(f"{name} has shape {images.shape}: of four axes the last is the channels, at most 4")
    if len(images) < LEAST:
        raise ValueError(f"{name} has {len(images)} images: give {LEAST} or more")
    return images


def _scaled(images: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Numbers from -1 to 1, and where they come from."""
    kind = images.dtype.kind
    if kind not in "biuf":
        raise ValueError(f"{name} holds {images.dtype}, not real numbers")
    if kind == "f":
        bad = np.flatnonzero(~np.isfinite(images).reshape(len(images), -1).all(1))
        if bad.size:
            raise ValueError(
                f"{name} has {bad.size} images with NaN or infinity, the first is image {bad[0]}"
            )
    low, high = images.min(), images.max()
    found = f"{name} holds {images.dtype} from {low:g} to {high:g}"
    if low == high:
        raise ValueError(f"{found}: all images are one and the same")
    if kind == "b":
        return 2 * images.astype(np.float32) - 1, "of false and true"
    if kind in "iu":
        if low < 0 or high > 255:
            raise ValueError(f"{found}: integers must be 0 to 255")
        return (images / 127.5 - 1).astype(np.float32), f"of integers from {low} to {high}, taken as 0 to 255"
    if low < -1 or high > 1:
        raise ValueError(f"{found}: floats must be 0 to 1, or -1 to 1; scale them")
    if low < 0:
        return images.astype(np.float32), f"of floats from {low:g} to {high:g}, taken as -1 to 1"
    return (2 * images - 1).astype(np.float32), f"of floats from {low:g} to {high:g}, taken as 0 to 1"
