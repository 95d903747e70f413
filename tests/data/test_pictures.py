"""Image files of every kind as float pixels, and the certified resolution."""

import os

import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.data import fit, read_image
from hybrid_rs_jax.errors import UnreadableInputError
from hybrid_rs_jax.models._resize import resize_matrix

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9), np.uint8)
WIDE = RNG.integers(0, 65_536, (6, 9)).astype(np.uint16)


def saved(tmp_path, image, name="image.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def over_white(colour, alpha):
    share = alpha[:, :, None] / 255
    return share * colour / 255 + (1 - share)


def grey(values):
    return np.repeat(np.asarray(values, np.float64)[:, :, None], 3, axis=2)


def palette_image():
    image = Image.frombytes("P", (9, 6), (np.arange(54, dtype=np.uint8) % 4).tobytes())
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255, 10, 20, 30])
    return image


PALETTE = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]])[np.arange(54).reshape(6, 9) % 4] / 255
TRANSPARENT = np.where((np.arange(54).reshape(6, 9) % 4 == 1)[:, :, None], 1.0, PALETTE)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        pytest.param(Image.fromarray(RGB), {}, RGB / 255, id="RGB"),
        pytest.param(Image.fromarray(GREY), {}, grey(GREY / 255), id="L"),
        pytest.param(Image.fromarray(GREY > 127), {}, grey(GREY > 127), id="1"),
        pytest.param(palette_image(), {}, PALETTE, id="P"),
        pytest.param(palette_image(), {"transparency": 1}, TRANSPARENT, id="P with a transparent colour"),
        pytest.param(
            palette_image(), {"transparency": b"\xff\x00\xff\xff"}, TRANSPARENT, id="P with transparency per colour"
        ),
        pytest.param(Image.fromarray(np.dstack([GREY, ALPHA])), {}, over_white(GREY[:, :, None], ALPHA), id="LA"),
        pytest.param(Image.fromarray(np.dstack([RGB, ALPHA])), {}, over_white(RGB, ALPHA), id="RGBA"),
        pytest.param(Image.fromarray(np.full((6, 9, 3), 7, np.uint8)), {"transparency": (7, 7, 7)}, 1, id="RGB key"),
        pytest.param(Image.fromarray(WIDE), {}, grey(WIDE / 65_535), id="I;16"),
    ],
)
def test_png_files_of_every_mode_are_what_a_viewer_shows(tmp_path, image, options, expected):
    found = read_image(saved(tmp_path, image, **options))
    assert found.shape == (6, 9, 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), rtol=0, atol=1 / 254)


def test_sixteen_bits_are_kept(tmp_path):
    np.testing.assert_allclose(read_image(saved(tmp_path, Image.fromarray(WIDE)))[:, :, 1], WIDE / 65_535, atol=1e-7)


@pytest.mark.parametrize("values", [WIDE.astype(np.int32), (WIDE / 65_535).astype(np.float32)])
def test_wide_grey_with_a_known_range_is_taken(tmp_path, values):
    path = saved(tmp_path, Image.fromarray(values), "image.tiff")
    np.testing.assert_allclose(read_image(path), grey(WIDE / 65_535), atol=1e-6)


def test_cmyk_is_converted(tmp_path):
    inks = np.zeros((6, 9, 4), np.uint8)
    inks[:, :4, 0], inks[:, 4:, 3] = 255, 255  # cyan on the left, black on the right
    found = read_image(saved(tmp_path, Image.frombytes("CMYK", (9, 6), inks.tobytes()), "image.tiff"))
    np.testing.assert_allclose(found[:, :4], np.broadcast_to([0, 1, 1], (6, 4, 3)), atol=1e-6)
    np.testing.assert_allclose(found[:, 4:], 0, atol=1e-6)


@pytest.mark.parametrize("name", ["image.jpg", "image.webp", "image.bmp", "image.ppm"])
def test_other_formats_are_read(tmp_path, name):
    smooth = np.repeat(np.linspace(60, 190, 16).astype(np.uint8)[None, :, None], 16, axis=0).repeat(3, axis=2)
    np.testing.assert_allclose(read_image(saved(tmp_path, Image.fromarray(smooth), name)), smooth / 255, atol=0.03)


