"""Image files of every kind as float pixels, and the certified resolution."""

import itertools
import os
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from hybrid_rs_jax.data import fit, read_image
from hybrid_rs_jax.errors import BadInputError, UnreadableInputError
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


# Metadata


def chunk(name, content, check=None):
    """A chunk of a PNG; `check` stands for a wrong check sum."""
    body = name + content
    return len(content).to_bytes(4) + body + (zlib.crc32(body) if check is None else check).to_bytes(4)


def png(*extra, size=(9, 6), depth=8, kind=2, rows=None):
    """A PNG by hand: `extra` chunks between its header and its pixels."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, kind, 0, 0, 0))
    rows = [row.tobytes() for row in RGB] if rows is None else rows
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def written(tmp_path, content, name="image.png"):
    (tmp_path / name).write_bytes(content)
    return tmp_path / name


LONG = zlib.compress(bytes(3 * 2**20))


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param(chunk(b"zTXt", b"Comment\0\0" + LONG), id="a long text"),
        pytest.param(chunk(b"iTXt", b"Comment\0\1\0\0\0" + LONG), id="a long international text"),
        pytest.param(chunk(b"iCCP", b"profile\0\0" + LONG), id="a long profile"),
        pytest.param(chunk(b"zTXt", b"Comment\0\0no zlib"), id="a text that is not compressed"),
        pytest.param(chunk(b"tEXt", b"Comment\0x", check=7), id="a text with a wrong check sum"),
        pytest.param(chunk(b"eXIf", b"no EXIF at all"), id="no EXIF"),
        pytest.param(chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\1\1\x12", check=7), id="half of an EXIF block"),
        pytest.param(chunk(b"gAMA", b""), id="an empty gamma"),
        pytest.param(chunk(b"pHYs", b"1"), id="a short resolution"),
        pytest.param(chunk(b"acTL", b""), id="an empty animation"),
    ],
)
def test_what_a_png_says_besides_its_pixels_does_not_matter(tmp_path, extra):
    np.testing.assert_array_equal(read_image(written(tmp_path, png(extra))), np.float32(RGB) / np.float32(255))


@pytest.mark.parametrize("head", [b"", b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"http://ns.adobe"])
def test_what_a_jpeg_says_besides_its_pixels_does_not_matter(tmp_path, head):
    plain = saved(tmp_path, Image.fromarray(RGB), "plain.jpg").read_bytes()
    for marker, length in itertools.product([*range(0xE0, 0xF0), 0xFE], (0, 1, 40)):
        segment = bytes([0xFF, marker]) + (2 + len(head) + length).to_bytes(2) + head + b"\x07" * length
        found = read_image(written(tmp_path, plain[:2] + segment + plain[2:], "odd.jpg"))
        np.testing.assert_array_equal(found, read_image(tmp_path / "plain.jpg"))


def exif_block(*fields):
    """EXIF by hand: orientation 6 and fields of (tag, type, count, value or place)."""
    fields = sorted([(0x0112, 3, 1, 6 << 16), *fields])
    entries = b"".join(struct.pack(">HHII", *field) for field in fields)
    # the data of a rational -1/0 come right behind the entries
    return b"MM\0*" + struct.pack(">IH", 8, len(fields)) + entries + bytes(4) + struct.pack(">ii", -1, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "field",
    [
        pytest.param((0x011A, 10, 1, 8 + 2 + 2 * 12 + 4), id="rational -1/0"),
        pytest.param((0x0100, 2, 4, 0x77696400), id="width as text"),
        pytest.param((0x8769, 4, 1, 10**6), id="block beyond the end"),
        pytest.param((0x8825, 4, 1, 8), id="block in a circle"),
        pytest.param((0x0132, 2, 10**9, 0), id="long text"),
        pytest.param((9, 99, 1, 1), id="unknown type"),
    ],
)
def test_the_orientation_is_read_whatever_else_exif_says(tmp_path, kind, field):
    flat = Image.fromarray(np.full((6, 9, 3), 99, np.uint8))
    path = saved(tmp_path, flat, f"image.{kind.lower()}", exif=b"Exif\0\0" + exif_block(field))
    assert read_image(path).shape == (9, 6, 3)


@pytest.mark.parametrize("value", [0, 9, 65_535])
def test_an_orientation_that_does_not_exist_turns_nothing(tmp_path, value):
    exif = Image.Exif()
    exif[0x0112] = value
    np.testing.assert_allclose(read_image(saved(tmp_path, Image.fromarray(RGB), exif=exif)), RGB / 255, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_grey_of_a_png_is_white_at_every_depth(tmp_path, depth):
    most = 2**depth - 1
    values = np.array([0, 1, most // 2, most], np.int64)
    bits = "".join(f"{value:0{depth}b}" for value in values).ljust(8, "0")
    row = int(bits, 2).to_bytes(len(bits) // 8)
    for transparent in set(values.tolist()):
        content = png(chunk(b"tRNS", transparent.to_bytes(2)), size=(4, 1), depth=depth, kind=0, rows=[row])
        found = read_image(written(tmp_path, content))
        expected = np.where(values == transparent, 1, values / most)
        np.testing.assert_allclose(found[0, :, 0], expected, atol=1e-6)


def test_a_transparent_colour_of_16_bits_is_refused_only_where_it_may_occur(tmp_path):
    row = np.array([[1000, 2000, 3000], [500, 600, 700]], ">u2").tobytes()
    for colour, occurs in (((1000, 2000, 3000), True), ((9999, 2000, 3000), False)):
        content = png(chunk(b"tRNS", struct.pack(">3H", *colour)), size=(2, 1), depth=16, rows=[row])
        path = written(tmp_path, content)
        if occurs:
            with pytest.raises(UnreadableInputError, match="16-bit colours of which one is transparent"):
                read_image(path)
        else:
            expected = np.array([[1000, 2000, 3000], [500, 600, 700]]) // 256 / 255
            np.testing.assert_allclose(read_image(path)[0], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["image.gif", "image.png", "image.webp", "image.tiff"])
def test_the_first_frame_of_every_animation_counts(tmp_path, name):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name.endswith("webp") else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read_image(path), np.broadcast_to(np.float32([1, 0, 0]), (4, 4, 3)))


# Faults


def test_a_check_sum_of_the_pixels_that_is_wrong_matters(tmp_path):
    content = png()
    place = content.index(b"IDAT") + 12
    with pytest.raises(UnreadableInputError, match="cannot be decoded"):
        read_image(written(tmp_path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]))


@pytest.mark.parametrize(
    "name", ["data:image/png;base64," + "iVBORw0KGgo" * 500, "A" * 300, "A" * 200 + "/" + "B" * 5000, "x/" * 3000]
)
def test_text_in_the_place_of_a_path_is_one_reason(tmp_path, name):
    with pytest.raises(UnreadableInputError, match=r"^The image [^\n]{1,400}\.$"):
        read_image(tmp_path / name)


def test_a_folder_that_may_not_be_searched_is_one_reason(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(UnreadableInputError, match=r"^The image .*a\.png cannot be looked up: permission is denied"):
        read_image(tmp_path / "closed" / "a.png")


@pytest.mark.parametrize("fault", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_a_file_that_cannot_be_read_is_one_reason(tmp_path, monkeypatch, fault):
    path = saved(tmp_path, Image.fromarray(RGB))

    def refuse(self):
        raise fault

    monkeypatch.setattr(type(path), "read_bytes", refuse)
    with pytest.raises(UnreadableInputError, match=rf"^The image .*image\.png cannot be read: {fault.strerror}\.$"):
        read_image(path)


def test_pictures_without_pillow_name_the_command(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.fromarray(RGB))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(BadInputError, match=r'pip install "hybrid-rs-jax\[images\]"\.$'):
        read_image(path)


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
    "text.png": "no picture of a known format",
    "truncated.png": "truncated",
    "truncated.jpg": "truncated",
    "zero.png": "cannot",
    "integers.tiff": "span",
    "floats.tiff": "span",
    "nan.tiff": "nan",
    "lab.tiff": "mode LAB",
    "program.eps": "no picture of a known format",
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
