"""A user's own images: read as what they are, scaled once, and every mistake named."""

import json
import sys

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from learned import cli, load
from learned.data.images import read_images
from learned.diffusion import blank_denoiser, load_images

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 8, 5), np.uint8)
GREY[0, 0, :2] = 0, 255
COLOUR = RNG.integers(0, 256, (6, 8, 5, 3), np.uint8)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved(folder, images, suffix=".png", **options):
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}{suffix}", **options)
    return folder


def test_a_folder_of_pictures(folder):
    grey, words = read_images(str(saved(folder / "grey", GREY)))
    assert grey.shape == (6, 8, 5, 1) and grey.dtype == np.float32
    np.testing.assert_allclose(grey[..., 0], GREY / 127.5 - 1, atol=1e-6)
    assert (
        words
        == f"6 images of 8 by 5 pixels, of integers from {GREY.min()} to {GREY.max()}, taken as 0 to 255"
    )
    colour, words = read_images(str(saved(folder / "colour", COLOUR, ".PNG")))
    np.testing.assert_allclose(colour, COLOUR / 127.5 - 1, atol=1e-6)
    assert "8 by 5 pixels with 3 channels" in words
    # What is no picture is passed over; one in colour makes all of them so.
    (folder / "grey" / "notes.txt").write_text("hello")
    saved(folder / "grey", COLOUR[:1], "z.png")
    mixed, _ = read_images("grey")
    np.testing.assert_array_equal(mixed[0], np.repeat(grey[:1], 3, -1)[0])
    np.testing.assert_array_equal(mixed[1], colour[0])
    # JPEG keeps smooth images only roughly; bilevel ones and palettes are read as what they show.
    smooth = np.linspace(0, 255, 4 * 16 * 16).reshape(4, 16, 16).astype(np.uint8)
    jpeg, _ = read_images(str(saved(folder / "jpeg", smooth, ".jpeg")))
    assert np.abs(jpeg[..., 0] - (smooth / 127.5 - 1)).max() < 0.1
    (folder / "few").mkdir()
    for number, image in enumerate(GREY):
        Image.fromarray(image).convert("1" if number % 2 else "P").save(folder / "few" / f"{number}.png")
    assert read_images("few")[0].shape == (6, 8, 5, 3)


@pytest.mark.parametrize(
    ("values", "expected", "words"),
    [
        (GREY, GREY / 127.5 - 1, "of integers from 0 to 255, taken as 0 to 255"),
        (COLOUR.astype(np.int64), COLOUR / 127.5 - 1, "taken as 0 to 255"),
        (GREY / 255, GREY / 127.5 - 1, "of floats from 0 to 1, taken as 0 to 1"),
        (GREY / 127.5 - 1, GREY / 127.5 - 1, "of floats from -1 to 1, taken as -1 to 1"),
        ((GREY / 127.5 - 1).astype(np.float16), GREY / 127.5 - 1, "taken as -1 to 1"),
        (GREY > 99, 2.0 * (GREY > 99) - 1, "of false and true"),
    ],
)
def test_arrays_are_scaled_once(values, expected, words):
    np.save("x.npy", values)
    np.savez("x.npz", first=np.ones(3), second=values)
    with h5py.File("x.h5", "w") as file:
        file["group/x"] = values
    expected = expected.reshape(*expected.shape[:3], -1)
    for name in ("x.npy", "x.npz:second", "x.h5", "x.h5:group/x"):
        images, said = read_images(name)
        np.testing.assert_allclose(images, expected, atol=1e-3)
        assert words in said and images.dtype == np.float32