def test_the_first_frame_of_an_animation_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = saved(tmp_path, frames[0], "image.gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(np.float32([1, 0, 0]), (4, 4, 3)))


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, RGB),
        (2, RGB[:, ::-1]),
        (3, RGB[::-1, ::-1]),
        (4, RGB[::-1]),
        (5, RGB.swapaxes(0, 1)),
        (6, RGB.swapaxes(0, 1)[:, ::-1]),
        (7, RGB.swapaxes(0, 1)[::-1, ::-1]),
        (8, RGB.swapaxes(0, 1)[::-1]),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read_image(saved(tmp_path, Image.fromarray(RGB), exif=exif))
    np.testing.assert_allclose(found, upright / 255, atol=1e-6)


def broken_files(tmp_path):
    """One file per fault, named after it."""
    png, jpeg = (saved(tmp_path, Image.fromarray(RGB).resize((90, 60)), f"whole.{kind}") for kind in ("png", "jpg"))
    for whole in (png, jpeg):
        (tmp_path / f"truncated{whole.suffix}").write_bytes(whole.read_bytes()[:-150])
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture\n")
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    # a PNG whose header says 0 x 5 pixels
    header = png.read_bytes()
    (tmp_path / "zero.png").write_bytes(header[:16] + bytes(4) + header[20:])
    saved(tmp_path, Image.fromarray(WIDE.astype(np.int32) * 5), "integers.tiff")
    saved(tmp_path, Image.fromarray(np.float32(RGB[:, :, 0])), "floats.tiff")
    saved(tmp_path, Image.fromarray(np.full((6, 9), np.nan, np.float32)), "nan.tiff")
    saved(tmp_path, Image.frombytes("LAB", (9, 6), RGB.tobytes()), "lab.tiff")
    saved(tmp_path, Image.fromarray(RGB), "program.eps")


FAULTS = {
    "missing.png": "does not exist",
    "folder.png": "not a file",
    "pipe.png": "not a file",
    "nul\0.png": "must not hold the NUL character",
    "empty.png": "cannot",
    "text.png": "cannot identify",
    "truncated.png": "truncated",
    "truncated.jpg": "truncated",
    "zero.png": "cannot",
    "integers.tiff": "span",
    "floats.tiff": "span",
    "nan.tiff": "nan",
    "lab.tiff": "mode LAB",
    "program.eps": "cannot identify",
}


@pytest.mark.parametrize("name", FAULTS)
def test_broken_files_give_one_reason(tmp_path, name):
    broken_files(tmp_path)
    with pytest.raises(UnreadableInputError, match=rf"^[^\n]*{FAULTS[name]}[^\n]*\.$"):
        read_image(tmp_path / name)


def test_images_beyond_the_pixel_limit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UnreadableInputError, match="exceeds limit of 40 pixels"):
        read_image(saved(tmp_path, Image.fromarray(RGB)))


# The certified resolution


def test_an_image_of_the_certified_resolution_is_unchanged():
    image = np.random.default_rng(1).random((7, 5, 3), np.float32)
    for how in ("stretch", "pad"):
        np.testing.assert_array_equal(fit(image, 7, 5, how), image)


@pytest.mark.parametrize("size", [(3, 4), (40, 17), (1, 1), (6, 20)])
def test_stretching_is_antialiased_bicubic_interpolation_in_floats(size):
    image = RGB.astype(np.float32) / 255
    rows, columns = (resize_matrix(old, new, "bicubic") for old, new in zip((6, 9), size, strict=True))
    expected = np.einsum("yh,hwc,xw->yxc", rows, image, columns)
    assert size != (40, 17) or expected.max() > 1  # there is something to clip
    found = fit(image, *size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.clip(expected, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("size", "inner"), [((12, 12), (8, 12)), ((9, 30), (9, 14)), ((6, 2), (1, 2)), ((1, 1), (1, 1))]
)
def test_padding_keeps_the_aspect_ratio_and_centres_on_black(size, inner):
    found = fit(np.ones((6, 9, 3), np.float32), *size, how="pad")
    top, left = ((full - part) // 2 for full, part in zip(size, inner, strict=True))
    expected = np.zeros((*size, 3))
    expected[top : top + inner[0], left : left + inner[1]] = 1
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("size", "how", "value"), [((0, 4), "pad", "0 x 4"), ((4, -1), "stretch", "4 x -1")])
def test_illegal_resolutions_raise_one_sentence(size, how, value):
    with pytest.raises(ValueError, match=rf"^[^\n]*{value}\.$"):
        fit(np.zeros((2, 2, 3), np.float32), *size, how=how)