def test_mistakes_are_named(folder):
    saved(folder / "sizes", [*GREY, GREY[0, :7], GREY[0, :6]])
    saved(folder / "few", GREY[:3])
    saved(folder / "alpha", [*GREY, RNG.integers(0, 256, (8, 5, 4), np.uint8)])
    saved(folder / "deep", [*GREY, GREY[0].astype(np.uint16) * 256])
    saved(folder / "broken", GREY)
    (folder / "broken" / "3.png").write_bytes((folder / "broken" / "3.png").read_bytes()[:60])
    (folder / "empty").mkdir()
    (folder / "notes.txt").write_text("hello")
    (folder / "no.h5").write_text("hello")
    with h5py.File("two.h5", "w") as file:
        file["x"], file["group/y"] = GREY, GREY
    np.savez("two.npz", x=GREY, y=GREY)
    arrays = {
        "nan": np.where(np.arange(6)[:, None, None] == 2, np.nan, GREY / 255),
        "flat": GREY.reshape(6, 40),
        "first": COLOUR.transpose(0, 3, 1, 2).repeat(2, 3),
        "large": GREY * 2.0,
        "small": GREY / 100 - 1.5,
        "signed": GREY.astype(int) - 1,
        "sixteen": GREY.astype(np.uint16) * 257,
        "words": np.array([["a"]]).repeat(6, 0)[..., None],
        "complex": GREY * 1j,
        "same": np.zeros((6, 4, 4)),
        "objects": np.array([None] * 4),
    }
    for name, values in arrays.items():
        np.save(f"{name}.npy", values)
    for name, message in [
        ("nowhere", "there is no nowhere: give a folder of PNG or JPEG files"),
        ("notes.txt", "notes.txt holds no images that can be read: give"),
        ("empty", "empty has no PNG or JPEG files"),
        ("few", "few has 3 images: give 4 or more"),
        ("sizes", r"sizes/6.png has 7 by 5 pixels \(height by width\), 0.png has 8 by 5"),
        ("alpha", r"alpha/6.png is transparent \(mode RGBA\)"),
        ("deep", r"deep/6.png has more than 8 bits \(mode I;16\)"),
        ("broken", "cannot read broken/3.png"),
        ("no.h5", "cannot read no.h5"),
        ("two.h5", "two.h5 has the data sets group/y, x: name one as two.h5:DATASET"),
        ("two.h5:z", "two.h5 has no data set 'z'; it has group/y, x"),
        ("two.npz", "two.npz has the arrays x, y: name one as two.npz:ARRAY"),
        ("two.npz:z", "two.npz has no array 'z'"),
        ("flat.npy:x", "flat.npy holds one array, which has no name"),
        ("nan.npy", "nan.npy has 1 images with NaN or infinity, the first is image 2"),
        ("flat.npy", r"flat.npy has shape \(6, 40\), not \(n, height, width\)"),
        ("first.npy", "of four axes the last is the channels, at most 4"),
        ("large.npy", "floats must be 0 to 1, or -1 to 1; scale them"),
        ("small.npy", "floats must be 0 to 1, or -1 to 1; scale them"),
        ("signed.npy", "integers must be 0 to 255"),
        ("sixteen.npy", "from 0 to 65535: integers must be 0 to 255"),
        ("words.npy", "holds <U1, not real numbers"),
        ("complex.npy", "holds complex128, not real numbers"),
        ("same.npy", "all images are one and the same"),
        ("objects.npy", "is no file of NumPy"),
    ]:
        with pytest.raises(ValueError, match=message):
            read_images(name)


def test_images_without_labels(capsys):
    np.save("x.npy", GREY)
    data = load_images("x.npy", 4)
    assert "data: 6 images of 8 by 5 pixels" in capsys.readouterr().err
    assert (
        data.images.shape == (6, 8, 5, 1)
        and data.images.dtype == jnp.float32
        and set(data.labels.tolist()) == {-1}
    )


@pytest.mark.compiles("trains")
def test_a_run_on_colour_images(folder, monkeypatch, capsys):
    monkeypatch.setattr("learned.diffusion.REPEATS", 2)
    monkeypatch.setattr("learned.diffusion.MEASURED", 5)
    saved(folder / "data", np.tile(COLOUR, (2, 1, 1, 1)))
    command = [
        "nsolve-train",
        "diffusion",
        "--data",
        "data",
        "--out",
        "out",
        "--batch-size",
        "4",
        "--steps",
        "3",
    ]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    captured = capsys.readouterr()
    assert not end.value.code, captured.err
    assert (
        "data: 12 images of 8 by 5 pixels with 3 channels" in captured.err
        and "energy_distance" in captured.out
    )
    metrics = json.loads((folder / "out" / "metrics.json").read_text())
    assert metrics["step"] == 3 and all(np.isfinite(list(metrics.values())))
    picture = np.asarray(Image.open(folder / "out" / "picture.png"))
    # Eight rows of twelve, each framed, and magnified four times; in colour.
    assert picture.shape[:2] == (8 * 10 * 4, (12 * 7 + 8) * 4) and (picture[..., 0] != picture[..., 1]).any()
    denoiser = load(folder / "out" / "model.eqx", blank_denoiser)
    assert denoiser.model.enter.in_features == 8 * 5 * 3
    # Other images of that name are another run.
    saved(folder / "data", COLOUR[1:2])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2 and "holds a run with digest" in capsys.readouterr().err
